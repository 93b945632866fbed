"""A program at a real terminal: a pty with this process at the other end."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self


class Terminal:
    """Runs a program at a pty; on exit the program is ended and the pty closed."""

    def __init__(
        self, argv: Sequence[str], environ: Mapping[str, str], *, cols: int = 100, rows: int = 30
    ) -> None:
        self.screen = b""
        self._master, slave = pty.openpty()
        self._set_size(cols, rows)
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environ, "TERM": "xterm"},
            start_new_session=True,
            close_fds=True,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, data: bytes) -> None:
        os.write(self._master, data)

    def resize(self, cols: int, rows: int) -> None:
        self._set_size(cols, rows)
        # The kernel signals the foreground group of a controlling terminal, which this is not.
        self.process.send_signal(signal.SIGWINCH)

    def read_until(self, wanted: bytes, seconds: float = 15) -> bytes:
        """Everything so far, as soon as `wanted` is part of it."""
        deadline = time.monotonic() + seconds
        while wanted not in self.screen:
            assert self._read(deadline), f"no {wanted!r} in {self.screen!r}"
        return self.screen

    def finish(self, seconds: float = 15) -> int:
        """The exit code; what was shown is in `screen`."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        ready = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False  # EIO: the last holder of the other end is gone
        self.screen += data
        return bool(data)

    def _set_size(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, cols, 0, 0))
