"""The security log as a file: one event as one line of JSON, on the host, while a setting asks for it.

The directory is the sandbox's own on the host's side, which nothing inside can see. Events are queued
without waiting and written by one thread, so that a slow or full disk costs lines and never the proxy's
time; what was not written is counted and said. A file is rotated at midnight (UTC) and when it is full,
and the newest few are kept: an agent can fill them, but not the disk. The gateway's own record of events
is apart from this one. Made by `runtime`; the sink of `Logs` feeds it.
"""

import asyncio
import contextlib
import datetime as dt
import os
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from openshell import ocsf

__all__ = ["SETTING", "EventFile", "RotatingFile"]

SETTING: Final = "ocsf_json_enabled"

# Events that wait for the thread: a second of a very busy proxy.
_MAX_WAITING: Final = 4096
# Gathered for one write; a reader of the file sees events that late.
_BATCH_SECONDS: Final = 0.1
# Half a day of a busy agent. Three of them are the most that a sandbox takes.
_MAX_BYTES: Final = 16 << 20
# The contract's number.
_KEPT: Final = 3
# How long an outage goes on before it is told of again.
_TELL_SECONDS: Final = 60.0
# A sandbox that is deleted takes its file along anyway.
_CLOSE_SECONDS: Final = 1.0

_NAME: Final = re.compile(r"openshell-ocsf\.(\d{4}-\d\d-\d\d)(?:\.(\d{1,9}))?\.log").fullmatch
_CURRENT: Final = 1 << 31


class RotatingFile:
    """Lines on a disk, bounded in size and number. Blocks; used from one thread."""

    def __init__(self, directory: str, *, max_bytes: int = _MAX_BYTES, kept: int = _KEPT) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._kept = kept
        self._day = ""
        self._descriptor = -1
        self._size = 0

    def write(self, lines: Sequence[bytes], day: str) -> int:
        """Append whole lines; the number that was written before the disk said no, and why it did.

        Raises OSError when not one could be.
        """
        written = 0
        while written < len(lines):
            try:
                room = self._ready(day, len(lines[written]))
                count, size = 0, 0
                for line in lines[written:]:
                    if count and size + len(line) > room:
                        break
                    count, size = count + 1, size + len(line)
                self._append(b"".join(lines[written : written + count]))
            except OSError:
                self.close()
                if written:
                    return written
                raise
            written += count
        return written

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _ready(self, day: str, wanted: int) -> int:
        """Have a file with room; the bytes that it takes."""
        if self._descriptor < 0 or day != self._day:
            self.close()
            self._open(day)
        if self._size and self._size + wanted > self._max_bytes:
            self.close()
            self._set_aside(day)
            self._open(day)
        return self._max_bytes - self._size

    def _open(self, day: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._directory, 0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(f"{self._directory}/openshell-ocsf.{day}.log", flags, 0o600)
        self._day = day
        self._size = os.fstat(self._descriptor).st_size
        # The last line of a supervisor that was killed: the next one does not go on in it.
        if self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n":
            self._append(b"\n")
        self._prune()

    def _append(self, data: bytes) -> None:
        """All or nothing: a disk that fills up in the middle leaves no half line."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError:
            if done:
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += done

    def _files(self) -> list[tuple[str, int, str]]:
        """Ours, the oldest first."""
        found = [(_NAME(name), name) for name in os.listdir(self._directory)]
        return sorted((m[1], int(m[2] or _CURRENT), name) for m, name in found if m is not None)

    def _set_aside(self, day: str) -> None:
        numbers = [number for at, number, _ in self._files() if at == day and number != _CURRENT]
        base = f"{self._directory}/openshell-ocsf.{day}"
        os.rename(f"{base}.log", f"{base}.{max(numbers, default=0) + 1}.log")

    def _prune(self) -> None:
        for _, _, name in self._files()[: -self._kept]:
            os.unlink(f"{self._directory}/{name}")


class EventFile:
    """A queue of events before a file."""

    def __init__(
        self,
        file: RotatingFile,
        context: ocsf.EventContext,
        *,
        is_on: Callable[[], bool],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        """`is_on` is asked for each event, `say` told what an operator should know."""
        self._file = file
        self._context = context
        self._is_on = is_on
        self._say = say
        self._clock = clock
        self._now = now
        self._waiting: deque[ocsf.Event] = deque()
        self._arrived = asyncio.Event()
        self._is_used = False
        self._lost = 0
        self._told_at = float("-inf")
        # One thread, made by the first write: most sandboxes never need it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")

    def emit(self, event: ocsf.Event) -> None:
        """Take an event; never blocks."""
        if not self._is_on():
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._lost += 1
            return
        self._waiting.append(event)
        self._arrived.set()

    async def run(self) -> None:
        """Write what arrives, until cancelled."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_BATCH_SECONDS)
            self._arrived.clear()
            await self._flush()

    async def close(self) -> None:
        """Write what waits and let go of the file; `run` has ended. A disk that hangs is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._flush()
                if self._is_used:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._thread, self._file.close)
        self._thread.shutdown(wait=False)

    async def _flush(self) -> None:
        events = tuple(self._waiting)
        self._waiting.clear()
        if not events:
            return
        self._is_used = True
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, events)
        # A cancelled `run` does not leave two writers.
        lost, reason = await asyncio.shield(writing)
        self._lost += lost
        self._tell(reason)

    def _write(self, events: tuple[ocsf.Event, ...]) -> tuple[int, str]:
        """In the thread: how many were not written, and why."""
        lines = [ocsf.to_json(event, self._context) + b"\n" for event in events]
        try:
            written = self._file.write(lines, self._now().strftime("%Y-%m-%d"))
        except OSError as error:
            return len(lines), error.strerror or type(error).__name__
        return len(lines) - written, "the disk did not take all of them" * (written < len(lines))

    def _tell(self, reason: str) -> None:
        if not self._lost or self._clock() - self._told_at < _TELL_SECONDS:
            return
        self._told_at = self._clock()
        lost, self._lost = self._lost, 0
        why = reason or "more came than could be written"
        self._say(f"{lost} events are not in the file of events ({why}): free space or look there")
