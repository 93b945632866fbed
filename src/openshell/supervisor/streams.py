"""The supervisor's ends of a program's pipes and terminal, for asyncio.

Nothing is read before it is asked for, so a slow consumer slows the program and nobody's memory.
Made by `process`, used by `execution`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios

__all__ = ["ByteReader", "ByteWriter"]

_READ_BYTES = 256 * 1024


class _Stream:
    """One end of a pipe or terminal, non-blocking, closed at most once."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _ready(self, *, writing: bool) -> None:
        """Wait until the descriptor can be used, or is closed by someone else."""
        if self._waiter is not None:
            raise RuntimeError("a stream has one user at a time")
        descriptor = self._descriptor
        self._waiter = self._loop.create_future()
        if writing:
            self._loop.add_writer(descriptor, self._wake)
        else:
            self._loop.add_reader(descriptor, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            # After a close the number may already belong to another stream.
            if self._descriptor == descriptor:
                self._forget()

    def _forget(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)

    def close(self) -> None:
        if self._descriptor < 0:
            return
        if self._waiter is not None:
            self._forget()
            self._wake()
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


class ByteReader(_Stream):
    """Reads a pipe or terminal as bytes come."""

    async def read(self, size: int = _READ_BYTES) -> bytes:
        """Return what is there, waiting for the first byte; empty at the end or after close."""
        while self._descriptor >= 0:
            try:
                return os.read(self._descriptor, size)
            except BlockingIOError:
                await self._ready(writing=False)
            except OSError as error:
                # A terminal's master answers EIO when the last program has left it.
                if error.errno == errno.EIO:
                    return b""
                raise
        return b""


class ByteWriter(_Stream):
    """Writes a pipe or terminal, waiting while it is full."""

    def resize(self, columns: int, rows: int) -> None:
        """Set the size of a terminal; its programs get SIGWINCH."""
        if self._descriptor >= 0:
            size = struct.pack("=4H", rows, columns, 0, 0)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, size)

    async def write(self, data: bytes) -> None:
        """Write all of it; BrokenPipeError when nobody reads any more."""
        view = memoryview(data)
        while view:
            if self._descriptor < 0:
                raise BrokenPipeError(errno.EPIPE, "closed")
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                await self._ready(writing=True)
            except OSError as error:
                if error.errno == errno.EIO:
                    raise BrokenPipeError(errno.EPIPE, "the terminal is gone") from error
                raise
