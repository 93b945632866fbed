"""Which fields of a message go on to the next hop (`proxy.md` 4.2, 9.4): no policy, no credentials, no I/O.

Framing fields stay, because the body is forwarded with the framing it came in.
"""

from __future__ import annotations

from openshell.egress.http1.fields import Headers, connection_options, lowered

__all__ = ["end_to_end"]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"upgrade",
    }
)
# Nominating these is refused when a head is read; they stay even in a head made by hand.
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding"})


def end_to_end(headers: Headers) -> Headers:
    """The fields without those for this hop: the usual ones and what the Connection field names."""
    names = lowered(headers)
    if _HOP_BY_HOP.isdisjoint(names):
        return headers
    dropped: frozenset[bytes] = _HOP_BY_HOP
    if b"connection" in names:
        options = connection_options(headers)
        if not options <= _HOP_BY_HOP:
            dropped = (_HOP_BY_HOP | options) - _FRAMING
    return tuple([pair for pair, name in zip(headers, names, strict=True) if name not in dropped])
