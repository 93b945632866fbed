"""Frames that a client sends (RFC 6455 5), read strictly as `proxy.md` 13.3 demands.

Text and control frames are handed over whole, binary ones in pieces as they come, so that a large
upload costs no memory. Every frame keeps the bytes it came in: what is not changed goes on as it was.
Our own code and not a library's, because those decode and encode again: a proxy would then send
frames of its own making, and could not let a binary frame pass without holding it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

__all__ = [
    "MAX_BINARY_FRAME",
    "MAX_TEXT",
    "BinaryPart",
    "CloseCode",
    "ControlFrame",
    "FrameReader",
    "Opcode",
    "TextFrame",
    "WebSocketFault",
    "mask",
    "render_close",
    "render_text",
]

MAX_TEXT: Final = 4 << 20
"""Bytes of a text message, compressed and not; the contract's number."""
MAX_BINARY_FRAME: Final = 16 << 20
"""Bytes of one binary frame; the contract's number."""
MAX_FRAGMENTS: Final = 4096
"""Frames of one message; the contract's number."""
_MAX_CONTROL: Final = 125
_SHORT: Final = 125
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
# RFC 6455 7.4 and its registry: what a peer may say; 1004 to 1006 never travel.
_CLOSE_CODES: Final = re.compile(r"100[0-3]|100[7-9]|101[0-4]|[34][0-9]{3}")


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(IntEnum):
    """Why the proxy ends a connection."""

    PROTOCOL_ERROR = 1002
    BAD_TEXT = 1007
    POLICY = 1008
    TOO_BIG = 1009
    POLICY_CHANGED = 1012
    TRY_AGAIN = 1013


class WebSocketFault(Exception):
    """The connection has to end. `upstream_too`: the server is told as well."""

    def __init__(self, code: CloseCode, reason: str, *, upstream_too: bool = True) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.upstream_too = upstream_too


@dataclass(frozen=True, slots=True)
class TextFrame:
    """One frame of a text message, unmasked."""

    payload: bytes
    wire: bytes
    is_first: bool
    is_last: bool
    # Of the message; told by its first frame.
    is_compressed: bool


@dataclass(frozen=True, slots=True)
class BinaryPart:
    """Some bytes of a binary message, as they came; `begins` marks those with the first header."""

    wire: bytes
    begins: bool


@dataclass(frozen=True, slots=True)
class ControlFrame:
    opcode: Opcode
    wire: bytes


Part = TextFrame | BinaryPart | ControlFrame


@dataclass(slots=True)
class _Header:
    opcode: Opcode
    is_final: bool
    is_compressed: bool
    length: int
    mask: bytes
    wire: bytes


