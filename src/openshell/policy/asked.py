"""The question of an offline check, read from text: a request, or a bare connection.

Reading only; what becomes of it is told by `explain`. Called by `policy check`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from openshell.policy.hosts import normalize_host

__all__ = ["AskedRequest", "RequestTextError"]

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
# A WebSocket begins as a request.
_SCHEMES: Final = {"ws": "http", "wss": "https"}
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,31}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:@/?#]+)(?::([0-9]{1,5}))?")
_EXAMPLE: Final = "write 'GET https://api.example.com/path', or host:port for a bare connection"


class RequestTextError(ValueError):
    """The text names no request; the message says what would be accepted."""


@dataclass(frozen=True, slots=True)
class AskedRequest:
    """What to ask about. `scheme` "" asks for the connection alone."""

    host: str
    port: int
    scheme: str = ""
    method: str = ""
    target: str = "/"

    @classmethod
    def parse(cls, text: str) -> AskedRequest:
        """Reads `[METHOD] URL` or `host:port`."""
        method, _, url = text.strip().rpartition(" ")
        method = method.strip() or "GET"
        if not _METHOD.fullmatch(method):
            raise RequestTextError(f"'{method[:40]}' is no method; {_EXAMPLE}")
        scheme, mark, rest = url.partition("://")
        if not mark:
            if " " in text.strip():
                raise RequestTextError(f"the URL needs http:// or https://; {_EXAMPLE}")
            host, port = _authority(url, None)
            return cls(host, port)
        scheme = scheme.lower()
        if scheme not in _PORTS:
            raise RequestTextError(f"only http, https, ws and wss can be asked about; {_EXAMPLE}")
        end = min((at for at in (rest.find(c) for c in "/?#") if at >= 0), default=len(rest))
        host, port = _authority(rest[:end], _PORTS[scheme])
        target = rest[end:].partition("#")[0]
        if not target.startswith("/"):
            target = f"/{target}"
        return cls(host, port, _SCHEMES.get(scheme, scheme), method, target)


def _authority(text: str, default: int | None) -> tuple[str, int]:
    if "@" in text:
        # Not echoed: what stands before the @ may be a password.
        raise RequestTextError(f"a user has no place in the URL; {_EXAMPLE}")
    found = _HOST.fullmatch(text)
    if found is None or (found[2] is None and default is None):
        raise RequestTextError(f"'{text[:80]}' is no host with a port; {_EXAMPLE}")
    port = int(found[2]) if found[2] else default or 0
    if not 1 <= port <= 65535:
        raise RequestTextError(f"port {port} is out of range; expected 1..65535")
    return normalize_host(found[1]), port
