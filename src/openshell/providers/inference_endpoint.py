"""Where models are asked: the URL of a route, read once and strictly. Pure.

What goes there holds a key, so a URL that two readers could take for different places is refused,
and so is clear text, except to where it does not leave the operator's own ground: the host alias,
services of a cluster, private addresses that are written as such. Whether the addresses behind the
name may be dialled is decided by whoever dials.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

__all__ = ["ALIAS", "Endpoint", "EndpointRefused"]

ALIAS: Final = "host.openshell.internal"
"""The one name under which a sandbox reaches its host."""
MAX_URL: Final = 2048
"""Characters; what servers and proxies commonly accept."""

# Nothing but visible ASCII, no user, no query, no fragment, no backslash.
_URL: Final = re.compile(
    r"(https?)://(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?))"
    r"(?::([0-9]{1,5}))?((?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]*)*)"
).fullmatch
_IN_CLUSTER: Final = re.compile(r"[^.]+\.[^.]+\.svc(?:\.cluster\.local)?").fullmatch
_DOTS: Final = re.compile(r"(?:/|%2[fF])(?:\.|%2[eE]){1,2}(?:/|%2[fF]|\Z)").search


class EndpointRefused(ValueError):
    """Why a URL is none that keys are sent to; the text never holds the URL."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that speaks HTTP; `path` has no slash at its end and may be empty."""

    is_tls: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Raises `EndpointRefused`."""
        found = _URL(url) if len(url) <= MAX_URL else None
        if found is None or _DOTS(url):
            raise EndpointRefused(
                "the base URL must be https://HOST[:PORT][/PATH] without user, query or fragment"
            )
        scheme, six, name, port, path = found.groups()
        host = (six or name).lower()
        if six is not None and ":" not in six:
            raise EndpointRefused("the base URL has brackets around what is no IPv6 address")
        number = int(port) if port else {"http": 80, "https": 443}[scheme]
        if not 1 <= number <= 65535:
            raise EndpointRefused("the port of the base URL must be between 1 and 65535")
        if scheme == "http" and not _is_near(host):
            raise EndpointRefused(
                "a key is sent in clear text to the operator's own ground only: use https://, or "
                f"http:// with {ALIAS}, a service of the cluster or a private address"
            )
        return cls(scheme == "https", host, number, path.rstrip("/"))

    @property
    def authority(self) -> str:
        """As it stands in the Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.path}"

    def target(self, path: str) -> str:
        """The path to ask for; a version that both have is written once."""
        is_versioned = self.path.startswith("/v1/") or self.path.endswith("/v1")
        if is_versioned and (path == "/v1" or path.startswith("/v1/")):
            path = path.removeprefix("/v1")
        return self.path + path


def _is_near(host: str) -> bool:
    if host == ALIAS or _IN_CLUSTER(host):
        return True
    try:
        return ip_address(host).is_private
    except ValueError:
        return False
