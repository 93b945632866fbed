"""Looks at the frames of an HTTP/2 connection before the library does, and counts what only costs.

Bytes in, the same bytes out, cut where a GOAWAY frame stood: the library would end everything with the
first one, also the streams that its sender still answers. Frames that ask for work or memory and bring
nothing draw on budgets that refill with time; who overdraws one is told to be calm and disconnected.
Header blocks are bounded here before anybody collects their pieces. Pure; time is an argument.

Which bytes a frame may hold is the library's part (RFC 9113 4 and 6). Called by `peer`.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

__all__ = ["Budget", "Flood", "FrameGate", "Frames", "GoAway"]

_HEADER: Final = 9
# What we announce, the protocol's own initial value.
_MAX_FRAME: Final = 16_384
# Two numbers; text may follow.
_GOAWAY: Final = 8
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_ACK: Final = 0x1

# A header block as it comes: no list within our limit is longer when it is compressed.
_BLOCK_LIMIT: Final = 64 * 1024
# Frames of one block. Peers fill their frames, so five make the limit (CVE-2024-27316 and its kin).
_BLOCK_FRAMES: Final = 16


class _Type(IntEnum):
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    CONTINUATION = 9


class Flood(Exception):
    """A peer that overdraws a budget or sends a frame without measure; `code` names which."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class GoAway:
    """What a peer said before it goes; streams above `last_stream` were not looked at."""

    last_stream: int
    error: int


@dataclass(frozen=True, slots=True)
class Frames:
    """What was read: bytes for the library, and the notices taken out of them."""

    data: bytes
    notices: tuple[GoAway, ...] = ()


class Budget:
    """Allows `burst` at once and `rate` a second."""

    __slots__ = ("_at", "_burst", "_left", "_rate", "code")

    def __init__(self, code: str, burst: int, rate: float) -> None:
        self.code = code
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = 0.0

    def spend(self, now: float) -> None:
        """Take one. Raises Flood when nothing is left."""
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        if self._left < 1:
            raise Flood(self.code)
        self._left -= 1


class FrameGate:
    """The frames of one direction of one connection."""

    __slots__ = (
        "_block",
        "_block_frames",
        "_empty",
        "_goaway",
        "_head",
        "_idle",
        "_is_data",
        "_left",
        "_number",
        "_pings",
        "_preface",
        "_settings",
        "resets",
    )

    def __init__(self, *, preface: int = 0) -> None:
        """`preface` is how many bytes come before the first frame."""
        self._preface = preface
        # How many frames have begun, those that continue a header block not counted.
        self._number = 1
        self._is_data = False
        self._head = b""
        self._left = 0
        self._goaway: bytearray | None = None
        # Bytes and frames of an unfinished header block.
        self._block = self._block_frames = 0
        # Cancelling is normal, all hundred streams at once too; rapid reset (CVE-2023-44487) is thousands.
        self.resets = Budget("http2_rapid_reset", 200, 20)
        # gRPC measures bandwidth with up to ten a second; each costs an answer.
        self._pings = Budget("http2_ping_flood", 200, 20)
        # Each costs an answer and a walk over all streams. Peers send one or two, ever.
        self._settings = Budget("http2_settings_flood", 20, 1)
        # Data frames without data, continuations without fields (CVE-2019-9518).
        self._empty = Budget("http2_empty_frame_flood", 200, 20)
        # Window updates, priorities, unknown types: they cost a look. A fast download has thousands.
        self._idle = Budget("http2_idle_frame_flood", 20_000, 10_000)

    @property
    def in_block(self) -> bool:
        """Whether a header block has begun that is not complete."""
        return self._block_frames > 0

    @property
    def unfinished(self) -> int:
        """Number of what has begun and must end soon: the preface, a header block, a frame without data.

        0 when there is nothing of that kind. Data may come as slowly as it likes.
        """
        if self._preface or self._head or self._block_frames or (self._left and not self._is_data):
            return self._number
        return 0

    def feed(self, data: bytes, now: float) -> Frames:
        """Take bytes of the peer. Raises Flood; the connection cannot go on then.

        The beginning of a frame's header is held back until it can be told what it is.
        """
        if self._head:
            data, self._head = self._head + data, b""
        kept, notices = list[bytes](), list[GoAway]()
        position = min(self._preface, len(data))
        self._preface -= position
        kept_from, size = 0, len(data)
        while position < size:
            if self._left:
                step = min(self._left, size - position)
                position += step
                self._left -= step
                if self._goaway is not None:
                    self._goaway += data[position - step : position]
                    kept_from = position
                    self._end_notice(notices)
            elif size - position < _HEADER:
                self._head = data[position:]
                size = position
            else:
                self._begin(data[position : position + _HEADER], now)
                if self._goaway is not None:
                    kept.append(data[kept_from:position])
                    kept_from = position + _HEADER
                position += _HEADER
        kept.append(data[kept_from:size])
        return Frames(kept[0] if len(kept) == 1 else b"".join(kept), tuple(notices))

    def _end_notice(self, notices: list[GoAway]) -> None:
        if self._goaway is None or self._left:
            return
        body, self._goaway = self._goaway, None
        last = int.from_bytes(body[:4], "big") & 0x7FFF_FFFF
        notices.append(GoAway(last, int.from_bytes(body[4:8], "big")))

    def _begin(self, head: bytes, now: float) -> None:
        """Count a frame by its header."""
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        self._is_data = kind == _Type.DATA
        if not self._block_frames:
            self._number += 1
        if size > _MAX_FRAME:
            # The library would collect all of it before it refuses.
            raise Flood("http2_frame_too_large")
        self._left = size
        match kind:
            case _Type.DATA:
                if not size and not flags & _END_STREAM:
                    self._empty.spend(now)
            case _Type.HEADERS | _Type.PUSH_PROMISE | _Type.CONTINUATION:
                self._count_block(kind, size, flags, now)
            case _Type.RST_STREAM:
                self.resets.spend(now)
            case _Type.SETTINGS:
                self._settings.spend(now)
            case _Type.PING:
                if not flags & _ACK:
                    self._pings.spend(now)
            case _Type.GOAWAY:
                self._settings.spend(now)
                if size < _GOAWAY or self.in_block:
                    raise Flood("http2_malformed_goaway")
                self._goaway = bytearray()
            case _:
                self._idle.spend(now)

    def _count_block(self, kind: int, size: int, flags: int, now: float) -> None:
        if kind == _Type.CONTINUATION and not size:
            self._empty.spend(now)
        self._block += size
        self._block_frames += 1
        if self._block > _BLOCK_LIMIT or self._block_frames > _BLOCK_FRAMES:
            raise Flood("http2_header_block_too_large")
        if flags & _END_HEADERS:
            self._block = self._block_frames = 0
