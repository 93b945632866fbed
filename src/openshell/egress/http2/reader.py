"""Cuts the bytes of an HTTP/2 peer into frames: strictly, within bounds, data without copying it.

Data is passed on in the pieces in which it arrives, so that the size of a frame binds no memory; any other
frame is collected whole, a header block from all its frames. What a frame is counted as is decided when
its header is read, before anything of it is kept. Pure; time is an argument.

What frames mean is for `endpoint`, which calls this.
"""

from struct import Struct
from typing import Final, NamedTuple

from openshell.egress.http2.budgets import Budgets
from openshell.egress.http2.codes import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    ErrorCode,
    PeerBroken,
)

__all__ = ["MAX_FRAME", "Frame", "FrameReader"]

# What we announce. Data of it binds nothing, and peers that fill their frames send fewer.
MAX_FRAME: Final = 64 * 1024
# Frames that carry neither data nor fields, at most the protocol's own initial value.
_MAX_CONTROL: Final = 16_384
# A header block as it comes: no list within our limit is longer when it is compressed.
_BLOCK_LIMIT: Final = 64 * 1024
# Frames of one block. Peers fill their frames, so five make the limit (CVE-2024-27316 and its kin).
_BLOCK_FRAMES: Final = 16
_HEAD: Final = Struct(">IBI")
_PRIORITY_BYTES: Final = 5
_STREAM_BITS: Final = 0x7FFF_FFFF


class Frame(NamedTuple):
    """A frame, or a piece of one that carries data; the last piece has the flags of the frame.

    `payload` has no padding. `counted` is what data takes of windows: the first piece has all of its frame.
    """

    kind: int
    flags: int
    stream_id: int
    payload: memoryview | bytes | bytearray
    counted: int = 0


