"""Datagrams between the gateways that share one SQLite database, all on one machine.

Each has a socket of its own in a private directory beside the database, under its own name; telling
the others is one datagram into each. So it costs nothing while nothing is told, and nobody polls. A
socket whose gateway has died refuses, and is removed by whoever notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from openshell.gateway.tasks import Tasks

__all__ = ["DatagramChannel"]

DATAGRAM_BYTES: Final = 65_536
"""More than any of ours."""
READ_AT_ONCE: Final = 64
"""Datagrams taken before others of the event loop have their turn."""
SEND_ATTEMPTS: Final = 5
"""Times a datagram is offered to a gateway whose queue is full."""
PAUSE_SECONDS: Final = 0.01
"""Between two of them: a healthy gateway empties its queue in less."""

_log = logging.getLogger(__name__)


class DatagramChannel:
    """Implements `peers.Channel`."""

    def __init__(self, directory: str, own_id: str) -> None:
        self._directory = directory
        self._name = own_id
        self._directory_fd = -1
        self._socket: socket.socket | None = None
        self._receive: Callable[[bytes], None] = lambda _data: None

    async def open(self, receive: Callable[[bytes], None], _tasks: Tasks) -> None:
        """Raises OSError."""
        self._receive = receive
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._directory_fd = os.open(self._directory, flags)
        status = os.fstat(self._directory_fd)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(f"{self._directory} must belong to this user alone (0700)")
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket = made
        # The name is this gateway's alone; an earlier run of it may have ended without a word.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._directory_fd)
        made.bind(self._path(self._name))
        asyncio.get_running_loop().add_reader(made, self._readable, made)

    def _path(self, name: str) -> str:
        # A socket's path has 107 bytes; a database may lie deeper.
        return f"/proc/self/fd/{self._directory_fd}/{name}"

    def _readable(self, reader: socket.socket) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                data = reader.recv(DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                _log.debug("a datagram of another gateway was lost: %s", error)
                return
            self._receive(data)

    async def send(self, message: bytes) -> None:
        if self._socket is None:
            return
        for name in os.listdir(self._directory_fd):
            if name != self._name:
                await self._send_to(self._socket, name, message)

    async def _send_to(self, sender: socket.socket, name: str, message: bytes) -> None:
        for _ in range(SEND_ATTEMPTS):
            try:
                sender.sendto(message, self._path(name))
            except BlockingIOError:
                await asyncio.sleep(PAUSE_SECONDS)
            except ConnectionRefusedError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory_fd)
                return
            except OSError as error:
                _log.debug("gateway %s was not told: %s", name, error)
                return
            else:
                return
        _log.debug("gateway %s does not read what it is told", name)

    async def close(self) -> None:
        closing, self._socket = self._socket, None
        if closing is not None:
            asyncio.get_running_loop().remove_reader(closing)
            closing.close()
        if self._directory_fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._directory_fd)
            os.close(self._directory_fd)
            self._directory_fd = -1
