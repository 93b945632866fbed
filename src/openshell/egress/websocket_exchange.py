"""An open WebSocket: the client's frames judged one by one, or bytes copied, until one side ends it.

`switch_protocols` looks at the server's 101, passes it on and runs the WebSocket. Each direction is a task
that reads, writes and waits for its slow reader, so nothing piles up. What ends a WebSocket before its time
is a `WebSocketFault`: both sides are told by close frames between whole frames (`proxy.md` 13.3), and what
is told to whom depends on the cause. Called by `exchange` when a handshake was answered with 101.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.http1 import ResponseHead, end_to_end, render_response_head
from openshell.egress.judging import Judged
from openshell.egress.stream import Stream, StreamLost
from openshell.egress.transfer import BadAnswer
from openshell.egress.websocket.frames import CloseCode, WebSocketFault, render_close
from openshell.egress.websocket.handshake import AnswerRejected, check_answer, switching
from openshell.egress.websocket.messages import ClientMessages
from openshell.egress.websocket.server_side import ServerFrames
from openshell.egress.websocket_judging import SocketJudge

__all__ = ["switch_protocols"]

# Messages of one read that are judged before others get their turn: a client may put tens of thousands
# of tiny ones into it.
_BATCH: Final = 64
# How long the server may take to end the frame in which it is interrupted, and either to read our close.
_GRACE_SECONDS: Final = 2.0


async def switch_protocols(
    services: Services,
    connection: ClientConnection,
    judged: Judged,
    upstream: Stream,
    answer: ResponseHead,
    rest: bytes,
) -> None:
    """Pass the 101 on and serve what follows. Raises BadAnswer while nothing was passed on."""
    switch = judged.switch
    if switch is None:
        raise BadAnswer("it switched protocols without being asked")
    try:
        compressed = check_answer(switch.upgrade, answer, parsed=switch.reads)
    except AnswerRejected as rejected:
        raise BadAnswer(str(rejected)) from None
    upstream.unread(rest)
    shown = answer.with_headers(switching(end_to_end(answer.headers)))
    connection.stream.write(render_response_head(shown))
    if switch.reads:
        socket: _Copied = _Read(services, connection, judged, upstream, compressed=compressed)
    else:
        socket = _Copied(services, connection, judged, upstream)
        if judged.route.configs:
            where = judged.where
            services.log.connection_allowed(
                connection.actor,
                where.place,
                judged.decision.policy,
                f"WebSocket {where.place}{where.path}: L7 enforcement no longer active",
                engine="l7-websocket",
            )
    connection.websocket = socket
    try:
        await socket.run()
    finally:
        connection.websocket = None


class _Copied:
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


class _Read(_Copied):
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
        self._judge = SocketJudge(services, connection, judged)
        self._messages = ClientMessages(self._judge, services.assemblies, deflate=compressed)
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
            self._judge.broken(fault)
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
        batch: list[bytes] = []
        try:
            for piece in self._messages.feed(data):
                batch.append(piece)
                if len(batch) == _BATCH:
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
