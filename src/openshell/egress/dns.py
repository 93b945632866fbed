"""The DNS messages of the resolver stub: one question in, an answer out. Nothing else of DNS.

Strict because the asker is the agent: a query has exactly one question without compression, a name of plain
host labels, no records of its own except one EDNS option record (whose content is ignored, not echoed).
Answers never carry anything the asker chose but the question itself. No I/O; `dns_server` is the shell.
RFC 1035 4, RFC 6891 6.1.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "Query",
    "QueryRejected",
    "RCode",
    "RType",
    "parse_query",
    "render_answer",
    "render_error",
]

# The largest query that makes sense: header, one name, one option record. Larger ones carry data out.
QUERY_LIMIT = 512
# Names longer than this are no host names (RFC 1035 2.3.4).
_NAME_LIMIT = 255
_LABEL = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?").fullmatch
_HEADER = struct.Struct("!6H")

_QR, _OPCODE, _AA, _RD, _RA = 0x8000, 0x7800, 0x0400, 0x0100, 0x0080


class RCode(IntEnum):
    """Response codes we use."""

    NOERROR = 0
    FORMERR = 1
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


class RType(IntEnum):
    """Record types that can have an answer."""

    A = 1
    AAAA = 28


class QueryRejected(Exception):
    """No query we answer in substance. `identifier` is None when not even an error can be sent back."""

    def __init__(self, rcode: RCode, identifier: int | None) -> None:
        super().__init__(f"DNS query rejected: {rcode.name}")
        self.rcode = rcode
        self.identifier = identifier


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `host` is lower case without the final dot; `question` is as it came, to be echoed."""

    identifier: int
    host: str
    rtype: int
    recursion_desired: bool
    question: bytes


def parse_query(message: bytes) -> Query:
    """Reads a query; raises QueryRejected."""
    if len(message) < _HEADER.size:
        raise QueryRejected(RCode.FORMERR, None)
    identifier, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & _QR:
        # An answer sent to us must never be answered: two stubs would talk for ever.
        raise QueryRejected(RCode.FORMERR, None)
    if flags & _OPCODE:
        raise QueryRejected(RCode.NOTIMP, identifier)
    if (
        len(message) > QUERY_LIMIT
        or (questions, answers, authorities) != (1, 0, 0)
        or additional > 1
    ):
        raise QueryRejected(RCode.FORMERR, identifier)
    host, position = _name(message, identifier)
    if len(message) < position + 4:
        raise QueryRejected(RCode.FORMERR, identifier)
    rtype, rclass = struct.unpack_from("!2H", message, position)
    if rclass != 1:
        raise QueryRejected(RCode.NOTIMP, identifier)
    position += 4
    question = message[_HEADER.size : position]
    if additional:
        position = _option_record(message, position, identifier)
    if position != len(message):
        raise QueryRejected(RCode.FORMERR, identifier)
    return Query(identifier, host, rtype, bool(flags & _RD), question)


def _name(message: bytes, identifier: int) -> tuple[str, int]:
    position = _HEADER.size
    labels: list[bytes] = []
    while position < len(message):
        size = message[position]
        position += 1
        if size == 0:
            # The root has addresses nowhere.
            if not labels or position - _HEADER.size > _NAME_LIMIT:
                raise QueryRejected(RCode.REFUSED, identifier)
            return b".".join(labels).decode("ascii").lower(), position
        label = message[position : position + size]
        # A size above 63 is a compression pointer, which a first name cannot have.
        if size > 63 or len(label) != size:
            raise QueryRejected(RCode.FORMERR, identifier)
        if _LABEL(label) is None:
            raise QueryRejected(RCode.REFUSED, identifier)
        labels.append(label)
        position += size
    raise QueryRejected(RCode.FORMERR, identifier)


def _option_record(message: bytes, position: int, identifier: int) -> int:
    """Steps over one OPT record: root name, type 41, class, TTL, data."""
    if len(message) < position + 11 or message[position] != 0:
        raise QueryRejected(RCode.FORMERR, identifier)
    rtype, _, _, size = struct.unpack_from("!HHIH", message, position + 1)
    if rtype != 41:
        raise QueryRejected(RCode.FORMERR, identifier)
    return position + 11 + int(size)


def render_answer(query: Query, addresses: tuple[str, ...], *, ttl: int) -> bytes:
    """NOERROR with the addresses (none means: the name exists, this type of record does not)."""
    flags = _QR | _AA | _RA | (_RD if query.recursion_desired else 0)
    parts = [_HEADER.pack(query.identifier, flags, 1, len(addresses), 0, 0), query.question]
    for address in addresses:
        packed = ipaddress.ip_address(address).packed
        # 0xC00C points at the name of the question.
        parts.append(struct.pack("!HHHIH", 0xC00C, query.rtype, 1, ttl, len(packed)) + packed)
    return b"".join(parts)


def render_error(identifier: int, rcode: RCode, question: bytes = b"") -> bytes:
    """An answer without records; the question is repeated where one was read."""
    return _HEADER.pack(identifier, _QR | _RA | rcode, 1 if question else 0, 0, 0, 0) + question
