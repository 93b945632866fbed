"""The SSH protocol's side of the server: whom it lets in, which channels it opens. Imports asyncssh.

Who may reach this server was decided by the gateway when it opened the relay, so there is nothing left to
authenticate. Agents of clients, X11, listening ports and Unix sockets are refused: the first three would be
ways from the sandbox back to the user's machine.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import asyncssh

from openshell.supervisor.ssh.channel import Channel
from openshell.supervisor.tasks import Tasks
from openshell.supervisor.tunnels import TunnelRefused

__all__ = ["Accept", "Behind", "make_accept"]

KEEPALIVE_SECONDS = 15
KEEPALIVE_MISSES = 4
"""Unanswered, then the client is gone and its sessions are hung up."""
COPY_BYTES = 65_536
SERVER_VERSION = "OpenShell_1.0 (order of symlink arguments as OpenSSH)"
"""Clients tell from the name in which order SFTP's symlink request comes; ours is everybody's."""


class Behind(Protocol):
    """What stands behind the door."""

    tasks: Tasks

    def session(self) -> Channel: ...

    async def open_port(self, host: str, port: int) -> socket.socket: ...

    def port_refused(self, host: str, port: int) -> None: ...


Accept = Callable[[socket.socket, Behind], Coroutine[Any, Any, None]]
"""Serves one connection until it ends."""


def make_accept() -> Accept:
    """A server with a new host key."""
    # It logs commands and environment; what is worth a line is logged by us.
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    key = asyncssh.generate_private_key("ssh-ed25519")

    async def accept(sock: socket.socket, behind: Behind) -> None:
        try:
            connection = await asyncssh.run_server(
                sock,
                server_factory=lambda: _Door(behind),
                server_host_keys=[key],
                server_version=SERVER_VERSION,
                encoding=None,
                line_editor=False,
                agent_forwarding=False,
                x11_forwarding=False,
                gss_host=None,
                compression_algs=None,
                keepalive_interval=KEEPALIVE_SECONDS,
                keepalive_count_max=KEEPALIVE_MISSES,
            )
        except (asyncssh.Error, OSError):
            # A client that broke off during the handshake, or speaks something else.
            sock.close()
            return
        await connection.wait_closed()

    return accept


class _Door(asyncssh.SSHServer):
    def __init__(self, behind: Behind) -> None:
        self._behind = behind

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002  the library's signature
        return False

    def session_requested(self) -> Any:
        # It is recognised by its methods.
        return self._behind.session()

    async def connection_requested(
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,  # noqa: ARG002
        orig_port: int,  # noqa: ARG002
    ) -> asyncssh.SSHTCPSession[bytes]:
        try:
            inside = await self._behind.open_port(dest_host, dest_port)
        except TunnelRefused as refused:
            code = asyncssh.OPEN_CONNECT_FAILED
            if not refused.was_tried:
                code = asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
                self._behind.port_refused(dest_host, dest_port)
            raise asyncssh.ChannelOpenError(code, str(refused)) from refused
        return _Port(inside, self._behind.tasks)


class _Port(asyncssh.SSHTCPSession[bytes]):
    """A channel to a port inside; each half ends by itself."""

    def __init__(self, inside: socket.socket, tasks: Tasks) -> None:
        self._inside = inside
        self._tasks = tasks
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._input: asyncio.Queue[bytes] = asyncio.Queue()
        self._running: list[asyncio.Task[None]] = []

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._channel = chan

    def session_started(self) -> None:
        assert self._channel is not None  # noqa: S101  the library's order
        self._running = [
            self._tasks.start(self._up(self._channel), "ssh port up"),
            self._tasks.start(self._down(self._channel), "ssh port down"),
        ]
        self._tasks.start(self._close(self._channel), "ssh port")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        for task in self._running:
            task.cancel()
        if not self._running:
            self._inside.close()

    def data_received(self, data: bytes, datatype: Any) -> None:  # noqa: ARG002
        assert self._channel is not None  # noqa: S101
        self._input.put_nowait(data)
        self._channel.pause_reading()

    def eof_received(self) -> bool:
        self._input.put_nowait(b"")
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _up(self, channel: asyncssh.SSHTCPChannel[bytes]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._inside, COPY_BYTES):
                await self._writable.wait()
                channel.write(data)
            channel.write_eof()
        except OSError:
            channel.abort()

    async def _down(self, channel: asyncssh.SSHTCPChannel[bytes]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await self._input.get():
                await loop.sock_sendall(self._inside, data)
                if self._input.empty():
                    channel.resume_reading()
            self._inside.shutdown(socket.SHUT_WR)
        except OSError:
            channel.abort()

    async def _close(self, channel: asyncssh.SSHTCPChannel[bytes]) -> None:
        try:
            await asyncio.gather(*self._running, return_exceptions=True)
        finally:
            channel.close()
            self._inside.close()
