"""One client connection that speaks HTTP/2: its streams, its upstream connection, its end.

Reads the client's frames and gives them to the exchanges they belong to; has at most one upstream
connection that takes new requests, made anew when the upstream or the credentials change. What the client
breaks ends the connection with the reason in an event; what one stream breaks ends that stream.

Called by `pipeline` once a client and its upstream have agreed on HTTP/2; the sweeper and a reload reach it
through the connection (`connection.session`).
"""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from openshell.egress.admission import Admitted
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.denials import bare
from openshell.egress.events import Where, shown_method
from openshell.egress.generation import Generation
from openshell.egress.http1 import RequestHead
from openshell.egress.http2.answers import write_denial
from openshell.egress.http2.codes import ErrorCode, PeerBroken
from openshell.egress.http2.far import Far
from openshell.egress.http2.fields import MalformedFields, read_request, read_trailers
from openshell.egress.http2.happenings import (
    DataCame,
    FieldsCame,
    GoAway,
    Happening,
    RoomCame,
    SettingsCame,
    StreamReset,
    TrailersCame,
)
from openshell.egress.http2.peer import Peer
from openshell.egress.http2.request import StreamExchange
from openshell.egress.route import Route
from openshell.egress.stream import Stream
from openshell.egress.tls_sessions import TlsTarget
from openshell.egress.upstream import UpstreamFailed
from openshell.ocsf import HostPort, Refusal

__all__ = ["Session", "serve"]

_NO_ERROR: Final = ErrorCode.NO_ERROR
_REFUSED: Final = ErrorCode.REFUSED_STREAM
_PROTOCOL: Final = "h2"


async def serve(
    services: Services, connection: ClientConnection, admitted: Admitted, upstream: Stream | None
) -> None:
    """Serve a client until it ends. `upstream` is a connection that has agreed on HTTP/2, if there is one."""
    session = Session(services, connection, admitted)
    connection.session = session
    try:
        await session.run(upstream)
    finally:
        connection.session = None
        await session.close()


