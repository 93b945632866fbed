"""The name by which processes in a sandbox know a credential that the gateway keeps fresh.

It stays while the value rotates, so that a running process keeps its placeholder, and changes with
all that the placeholder's meaning depends on: sandbox, provider, key, configuration of the refresh
and the places where the value may go. It is no secret and opens nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from openshell.providers.digest import digest_of
from openshell.providers.selectors import EVERY_PATH

__all__ = ["Destination", "workload_handle"]

_DOMAIN: Final = "openshell workload credential handle v1"


@dataclass(frozen=True, slots=True, order=True)
class Destination:
    """One place where a credential may go."""

    host: str
    port: int
    path: str


def workload_handle(
    sandbox_id: str, provider_id: str, key: str, epoch: str, endpoints: Iterable[Destination]
) -> str:
    """64 lowercase hexadecimal digits. The order of endpoints and their spelling do not count."""
    places = sorted({_normal(endpoint) for endpoint in endpoints})
    parts = [_DOMAIN, sandbox_id, provider_id, key, epoch]
    for place in places:
        parts += [place.host, str(place.port), place.path]
    return digest_of(parts).hex()


def _normal(endpoint: Destination) -> Destination:
    path = "" if endpoint.path in EVERY_PATH else endpoint.path
    return Destination(endpoint.host.strip().rstrip(".").lower(), endpoint.port, path)
