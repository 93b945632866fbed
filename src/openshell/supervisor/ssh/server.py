"""`SshServer`: one sandbox's sessions and ports for SSH clients, behind `door`.

A connection is a socket pair: the relay carries bytes at one end, the protocol is spoken at the other.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from openshell.supervisor.execs import ProgramContext
from openshell.supervisor.mainproc import MainProcess
from openshell.supervisor.ssh.library import load
from openshell.supervisor.ssh.sessions import Session
from openshell.supervisor.tasks import Tasks
from openshell.supervisor.tunnels import dial

if TYPE_CHECKING:
    from openshell.supervisor.ssh.door import Accept

__all__ = ["SshServer"]


class SshServer:
    """Serves connections; the library is loaded for the first."""

    def __init__(
        self,
        context: ProgramContext,
        main: MainProcess | None,
        tasks: Tasks,
        log: Callable[[str, str, str], None],
    ) -> None:
        self.tasks = tasks
        self._context = context
        self._main = main
        self._log = log
        self._loading: asyncio.Task[Accept] | None = None

    async def connect(self) -> socket.socket:
        """The client's end of a new connection, which the caller closes."""
        if self._loading is None:
            self._loading = self.tasks.start(load(), "ssh library")
        accept = await asyncio.shield(self._loading)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.tasks.start(accept(theirs, self), "ssh connection")
        return ours

    def session(self) -> Session:
        return Session(self._context, self._main, self.tasks)

    async def open_port(self, host: str, port: int) -> socket.socket:
        return await dial(self._context.host, host, port)

    def port_refused(self, host: str, port: int) -> None:
        self._log(
            "warn", "ssh", f"a client asked for {host[:255]} port {port}: only loopback is offered"
        )
