"""How the body of a message ends, decided once from its head so that nobody looks at the fields again.

Used by the head readers; the body decoder takes the result. Requests follow `proxy.md` 2.2, responses 9.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from openshell.egress.http1.rejects import HeadRejected, RejectReason

__all__ = [
    "CHUNKED",
    "NO_BODY",
    "UNTIL_CLOSE",
    "Chunked",
    "Framing",
    "Length",
    "NoBody",
    "UntilClose",
]


@dataclass(frozen=True, slots=True)
class NoBody:
    """Nothing follows the head."""


@dataclass(frozen=True, slots=True)
class Length:
    """Exactly `octets` bytes follow."""

    octets: int


@dataclass(frozen=True, slots=True)
class Chunked:
    """Chunks follow, then trailers."""


@dataclass(frozen=True, slots=True)
class UntilClose:
    """Everything until the peer closes; responses only."""


Framing = NoBody | Length | Chunked | UntilClose

NO_BODY = NoBody()
CHUNKED = Chunked()
UNTIL_CLOSE = UntilClose()

# 18 digits stay below 2**63, so no parser behind us overflows where we did not. A leading zero is refused
# because a parser that takes it for octal would frame the message differently.
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}").fullmatch


def declared_framing(lengths: list[bytes], codings: list[bytes], *, http10: bool) -> Framing | None:
    """The framing that Content-Length and Transfer-Encoding declare, or None when neither is there."""
    if codings:
        if lengths:
            raise HeadRejected(RejectReason.LENGTH_AND_CODING)
        # A list, a repetition or another coding is where parsers disagree about which one counts.
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise HeadRejected(RejectReason.TRANSFER_CODING)
        # RFC 9112 6.1: transfer codings do not exist in HTTP/1.0, a peer of that version ignores them.
        if http10:
            raise HeadRejected(RejectReason.CODING_IN_HTTP10)
        return CHUNKED
    if not lengths:
        return None
    first = lengths[0]
    if _LENGTH(first) is None:
        raise HeadRejected(RejectReason.LENGTH_INVALID)
    for other in lengths:
        if other != first:
            raise HeadRejected(RejectReason.LENGTH_CONFLICT)
    return Length(int(first))
