"""What a registration of a middleware service and its description of itself mean. Pure.

Gateway and supervisor read both the same way: the gateway when it starts, the supervisor when it connects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from openshell._proto import supervisor_middleware_pb2 as pb

__all__ = [
    "CONNECT_SECONDS",
    "DEFAULT_SECONDS",
    "MAX_CONFIG_BYTES",
    "MAX_PAYLOAD_BYTES",
    "MESSAGE_BYTES",
    "Described",
    "NotDescribed",
    "check_endpoint",
    "read_manifest",
    "read_timeout",
]

# The contract's numbers.
CONNECT_SECONDS: Final = 5.0
DEFAULT_SECONDS: Final = 0.5
MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024
# A body and all that may stand beside it.
MESSAGE_BYTES: Final = MAX_PAYLOAD_BYTES + 293 * 1024
MAX_CONFIG_BYTES: Final = 64 * 1024

_MIN_SECONDS, _MAX_SECONDS = 0.01, 30.0
_TIMEOUT = re.compile(r"([0-9]{1,6})(ms|s)")
# A host or an address, and a port: nothing that could carry a secret or mean two things.
_ENDPOINT = re.compile(r"(https?)://((?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5})")


class NotDescribed(ValueError):
    """A service does not offer what it is registered for."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a service offers for requests."""

    max_payload_bytes: int
    seconds: float | None


def read_timeout(text: str) -> float:
    """Seconds of `500ms` or `2s`. Raises ValueError."""
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise ValueError("a timeout is written like 500ms or 2s")
    seconds = int(found[1]) / (1000 if found[2] == "ms" else 1)
    if not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        raise ValueError("a timeout is from 10ms to 30s")
    return seconds


def check_endpoint(endpoint: str) -> tuple[str, bool]:
    """Where to connect, and whether with TLS. Raises ValueError."""
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None:
        raise ValueError("an endpoint is written https://HOST:PORT")
    return found[2], found[1] == "https"


def read_manifest(manifest: pb.MiddlewareManifest) -> Described:
    """What a service says that it does with requests. Raises NotDescribed."""
    for binding in manifest.bindings:
        if (
            binding.operation == pb.SUPERVISOR_MIDDLEWARE_OPERATION_HTTP_REQUEST
            and binding.phase == pb.SUPERVISOR_MIDDLEWARE_PHASE_PRE_CREDENTIALS
        ):
            return _described(binding)
    raise NotDescribed("it describes no binding for HTTP requests before credentials")


def _described(binding: pb.MiddlewareBinding) -> Described:
    limit = binding.max_payload_bytes
    if not limit:
        raise NotDescribed("its binding says no max_payload_bytes")
    try:
        seconds = read_timeout(binding.timeout) if binding.timeout else None
    except ValueError as error:
        raise NotDescribed(f"its binding says no usable timeout: {error}") from error
    return Described(min(limit, MAX_PAYLOAD_BYTES), seconds)
