"""The local end of a remote process: raw mode, window size, input on a thread of its own.

Used by attach and exec, which differ only in the messages they send. Input is read on a thread
because the stream of answers is read on the main one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["InputPump", "raw_terminal", "window_size", "write_all"]

Message = TypeVar("Message")

_CHUNK = 32 * 1024
_QUEUE_LIMIT = 16
"""Chunks of input on their way; beyond it reading waits, so a slow remote slows the local pipe."""


def window_size() -> tuple[int, int]:
    """Columns and rows of the terminal, 80 by 24 without one."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


@contextlib.contextmanager
def raw_terminal(*, enabled: bool) -> Iterator[None]:
    """Puts stdin into raw mode and always puts it back."""
    if not enabled:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        # Not TCSAFLUSH, the default: it would throw away what was typed ahead.
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes everything, also to a descriptor that takes little at a time."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


class InputPump(Generic[Message]):
    """Iterates the messages to send: first `start`, then input, resizes and the end of input.

    Args:
        start: First message.
        stdin: Makes a message of bytes read from stdin; None leaves stdin alone.
        eof: Makes the message for the end of stdin; None ends the stream instead.
        resize: Makes a message of a window size; None without a terminal.
    """

    def __init__(
        self,
        start: Message,
        *,
        stdin: Callable[[bytes], Message] | None,
        eof: Callable[[], Message] | None,
        resize: Callable[[int, int], Message] | None,
    ) -> None:
        self._queue: queue.Queue[Message | None] = queue.Queue(_QUEUE_LIMIT)
        self._start = start
        self._stdin = stdin
        self._eof = eof
        self._resize = resize
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Message]:
        yield self._start
        while (message := self._queue.get()) is not None:
            yield message

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Reads stdin and follows the window until left."""
        previous = None
        if self._resize is not None:
            previous = signal.signal(signal.SIGWINCH, lambda *_: self._send_size())
        if self._stdin is not None:
            threading.Thread(target=self._read, name="stdin", daemon=True).start()
        elif self._eof is None:
            self._put(None)
        try:
            yield
        finally:
            self._stopped.set()
            if previous is not None:
                signal.signal(signal.SIGWINCH, previous)
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)

    def _send_size(self) -> None:
        if self._resize is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(self._resize(*window_size()))

    def _read(self) -> None:
        assert self._stdin is not None  # noqa: S101  # started only then
        descriptor = sys.stdin.fileno()
        while not self._stopped.is_set():
            try:
                data = os.read(descriptor, _CHUNK)
            except OSError:
                data = b""
            if not data:
                self._put(self._eof() if self._eof else None)
                return
            self._put(self._stdin(data))

    def _put(self, message: Message | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(message, timeout=0.2)
                return