class Session:
    """A client's connection."""

    def __init__(
        self, services: Services, connection: ClientConnection, admitted: Admitted
    ) -> None:
        self.services = services
        self.connection = connection
        self.shares = services.shares
        self.route = Route(admitted, "https", absolute=False)
        self.peer = Peer(
            connection.stream, client_side=False, clock=services.clock, on_room=self._on_room
        )
        self._exchanges: OrderedDict[int, StreamExchange] = OrderedDict()
        self._moving: dict[StreamExchange, None] = {}
        self._fars: list[Far] = []
        self._opening = asyncio.Lock()
        # Since when there is no stream; since when something has begun that must end soon.
        self._idle_since = services.clock()
        self._begun_since: float | None = None
        self._unfinished = 0
        self._leaving = False
        self._adopting: asyncio.Task[None] | None = None

    async def run(self, upstream: Stream | None) -> None:
        self.connection.deadline = None
        self.peer.start()
        if upstream is not None:
            self._adopting = asyncio.create_task(self._adopt(upstream), name="http2 adoption")
        stream = self.connection.stream
        try:
            while data := await stream.read():
                self._receive(data)
                self.flush()
                # A client that does not read what it asked for gets to ask for no more.
                await self.peer.writable()
        except PeerBroken as broken:
            self._broken(broken)
            await stream.finish()
        except ConnectionError:
            pass

    async def close(self) -> None:
        """Cancel what runs and leave the upstream."""
        for exchange in tuple(self._exchanges.values()):
            exchange.on_cancelled()
        if self._adopting is not None:
            self._adopting.cancel()
        for far in tuple(self._fars):
            far.close()
            await far.ended()
        self.peer.close()

    # The client's frames.

    def _receive(self, data: bytes) -> None:
        for happened in self.peer.receive(data):
            self._handle(happened)
        unfinished = self.peer.unfinished
        if not unfinished:
            self._begun_since = None
        elif unfinished != self._unfinished or self._begun_since is None:
            self._begun_since = self.services.clock()
        self._unfinished = unfinished

    def _handle(self, happened: Happening) -> None:
        match happened:
            case FieldsCame():
                self._open(happened)
                return
            case RoomCame(stream_id=0) | SettingsCame():
                self._all_move()
                return
            case GoAway():
                # A client that goes opens no more streams; those that run go on.
                return
        exchange = self._exchanges.get(happened.stream_id)
        if exchange is None:
            return
        match happened:
            case DataCame():
                exchange.on_data(happened)
                if happened.ended:
                    exchange.on_end(())
            case TrailersCame():
                try:
                    trailers = read_trailers(happened.fields)
                except MalformedFields as malformed:
                    exchange.on_broken(malformed.reason.value)
                else:
                    exchange.on_end(trailers)
            case StreamReset():
                exchange.on_cancelled()
            case RoomCame():
                self.moves(exchange)

    def _open(self, came: FieldsCame) -> None:
        stream_id, ended = came.stream_id, came.ended
        if self._leaving or not self.shares.take_stream():
            self.peer.reset(stream_id, _REFUSED)
            return
        try:
            head = read_request(came.fields, ended=ended, scheme=self.route.scheme)
        except MalformedFields as malformed:
            self.shares.return_stream()
            self._malformed(stream_id, malformed, ended=ended)
            return
        exchange = self._exchanges[stream_id] = StreamExchange(self, stream_id, head)
        if ended:
            exchange.on_end(())

    def _malformed(self, stream_id: int, malformed: MalformedFields, *, ended: bool) -> None:
        self._deny(malformed.reason.value, f"the request head was rejected: {malformed.reason}")
        fields, _ = write_denial(bare(malformed.status), None)
        self.peer.send_headers(stream_id, fields, end=True)
        if not ended:
            self.peer.reset(stream_id, _NO_ERROR)

    def _broken(self, broken: PeerBroken) -> None:
        self._deny(broken.code, f"the connection was ended: {broken.code}")
        self._leaving = True
        for exchange in tuple(self._exchanges.values()):
            exchange.on_cancelled()
        self.peer.bye(broken.error)

    def _deny(self, code: str, reason: str) -> None:
        admitted, actor = self.route.admitted, self.connection.actor
        self.services.log.connection_denied(
            actor,
            HostPort(admitted.request.host, admitted.request.port),
            engine="http-parser",
            policy=admitted.decision.matched_policy,
            reason=reason,
            refusal=Refusal(code, group="l7_parse_rejection", ancestors=actor.ancestors),
        )

    # For the exchanges.

    def where(self, head: RequestHead) -> Where:
        """Where a request goes, before its path has been judged."""
        request = self.route.admitted.request
        method = shown_method(head.method.decode("ascii"))
        return Where(method, self.route.scheme, request.host, request.port, "/")

    def forget(self, stream_id: int) -> None:
        if self._exchanges.pop(stream_id, None) is not None:
            self.shares.return_stream()
            self._idle_since = self.services.clock()

    def moves(self, exchange: StreamExchange) -> None:
        """Have `flush` send what the exchange has: frames that came together go on together."""
        self._moving[exchange] = None

    def flush(self) -> None:
        """Send what can be sent. Exchanges take turns; who had one is the last to get the next."""
        while self._moving:
            exchange = next(iter(self._moving))
            del self._moving[exchange]
            if exchange.pump():
                self._moving[exchange] = None
            if exchange.stream_id in self._exchanges:
                self._exchanges.move_to_end(exchange.stream_id)
        self.peer.flush()
        for far in self._fars:
            far.peer.flush()

    async def reach(self) -> tuple[Far, bool]:
        """Return an upstream connection with room, and whether time has passed. Raises UpstreamFailed."""
        waited = False
        while True:
            far = self._usable()
            if far is None:
                waited = True
                async with self._opening:
                    if self._usable() is None:
                        await self._connect()
            elif far.has_room:
                return far, waited
            else:
                waited = True
                await far.changed()

    def _usable(self) -> Far | None:
        """The connection for new requests; one that carried other credentials is not used for these."""
        epoch = self.services.holder.current.credentials.epoch
        self._fars = [far for far in self._fars if not far.is_over]
        for far in tuple(self._fars):
            if far.is_usable(epoch):
                return far
            far.retire()
        return None

    async def _connect(self) -> None:
        request, upstreams = self.route.admitted.request, self.services.upstreams
        plain = await upstreams.dial(self.route.admitted.plan)
        host, credentials = request.host.rstrip("."), self.services.holder.current.credentials
        epoch = credentials.epoch
        identity = credentials.client_identity(host, request.port)
        target = TlsTarget(host, request.port, epoch, identity)
        stream = await upstreams.secure(plain, target, (_PROTOCOL,))
        if stream.alpn != _PROTOCOL:
            stream.abort()
            raise UpstreamFailed("tls", "the upstream does not speak HTTP/2")
        await self._begin(stream, epoch)

    async def _adopt(self, stream: Stream) -> None:
        """Use the connection that was made to learn what the upstream speaks; another is made if it fails."""
        with suppress(UpstreamFailed):
            async with self._opening:
                await self._begin(stream, self.services.holder.current.credentials.epoch)

    async def _begin(self, stream: Stream, epoch: int) -> None:
        far = Far(stream, epoch=epoch, clock=self.services.clock, flush=self.flush)
        try:
            await far.start(self.services.limits.handshake_seconds)
        except (TimeoutError, ConnectionError):
            far.close()
            raise UpstreamFailed("http2", "the upstream did not begin to speak HTTP/2") from None
        except BaseException:
            far.close()
            raise
        self._fars.append(far)

    # Room, time and policy.

    def _on_room(self) -> None:
        self._all_move()
        self.flush()

    def _all_move(self) -> None:
        for exchange in self._exchanges.values():
            if exchange.waiting:
                self._moving[exchange] = None

    def sweep(self, now: float) -> None:
        limits, stream = self.services.limits, self.connection.stream
        if self._begun_since is not None and now > self._begun_since + limits.head_seconds:
            self._begun_since = None
            stream.abort("timed out")
            return
        for exchange in tuple(self._exchanges.values()):
            exchange.sweep(now)
        if not self._exchanges and now > self._idle_since + limits.idle_seconds:
            self._leave()
        self.flush()

    def reevaluate(self, generation: Generation) -> None:
        """Judge the streams of a connection that is still admitted."""
        for exchange in tuple(self._exchanges.values()):
            exchange.reevaluate(generation)
        self.flush()

    def policy_changed(self) -> None:
        """End the connection: the policy that is now in force does not admit it."""
        for exchange in tuple(self._exchanges.values()):
            exchange.on_policy_end()
        self._leave()

    def _leave(self) -> None:
        self._leaving = True
        self.flush()
        self.peer.bye(_NO_ERROR)
        self.connection.stream.close()
