"""Output of one process: kept in order until it is read, within a bound.

Two uses. For an exec the producer waits when the log is full: nothing is lost, the process slows
down to its reader. For the main process nobody may be reading, so the oldest is dropped and the
reader learns how much. Either way the exit comes last.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

__all__ = ["STDERR", "STDOUT", "Exit", "OutputLog", "OutputReader"]

STDOUT = 1
STDERR = 2

# What a chunk costs beside its bytes: objects and a place in the list. A program that writes single
# bytes must not make the bound mean a hundred times as much memory.
_CHUNK_COST = 128


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended, or why it never ran."""

    # Exit status; 128 + signal; 124 when its time ran out.
    code: int
    signal: int = 0
    error_code: str = ""
    error_message: str = ""
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class _Chunk:
    stream: int
    data: bytes

    @property
    def cost(self) -> int:
        return len(self.data) + _CHUNK_COST


class OutputLog:
    """Chunks in the order of their reading."""

    def __init__(self, limit: int, *, drops: bool) -> None:
        # Of memory: bytes of output and what their chunks cost.
        self._limit = limit
        # False: whoever appends waits for room first, and nothing is ever dropped.
        self._drops = drops
        self._chunks: deque[_Chunk] = deque()
        # Number of the first chunk that is still here.
        self._first = 0
        self._size = 0
        self._dropped_bytes = 0
        self._exit: Exit | None = None
        self._changed = asyncio.Event()

    @property
    def exit(self) -> Exit | None:
        return self._exit

    @property
    def dropped_bytes(self) -> int:
        """Bytes that were dropped because nobody fetched them in time."""
        return self._dropped_bytes

    def append(self, stream: int, data: bytes) -> None:
        """Add output; where it is dropped, the oldest gives way when the bound is passed."""
        chunk = _Chunk(stream, data)
        self._chunks.append(chunk)
        self._size += chunk.cost
        while self._drops and self._size > self._limit and len(self._chunks) > 1:
            oldest = self._chunks.popleft()
            self._first += 1
            self._size -= oldest.cost
            self._dropped_bytes += len(oldest.data)
        self._wake()

    async def wait_for_room(self) -> None:
        """Wait until there is less than the bound."""
        while self._size >= self._limit and self._exit is None:
            await self._wait()

    def release(self, position: int) -> None:
        """Chunks before this position were delivered and are not needed any more."""
        while self._chunks and self._first < position:
            self._size -= self._chunks.popleft().cost
            self._first += 1
        self._wake()

    def finish(self, exit_: Exit) -> None:
        """No more output; the first exit counts."""
        if self._exit is None:
            self._exit = exit_
            self._wake()

    async def wait_finished(self) -> Exit:
        """The exit, once there is one."""
        while self._exit is None:
            await self._wait()
        return self._exit

    def reader(self) -> "OutputReader":
        """Reads from the oldest chunk that is still here."""
        return OutputReader(self)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _wait(self) -> None:
        await self._changed.wait()


class OutputReader:
    """One reader's place in a log."""

    def __init__(self, log: OutputLog) -> None:
        self._log = log
        self.position = log._first

    async def next(self) -> tuple[int, bytes] | Exit:
        """The next chunk, or the exit after the last one."""
        log = self._log
        while True:
            # What was dropped meanwhile is counted by the log.
            self.position = max(self.position, log._first)
            index = self.position - log._first
            if index < len(log._chunks):
                chunk = log._chunks[index]
                self.position += 1
                return chunk.stream, chunk.data
            if log._exit is not None:
                return log._exit
            await log._wait()
