"""Field lines shared by request heads, response heads and trailers: bytes in, checked pairs out.

Everything is checked in whole-buffer operations of the interpreter (translate, split, partition): a head
costs microseconds, and no check looks at one byte at a time.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Generic, TypeVar

from openshell.egress.http1.framing import Framing, declared_framing
from openshell.egress.http1.rejects import HeadRejected, RejectReason

__all__ = [
    "FieldScan",
    "HeadReader",
    "Headers",
    "are_usual",
    "check_text",
    "connection_options",
    "is_token",
    "lowered",
    "render_fields",
    "split_first",
    "values",
]

_Head = TypeVar("_Head")

Headers = tuple[tuple[bytes, bytes], ...]

# Bounds the work per head; Apache takes 100 fields, Node 2000. The peer sees 431.
MAX_FIELDS = 256

TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# What may stand between line ends: TAB, printable ASCII, and bytes of other encodings.
TEXT_BYTES = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))

_BARE_LF = re.compile(rb"(?<!\r)\n")
# Good field lines, each from its line end on, and their pairs; possessive, so that nothing is tried twice.
# Values that end in blanks, like everything the first does not match, are left to the careful reading.
_GOOD_FIELDS = re.compile(
    rb"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+)*+"
).fullmatch
_PAIRS = re.compile(rb"\r\n([^:]++):[\t ]*+([^\r]*+)").findall
# Values of the Connection field whose reading is remembered: nearly everybody sends one of two.
_REMEMBERED = 16
_BLANKS = frozenset({b" ", b"\t"})
# Fields that decide where the message ends may not be taken away from it by the Connection field.
_NEVER_NOMINATED = frozenset({b"host", b"content-length", b"transfer-encoding"})
# Servers that make environment variables of fields read these as the framing fields themselves.
_LOOKALIKES = frozenset({b"content_length", b"transfer_encoding"})
_SPECIAL = _LOOKALIKES | {b"content-length", b"transfer-encoding", b"connection", b"host"}


class HeadReader(ABC, Generic[_Head]):
    """Reads one head: collects bytes until the empty line, linear however they arrive, bounded by the limit.

    A further head needs a new reader, fed with the leftover of what came between. Made for extension by
    the two kinds of heads, which say how a complete block is read.
    """

    __slots__ = ("_data", "_limit", "_refused", "leftover")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = b""
        self._refused: HeadRejected | None = None
        # Bytes behind the head: the body, or the next message.
        self.leftover = b""

    @abstractmethod
    def _parse(self, block: bytes) -> _Head:
        """Reads the block without its last two line ends; raises HeadRejected."""

    @property
    def pending(self) -> bool:
        """Whether a head has begun and not ended."""
        return bool(self._data)

    def feed(self, chunk: bytes) -> _Head | None:
        """Takes bytes; returns the head once complete. Raises HeadRejected, and from then on always."""
        if self._refused is not None:
            raise self._refused
        try:
            block = self._take(chunk)
            return None if block is None else self._parse(block)
        except HeadRejected as rejected:
            self._refused = rejected
            self._data = self.leftover = b""
            raise

    def end_of_stream(self) -> None:
        """The peer closed. Raises HeadRejected when a head had begun: that is an abort, not an end."""
        if self._data:
            self._refused = HeadRejected(RejectReason.TRUNCATED, len(self._data))
            self._data = b""
        if self._refused is not None:
            raise self._refused

    def _take(self, chunk: bytes) -> bytes | None:
        known = len(self._data)
        data = self._data + chunk if known else chunk
        end = data.find(b"\r\n\r\n", max(known - 3, 0))
        complete = 0 <= end <= self._limit - 4
        # A line ended by a bare LF is refused as soon as it is seen: a head that uses only these would
        # otherwise never end. It goes before every other rule so that cutting does not change the reason.
        stop = end + 4 if complete else min(len(data), self._limit)
        start = max(known - 1, 0)
        if data.count(b"\n", start, stop) != data.count(b"\r\n", start, stop):
            bare = _BARE_LF.search(data, start, stop)
            if bare is not None:
                raise HeadRejected(RejectReason.BARE_LF, bare.start())
        if complete:
            self._data = b""
            self.leftover = data[stop:]
            return data[:end]
        if len(data) >= self._limit:
            raise HeadRejected(RejectReason.TOO_LARGE, self._limit)
        self._data = data
        return None


class FieldScan:
    """The fields of one head and what the reader needs of them."""

    __slots__ = ("codings", "headers", "hosts", "lengths")

    def __init__(self, first: bytes, fields: bytes, *, usual: bool) -> None:
        """Reads what `split_first` gave and `are_usual` has looked at."""
        if fields.count(b"\n") > MAX_FIELDS:
            raise HeadRejected(RejectReason.TOO_MANY_FIELDS)
        self.lengths: list[bytes] = []
        self.codings: list[bytes] = []
        self.hosts: list[bytes] = []
        pairs = _PAIRS(fields) if usual else _read_lines(first, fields)
        repeated = []
        for index, (name, value) in enumerate(pairs):
            lowered = name.lower()
            if lowered in _SPECIAL and self._special(lowered, value):
                repeated.append(index)
        for index in reversed(repeated):
            del pairs[index]
        self.headers: Headers = tuple(pairs)

    def _special(self, lowered: bytes, value: bytes) -> bool:
        """Notes a field that decides something; says whether it only repeats one."""
        if lowered == b"host":
            self.hosts.append(value)
        elif lowered == b"connection":
            _check_connection(value)
        elif lowered == b"transfer-encoding":
            self.codings.append(value)
        elif lowered in _LOOKALIKES:
            raise HeadRejected(RejectReason.FIELD_NAME)
        else:
            self.lengths.append(value)
            # Identical repetitions count as one (`proxy.md` 2.2), and one is what goes on.
            return len(self.lengths) > 1 and value == self.lengths[0]
        return False

    def framing(self, *, http10: bool) -> Framing | None:
        return declared_framing(self.lengths, self.codings, http10=http10)


def split_first(block: bytes) -> tuple[bytes, bytes]:
    """The first line, and the field lines, each led by its line end."""
    end = block.find(b"\r\n")
    return (block, b"") if end < 0 else (block[:end], block[end:])


def check_text(block: bytes) -> None:
    """Refuses bytes that are no text."""
    # All that is left after removing text must be the line ends themselves, each CR with its LF.
    if block.translate(None, TEXT_BYTES) != b"\r\n" * block.count(b"\r\n"):
        raise HeadRejected(RejectReason.CONTROL_BYTE)


def are_usual(first: bytes, fields: bytes) -> bool:
    """Whether the lines are good text as nearly all are; others are read with more care."""
    if _GOOD_FIELDS(fields) is None or first.translate(None, TEXT_BYTES):
        check_text(first + fields)
        return False
    return b" \r" not in fields and b"\t\r" not in fields and fields[-1:] not in _BLANKS


def render_fields(headers: Headers) -> bytes:
    """The field lines and the empty line behind them."""
    lines = [*map(b": ".join, headers), b"", b""]
    return b"\r\n".join(lines) if headers else b"\r\n"


def _read_lines(first: bytes, fields: bytes) -> list[tuple[bytes, bytes]]:
    """Reads line by line, to name what is wrong with one of them."""
    pairs: list[tuple[bytes, bytes]] = []
    offset = len(first) + 2
    for line in fields.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.translate(None, TOKEN_BYTES):
            raise HeadRejected(_field_reason(line, colon), offset)
        offset += len(line) + 2
        pairs.append((name, value.strip(b" \t")))
    return pairs


def is_token(value: bytes) -> bool:
    """Whether the value is a non-empty token of RFC 9110 5.6.2."""
    return bool(value) and not value.translate(None, TOKEN_BYTES)


def lowered(headers: Headers) -> list[bytes]:
    """The names of the fields in order, in lower case."""
    return [name.lower() for name, _ in headers]


def values(headers: Headers, name: bytes) -> tuple[bytes, ...]:
    """All values of a field in order; `name` in lower case."""
    return tuple([value for key, value in headers if key.lower() == name])


def connection_options(headers: Headers) -> frozenset[bytes]:
    """The options of all Connection fields, in lower case."""
    found = values(headers, b"connection")
    return _options(found) if found else frozenset()


@lru_cache(_REMEMBERED)
def _options(found: tuple[bytes, ...]) -> frozenset[bytes]:
    return frozenset(
        option.strip(b" \t").lower() for value in found for option in value.split(b",")
    )


@lru_cache(_REMEMBERED)
def _check_connection(value: bytes) -> None:
    for option in value.split(b","):
        stripped = option.strip(b" \t")
        if not is_token(stripped):
            raise HeadRejected(RejectReason.CONNECTION_OPTION)
        if stripped.lower() in _NEVER_NOMINATED:
            raise HeadRejected(RejectReason.CONNECTION_FORBIDDEN)


def _field_reason(line: bytes, colon: bytes) -> RejectReason:
    if line[:1] in (b" ", b"\t"):
        return RejectReason.FOLDED_LINE
    return RejectReason.FIELD_NAME if colon else RejectReason.NO_COLON
