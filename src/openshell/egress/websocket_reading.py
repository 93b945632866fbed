"""An open WebSocket whose client's messages are judged one by one, what the server sends being copied.

What ends it before its time is a `WebSocketFault`: both sides are told by close frames between whole frames
(`proxy.md` 13.3), and what is told to whom depends on the cause. Made by `websocket_exchange`.
"""

import asyncio
from contextlib import suppress
from typing import Final

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.judging import Judged
from openshell.egress.stream import Stream, StreamLost
from openshell.egress.websocket.frames import CloseCode, WebSocketFault, render_close
from openshell.egress.websocket.messages import ClientMessages
from openshell.egress.websocket.server_side import ServerFrames
from openshell.egress.websocket_copying import CopiedSocket
from openshell.egress.websocket_events import SocketEvents
from openshell.egress.websocket_judging import SocketJudge

__all__ = ["ReadSocket"]

# What is judged of one read before others get their turn: a client may put tens of thousands of tiny
# messages into it, or a few that inflate to a thousand times their size.
_BATCH: Final = 64
_BATCH_BYTES: Final = 1 << 20
# How long the server may take to end the frame in which it is interrupted, and either to read our close.
_GRACE_SECONDS: Final = 2.0


class ReadSocket(CopiedSocket):
    """A WebSocket whose client's messages are read and judged."""

    def __init__(
        self,
        services: Services,
        connection: ClientConnection,
        judged: Judged,
        upstream: Stream,
        *,
        compressed: bool,
    ) -> None:
        super().__init__(services, connection, judged, upstream)
        self._events = SocketEvents(services, connection, judged)
        judge = SocketJudge(services, judged, self._events)
        self._messages = ClientMessages(judge, services.assemblies, deflate=compressed)
        self._frames = ServerFrames()
        # Stop at the next end of a frame of the server.
        self._is_closing = False
        # Since when the client has been at its open message, and which one that is.
        self._since = 0.0
        self._open = -1

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self._messages.close()

    def policy_changed(self) -> None:
        self._end(WebSocketFault(CloseCode.POLICY_CHANGED, "the policy changed"))

    def _end(self, fault: WebSocketFault) -> None:
        if not self._fault.done():
            self._fault.set_result(fault)

    async def _up(self) -> None:
        try:
            while data := await self._next():
                await self._feed(data)
                self._moved()
        except WebSocketFault as fault:
            if not self._fault.done():
                self._events.broken(fault)
                self._end(fault)
            return
        self._end_of_client()

    async def _next(self) -> bytes:
        """Read on; a message that has begun must come to its end in time."""
        messages, limits = self._messages, self._services.limits
        if not messages.is_assembling:
            self._open = -1
            return await self._client.read()
        now = asyncio.get_running_loop().time()
        if self._open != messages.completed:
            self._open, self._since = messages.completed, now
        last = self._since + limits.websocket_message_seconds
        if now < last:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(now + limits.websocket_silent_seconds, last)):
                    return await self._client.read()
        raise WebSocketFault(CloseCode.PROTOCOL_ERROR, "a message does not come to its end")

    async def _feed(self, data: bytes) -> None:
        """Send on what may go on. Each message is judged and written with nothing waited for between."""
        messages, batch = self._messages, list[bytes]()
        known = messages.inspected
        try:
            for piece in messages.feed(data):
                batch.append(piece)
                if len(batch) == _BATCH or messages.inspected - known >= _BATCH_BYTES:
                    known = messages.inspected
                    await self._send(batch)
                    if self._fault.done():
                        return
        finally:
            # What was allowed before the message that was not.
            if batch and not self._fault.done():
                self._server.write(b"".join(batch))
        if self._server.must_drain:
            await self._drain()

    async def _send(self, batch: list[bytes]) -> None:
        self._server.write(b"".join(batch))
        batch.clear()
        if self._server.must_drain:
            await self._drain()
        else:
            await asyncio.sleep(0)

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._services.limits.websocket_forward_seconds):
                await self._server.drain()
        except TimeoutError:
            reason = "the server does not read its WebSocket"
            self._services.log.connection_failed(self._connection.actor, self._place, reason)
            raise StreamLost(reason) from None

    async def _down(self) -> None:
        while data := await self._server.read():
            taken = self._frames.follow(data, one=self._is_closing)
            self._client.write(data[:taken] if taken < len(data) else data)
            if self._is_closing and self._frames.is_between_frames:
                return
            if self._client.must_drain:
                await self._client.drain()
            self._moved()
        self._end_of_server()

    async def _dismiss(self, fault: WebSocketFault, down: "asyncio.Task[None]") -> None:
        messages, frames, client, server = self._messages, self._frames, self._client, self._server
        self._connection.deadline = None
        tells_server = (
            fault.upstream_too
            and messages.is_between_frames
            and not (messages.is_closed or self._client_ended or server.lost)
        )
        if tells_server:
            # The reason is the client's business.
            server.write(render_close(fault.code, "", masked=True))
        if not (frames.is_between_frames or down.done()):
            self._is_closing = True
            await asyncio.wait({down}, timeout=_GRACE_SECONDS)
        down.cancel()
        await asyncio.gather(down, return_exceptions=True)
        if frames.is_between_frames and not (
            frames.has_closed or self._server_ended or client.lost
        ):
            client.write(render_close(fault.code, fault.reason, masked=False))
        if tells_server:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS):
                    await server.finish()
