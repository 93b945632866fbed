"""Where the frames of a server begin and end, so that a close frame of ours can stand between two.

What the server sends is copied as it comes; only lengths are followed here, without holding a byte
of a payload. Used by `websocket_exchange` when it has to end a connection.
"""

from __future__ import annotations

from typing import Final

from openshell.egress.websocket.frames import Opcode

__all__ = ["ServerFrames"]

# Bytes that lead the payload: two, the longer forms of the length, and a mask if a server sends one.
_SHORTEST: Final = 2
_LENGTH_BYTES: Final = {126: 2, 127: 8}
_MASK: Final = 4


class ServerFrames:
    """Follows one server."""

    __slots__ = ("_header", "_left", "has_closed")

    def __init__(self) -> None:
        # The header that is half read, and bytes of a payload that are still to come.
        self._header = b""
        self._left = 0
        self.has_closed = False
        """The server has begun its close frame; nothing may follow it."""

    @property
    def is_between_frames(self) -> bool:
        return not self._header and not self._left

    def follow(self, data: bytes, *, one: bool = False) -> int:
        """Take bytes; how many of them were taken. `one` stops at the next end of a frame."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                taken = min(self._left, size - at)
                self._left -= taken
                at += taken
            else:
                at += self._read_header(data[at : at + _SHORTEST + 8 + _MASK])
            if one and self.is_between_frames:
                break
        return at

    def _read_header(self, data: bytes) -> int:
        """Take bytes of a header only; how many they were."""
        known = len(self._header)
        seen = self._header + data
        size = _header_size(seen)
        if len(seen) < size:
            self._header = seen
            return len(data)
        self._header = b""
        self._left = _payload_size(seen)
        self.has_closed = self.has_closed or seen[0] & 0x0F == Opcode.CLOSE
        return size - known


def _header_size(seen: bytes) -> int:
    if len(seen) < _SHORTEST:
        return _SHORTEST
    masked = _MASK if seen[1] & 0x80 else 0
    return _SHORTEST + _LENGTH_BYTES.get(seen[1] & 0x7F, 0) + masked


def _payload_size(seen: bytes) -> int:
    short = seen[1] & 0x7F
    more = _LENGTH_BYTES.get(short)
    return int.from_bytes(seen[2 : 2 + more], "big") if more else short
