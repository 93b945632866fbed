"""One program inside with its streams: output pumped into a log, input queued, exit recorded.

The common part of execs and of the main process. They differ in one argument: an exec's output
waits for its reader, the main process's never waits (its oldest output gives way instead).
"""

import asyncio
import contextlib
import signal

from openshell.supervisor.output import STDERR, STDOUT, Exit, OutputLog
from openshell.supervisor.process import Process, SandboxGone
from openshell.supervisor.streams import ByteReader
from openshell.supervisor.tasks import Tasks

__all__ = ["CHUNK", "Execution", "InputRefused"]

# Largest piece of output in one frame: the contract's bound.
CHUNK = 64 << 10
# After the exit, for output that is still on its way: a background child may keep a pipe open, so
# silence of this length ends the wait, and so does more than a pipe can have held at the exit.
_DRAIN_SECONDS = 0.5
_DRAIN_BYTES = 2 << 20
# Pieces of input that may wait for a program that does not read.
_MAX_INPUT = 64
# What a terminal takes for the end of input.
_END_OF_INPUT = b"\x04"


class InputRefused(Exception):
    """The input cannot be taken; the text says why."""


class Execution:
    """A started program."""

    def __init__(
        self,
        process: Process,
        tasks: Tasks,
        name: str,
        *,
        terminal: bool,
        waits_for_reader: bool,
        limit: int,
        timeout: float = 0,
    ) -> None:
        self.process = process
        self.log = OutputLog(limit, drops=not waits_for_reader)
        self._terminal = terminal
        self._waits = waits_for_reader
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue(_MAX_INPUT)
        self._input_closed = False
        self._read_bytes = 0
        # Pumps that wait for the reader of the log.
        self._blocked = 0
        self._pumps = [
            tasks.start(self._pump(stream, reader), f"{name} output")
            for stream, reader in ((STDOUT, process.stdout), (STDERR, process.stderr))
            if reader is not None
        ]
        self._feeder = tasks.start(self._feed(), f"{name} input")
        tasks.start(self._watch(timeout), f"{name} exit")

    @property
    def pid(self) -> int:
        """The pid inside; zero when the program was never started."""
        return self.process.pid

    @property
    def terminal(self) -> bool:
        """Whether it runs on a terminal instead of pipes."""
        return self._terminal

    async def write(self, data: bytes) -> None:
        """Queue input; waits while the queue is full."""
        if not self._input_closed:
            await self._input.put(data)

    def write_now(self, data: bytes) -> None:
        """Queue input or raise InputRefused."""
        if self._input_closed:
            return
        try:
            self._input.put_nowait(data)
        except asyncio.QueueFull:
            raise InputRefused("the program does not read its input") from None

    async def end_input(self) -> None:
        """No more input comes."""
        if not self._input_closed:
            self._input_closed = True
            await self._input.put(None)

    async def resize(self, cols: int, rows: int) -> None:
        """New size of the terminal; ignored without one."""
        if self._terminal and cols and rows:
            with contextlib.suppress(SandboxGone):
                await self.process.resize(min(cols, 65535), min(rows, 65535))

    async def signal(self, name: str) -> None:
        """Send a signal by its name, to the program's process group."""
        number = getattr(signal, f"SIG{name.upper().removeprefix('SIG')}", None)
        if isinstance(number, signal.Signals):
            with contextlib.suppress(SandboxGone):
                await self.process.signal(number, group=True)

    async def kill(self) -> None:
        """End the program and everything it started."""
        await self.process.kill_tree()

    async def _pump(self, stream: int, reader: ByteReader) -> None:
        while data := await reader.read(CHUNK):
            self._read_bytes += len(data)
            if self._waits:
                self._blocked += 1
                try:
                    await self.log.wait_for_room()
                finally:
                    self._blocked -= 1
            self.log.append(stream, data)

    async def _feed(self) -> None:
        writer = self.process.stdin
        if writer is None:
            return
        while (data := await self._input.get()) is not None:
            try:
                await writer.write(data)
            except OSError:
                # Nobody reads any more; what else comes is dropped.
                self._input_closed = True
                return
        if self._terminal:
            with contextlib.suppress(OSError):
                await writer.write(_END_OF_INPUT)
        else:
            writer.close()

    async def _watch(self, timeout: float) -> None:
        """Record the end, whoever brings it about."""
        timed_out = False
        try:
            try:
                async with asyncio.timeout(timeout or None):
                    record = await self.process.wait()
            except TimeoutError:
                timed_out = True
                await self.kill()
                record = await self.process.wait()
            if self.pid:
                await self._drain()
            self.log.finish(
                Exit(
                    124 if timed_out else record.exit_code,
                    record.signal,
                    record.error_code,
                    record.message,
                    timed_out,
                )
            )
        finally:
            for task in (*self._pumps, self._feeder):
                task.cancel()
            self.process.close()

    async def _drain(self) -> None:
        """Take what the program had written when it ended, however slow its reader is."""
        at_exit = self._read_bytes
        pending: set[asyncio.Task[None]] = set(self._pumps)
        while pending and self._read_bytes - at_exit <= _DRAIN_BYTES:
            before = self._read_bytes
            _, pending = await asyncio.wait(pending, timeout=_DRAIN_SECONDS)
            if pending and self._read_bytes == before and not self._blocked:
                return
