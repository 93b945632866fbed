"""One end of a connection: what a peer may send in which state, exact windows, and `h2` as the other end."""

import struct

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from hpack import Encoder, HeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.egress.http2.codes import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    PeerBroken,
    Setting,
)
from openshell.egress.http2.endpoint import Endpoint
from openshell.egress.http2.happenings import (
    DataCame,
    FieldsCame,
    GoAway,
    RoomCame,
    SettingsCame,
    StreamReset,
    TrailersCame,
)

REQUEST = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")]
FIELDS = [HeaderTuple(name.encode(), value.encode()) for name, value in REQUEST]
ANSWER = [HeaderTuple(b":status", b"200")]
BOTH = END_STREAM | END_HEADERS


def frame(kind, payload=b"", flags=0, stream=0):
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def setting(name, value):
    return frame(SETTINGS, struct.pack(">HI", name, value))


def number(value):
    return value.to_bytes(4, "big")


def request(stream, *, end=True):
    return frame(HEADERS, Encoder().encode(FIELDS), BOTH if end else END_HEADERS, stream)


def answer(stream, *, end=True, status=b"200"):
    block = Encoder().encode([(b":status", status)])
    return frame(HEADERS, block, BOTH if end else END_HEADERS, stream)


def server():
    """An end that serves; the peer has said its settings."""
    end = Endpoint(client_side=False, clock=lambda: 1.0)
    end.begin()
    assert end.receive(PREFACE + frame(SETTINGS)) == [SettingsCame()]
    end.take_unsent()
    return end


def client(streams=1):
    """An end that asks; it has opened streams."""
    end = Endpoint(client_side=True, clock=lambda: 1.0)
    end.begin()
    end.receive(frame(SETTINGS) + frame(SETTINGS, flags=ACK))
    for _ in range(streams):
        assert end.send_headers(end.next_stream(), FIELDS, end=True)
    end.take_unsent()
    return end


PROTOCOL, FLOW, SIZE = ErrorCode.PROTOCOL, ErrorCode.FLOW_CONTROL, ErrorCode.FRAME_SIZE
CLOSED = ErrorCode.STREAM_CLOSED

# What a client sends that ends its connection.
BREAKS = {
    "data on no stream": (frame(DATA, b"x"), PROTOCOL),
    "data on a stream that never was": (frame(DATA, b"x", 0, 5), PROTOCOL),
    "data after the end, forgotten": (
        request(1) + frame(RST_STREAM, number(8), stream=1) + frame(DATA, b"x", stream=1),
        CLOSED,
    ),
    "fields on no stream": (request(0), PROTOCOL),
    "fields on a stream of ours": (request(2), PROTOCOL),
    "fields on a stream that was passed over": (request(5) + request(3), CLOSED),
    "fields that cannot be decoded": (frame(HEADERS, b"\xff", BOTH, 1), ErrorCode.COMPRESSION),
    "a push": (frame(PUSH_PROMISE, number(2), END_HEADERS, 1), PROTOCOL),
    "a stray continuation": (frame(CONTINUATION, b"", END_HEADERS, 1), PROTOCOL),
    "a priority of no stream": (frame(PRIORITY, b"12345"), PROTOCOL),
    "a short priority": (frame(PRIORITY, b"1234", stream=1), SIZE),
    "a reset of no stream": (frame(RST_STREAM, number(8)), PROTOCOL),
    "a reset of a stream that never was": (frame(RST_STREAM, number(8), stream=1), PROTOCOL),
    "a long reset": (request(1) + frame(RST_STREAM, b"12345", stream=1), SIZE),
    "settings of a stream": (frame(SETTINGS, stream=1), PROTOCOL),
    "settings that are cut": (frame(SETTINGS, b"12345"), SIZE),
    "an acknowledgement with settings": (frame(SETTINGS, b"123456", ACK), SIZE),
    "pushes neither on nor off": (setting(Setting.ENABLE_PUSH, 2), PROTOCOL),
    "a window too large": (setting(Setting.INITIAL_WINDOW_SIZE, 2**31), FLOW),
    "a window that grows too large": (
        request(1)
        + frame(WINDOW_UPDATE, number(2**31 - 65_536), stream=1)
        + setting(Setting.INITIAL_WINDOW_SIZE, 70_000),
        FLOW,
    ),
    "frames too small": (setting(Setting.MAX_FRAME_SIZE, 16_383), PROTOCOL),
    "frames too large": (setting(Setting.MAX_FRAME_SIZE, 2**24), PROTOCOL),
    "a ping of a stream": (frame(PING, b"12345678", stream=1), PROTOCOL),
    "a short ping": (frame(PING, b"1234567"), SIZE),
    "a goodbye of a stream": (frame(GOAWAY, b"12345678", stream=1), PROTOCOL),
    "a short goodbye": (frame(GOAWAY, b"1234567"), SIZE),
    "a window of nothing": (frame(WINDOW_UPDATE, number(0)), PROTOCOL),
    "a window beyond all": (frame(WINDOW_UPDATE, number(2**31 - 1)), FLOW),
    "a short window": (frame(WINDOW_UPDATE, b"123"), SIZE),
    "a window of a stream that never was": (frame(WINDOW_UPDATE, number(1), stream=1), PROTOCOL),
    "more data than the stream's window": (
        request(1, end=False) + frame(DATA, b"x" * 60_000, stream=1) * 2,
        FLOW,
    ),
}


