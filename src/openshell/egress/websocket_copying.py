"""An open WebSocket whose messages nobody reads: bytes copied both ways until both directions have ended.

Each direction is a task that reads, writes and waits for its slow reader, so nothing piles up; the end of one
direction is passed on and the other goes on. `websocket_reading` makes of it one whose messages are read.
Made by `websocket_exchange`.
"""

import asyncio
from typing import Any

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.judging import Judged
from openshell.egress.stream import Stream
from openshell.egress.websocket.frames import WebSocketFault

__all__ = ["CopiedSocket"]


class CopiedSocket:
    """A WebSocket whose messages nobody wants to read."""

    def __init__(
        self,
        services: Services,
        connection: ClientConnection,
        judged: Judged,
        upstream: Stream,
    ) -> None:
        self._services = services
        self._connection = connection
        self._client = connection.stream
        self._server = upstream
        self._place = judged.where.place
        self._client_ended = False
        self._server_ended = False
        # Set when it has to end before its time.
        self._fault: asyncio.Future[WebSocketFault] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve until both directions have ended, one side is gone, or something ends it."""
        up = asyncio.create_task(self._up(), name="websocket to the server")
        down = asyncio.create_task(self._down(), name="websocket to the client")
        try:
            await self._until_ended(up, down)
            up.cancel()
            if self._fault.done():
                await self._dismiss(self._fault.result(), down)
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    def policy_changed(self) -> None:
        """End it because the policy that is now in force does not allow it."""
        self._client.abort("the policy changed")

    async def _until_ended(self, *tasks: "asyncio.Task[None]") -> None:
        running = set(tasks)
        while running and not self._fault.done():
            waited: set[asyncio.Future[Any]] = {*running, self._fault}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task.done()]:
                running.remove(task)
                error = task.exception()
                if isinstance(error, ConnectionError):
                    return
                if error is not None:
                    raise error

    async def _up(self) -> None:
        """Carry what the client sends."""
        while data := await self._client.read():
            self._server.write(data)
            if self._server.must_drain:
                await self._server.drain()
            self._moved()
        self._end_of_client()

    async def _down(self) -> None:
        """Carry what the server sends."""
        while data := await self._server.read():
            self._client.write(data)
            if self._client.must_drain:
                await self._client.drain()
            self._moved()
        self._end_of_server()

    def _moved(self) -> None:
        self._connection.progress = self._services.clock()
        if self._server_ended:
            self._connection.within(self._services.limits.half_closed_seconds)

    def _end_of_client(self) -> None:
        self._client_ended = True
        self._server.write_eof()

    def _end_of_server(self) -> None:
        self._server_ended = True
        self._client.write_eof()
        self._moved()

    async def _dismiss(self, fault: WebSocketFault, down: "asyncio.Task[None]") -> None:
        """Tell both sides why it ends."""
