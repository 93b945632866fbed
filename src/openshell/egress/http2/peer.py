"""One end of an HTTP/2 connection over a byte stream: `endpoint` with a transport.

Bytes that arrive pass the endpoint, what it wants to say is written. It knows how much may be sent on a stream
now: windows, and a transport that has room. It knows nothing of requests; `session` and `far` read from it
and handle what happened.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from hpack import HeaderTuple

from openshell.egress.http2.endpoint import Endpoint
from openshell.egress.http2.happenings import Happening
from openshell.egress.stream import Stream

__all__ = ["Peer"]

# Data written to the transport at a time: what one stream has in its turn.
_AT_ONCE: Final = 64 * 1024


class Peer:
    """One end. `on_room` is called when the transport has room again."""

    __slots__ = ("_drained", "_endpoint", "_on_room", "_said_bye", "next_stream", "stream")

    def __init__(
        self,
        stream: Stream,
        *,
        client_side: bool,
        clock: Callable[[], float],
        on_room: Callable[[], None],
    ) -> None:
        self.stream = stream
        self._on_room = on_room
        self._drained: asyncio.Task[None] | None = None
        self._said_bye = False
        self._endpoint = Endpoint(client_side=client_side, clock=clock)
        self.next_stream = self._endpoint.next_stream

    def start(self) -> None:
        """Say our settings."""
        self._endpoint.begin()
        self.flush()

    @property
    def unfinished(self) -> int:
        """See `FrameReader.unfinished`."""
        return self._endpoint.unfinished

    @property
    def stream_limit(self) -> int:
        """How many streams the peer lets us have open."""
        return self._endpoint.remote.max_streams

    def receive(self, data: bytes) -> list[Happening]:
        """Take bytes of the peer. Raises PeerBroken, after which only `bye` is of use."""
        return self._endpoint.receive(data)

    # Sending. Everything waits in the endpoint until `flush`.

    def room(self, stream_id: int) -> int:
        """How many bytes of data can go out on a stream now."""
        if self.stream.must_drain:
            self.want_room()
            return 0
        return self._endpoint.room(stream_id)

    def want_room(self) -> None:
        """Call `on_room` once the transport has room, if it has none now."""
        if self.stream.must_drain and not self.stream.lost:
            self._await_room()

    def send_headers(
        self, stream_id: int, fields: Iterable[HeaderTuple], *, end: bool = False
    ) -> bool:
        """Send a header list; False where the stream or the connection takes none any more."""
        return self._endpoint.send_headers(stream_id, fields, end=end)

    def send_data(
        self, stream_id: int, pieces: Sequence[bytes | memoryview], *, end: bool = False
    ) -> None:
        """Send no more than `room` said."""
        self._endpoint.send_data(stream_id, pieces, end=end)
        if self._endpoint.unsent >= _AT_ONCE:
            # The transport tells us that it is full only of what it has.
            self.flush()

    def open_window(self, stream_id: int, octets: int) -> None:
        """Let the peer send more on a stream."""
        self._endpoint.open_window(stream_id, octets)

    def reset(self, stream_id: int, error: int) -> None:
        self._endpoint.reset(stream_id, error)

    def bye(self, error: int) -> None:
        """Tell the peer that no further streams are served; open ones go on."""
        if not self._said_bye:
            self._said_bye = True
            self._endpoint.bye(error)
            self.flush()

    def flush(self) -> None:
        data = self._endpoint.take_unsent()
        if data:
            self.stream.write(data)

    async def writable(self) -> None:
        """Wait until the transport has room; returns also when the connection is gone."""
        if self.stream.must_drain and not self.stream.lost:
            await asyncio.wait({self._await_room()})

    def _await_room(self) -> asyncio.Task[None]:
        """Have somebody wait for the transport: a stream of bytes has one waiter only."""
        if self._drained is None:
            self._drained = asyncio.create_task(self._drain(), name="http2 room")
        return self._drained

    async def _drain(self) -> None:
        with suppress(ConnectionError):
            await self.stream.drain()
        self._drained = None
        if not self.stream.lost:
            self._on_room()

    def close(self) -> None:
        if self._drained is not None:
            self._drained.cancel()