@pytest.mark.parametrize(("data", "error"), BREAKS.values(), ids=BREAKS.keys())
def test_what_breaks_the_connection(data, error):
    with pytest.raises(PeerBroken) as broken:
        server().receive(data)
    assert (broken.value.code, broken.value.error) == ("http2_protocol_error", error)


# What a client sends that ends one stream: with which code.
SPOILS = {
    "data after the end": (request(1) + frame(DATA, b"x", stream=1), CLOSED),
    "fields after the end": (request(1) + request(1), CLOSED),
    "trailers without an end": (request(1, end=False) + request(1, end=False), PROTOCOL),
    "a window of nothing": (request(1) + frame(WINDOW_UPDATE, number(0), stream=1), PROTOCOL),
    "a window beyond all": (request(1) + frame(WINDOW_UPDATE, number(2**31 - 1), stream=1), FLOW),
}


@pytest.mark.parametrize(("data", "error"), SPOILS.values(), ids=SPOILS.keys())
def test_what_spoils_a_stream_leaves_the_connection(data, error):
    end = server()
    happened = end.receive(data)
    assert happened[-1] == StreamReset(1, error)
    assert end.take_unsent() == frame(RST_STREAM, number(error), stream=1)
    # What is still on its way hurts nobody, and others are served.
    assert end.receive(frame(DATA, b"x", stream=1)) == []
    assert end.receive(frame(WINDOW_UPDATE, number(1), stream=1)) == []
    assert [one.stream_id for one in end.receive(request(3))] == [3]


def test_streams_that_a_peer_makes_us_reset_are_counted():
    end = server()
    spoilt = b"".join(request(n) + frame(DATA, b"x", stream=n) for n in range(1, 403, 2))
    with pytest.raises(PeerBroken) as broken:
        end.receive(spoilt)
    assert broken.value.code == "http2_rapid_reset"


@pytest.mark.parametrize("first", [frame(PING, b"12345678"), request(1), frame(SETTINGS, b"", ACK)])
def test_settings_come_first(first):
    with pytest.raises(PeerBroken):
        Endpoint(client_side=False, clock=lambda: 1.0).receive(PREFACE + first)


