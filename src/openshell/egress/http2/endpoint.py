"""One end of an HTTP/2 connection without I/O: bytes of the peer in, happenings and bytes for the peer out.

Strict (RFC 9113 5 and 6): what breaks the connection raises PeerBroken, what breaks a stream resets that
stream and is counted. Windows are kept exactly in both directions; that of the connection is opened again as
data arrives, those of streams when whoever takes the data says so. What header lists may hold is for `fields`;
they are decoded here, always, because the compression state is the connection's.

Departures from what a peer may ask for: nobody pushes, and its wish for a large compression table is not
followed. Called by `peer`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Final

import hpack

from openshell.egress.http2.codes import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LARGEST_NUMBER,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    PeerBroken,
)
from openshell.egress.http2.compression import FieldDecoder
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
from openshell.egress.http2.reader import Frame, FrameReader
from openshell.egress.http2.settings import MAX_STREAMS, RemoteSettings, announced, read_settings
from openshell.egress.http2.streams import Streams, StreamState

__all__ = ["Endpoint"]

# Data may be on its way in this amount for all streams together; it is granted again as it arrives. It
# bounds nothing that we keep (windows of streams do), so that one slow stream never stops the others.
_CONNECTION_WINDOW: Final = 8 * 1024 * 1024
_FIRST_CONNECTION_WINDOW: Final = 65_535
# Our encoder's table; peers may ask for gigabytes.
_TABLE: Final = 4096
_HEAD: Final = Struct(">IBI")
# Sizes of payloads that have one size.
_PRIORITY_SIZE: Final = 5
_NUMBER_SIZE: Final = 4
_PING_SIZE: Final = 8
_GOAWAY_LEAST: Final = 8


class Endpoint:
    """Our end; on the client's side it opens the streams, else it serves them."""

    __slots__ = (
        "_acknowledged",
        "_clock",
        "_data",
        "_decoder",
        "_encoder",
        "_greeted",
        "_happened",
        "_out",
        "_reader",
        "_receive_window",
        "_send_window",
        "_streams",
        "_unsaid",
        "remote",
    )

    def __init__(self, *, client_side: bool, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reader = FrameReader(preface=b"" if client_side else PREFACE)
        self._streams = Streams(client_side=client_side)
        self._decoder = FieldDecoder()
        self._encoder = hpack.Encoder()
        self.remote = RemoteSettings()
        # Whether the peer has said its settings and has taken note of ours.
        self._greeted = self._acknowledged = False
        self._send_window = _FIRST_CONNECTION_WINDOW
        self._receive_window = _CONNECTION_WINDOW
        self._out: list[bytes | memoryview] = []
        self._unsaid = 0
        self._happened: list[Happening] = []
        # The data of the frame before, which that of the next is added to.
        self._data: DataCame | None = None

    # What the peer sends.

    def begin(self) -> None:
        """Say our settings."""
        if self._streams.client_side:
            self._out.append(PREFACE)
        self._frame(SETTINGS, 0, 0, announced(client_side=self._streams.client_side))
        self._open(0, _CONNECTION_WINDOW - _FIRST_CONNECTION_WINDOW)

    @property
    def unfinished(self) -> int:
        """See `FrameReader.unfinished`."""
        return self._reader.unfinished

    @property
    def last_stream(self) -> int:
        """The largest number of a stream that the peer has opened."""
        return 0 if self._streams.client_side else self._streams.highest

    def receive(self, data: bytes) -> list[Happening]:
        """Take bytes of the peer. Raises PeerBroken, after which only `bye` is of use."""
        happened = self._happened = []
        self._data = None
        for frame in self._reader.feed(data, self._clock()):
            if frame.kind == DATA:
                self._take_data(frame)
            else:
                self._data = None
                self._take(frame)
        if self._receive_window < _CONNECTION_WINDOW // 2:
            self._open(0, _CONNECTION_WINDOW - self._receive_window)
            self._receive_window = _CONNECTION_WINDOW
        return happened

    def _take(self, frame: Frame) -> None:
        if not self._greeted and (frame.kind != SETTINGS or frame.flags & ACK):
            raise _broken(ErrorCode.PROTOCOL)
        taker = _TAKERS.get(frame.kind)
        # Kinds that nobody knows are for nobody (RFC 9113 5.5).
        if taker is not None:
            taker(self, frame)

    def _take_data(self, frame: Frame) -> None:
        _, flags, stream_id, payload, counted = frame
        if not self._greeted or not stream_id or self._streams.is_idle(stream_id):
            raise _broken(ErrorCode.PROTOCOL)
        self._receive_window -= counted
        if self._receive_window < 0:
            raise _broken(ErrorCode.FLOW_CONTROL)
        state = self._streams.open.get(stream_id)
        if state is None or state.remote_ended:
            self._data = None
            self._take_late(stream_id, state)
            return
        state.receive_window -= counted
        if state.receive_window < 0:
            raise _broken(ErrorCode.FLOW_CONTROL)
        came = self._data
        if came is None or came.stream_id != stream_id or came.ended:
            came = self._data = DataCame(stream_id, [], 0, 0, ended=False)
            self._happened.append(came)
        if payload:
            came.pieces.append(payload)  # type: ignore[arg-type]
            came.size += len(payload)
        came.counted += counted
        if flags & END_STREAM:
            came.ended = True
            self._streams.end_remote(stream_id, state)

    def _take_late(self, stream_id: int, state: StreamState | None) -> None:
        """Look at what came on a stream whose peer must not send any more."""
        if state is not None:
            self._fail(stream_id, ErrorCode.STREAM_CLOSED)
        elif not self._streams.expects_more(stream_id):
            raise _broken(ErrorCode.STREAM_CLOSED)

    def _take_fields(self, frame: Frame) -> None:
        stream_id, ended = frame.stream_id, bool(frame.flags & END_STREAM)
        streams = self._streams
        if not stream_id & 1 or (streams.client_side and stream_id > streams.highest):
            raise _broken(ErrorCode.PROTOCOL)
        fields = self._decoder.decode(bytes(frame.payload))
        state = streams.open.get(stream_id)
        if state is None and stream_id > streams.highest:
            state = streams.begin(stream_id)
            if len(streams.open) > MAX_STREAMS:
                if self._acknowledged:
                    raise _broken(ErrorCode.PROTOCOL)
                # It could not know yet.
                self._fail(stream_id, ErrorCode.REFUSED_STREAM)
                return
        if state is None or state.remote_ended:
            self._take_late(stream_id, state)
            return
        if state.is_begun and not ended:
            self._fail(stream_id, ErrorCode.PROTOCOL)
            return
        if state.is_begun:
            self._happened.append(TrailersCame(stream_id, fields))
        else:
            state.is_begun = not (streams.client_side and _is_interim(fields))
            if ended and not state.is_begun:
                self._fail(stream_id, ErrorCode.PROTOCOL)
                return
            self._happened.append(FieldsCame(stream_id, fields, ended))
        if ended:
            streams.end_remote(stream_id, state)

    def _take_priority(self, frame: Frame) -> None:
        """Priorities are not used (RFC 9113 5.3)."""
        if not frame.stream_id:
            raise _broken(ErrorCode.PROTOCOL)
        if len(frame.payload) != _PRIORITY_SIZE:
            raise _broken(ErrorCode.FRAME_SIZE)

    def _take_reset(self, frame: Frame) -> None:
        if not frame.stream_id or self._streams.is_idle(frame.stream_id):
            raise _broken(ErrorCode.PROTOCOL)
        if len(frame.payload) != _NUMBER_SIZE:
            raise _broken(ErrorCode.FRAME_SIZE)
        if frame.stream_id in self._streams.open:
            self._streams.drop(frame.stream_id, by_us=False)
            error = int.from_bytes(frame.payload, "big")
            self._happened.append(StreamReset(frame.stream_id, error))

    def _take_settings(self, frame: Frame) -> None:
        if frame.stream_id:
            raise _broken(ErrorCode.PROTOCOL)
        if frame.flags & ACK:
            if frame.payload:
                raise _broken(ErrorCode.FRAME_SIZE)
            self._acknowledged = True
            return
        changed = read_settings(self.remote, frame.payload, from_server=self._streams.client_side)
        self._greeted = True
        self.remote = changed
        self._streams.change_initial(changed.initial_window)
        table = min(changed.header_table, _TABLE)
        if table != self._encoder.header_table_size:
            self._encoder.header_table_size = table
        self._frame(SETTINGS, ACK, 0, b"")
        self._happened.append(SettingsCame())

    def _take_ping(self, frame: Frame) -> None:
        if frame.stream_id:
            raise _broken(ErrorCode.PROTOCOL)
        if len(frame.payload) != _PING_SIZE:
            raise _broken(ErrorCode.FRAME_SIZE)
        if not frame.flags & ACK:
            self._frame(PING, ACK, 0, bytes(frame.payload))

    def _take_goaway(self, frame: Frame) -> None:
        if frame.stream_id:
            raise _broken(ErrorCode.PROTOCOL)
        if len(frame.payload) < _GOAWAY_LEAST:
            raise _broken(ErrorCode.FRAME_SIZE)
        last = int.from_bytes(frame.payload[:4], "big") & LARGEST_NUMBER
        self._happened.append(GoAway(last, int.from_bytes(frame.payload[4:8], "big")))

    def _take_window(self, frame: Frame) -> None:
        stream_id = frame.stream_id
        if len(frame.payload) != _NUMBER_SIZE:
            raise _broken(ErrorCode.FRAME_SIZE)
        octets = int.from_bytes(frame.payload, "big") & LARGEST_NUMBER
        if not stream_id:
            self._send_window += octets
            if not octets:
                raise _broken(ErrorCode.PROTOCOL)
            if self._send_window > LARGEST_NUMBER:
                raise _broken(ErrorCode.FLOW_CONTROL)
        elif self._streams.is_idle(stream_id):
            raise _broken(ErrorCode.PROTOCOL)
        else:
            state = self._streams.open.get(stream_id)
            if state is None:
                return
            state.send_window += octets
            if not octets or state.send_window > LARGEST_NUMBER:
                self._fail(stream_id, ErrorCode.FLOW_CONTROL if octets else ErrorCode.PROTOCOL)
                return
        self._happened.append(RoomCame(stream_id))

    def _fail(self, stream_id: int, error: ErrorCode) -> None:
        """End a stream whose peer broke a rule of it."""
        self._reader.budgets.resets.spend(self._clock())
        self.reset(stream_id, error)
        self._happened.append(StreamReset(stream_id, int(error)))

    # What we send. Everything waits until `unsent` is taken.

    def next_stream(self) -> int | None:
        """The number of a new stream of ours, None when the connection has used them all."""
        following = self._streams.highest + 2 if self._streams.highest else 1
        return None if following > LARGEST_NUMBER else following

    def room(self, stream_id: int) -> int:
        """How many bytes of data the peer takes on a stream now."""
        state = self._streams.open.get(stream_id)
        if state is None or state.local_ended:
            return 0
        return max(0, min(state.send_window, self._send_window))

    def send_headers(
        self, stream_id: int, fields: Iterable[hpack.HeaderTuple], *, end: bool = False
    ) -> bool:
        """Send a header list, on a new stream or an open one; False where it takes none."""
        streams = self._streams
        state = streams.open.get(stream_id)
        if state is None:
            if not streams.client_side or stream_id != self.next_stream():
                return False
            if len(streams.open) >= self.remote.max_streams:
                return False
            state = streams.begin(stream_id)
        elif state.local_ended:
            return False
        block = self._encoder.encode(fields)
        most, flags = self.remote.max_frame, END_STREAM if end else 0
        if len(block) <= most:
            self._frame(HEADERS, flags | END_HEADERS, stream_id, block)
        else:
            self._frame(HEADERS, flags, stream_id, block[:most])
            for start in range(most, len(block), most):
                last = END_HEADERS if start + most >= len(block) else 0
                self._frame(CONTINUATION, last, stream_id, block[start : start + most])
        if end:
            streams.end_local(stream_id, state)
        return True

    def send_data(
        self, stream_id: int, pieces: Sequence[bytes | memoryview], *, end: bool = False
    ) -> None:
        """Send pieces that are together no more than `room` said, in frames as large as the peer takes."""
        state = self._streams.open.get(stream_id)
        if state is None or state.local_ended:
            return
        size = sum(map(len, pieces))
        state.send_window -= size
        self._send_window -= size
        most = self.remote.max_frame
        self._reader.budgets.sent(size // most + 1 if size else 0)
        if size <= most:
            self._frame(DATA, END_STREAM if end else 0, stream_id, *pieces)
        else:
            for batch, left in _in_frames(pieces, size, most):
                self._frame(DATA, END_STREAM if end and not left else 0, stream_id, *batch)
        if end:
            self._streams.end_local(stream_id, state)

    def open_window(self, stream_id: int, octets: int) -> None:
        """Let the peer send more on a stream."""
        state = self._streams.open.get(stream_id)
        if state is not None and not state.remote_ended and octets:
            state.receive_window += octets
            self._open(stream_id, octets)

    def reset(self, stream_id: int, error: int) -> None:
        if stream_id in self._streams.open:
            self._streams.drop(stream_id, by_us=True)
            self._frame(RST_STREAM, 0, stream_id, error.to_bytes(4, "big"))

    def bye(self, error: int) -> None:
        """Tell the peer that no further streams are served; open ones go on."""
        self._frame(
            GOAWAY, 0, 0, self.last_stream.to_bytes(4, "big") + int(error).to_bytes(4, "big")
        )

    @property
    def unsent(self) -> int:
        return self._unsaid

    def take_unsent(self) -> bytes:
        """Return what the peer has not been sent yet."""
        out, self._out, self._unsaid = self._out, [], 0
        return b"".join(out)

    def _open(self, stream_id: int, octets: int) -> None:
        self._frame(WINDOW_UPDATE, 0, stream_id, octets.to_bytes(4, "big"))

    def _frame(self, kind: int, flags: int, stream_id: int, *payload: bytes | memoryview) -> None:
        size = sum(map(len, payload))
        self._out.append(_HEAD.pack(size << 8 | kind, flags, stream_id))
        self._out += payload
        self._unsaid += size


_TAKERS: Final[dict[int, Callable[[Endpoint, Frame], None]]] = {
    HEADERS: Endpoint._take_fields,
    PRIORITY: Endpoint._take_priority,
    RST_STREAM: Endpoint._take_reset,
    SETTINGS: Endpoint._take_settings,
    PING: Endpoint._take_ping,
    GOAWAY: Endpoint._take_goaway,
    WINDOW_UPDATE: Endpoint._take_window,
}


def _broken(error: ErrorCode) -> PeerBroken:
    return PeerBroken("http2_protocol_error", error)


def _is_interim(fields: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(name == b":status" and value[:1] == b"1" for name, value in fields[:1])


def _in_frames(
    pieces: Iterable[bytes | memoryview], left: int, most: int
) -> Iterator[tuple[list[bytes | memoryview], int]]:
    """Deal pieces into payloads of at most `most` bytes; with each, how much comes after it."""
    batch, size = list[bytes | memoryview](), 0
    for whole in pieces:
        piece = whole
        while size + len(piece) > most:
            room = most - size
            batch.append(memoryview(piece)[:room])
            left -= most
            yield batch, left
            batch, size, piece = [], 0, memoryview(piece)[room:]
        batch.append(piece)
        size += len(piece)
    if size:
        yield batch, left - size