class FrameReader:
    """Follows one client's frames. `feed` raises `WebSocketFault`, after which it must not be used."""

    def __init__(self, *, deflate: bool) -> None:
        self._deflate = deflate
        self._buffer = bytearray()
        # Of the open fragmented message.
        self._message: Opcode | None = None
        self._compressed = False
        self._fragments = 0
        # Of a binary frame whose payload is still coming.
        self._passing = 0
        self._closed = False

    @property
    def is_passing(self) -> bool:
        """The payload of a binary frame is still coming."""
        return self._passing > 0

    @property
    def buffered(self) -> int:
        """Bytes that are held until their frame is complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Part]:
        """What the bytes complete, in order. The iterator must be used up before the next call."""
        self._buffer += data
        while self._buffer:
            if self._passing:
                yield BinaryPart(self._take(min(self._passing, len(self._buffer))), begins=False)
                continue
            header = self._header()
            if header is None:
                return
            if self._closed:
                raise _broken("a frame after the close frame")
            if self._is_binary(header):
                self._enter(header)
                self._passing = header.length
                del self._buffer[: len(header.wire)]
                yield BinaryPart(header.wire, begins=header.opcode is Opcode.BINARY)
                continue
            if len(self._buffer) < len(header.wire) + header.length:
                return
            wire = bytes(self._buffer[: len(header.wire) + header.length])
            del self._buffer[: len(wire)]
            yield self._whole(header, wire)

    def _take(self, count: int) -> bytes:
        piece = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._passing -= count
        return piece

    def _is_binary(self, header: _Header) -> bool:
        return header.opcode is Opcode.BINARY or (
            header.opcode is Opcode.CONTINUATION and self._message is Opcode.BINARY
        )

    def _whole(self, header: _Header, wire: bytes) -> Part:
        payload = mask(wire[len(header.wire) :], header.mask)
        if header.opcode >= Opcode.CLOSE:
            if header.opcode is Opcode.CLOSE:
                _check_close(payload)
                self._closed = True
            return ControlFrame(header.opcode, wire)
        is_first = header.opcode is Opcode.TEXT
        if is_first:
            self._compressed = header.is_compressed
        compressed = self._compressed
        self._enter(header)
        return TextFrame(payload, wire, is_first, header.is_final, compressed)

    def _enter(self, header: _Header) -> None:
        """Notes a data frame: which message it belongs to, and how many that message has."""
        if header.opcode is not Opcode.CONTINUATION:
            self._message, self._fragments = header.opcode, 0
        self._fragments += 1
        if self._fragments > MAX_FRAGMENTS:
            raise WebSocketFault(CloseCode.TOO_BIG, "too many fragments")
        if header.is_final:
            self._message = None

    def _header(self) -> _Header | None:
        """The header at the front, checked, or None when it is not there in full."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        opcode = self._opcode(first)
        if not second & 0x80:
            raise _broken("a frame without a mask")
        length, start = second & 0x7F, 2
        if length > _SHORT:
            if opcode >= Opcode.CLOSE:
                raise _broken("a long control frame")
            size = 2 if length == _LENGTH_16 else 8
            if len(buffer) < 2 + size:
                return None
            start += size
            length = int.from_bytes(buffer[2:start], "big")
            if length <= (_SHORT if size == 2 else 0xFFFF) or length >> 63:
                raise _broken("a length that is not written in the shortest way")
        self._check_size(opcode, length)
        if len(buffer) < start + 4:
            return None
        wire = bytes(buffer[: start + 4])
        return _Header(opcode, bool(first & 0x80), bool(first & 0x40), length, wire[start:], wire)

    def _opcode(self, first: int) -> Opcode:
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise _broken("a reserved opcode") from None
        if opcode >= Opcode.CLOSE and not first & 0x80:
            raise _broken("a control frame in fragments")
        if opcode in (Opcode.TEXT, Opcode.BINARY) and self._message is not None:
            raise _broken("a new message inside another")
        if opcode is Opcode.CONTINUATION and self._message is None:
            raise _broken("a continuation of nothing")
        allowed = 0x40 if self._deflate and opcode in (Opcode.TEXT, Opcode.BINARY) else 0
        if first & 0x70 & ~allowed:
            raise _broken("a reserved bit")
        return opcode

    def _check_size(self, opcode: Opcode, length: int) -> None:
        is_text = opcode is Opcode.TEXT or (
            opcode is Opcode.CONTINUATION and self._message is Opcode.TEXT
        )
        if length > (MAX_TEXT if is_text else MAX_BINARY_FRAME):
            raise WebSocketFault(CloseCode.TOO_BIG, "a frame is too big")


def mask(payload: bytes, key: bytes) -> bytes:
    """Masks or unmasks (RFC 6455 5.3), as one operation on a large number."""
    size = len(payload)
    if not size:
        return b""
    stream = key * (size // 4) + key[: size % 4]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def render_text(payload: bytes, *, compressed: bool) -> bytes:
    """One whole text message as a client sends it."""
    return _render(0x80 | (0x40 if compressed else 0) | Opcode.TEXT, payload, masked=True)


def render_close(code: CloseCode, reason: str, *, masked: bool) -> bytes:
    """A close frame; `masked` when it goes to the server."""
    said = reason.encode()[: _MAX_CONTROL - 2].decode(errors="ignore").encode()
    return _render(0x80 | Opcode.CLOSE, code.to_bytes(2, "big") + said, masked=masked)


def _render(first: int, payload: bytes, *, masked: bool) -> bytes:
    size, bit = len(payload), 0x80 if masked else 0
    if size <= _SHORT:
        head = bytes((first, bit | size))
    elif size <= 0xFFFF:
        head = bytes((first, bit | _LENGTH_16)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | _LENGTH_64)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def _check_close(payload: bytes) -> None:
    if not payload:
        return
    if len(payload) == 1:
        raise _broken("half a close code")
    if not _CLOSE_CODES.fullmatch(str(int.from_bytes(payload[:2], "big"))):
        raise _broken("a close code that may not be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise WebSocketFault(CloseCode.BAD_TEXT, "a close reason that is not UTF-8") from None


def _broken(what: str) -> WebSocketFault:
    return WebSocketFault(CloseCode.PROTOCOL_ERROR, what)
