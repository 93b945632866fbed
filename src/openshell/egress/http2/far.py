"""The upstream's end: one HTTP/2 connection that carries the requests of one client connection.

Reads the upstream's frames and hands them to the exchanges whose streams they are. It ends when the
upstream ends it or the session lets it go; an upstream that says it will go (GOAWAY) finishes what it has
begun and gets nothing new. Which request goes out is decided before, by `request`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from openshell.egress.http1 import Headers
from openshell.egress.http2.codes import ErrorCode, PeerBroken
from openshell.egress.http2.fields import (
    MalformedFields,
    ResponseFields,
    read_response,
    read_trailers,
)
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
from openshell.egress.stream import Stream

__all__ = ["Far", "Served"]

_NO_ERROR: Final = ErrorCode.NO_ERROR
_PROTOCOL: Final = ErrorCode.PROTOCOL
_REFUSED: Final = ErrorCode.REFUSED_STREAM


class Served(Protocol):
    """What an upstream's stream is read for."""

    def on_response(self, head: ResponseFields, *, ended: bool) -> None: ...
    def on_response_data(self, came: DataCame) -> None: ...
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
                for happened in self.peer.receive(data):
                    self._handle(happened)
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

    def _handle(self, happened: Happening) -> None:
        match happened:
            case SettingsCame():
                self._begun.set()
                self._changed.set()
                self.pump()
                return
            case GoAway():
                self._goes(happened)
                return
            case RoomCame(stream_id=0):
                self.pump()
                return
        served = self._streams.get(happened.stream_id)
        if served is None:
            return
        try:
            _give(happened, served)
        except MalformedFields as malformed:
            self.peer.reset(happened.stream_id, _PROTOCOL)
            served.on_response_broken(malformed.reason.value)

    async def ended(self) -> None:
        """Wait until the connection is over."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task


def _give(happened: Happening, served: Served) -> None:
    match happened:
        case DataCame():
            served.on_response_data(happened)
            if happened.ended:
                served.on_response_end(())
        case FieldsCame():
            served.on_response(read_response(happened.fields), ended=happened.ended)
            if happened.ended:
                served.on_response_end(())
        case TrailersCame():
            served.on_response_end(read_trailers(happened.fields))
        case StreamReset():
            served.on_far_reset(happened.error)
        case RoomCame():
            served.moves()