def test_a_wrong_preface_is_no_http2():
    with pytest.raises(PeerBroken):
        Endpoint(client_side=False, clock=lambda: 1.0).receive(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("knows", [False, True], ids=["not yet told", "told"])
def test_streams_beyond_what_was_announced(knows):
    end = server()
    if knows:
        end.receive(frame(SETTINGS, flags=ACK))
    end.receive(b"".join(request(n) for n in range(1, 201, 2)))
    if knows:
        with pytest.raises(PeerBroken):
            end.receive(request(201))
    else:
        assert end.receive(request(201)) == [StreamReset(201, ErrorCode.REFUSED_STREAM)]


# What an upstream sends that ends its connection.
UPSTREAM_BREAKS = {
    "an answer to nothing": answer(3),
    "an answer on its own stream": answer(2),
    "a push": frame(PUSH_PROMISE, number(2), END_HEADERS, 1),
    "pushes switched on": setting(Setting.ENABLE_PUSH, 1),
    "an answer after the end": answer(1) + answer(1),
    "data after the end": answer(1) + frame(DATA, b"x", stream=1),
}


@pytest.mark.parametrize("data", UPSTREAM_BREAKS.values(), ids=UPSTREAM_BREAKS.keys())
def test_what_an_upstream_must_not_send(data):
    with pytest.raises(PeerBroken):
        client().receive(data)


def test_answers_interim_answers_and_trailers_are_told_apart():
    end = client(2)
    data = answer(1, end=False, status=b"103") + answer(1, end=False) + frame(DATA, b"x", stream=1)
    trailers = frame(HEADERS, Encoder().encode([(b"t", b"1")]), BOTH, 1)
    happened = end.receive(data + trailers + answer(3))
    assert [type(one) for one in happened] == [
        FieldsCame, FieldsCame, DataCame, TrailersCame, FieldsCame,
    ]  # fmt: skip
    assert [one.ended for one in happened if isinstance(one, FieldsCame)] == [False, False, True]
    assert client().receive(answer(1, status=b"100")) == [StreamReset(1, PROTOCOL)]


def test_data_of_frames_that_came_together_goes_on_together():
    end = server()
    one, two = frame(DATA, b"ab", stream=1), frame(DATA, b"cd", END_STREAM, 1)
    happened = end.receive(request(1, end=False) + one + one + two)
    came = happened[-1]
    assert b"".join(came.pieces) == b"ababcd"
    assert (came.size, came.counted, came.ended) == (6, 6, True)
    assert len(happened) == 2


def test_windows_are_exact_in_both_directions():
    end = server()
    end.receive(request(1, end=False) + setting(Setting.INITIAL_WINDOW_SIZE, 10))
    assert end.send_headers(1, ANSWER)
    assert end.room(1) == 10
    end.send_data(1, [b"x" * 8])
    assert end.room(1) == 2
    # A smaller window counts for what is open, below nothing too.
    end.receive(setting(Setting.INITIAL_WINDOW_SIZE, 5))
    assert end.room(1) == 0
    assert end.receive(frame(WINDOW_UPDATE, number(4), stream=1)) == [RoomCame(1)]
    assert end.room(1) == 1
    # What we grant is what may come, to the byte.
    end.receive(frame(DATA, b"x" * 60_000, stream=1))
    end.open_window(1, 100)
    end.receive(frame(DATA, b"x" * 5_635, stream=1))
    with pytest.raises(PeerBroken):
        end.receive(frame(DATA, b"x", stream=1))


def test_the_connections_window_is_opened_again_as_data_arrives_also_for_what_nobody_wants():
    end = server()
    end.receive(request(1, end=False))
    end.reset(1, ErrorCode.CANCEL)
    granted = 0
    for _ in range(400):
        end.receive(frame(DATA, b"x" * 60_000, stream=1))
        sent = end.take_unsent()
        if sent[3:4] == bytes([WINDOW_UPDATE]):
            granted += int.from_bytes(sent[9:13], "big")
    assert granted > 400 * 60_000 - 8 * 1024 * 1024


def test_a_goodbye_ends_no_stream():
    end = client()
    goodbye = number(1) + number(0) + b"maintenance"
    happened = end.receive(frame(GOAWAY, goodbye) + answer(1))
    assert happened[0] == GoAway(1, 0)
    assert isinstance(happened[1], FieldsCame)


def test_an_upstreams_limit_of_streams_is_kept():
    end = client(0)
    end.receive(setting(Setting.MAX_CONCURRENT_STREAMS, 1))
    assert end.send_headers(1, FIELDS)
    assert not end.send_headers(3, FIELDS)
    end.receive(frame(RST_STREAM, number(0), stream=1))
    assert end.send_headers(3, FIELDS)


def test_websockets_over_http2_are_not_offered():
    end = Endpoint(client_side=False, clock=lambda: 1.0)
    end.begin()
    said = end.take_unsent()
    offered = [said[i : i + 2] for i in range(9, 9 + said[2], 6)]
    assert offered
    assert struct.pack(">H", 8) not in offered


# The same conversation with the library at the other end.


def _library(*, client_side):
    # What lists may hold is for `fields`, and tested there.
    config = h2.config.H2Configuration(
        client_side=client_side, header_encoding=None, validate_inbound_headers=False
    )
    conn = h2.connection.H2Connection(config)
    conn.initiate_connection()
    return conn


def _swap(end, conn):
    """Carry bytes both ways until both are silent; return what both saw."""
    ours, theirs = [], []
    while True:
        there, here = end.take_unsent(), conn.data_to_send()
        if not there and not here:
            return ours, theirs
        theirs += conn.receive_data(there)
        ours += end.receive(here) if here else []


_FIELD = st.tuples(st.sampled_from([b"accept", b"x-a", b"x-bb"]), st.sampled_from([0, 1, 20_000]))
_BODY = st.lists(st.integers(0, 70_000), max_size=4)


@settings(max_examples=30, deadline=None)
@given(st.lists(_FIELD, max_size=3), _BODY, st.booleans())
def test_the_library_understands_our_requests_and_we_its_answers(fields, body, trailed):
    end, conn = Endpoint(client_side=True, clock=lambda: 1.0), _library(client_side=False)
    fields = [(name, b"y" * size) for name, size in fields]
    end.begin()
    _swap(end, conn)
    stream = end.next_stream()
    assert end.send_headers(stream, [*FIELDS, *(HeaderTuple(*one) for one in fields)])
    _, theirs = _swap(end, conn)
    assert [tuple(one) for one in theirs[0].headers[4:]] == fields
    got = 0
    for size in body:
        left = size
        while left:
            step = min(left, end.room(stream))
            end.send_data(stream, [b"z" * step])
            left -= step
            for event in _swap(end, conn)[1]:
                if isinstance(event, h2.events.DataReceived):
                    got += len(event.data)
                    conn.acknowledge_received_data(event.flow_controlled_length, stream)
            _swap(end, conn)
    assert got == sum(body)
    end.send_data(stream, (), end=True)
    assert any(isinstance(e, h2.events.StreamEnded) for e in _swap(end, conn)[1])
    conn.send_headers(stream, [(b":status", b"200"), *fields])
    if trailed:
        conn.send_headers(stream, [(b"t", b"1")], end_stream=True)
    else:
        conn.send_data(stream, b"", end_stream=True)
    ours, _ = _swap(end, conn)
    assert [tuple(one) for one in ours[0].fields[1:]] == fields
    assert isinstance(ours[-1], TrailersCame if trailed else DataCame)
    assert end._streams.open == {}


@settings(max_examples=30, deadline=None)
@given(st.lists(_FIELD, max_size=3), _BODY)
def test_we_understand_the_librarys_requests_and_it_our_answers(fields, body):
    end, conn = Endpoint(client_side=False, clock=lambda: 1.0), _library(client_side=True)
    fields = [(name, b"y" * size) for name, size in fields]
    end.begin()
    _swap(end, conn)
    conn.send_headers(1, [*REQUEST, *fields])
    ours, _ = _swap(end, conn)
    assert [tuple(one) for one in ours[-1].fields[4:]] == fields
    got = 0
    for size in body:
        left = size
        while left:
            step = min(left, conn.local_flow_control_window(1), conn.max_outbound_frame_size)
            conn.send_data(1, b"z" * step, pad_length=7 if step > 8 and step < 100 else None)
            left -= step
            for one in _swap(end, conn)[0]:
                if isinstance(one, DataCame):
                    got += one.size
                    end.open_window(1, one.counted)
            _swap(end, conn)
    assert got == sum(body)
    conn.end_stream(1)
    end.send_headers(1, ANSWER)
    end.send_data(1, [b"ab", b"cd"], end=True)
    _, theirs = _swap(end, conn)
    data = b"".join(e.data for e in theirs if isinstance(e, h2.events.DataReceived))
    assert data == b"abcd"
    assert end._streams.open == {}


_SENT = st.lists(
    st.one_of(
        st.builds(request, st.sampled_from([1, 3, 5]), end=st.booleans()),
        st.builds(
            frame,
            st.sampled_from([DATA, PRIORITY, RST_STREAM, PING, WINDOW_UPDATE]),
            st.sampled_from([b"", number(1), b"12345", b"12345678"]),
            st.sampled_from([0, END_STREAM]),
            st.sampled_from([0, 1, 3, 5]),
        ),
        st.just(frame(CONTINUATION, b"", END_HEADERS, 1)),
        st.builds(setting, st.sampled_from(list(Setting)), st.sampled_from([0, 1, 20_000, 2**31])),
    ),
    max_size=6,
)


@given(_SENT)
def test_what_the_library_refuses_we_do_not_take(sent):
    """We may refuse a stream where it ends the connection, and the other way round; nobody is laxer."""
    end, conn = server(), _library(client_side=False)
    conn.receive_data(PREFACE + frame(SETTINGS))
    for data in sent:
        try:
            events = conn.receive_data(data)
            refused = any(
                isinstance(e, h2.events.StreamReset) and not e.remote_reset for e in events
            )
        except (h2.exceptions.ProtocolError, Exception):
            refused = True
        try:
            happened = end.receive(data)
        except PeerBroken:
            return
        if refused:
            took = [
                one for one in happened if isinstance(one, FieldsCame | DataCame | TrailersCame)
            ]
            assert not took
            return
