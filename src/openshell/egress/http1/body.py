"""Follows a body to its end without copying it: slices to forward verbatim, and the same data unframed.

Forwarded bytes are the peer's own, chunk framing included; a framing line is checked whole before any of it
is handed on, so an upstream never sees a line we would have refused. The unframed data is for scanners: a
marker cut in two by a chunk boundary is whole there. Called by the relay of an exchange, both directions.

Chunk extensions must be plain tokens (no quoted strings, no blanks): nothing we meet needs more, and quoting
is where parsers part ways. Trailers are checked like fields and may not name what decides framing, routing
or identity (RFC 9110 6.5.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import assert_never

import msgspec

from openshell.egress.http1.fields import TEXT_BYTES, is_token
from openshell.egress.http1.framing import Chunked, Framing, Length, NoBody, UntilClose
from openshell.egress.http1.rejects import BodyRejected, BodyRejectReason

__all__ = ["BodyDecoder", "BodyPart", "Buffer"]

Buffer = bytes | memoryview

# A size and a signature fit (AWS uses 90); the peer sees its connection closed.
CHUNK_LINE_LIMIT = 256
# All extensions of a body together, so that framing cannot be used to send far more than the data.
EXTENSION_LIMIT = 16 * 1024
# Same as a response head would have room for.
TRAILER_LIMIT = 8 * 1024

# 15 hex digits stay below 2**60, so no sum of sizes overflows in a peer.
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:;[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:=[!#$%&'*+.^_`|~0-9A-Za-z-]+)?)*)"
)
_SIZE_ONLY = re.compile(rb"[0-9A-Fa-f]{1,15}(?=;|\Z)")

_FORBIDDEN_TRAILERS = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"proxy-authorization",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class BodyPart(msgspec.Struct, frozen=True):
    """What one feed yields: `wire` to forward in order, `data` the same content without framing."""

    wire: tuple[Buffer, ...]
    data: tuple[Buffer, ...]
    done: bool

    def __repr__(self) -> str:
        return f"<BodyPart {len(self.wire)} pieces, done={self.done}>"


_NOTHING = BodyPart((), (), done=False)
_ENDED = BodyPart((), (), done=True)


class BodyDecoder:
    """Follows one body. After `done`, `leftover` holds what the peer sent behind it."""

    __slots__ = (
        "_data",
        "_extensions",
        "_held",
        "_remaining",
        "_state",
        "_step",
        "_trailers",
        "_view",
        "_wire",
        "chunks",
        "done",
        "leftover",
    )

    def __init__(self, framing: Framing) -> None:
        self.leftover = b""
        self.done = False
        # Chunks begun so far: who holds a body may bound them.
        self.chunks = 0
        self._remaining = 0
        self._extensions = 0
        self._trailers = 0
        self._held = b""
        self._wire: list[Buffer] = []
        self._data: list[Buffer] = []
        # Plain functions, not bound methods: these would make every decoder a reference cycle.
        self._step: Callable[[BodyDecoder, bytes], BodyPart]
        self._state: Callable[[BodyDecoder, bytes, int], int] = BodyDecoder._size_line
        match framing:
            case NoBody():
                self._step, self.done = BodyDecoder._past_end, True
            case Length(octets=octets):
                self._step, self._remaining, self.done = BodyDecoder._length, octets, octets == 0
            case Chunked():
                self._step = BodyDecoder._chunked
            case UntilClose():
                self._step = BodyDecoder._until_close
            case _:
                assert_never(framing)

    def feed(self, chunk: bytes) -> BodyPart:
        """Takes bytes of the peer; raises BodyRejected when they break the framing."""
        if self.done:
            return self._past_end(chunk)
        if not chunk:
            return _NOTHING
        return self._step(self, chunk)

    def end_of_stream(self) -> None:
        """The peer closed. Raises BodyRejected unless that is where the body may end."""
        if self.done:
            return
        if self._step is BodyDecoder._until_close:
            self.done = True
            return
        raise BodyRejected(BodyRejectReason.TRUNCATED)

    def _past_end(self, chunk: bytes) -> BodyPart:
        self.leftover += chunk
        return _ENDED

    def _until_close(self, chunk: bytes) -> BodyPart:
        return BodyPart((chunk,), (chunk,), done=False)

    def _length(self, chunk: bytes) -> BodyPart:
        size = len(chunk)
        if size <= self._remaining:
            self._remaining -= size
            self.done = self._remaining == 0
            return BodyPart((chunk,), (chunk,), done=self.done)
        view = memoryview(chunk)[: self._remaining]
        self.leftover = chunk[self._remaining :]
        self._remaining, self.done = 0, True
        return BodyPart((view,), (view,), done=True)

    def _chunked(self, chunk: bytes) -> BodyPart:
        """Runs the states over the bytes; a line that has not ended is held back and prefixed next time."""
        block = self._held + chunk if self._held else chunk
        self._held = b""
        self._view = memoryview(block)
        self._data = []
        position = 0
        while position < len(block) and not self.done:
            after = self._state(self, block, position)
            if after == position:
                self._held = block[position:]
                break
            position = after
        if self.done:
            self.leftover = block[position:]
        wire: tuple[Buffer, ...] = ()
        if position:
            wire = (block,) if position == len(block) else (self._view[:position],)
        part = BodyPart(wire, tuple(self._data), done=self.done)
        self._data = []
        del self._view
        return part

    # Each state returns the position behind what it has checked, or the same position to wait for more.

    def _size_line(self, block: bytes, position: int) -> int:
        end = _line_end(block, position, CHUNK_LINE_LIMIT, BodyRejectReason.CHUNK_LINE_TOO_LONG)
        if end < 0:
            return position
        line = _SIZE_LINE.fullmatch(block, position, end)
        if line is None:
            size_is_fine = _SIZE_ONLY.match(block[position:end]) is not None
            raise BodyRejected(
                BodyRejectReason.CHUNK_EXTENSION if size_is_fine else BodyRejectReason.CHUNK_SIZE
            )
        digits, extension = line.groups()
        self._extensions += len(extension)
        if self._extensions > EXTENSION_LIMIT:
            raise BodyRejected(BodyRejectReason.CHUNK_OVERHEAD)
        self._remaining = int(digits, 16)
        self.chunks += 1
        self._state = BodyDecoder._chunk_data if self._remaining else BodyDecoder._trailer_line
        return end + 2

    def _chunk_data(self, block: bytes, position: int) -> int:
        stop = min(len(block), position + self._remaining)
        self._data.append(self._view[position:stop])
        self._remaining -= stop - position
        if not self._remaining:
            self._state = BodyDecoder._chunk_end
        return stop

    def _chunk_end(self, block: bytes, position: int) -> int:
        found = block[position : position + 2]
        if found == b"\r\n":
            self._state = BodyDecoder._size_line
            return position + 2
        if found == b"\r":
            return position
        raise BodyRejected(BodyRejectReason.CHUNK_END)

    def _trailer_line(self, block: bytes, position: int) -> int:
        room = TRAILER_LIMIT - self._trailers
        end = _line_end(block, position, room, BodyRejectReason.TRAILERS_TOO_LARGE)
        if end < 0:
            return position
        if end == position:
            self.done = True
            return end + 2
        line = block[position:end]
        name, colon, _ = line.partition(b":")
        if not colon or not is_token(name) or line.translate(None, TEXT_BYTES):
            raise BodyRejected(BodyRejectReason.TRAILER)
        if name.lower() in _FORBIDDEN_TRAILERS:
            raise BodyRejected(BodyRejectReason.TRAILER_FORBIDDEN)
        self._trailers += len(line) + 2
        # Scanners see trailers as well: they reach the upstream like the data does.
        self._data.append(self._view[position : end + 2])
        return end + 2


def _line_end(block: bytes, position: int, limit: int, too_long: BodyRejectReason) -> int:
    """Where the line's CRLF starts, or -1 while it has not come."""
    stop = position + limit + 2
    end = block.find(b"\r\n", position, stop)
    # As in a head, a bare LF goes before every other rule so that cutting does not change the reason.
    if block.find(b"\n", position, end if end >= 0 else stop) >= 0:
        raise BodyRejected(BodyRejectReason.BARE_LF)
    if end < 0 and len(block) >= stop:
        raise BodyRejected(too_long)
    return end
