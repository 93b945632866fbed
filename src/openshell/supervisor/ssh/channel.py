"""One session channel: what it asked for, and the program or attachment behind it.

The SSH library calls in, never waiting; everything that waits runs in one task per channel. Output is
written while the client takes it, input is read while the program takes it, so neither side's slowness
is stored. A subclass says what is started.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from openshell.supervisor.execution import Execution
from openshell.supervisor.output import STDERR, STDOUT, Exit, OutputReader
from openshell.supervisor.tasks import Tasks

__all__ = ["Asked", "Channel", "Input", "Terminal"]

INPUT_CHUNKS = 32
"""Pieces of input that may wait for the program before the client is told to wait."""
DEFAULT_COLS, DEFAULT_ROWS = 80, 24
SIZE_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal that the client wants."""

    name: str
    cols: int
    rows: int


@dataclass(slots=True)
class Asked:
    """What the client has requested so far on one channel."""

    terminal: Terminal | None = None
    command: str | None = None
    subsystem: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


class Input:
    """Bytes from the client on their way to a program, the end among them."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pause = pause
        self._resume = resume
        self._paused = False

    def put(self, data: bytes | None) -> None:
        self._queue.put_nowait(data)
        if self._queue.qsize() >= INPUT_CHUNKS and not self._paused:
            self._paused = True
            self._pause()

    async def get(self) -> bytes | None:
        data = await self._queue.get()
        if self._paused and self._queue.qsize() < INPUT_CHUNKS // 2:
            self._paused = False
            self._resume()
        return data


class Channel(ABC):
    """Implements asyncssh's session protocol; it is recognised by its methods."""

    def __init__(self, tasks: Tasks) -> None:
        self.asked = Asked()
        self._tasks = tasks
        self._channel: Any = None
        self._input: Input | None = None
        self._execution: Execution | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    # -- what the library calls

    def connection_made(self, chan: Any) -> None:
        self._channel = chan
        self._input = Input(chan.pause_reading, chan.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the library's
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pty_requested(
        self,
        term_type: str,
        term_size: tuple[int, int, int, int],
        term_modes: Any,  # noqa: ARG002  the terminal's own are what programs expect
    ) -> bool:
        self.asked.terminal = Terminal(term_type, *_size(term_size[0], term_size[1]))
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self.asked.command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        self.asked.subsystem = subsystem
        return self.offers(subsystem)

    def session_started(self) -> None:
        self.asked.environment = {
            str(key): str(value) for key, value in self._channel.get_environment().items()
        }
        self._task = self._tasks.start(self._run(), "ssh session")

    def data_received(self, data: bytes, datatype: Any) -> None:  # noqa: ARG002  stdin only
        if self._input is not None:
            self._input.put(data)

    def eof_received(self) -> bool:
        if self._input is not None:
            self._input.put(None)
        # Our own direction stays open.
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:  # noqa: ARG002
        if self._execution is not None:
            self._later(self._execution.resize(*_size(width, height)))

    def signal_received(self, signal: str) -> None:
        if self._execution is not None:
            self._later(self._execution.signal(signal))

    def break_received(self, msec: int) -> bool:  # noqa: ARG002
        return False

    def soft_eof_received(self) -> None:
        return

    # -- what subclasses say

    @abstractmethod
    def offers(self, subsystem: str) -> bool:
        """Whether this channel may ask for a subsystem."""

    @abstractmethod
    async def run(self) -> int:
        """Serves the request; the exit status."""

    # -- what they use

    def write(self, data: bytes) -> None:
        self._channel.write(data)

    def write_stderr(self, data: bytes) -> None:
        self._channel.write_stderr(data)

    async def send(self, reader: OutputReader, release: Callable[[int], None] | None) -> Exit:
        """Passes output on as the client takes it, until the exit."""
        while True:
            await self._writable.wait()
            item = await reader.next()
            if isinstance(item, Exit):
                return item
            stream, data = item
            if stream == STDOUT or self.asked.terminal is not None:
                self.write(data)
            elif stream == STDERR:
                self.write_stderr(data)
            if release is not None:
                release(reader.position)

    async def receive(self, take: Callable[[bytes | None], Awaitable[bool]]) -> None:
        """Passes input on; None is its end. Until `take` says that it was the last."""
        assert self._input is not None  # noqa: S101  made with the connection
        while await take(await self._input.get()):
            pass

    def serve(self, execution: Execution) -> None:
        """From now on sizes and signals are for this program."""
        self._execution = execution

    def _later(self, work: Any) -> None:
        self._tasks.start(work, "ssh session request")

    async def _run(self) -> None:
        try:
            status = await self.run()
        except Exception:
            # Never a made-up status: the client sees a channel that closed.
            self._channel.close()
            raise
        self._channel.exit(status)


def _size(cols: int, rows: int) -> tuple[int, int]:
    """What a terminal can be told; zero means that the client does not know."""
    return min(cols or DEFAULT_COLS, SIZE_MAX), min(rows or DEFAULT_ROWS, SIZE_MAX)
