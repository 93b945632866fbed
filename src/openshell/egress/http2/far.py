"""The upstream's end: one HTTP/2 connection that carries the requests of one client connection.

Reads the upstream's frames and hands them to the exchanges whose streams they are. It ends when the
upstream ends it or the session lets it go; an upstream that says it will go (GOAWAY) finishes what it has
begun and gets nothing new. Which request goes out is decided before, by `request`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import h2.errors
import h2.events

from openshell.egress.http1 import Headers
from openshell.egress.http2.fields import (
    MalformedFields,
    ResponseFields,
    read_response,
    read_trailers,
)
from openshell.egress.http2.gate import GoAway
from openshell.egress.http2.peer import Peer, PeerBroken
from openshell.egress.stream import Stream

__all__ = ["Far", "Served"]

_NO_ERROR: Final = int(h2.errors.ErrorCodes.NO_ERROR)
_PROTOCOL: Final = int(h2.errors.ErrorCodes.PROTOCOL_ERROR)
_REFUSED: Final = int(h2.errors.ErrorCodes.REFUSED_STREAM)


class Served(Protocol):
    """What an upstream's stream is read for."""

    def on_response(self, head: ResponseFields, *, ended: bool) -> None: ...
    def on_response_data(self, data: bytes, counted: int) -> None: ...
    def on_response_end(self, trailers: Headers) -> None: ...
    def on_response_broken(self, reason: str) -> None: ...
    def on_far_reset(self, error: int) -> None: ...
    def on_far_lost(self, reason: str) -> None: ...
    def moves(self) -> None: ...


class Far:
    """One connection to the upstream."""

    def __init__(
        self, stream: Stream, *, epoch: int, clock: Callable[[], float], flush: Callable[[], None]
    ) -> None:
        """`flush` sends what handling frames has produced, on all connections of the session."""
        self.epoch = epoch
        self.peer = Peer(stream, client_side=True, clock=clock, on_room=self._on_room)
        self._flush = flush
        self._streams: dict[int, Served] = {}
        self._trailers: dict[int, Headers] = {}
        self._changed = asyncio.Event()
        self._begun = asyncio.Event()
        self._going = False
        self._task: asyncio.Task[None] | None = None
        # Whether it has carried a request: the upstream may be closing it just now.
        self.carried = False

    async def start(self, seconds: float) -> None:
        """Begin, and wait for the upstream's settings. Raises TimeoutError or ConnectionError."""
        self.peer.start()
        self._task = asyncio.create_task(self._run(), name="http2 upstream")
        async with asyncio.timeout(seconds):
            await self._begun.wait()
        if self._going:
            raise ConnectionError("it closed at once")

    def is_usable(self, epoch: int) -> bool:
        """Whether a new request may go out here, if not now then soon."""
        return not self._going and self.epoch == epoch and not self.peer.stream.lost

    @property
    def is_over(self) -> bool:
        return self.peer.stream.lost

    @property
    def has_room(self) -> bool:
        return len(self._streams) < self.peer.stream_limit and not self.peer.stream.must_drain

    async def changed(self) -> None:
        """Wait until a stream has ended, the transport has room, or the connection is over."""
        self.peer.want_room()
        self._changed.clear()
        await self._changed.wait()

    def open(self, served: Served) -> int | None:
        """Give a request a stream."""
        stream_id = self.peer.next_stream()
        if stream_id is None:
            self.retire()
            return None
        self._streams[stream_id] = served
        self.carried = True
        return stream_id

    def forget(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)
        self._trailers.pop(stream_id, None)
        self._changed.set()
        if self._going and not self._streams:
            self.close()

    def retire(self) -> None:
        """Take no new requests; end when those that run have ended."""
        self._going = True
        self._changed.set()
        if not self._streams:
            self.close()

    def close(self) -> None:
        self._going = True
        self._changed.set()
        self.peer.bye(_NO_ERROR)
        self.peer.close()
        self.peer.stream.close()

    def pump(self) -> None:
        for served in self._streams.values():
            served.moves()

    def _on_room(self) -> None:
        self._changed.set()
        self.pump()
        self._flush()

    async def _run(self) -> None:
        stream, reason = self.peer.stream, "the upstream closed the connection"
        try:
            while data := await stream.read():
                events, notices = self.peer.receive(data)
                for event in events:
                    self._handle(event)
                for notice in notices:
                    self._goes(notice)
                self._flush()
        except PeerBroken as broken:
            reason = f"the upstream broke HTTP/2: {broken.code}"
            self.peer.bye(broken.error)
        except ConnectionError:
            pass
        finally:
            self._going = True
            self._begun.set()
            self._changed.set()
            for served in tuple(self._streams.values()):
                served.on_far_lost(reason)
            self.peer.close()
            stream.close()
            self._flush()

    def _goes(self, notice: GoAway) -> None:
        self._going = True
        self._changed.set()
        for stream_id, served in tuple(self._streams.items()):
            if stream_id > notice.last_stream:
                served.on_far_reset(_REFUSED)
        if not self._streams:
            self.close()

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RemoteSettingsChanged():
                self._begun.set()
                self._changed.set()
                self.pump()
                return
            case h2.events.WindowUpdated(stream_id=0):
                self.pump()
                return
        stream_id = getattr(event, "stream_id", None)
        served = self._streams.get(stream_id) if stream_id is not None else None
        if served is None or stream_id is None:
            return
        try:
            self._give(event, stream_id, served)
        except MalformedFields as malformed:
            self.peer.reset(stream_id, _PROTOCOL)
            served.on_response_broken(malformed.reason.value)

    def _give(self, event: h2.events.Event, stream_id: int, served: Served) -> None:
        match event:
            case h2.events.InformationalResponseReceived(headers=fields):
                served.on_response(read_response(fields), ended=False)
            case h2.events.ResponseReceived(headers=fields, stream_ended=end):
                served.on_response(read_response(fields), ended=end is not None)
            case h2.events.DataReceived(data=data, flow_controlled_length=counted):
                served.on_response_data(bytes(data or b""), counted or 0)
            case h2.events.TrailersReceived(headers=fields):
                self._trailers[stream_id] = read_trailers(fields)
            case h2.events.StreamEnded():
                served.on_response_end(self._trailers.pop(stream_id, ()))
            case h2.events.StreamReset(error_code=error):
                served.on_far_reset(int(error or 0))
            case h2.events.WindowUpdated():
                served.moves()

    async def ended(self) -> None:
        """Wait until the connection is over."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
