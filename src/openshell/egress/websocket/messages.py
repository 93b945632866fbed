"""A client's side of an open WebSocket: text gathered into messages, decided one by one.

Bytes in, bytes for the server out, or a `WebSocketFault`. The decision is a function of the text: it
answers with the text that is to go on (with credentials in it, perhaps) or a `Refusal`. A message in
one uncompressed frame that nobody changed goes on exactly as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

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

__all__ = ["AssemblyBudget", "ClientMessages", "Decide", "Refusal"]

MAX_ASSEMBLED: Final = 64 << 20
"""Bytes of unfinished messages of one sandbox. The contract bounds their number (32 and 64 that
wait); bytes are what memory is made of, and nobody has to wait for a permit."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that may not go on. `credential`: the server must not learn of it."""

    reason: str
    credential: bool = False


Decide: TypeAlias = Callable[[str], "str | Refusal"]


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

    def __init__(
        self, decide: Decide, budget: AssemblyBudget, *, deflate: bool, allow_binary: bool
    ) -> None:
        self._decide = decide
        self._budget = budget
        self._allow_binary = allow_binary
        self._reader = FrameReader(deflate=deflate)
        self._frames: list[TextFrame] = []
        # Bytes of the open message, and what the budget was asked for.
        self._size = 0
        self._reserved = 0
        self.is_closed = False
        """The client has sent its close frame."""

    @property
    def is_assembling(self) -> bool:
        """A message or a frame has begun and not ended."""
        return not self._reader.is_idle

    def feed(self, data: bytes) -> list[bytes]:
        """What goes on to the server. Raises `WebSocketFault`; then nothing more goes on."""
        out: list[bytes] = []
        for part in self._reader.feed(data):
            match part:
                case ControlFrame():
                    self.is_closed = self.is_closed or part.opcode is Opcode.CLOSE
                    out.append(part.wire)
                case BinaryPart():
                    if not self._allow_binary:
                        raise WebSocketFault(
                            CloseCode.POLICY,
                            "binary messages cannot be inspected here",
                            upstream_too=False,
                        )
                    out.append(part.wire)
                case TextFrame():
                    message = self._text(part)
                    if message is not None:
                        out.append(message)
        self._reserve(self._size + self._reader.buffered)
        return out

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
        compressed = frames[0].is_compressed
        payload = b"".join(frame.payload for frame in frames)
        if compressed:
            payload = inflate_message(payload)
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            raise WebSocketFault(CloseCode.BAD_TEXT, "a text message is not UTF-8") from None
        decided = self._decide(text)
        if isinstance(decided, Refusal):
            raise WebSocketFault(
                CloseCode.POLICY, decided.reason, upstream_too=not decided.credential
            )
        if decided == text and len(frames) == 1 and not compressed:
            return frames[0].wire
        changed = decided.encode()
        return render_text(
            deflate_message(changed) if compressed else changed, compressed=compressed
        )
