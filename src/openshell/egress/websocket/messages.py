"""A client's side of an open WebSocket: text gathered into messages, decided one by one.

Bytes in, bytes for the server out, or a `WebSocketFault`. The judge answers a text with the text that
is to go on (with credentials in it, perhaps) or a `Refusal`. A message in one uncompressed frame that
nobody changed goes on exactly as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from openshell.egress.websocket.deflate import deflate_message, inflate_message
from openshell.egress.websocket.frames import (
    MAX_TEXT,
    BinaryPart,
    CloseCode,
    ControlFrame,
    FrameReader,
    Opcode,
    TextFrame,
    WebSocketFault,
    render_text,
)

__all__ = ["AssemblyBudget", "ClientMessages", "MessageJudge", "Refusal"]

MAX_ASSEMBLED: Final = 64 << 20
"""Bytes of unfinished messages of one sandbox. The contract bounds their number (32 and 64 that
wait); bytes are what memory is made of, and nobody has to wait for a permit."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that may not go on. `credential`: the server must not learn of it."""

    reason: str
    credential: bool = False


class MessageJudge(Protocol):
    """Says what may go on, each time under what is in force at that moment."""

    def text(self, text: str) -> str | Refusal: ...

    def binary(self) -> Refusal | None:
        """Why no binary message may pass, if that is so."""


class AssemblyBudget:
    """Bytes that unfinished messages of all connections of a sandbox hold."""

    def __init__(self, limit: int = MAX_ASSEMBLED) -> None:
        self._left = limit

    def take(self, count: int) -> bool:
        if count > self._left:
            return False
        self._left -= count
        return True

    def give(self, count: int) -> None:
        self._left += count


class ClientMessages:
    """Follows one client. Call `close` in the end: it gives its share of the budget back."""

    def __init__(self, judge: MessageJudge, budget: AssemblyBudget, *, deflate: bool) -> None:
        self._judge = judge
        self._budget = budget
        self._reader = FrameReader(deflate=deflate)
        self._frames: list[TextFrame] = []
        # Bytes of the open message, and what the budget was asked for.
        self._size = 0
        self._reserved = 0
        self.is_closed = False
        """The client has sent its close frame."""

        self.completed = 0
        """Text messages so far: tells an open message from the next one."""
        self.inspected = 0
        """Bytes of text so far, as they were judged."""

    @property
    def is_assembling(self) -> bool:
        """Bytes are held until the rest of their frame or message comes."""
        return bool(self._frames or self._reader.buffered)

    @property
    def is_between_frames(self) -> bool:
        """The server has got whole frames only."""
        return not self._reader.is_passing

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What goes on to the server, each piece at the moment it was judged.

        Raises `WebSocketFault`; then nothing more goes on. The iterator must be used up before the
        next call.
        """
        for part in self._reader.feed(data):
            match part:
                case ControlFrame():
                    self.is_closed = self.is_closed or part.opcode is Opcode.CLOSE
                    yield part.wire
                case BinaryPart():
                    refusal = self._judge.binary()
                    if refusal is not None:
                        raise _refused(refusal)
                    yield part.wire
                case TextFrame():
                    message = self._text(part)
                    if message is not None:
                        yield message
        self._reserve(self._size + self._reader.buffered)

    def close(self) -> None:
        self._reserve(0)

    def _reserve(self, wanted: int) -> None:
        more = wanted - self._reserved
        if more > 0 and not self._budget.take(more):
            raise WebSocketFault(CloseCode.TRY_AGAIN, "too many unfinished messages")
        if more < 0:
            self._budget.give(-more)
        self._reserved = wanted

    def _text(self, frame: TextFrame) -> bytes | None:
        self._size += len(frame.payload)
        if self._size > MAX_TEXT:
            raise WebSocketFault(CloseCode.TOO_BIG, "a message is too big")
        self._frames.append(frame)
        if not frame.is_last:
            return None
        frames, self._frames, self._size = self._frames, [], 0
        return self._whole(frames)

    def _whole(self, frames: list[TextFrame]) -> bytes:
        self.completed += 1
        compressed = frames[0].is_compressed
        payload = b"".join(frame.payload for frame in frames)
        if compressed:
            payload = inflate_message(payload)
        self.inspected += len(payload)
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            raise WebSocketFault(CloseCode.BAD_TEXT, "a text message is not UTF-8") from None
        decided = self._judge.text(text)
        if isinstance(decided, Refusal):
            raise _refused(decided)
        if decided == text and len(frames) == 1 and not compressed:
            return frames[0].wire
        changed = decided.encode()
        return render_text(
            deflate_message(changed) if compressed else changed, compressed=compressed
        )


def _refused(refusal: Refusal) -> WebSocketFault:
    return WebSocketFault(CloseCode.POLICY, refusal.reason, upstream_too=not refusal.credential)
