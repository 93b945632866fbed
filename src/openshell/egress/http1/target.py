"""Who a request is for: the target of CONNECT, an absolute target, the Host field. Bytes in, values out.

Paths are not judged here (that is `openshell.policy.target`), nor whether authorities agree (the pipeline).
Hosts come back in lower case without brackets. The rules are those of `proxy.md` 2.3, 4 row 1 and 9.2.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import msgspec

from openshell.egress.http1.rejects import HeadRejected, RejectReason

__all__ = [
    "AbsoluteTarget",
    "Authority",
    "match_authority",
    "parse_absolute_target",
    "parse_connect_target",
    "parse_host_field",
]

# A bracketed IPv6 address, or a name as DNS has it (labels, perhaps a final dot; IPv4 addresses are that
# as well). The rest of RFC 3986's reg-name is left out: no server has such a name, and what one parser
# takes for a percent-encoded or wildcard host another takes literally.
match_authority = re.compile(
    rb"(?:\[(?=[^]:]*:[^]:]*:)([0-9A-Fa-f:.]{2,45})\]|(?=.{1,254}(?:\Z|:))([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?))(?::([0-9]{1,5}))?"
).fullmatch
_ABSOLUTE = re.compile(
    rb"([A-Za-z][A-Za-z0-9+.-]{0,31})://([^/?#]*)(/[^?#]*)?(\?[^#]*)?", re.DOTALL
).fullmatch

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Authority(msgspec.Struct, frozen=True):
    """Host (lower case, no brackets) and the port, None when it was not written."""

    host: str
    port: int | None

    @property
    def text(self) -> str:
        """As it stands in a Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class AbsoluteTarget(msgspec.Struct, frozen=True):
    """An absolute-form target taken apart; `origin_form` is what goes on to the upstream."""

    scheme: str
    host: str
    port: int
    # The query may hold a credential of the agent's own.
    origin_form: bytes

    def __repr__(self) -> str:
        return f"<AbsoluteTarget {self.scheme} {self.host}:{self.port}>"

    @property
    def host_field(self) -> str:
        """The Host field of this target: the default port is left out, an IPv6 address gets its brackets."""
        default = _DEFAULT_PORTS.get(self.scheme, 80) == self.port
        return Authority(self.host, None if default else self.port).text


def parse_connect_target(target: bytes) -> Authority:
    """`host:port` or `[v6]:port`; the port must be there. Raises HeadRejected."""
    authority = _parse(target, RejectReason.TARGET)
    if authority.port is None:
        raise HeadRejected(RejectReason.TARGET)
    return authority


def parse_host_field(value: bytes) -> Authority:
    """The value of a Host field. Raises HeadRejected."""
    return _parse(value, RejectReason.HOST_INVALID)


def parse_absolute_target(target: bytes) -> AbsoluteTarget:
    """`scheme://authority/path?query` without fragment or userinfo. Raises HeadRejected."""
    found = _ABSOLUTE(target)
    if found is None:
        raise HeadRejected(RejectReason.TARGET)
    scheme = found[1].decode("ascii").lower()
    authority = _parse(found[2], RejectReason.TARGET)
    port = authority.port
    if port is None:
        port = _DEFAULT_PORTS.get(scheme, 80)
    return AbsoluteTarget(scheme, authority.host, port, (found[3] or b"/") + (found[4] or b""))


def _parse(value: bytes, reason: RejectReason) -> Authority:
    found = match_authority(value)
    if found is None:
        raise HeadRejected(reason)
    port = None if found[3] is None else int(found[3])
    if port is not None and port > 65535:
        raise HeadRejected(reason)
    host = (found[1] or found[2]).decode("ascii").lower()
    if found[1] is not None and not _is_ipv6(host):
        raise HeadRejected(reason)
    return Authority(host, port)


def _is_ipv6(text: str) -> bool:
    """What stands in brackets is looked up without them: a name there would be judged as that name."""
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