class FrameReader:
    """The frames of one direction of one connection."""

    __slots__ = (
        "_begun",
        "_block",
        "_block_flags",
        "_block_frames",
        "_block_stream",
        "_collected",
        "_data_left",
        "_left",
        "_number",
        "_preface",
        "_rest",
        "budgets",
    )

    def __init__(self, *, preface: bytes = b"") -> None:
        """`preface` is what comes before the first frame."""
        self.budgets = Budgets()
        self._preface = preface
        # How many frames have begun, those that continue a header block not counted.
        self._number = 1
        # The beginning of a frame's header.
        self._rest = b""
        # Flags and stream of data that has not all come, and how much that is.
        self._begun = (DATA, 0, 0)
        self._data_left = 0
        # A frame that is collected, and how much of it has not come.
        self._collected: bytearray | None = None
        self._left = 0
        # An unfinished header block.
        self._block = bytearray()
        self._block_frames = self._block_flags = self._block_stream = 0

    @property
    def in_block(self) -> bool:
        """Whether a header block has begun that is not complete."""
        return self._block_frames > 0

    @property
    def unfinished(self) -> int:
        """Number of what has begun and must end soon: the preface, a header block, a frame without data.

        0 when there is nothing of that kind. Data may come as slowly as it likes.
        """
        collecting = self._collected is not None and self._begun[0] != DATA
        return self._number if self._preface or self._rest or self.in_block or collecting else 0

    def feed(self, data: bytes, now: float) -> list[Frame]:
        """Take bytes of the peer. Raises PeerBroken; the connection cannot go on then."""
        frames: list[Frame] = []
        if self._preface:
            data = self._strip_preface(data)
        if self._rest:
            data, self._rest = self._rest + data, b""
        view, position, size = memoryview(data), 0, len(data)
        while position < size:
            if self._data_left:
                position = self._continue_data(view, position, frames)
                continue
            if self._collected is not None:
                position = self._collect(self._collected, view, position, frames, now)
                continue
            after = position + _HEAD.size
            if after > size:
                self._rest = data[position:]
                break
            length_kind, flags, stream_id = _HEAD.unpack_from(data, position)
            length, kind, stream_id = length_kind >> 8, length_kind & 0xFF, stream_id & _STREAM_BITS
            position = after
            if kind == DATA and not flags & PADDED:
                self._check_data(length, flags, now)
                end = min(after + length, size)
                self._data_left = length - (end - after)
                if self._data_left:
                    self._begun = DATA, flags, stream_id
                    flags = 0
                frames.append(Frame(DATA, flags, stream_id, view[after:end], length))
                position = end
                continue
            self._begin(kind, flags, stream_id, length, now)
            if after + length <= size:
                self._complete(view[after : after + length], frames, now)
                position = after + length
            else:
                self._collected, self._left = bytearray(), length
        return frames

    def _strip_preface(self, data: bytes) -> bytes:
        step = min(len(self._preface), len(data))
        if data[:step] != self._preface[:step]:
            raise PeerBroken("http2_protocol_error", ErrorCode.PROTOCOL)
        self._preface = self._preface[step:]
        return data[step:]

    def _check_data(self, length: int, flags: int, now: float) -> None:
        self._number += 1
        if length > MAX_FRAME:
            raise PeerBroken("http2_frame_too_large", ErrorCode.FRAME_SIZE)
        if self._block_frames:
            raise PeerBroken("http2_protocol_error", ErrorCode.PROTOCOL)
        if not length and not flags & END_STREAM:
            self.budgets.empty.spend(now)

    def _continue_data(self, view: memoryview, position: int, frames: list[Frame]) -> int:
        end = min(position + self._data_left, len(view))
        self._data_left -= end - position
        _, flags, stream_id = self._begun
        last = 0 if self._data_left else flags
        frames.append(Frame(DATA, last, stream_id, view[position:end]))
        return end

    def _begin(self, kind: int, flags: int, stream_id: int, length: int, now: float) -> None:
        """Look at the header of a frame that is collected."""
        if not self._block_frames:
            self._number += 1
        has_fields = kind in (HEADERS, CONTINUATION)
        if length > (MAX_FRAME if has_fields or kind == DATA else _MAX_CONTROL):
            raise PeerBroken("http2_frame_too_large", ErrorCode.FRAME_SIZE)
        continues = kind == CONTINUATION
        strays = continues and stream_id != self._block_stream
        if kind == PUSH_PROMISE or strays or continues != self.in_block:
            # Pushes are switched off by our settings; nothing stands within a header block.
            raise PeerBroken("http2_protocol_error", ErrorCode.PROTOCOL)
        if has_fields:
            if kind == CONTINUATION and not length:
                self.budgets.empty.spend(now)
            if len(self._block) + length > _BLOCK_LIMIT or self._block_frames >= _BLOCK_FRAMES:
                raise PeerBroken("http2_header_block_too_large", ErrorCode.ENHANCE_YOUR_CALM)
            self._block_frames += 1
        elif kind != DATA:
            self.budgets.count(kind, flags, now)
        self._begun = kind, flags, stream_id
        if kind == HEADERS:
            self._block_flags, self._block_stream = flags, stream_id

    def _collect(
        self, collected: bytearray, view: memoryview, position: int, frames: list[Frame], now: float
    ) -> int:
        end = min(position + self._left, len(view))
        self._left -= end - position
        collected += view[position:end]
        if not self._left:
            self._collected = None
            self._complete(memoryview(collected), frames, now)
        return end

    def _complete(self, payload: memoryview, frames: list[Frame], now: float) -> None:
        kind, flags, stream_id = self._begun
        counted = 0
        if kind == DATA:
            counted = len(payload)
            payload = _without_padding(payload)
            self._check_data(len(payload), flags, now)
        elif kind in (HEADERS, CONTINUATION):
            self._add_to_block(kind, flags, payload)
            if not flags & END_HEADERS:
                return
            block, self._block = self._block, bytearray()
            flags, kind = self._block_flags, HEADERS
            self._block_frames = self._block_stream = 0
            frames.append(Frame(kind, flags, stream_id, block))
            return
        frames.append(Frame(kind, flags, stream_id, payload, counted))

    def _add_to_block(self, kind: int, flags: int, payload: memoryview) -> None:
        if kind == HEADERS:
            if flags & PADDED:
                payload = _without_padding(payload)
            if flags & PRIORITY_FLAG:
                if len(payload) < _PRIORITY_BYTES:
                    raise PeerBroken("http2_protocol_error", ErrorCode.FRAME_SIZE)
                payload = payload[_PRIORITY_BYTES:]
        self._block += payload


def _without_padding(payload: memoryview) -> memoryview:
    if not payload:
        raise PeerBroken("http2_protocol_error", ErrorCode.FRAME_SIZE)
    if payload[0] >= len(payload):
        raise PeerBroken("http2_protocol_error", ErrorCode.PROTOCOL)
    return payload[1 : len(payload) - payload[0]]
