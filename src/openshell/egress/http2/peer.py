"""One end of an HTTP/2 connection: the library's state machine over a byte stream, with our bounds around it.

Bytes pass the gate, the library turns them into events, what it wants to say is written. It knows how much
may be sent on a stream now (windows, frame size, and a transport that has room). It knows nothing of
requests; `session` and `far` read from it and handle its events.

Departures from the library, each because of what a peer can do with it: closed streams are remembered in
a small number, the peer's wish for a large compression table is not followed, header lists are checked
by `fields` (a bad one spoils its stream, not the connection), and GOAWAY is ours in both directions,
because the library would stop all streams at once.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hpack
import hyperframe.frame

from openshell.egress.http2.fields import LIST_LIMIT
from openshell.egress.http2.gate import Flood, FrameGate, Frames, GoAway
from openshell.egress.stream import Stream

__all__ = ["MAX_STREAMS", "Peer", "PeerBroken"]

# Streams that one connection may have open; the usual number of servers and gRPC's default.
MAX_STREAMS: Final = 100
# Data may be on its way in this amount for all streams together; it is granted again as it arrives. It
# bounds nothing that we keep (windows of streams do), so that one slow stream never stops the others.
_CONNECTION_WINDOW: Final = 8 * 1024 * 1024
# A decoded header list beyond this ends the connection: the compression state would not survive a skip.
_DECODED_LIMIT: Final = 64 * 1024
# Data written to the transport at a time: what one stream has in its turn.
_AT_ONCE: Final = 64 * 1024
# Our encoder's table; peers may ask for gigabytes.
_TABLE: Final = 4096
# Closed streams remembered to tell late frames from wrong ones.
_CLOSED_STREAMS: Final = 1024
_PREFACE: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

_Codes = h2.settings.SettingCodes


class PeerBroken(Exception):
    """The peer broke the protocol or a bound; the connection ends. `code` is for events."""

    def __init__(self, code: str, error: int) -> None:
        super().__init__(code)
        self.code = code
        self.error = error


class _Connection(h2.connection.H2Connection):
    MAX_CLOSED_STREAMS = _CLOSED_STREAMS


class Peer:
    """One end. `on_room` is called when the transport has room again."""

    __slots__ = (
        "_clock",
        "_conn",
        "_drained",
        "_gate",
        "_on_room",
        "_said_bye",
        "_taken",
        "_unsaid",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        *,
        client_side: bool,
        clock: Callable[[], float],
        on_room: Callable[[], None],
    ) -> None:
        self.stream = stream
        self._clock = clock
        self._on_room = on_room
        self._gate = FrameGate(preface=0 if client_side else _PREFACE)
        self._drained: asyncio.Task[None] | None = None
        # What has arrived and was not granted again yet.
        self._taken = 0
        self._said_bye = False
        # Data that waits in the library.
        self._unsaid = 0
        config = h2.config.H2Configuration(
            client_side=client_side,
            header_encoding=None,
            validate_inbound_headers=False,
            validate_outbound_headers=False,
        )
        self._conn = _Connection(config)
        self._conn.decoder.max_header_list_size = _DECODED_LIMIT
        self._conn.local_settings = h2.settings.Settings(
            client=client_side,
            initial_values={
                _Codes.MAX_CONCURRENT_STREAMS: 0 if client_side else MAX_STREAMS,
                _Codes.MAX_HEADER_LIST_SIZE: LIST_LIMIT,
                _Codes.ENABLE_PUSH: 0,
            },
        )

    def start(self) -> None:
        """Say our settings."""
        self._conn.initiate_connection()
        self._conn.increment_flow_control_window(_CONNECTION_WINDOW - 65_535)
        self.flush()

    @property
    def unfinished(self) -> int:
        """See `FrameGate.unfinished`."""
        return self._gate.unfinished

    @property
    def stream_limit(self) -> int:
        """How many streams the peer lets us have open."""
        return self._conn.remote_settings.max_concurrent_streams

    @property
    def last_stream(self) -> int:
        return self._conn.highest_inbound_stream_id

    def next_stream(self) -> int | None:
        """The number of a new stream, None when the connection has used them all."""
        try:
            return self._conn.get_next_available_stream_id()
        except h2.exceptions.NoAvailableStreamIDError:
            return None

    def receive(self, data: bytes) -> tuple[list[h2.events.Event], tuple[GoAway, ...]]:
        """Take bytes of the peer. Raises PeerBroken, after which only `bye` is of use."""
        try:
            frames = self._gate.feed(data, self._clock())
            events = self._events(frames)
        except Flood as flood:
            raise PeerBroken(flood.code, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM) from None
        except h2.exceptions.DenialOfServiceError:
            raise PeerBroken(
                "http2_header_list_too_large", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
            ) from None
        except (h2.exceptions.ProtocolError, hpack.HPACKError) as error:
            code = getattr(error, "error_code", h2.errors.ErrorCodes.PROTOCOL_ERROR)
            raise PeerBroken("http2_protocol_error", code) from None
        return events, frames.notices

    def _events(self, frames: Frames) -> list[h2.events.Event]:
        events = self._conn.receive_data(frames.data) if frames.data else []
        for event in events:
            match event:
                case h2.events.DataReceived():
                    self._taken += event.flow_controlled_length or 0
                case h2.events.RemoteSettingsChanged():
                    encoder = self._conn.encoder
                    encoder.header_table_size = min(encoder.header_table_size, _TABLE)
                case h2.events.StreamReset(remote_reset=False):
                    # What a peer makes us reset counts like what it resets itself (CVE-2025-8671).
                    self._gate.resets.spend(self._clock())
        if self._taken > _CONNECTION_WINDOW // 2:
            self._conn.increment_flow_control_window(self._taken)
            self._taken = 0
        return events

    # Sending. Everything waits in the library until `flush`.

    def room(self, stream_id: int) -> int:
        """How many bytes of data can go out on a stream now."""
        if self.stream.must_drain:
            self.want_room()
            return 0
        try:
            window = self._conn.local_flow_control_window(stream_id)
        except h2.exceptions.ProtocolError:
            return 0
        return min(window, self._conn.max_outbound_frame_size)

    def want_room(self) -> None:
        """Call `on_room` once the transport has room, if it has none now."""
        if self.stream.must_drain and not self.stream.lost:
            self._await_room()

    def send_headers(
        self, stream_id: int, fields: Iterable[hpack.HeaderTuple], *, end: bool = False
    ) -> bool:
        """Send a header list; False where the stream or the connection takes none any more."""
        with suppress(h2.exceptions.ProtocolError):
            self._conn.send_headers(stream_id, list(fields), end_stream=end)
            return True
        return False

    def send_data(self, stream_id: int, data: bytes | memoryview, *, end: bool = False) -> None:
        """Send no more than `room` said."""
        with suppress(h2.exceptions.ProtocolError, KeyError):
            self._conn.send_data(stream_id, data, end_stream=end)
        self._unsaid += len(data)
        if self._unsaid > _AT_ONCE:
            # The transport tells us that it is full only of what it has.
            self.flush()

    def open_window(self, stream_id: int, octets: int) -> None:
        """Let the peer send more on a stream."""
        with suppress(h2.exceptions.ProtocolError, KeyError):
            self._conn.increment_flow_control_window(octets, stream_id)

    def reset(self, stream_id: int, error: int) -> None:
        with suppress(h2.exceptions.ProtocolError):
            self._conn.reset_stream(stream_id, error)

    def bye(self, error: int) -> None:
        """Tell the peer that no further streams are served; open ones go on."""
        if self._said_bye:
            return
        self._said_bye = True
        frame = hyperframe.frame.GoAwayFrame(
            0, last_stream_id=self.last_stream, error_code=int(error)
        )
        self.flush()
        self.stream.write(frame.serialize())

    def flush(self) -> None:
        self._unsaid = 0
        data = self._conn.data_to_send()
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
