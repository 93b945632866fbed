"""Frames cut out of bytes: data as it comes, header blocks whole, floods stopped."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.fuzz_http2 import fuzz_frames, fuzz_peer
from openshell.egress.http2.budgets import Budget, Budgets
from openshell.egress.http2.codes import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    PeerBroken,
)
from openshell.egress.http2.reader import FrameReader


def frame(kind, payload=b"", flags=0, stream=1):
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def test_data_is_passed_on_as_it_comes_and_the_end_with_its_last_piece():
    data = frame(DATA, b"x" * 100, END_STREAM)
    reader = FrameReader()
    first = reader.feed(data[:59], 0.0)
    last = reader.feed(data[59:], 0.0)
    assert first == [(DATA, 0, 1, b"x" * 50, 100)]
    assert last == [(DATA, END_STREAM, 1, b"x" * 50, 0)]
    assert first[0].payload.obj is not None


@pytest.mark.parametrize("size", [1, 2, 5, 9, 11, 1000])
def test_a_header_block_is_read_from_its_frames_however_they_are_cut(size):
    padded = b"\x02" + b"\0\0\0\0\x10" + b"abc" + b"\0\0"
    data = frame(HEADERS, padded, PADDED | PRIORITY_FLAG | END_STREAM, 3)
    data += frame(CONTINUATION, b"def", END_HEADERS, 3) + frame(DATA, b"\x03xy\0\0\0", PADDED, 3)
    reader, frames = FrameReader(), []
    for start in range(0, len(data), size):
        frames += reader.feed(data[start : start + size], 0.0)
    fields, body = frames
    assert (fields.kind, bytes(fields.payload), fields.stream_id) == (HEADERS, b"abcdef", 3)
    assert fields.flags & END_STREAM
    assert (bytes(body.payload), body.counted) == (b"xy", 6)


def test_the_preface_is_no_frame():
    reader = FrameReader(preface=PREFACE)
    assert reader.feed(PREFACE[:10], 0.0) == []
    assert reader.unfinished
    assert reader.feed(PREFACE[10:] + frame(SETTINGS, stream=0), 0.0) == [(SETTINGS, 0, 0, b"", 0)]
    assert not reader.unfinished


FLOODS = {
    "http2_rapid_reset": (frame(RST_STREAM, b"\0\0\0\x08"), 200),
    "http2_ping_flood": (frame(PING, b"12345678"), 200),
    "http2_settings_flood": (frame(SETTINGS, stream=0), 20),
    "http2_empty_frame_flood": (frame(DATA), 200),
    "http2_idle_frame_flood": (frame(WINDOW_UPDATE, b"\0\0\0\1"), 20_000),
}


@pytest.mark.parametrize(("code", "case"), FLOODS.items(), ids=FLOODS.keys())
def test_a_budget_allows_a_burst_and_refills(code, case):
    one, burst = case
    reader = FrameReader()
    reader.feed(one * burst, 100.0)
    with pytest.raises(PeerBroken) as flood:
        reader.feed(one, 100.0)
    assert flood.value.code == code
    again = FrameReader()
    again.feed(one * burst, 100.0)
    again.feed(one, 102.0)


@pytest.mark.parametrize(
    "harmless",
    [frame(DATA, b"x"), frame(DATA, b"", END_STREAM)],
    ids=["data", "ends"],
)
def test_what_brings_something_is_not_counted(harmless):
    FrameReader().feed(harmless * 30_000, 0.0)


def test_time_that_stands_still_or_runs_back_refills_nothing():
    budget = Budget("code", 1, 1.0)
    budget.spend(5.0)
    for now in (5.0, 4.0):
        with pytest.raises(PeerBroken):
            budget.spend(now)
    budget.spend(6.0)


_BROKEN = "http2_protocol_error"
TOO_MUCH = {
    "data": (b"\x01\x00\x01\x00\x00\0\0\0\1", "http2_frame_too_large"),
    "another frame": (b"\x00\x40\x01\x04\x00\0\0\0\0", "http2_frame_too_large"),
    "pieces of a header block": (
        frame(HEADERS, b"x") + frame(CONTINUATION, b"x") * 16,
        "http2_header_block_too_large",
    ),
    "bytes of a header block": (
        frame(HEADERS, b"x" * 16_000) + frame(CONTINUATION, b"x" * 16_000) * 4,
        "http2_header_block_too_large",
    ),
    "a frame inside a header block": (frame(HEADERS, b"x") + frame(GOAWAY, b"x" * 8), _BROKEN),
    "data inside a header block": (frame(HEADERS, b"x") + frame(DATA, b"x"), _BROKEN),
    "another stream's piece": (frame(HEADERS, b"x") + frame(CONTINUATION, b"x", 4, 3), _BROKEN),
    "a piece of nothing": (frame(CONTINUATION, b"x", 4), _BROKEN),
    "padding of nothing": (frame(DATA, b"", PADDED), _BROKEN),
    "more padding than data": (frame(DATA, b"\x02x", PADDED), _BROKEN),
    "padding of fields": (frame(HEADERS, b"\x09x", PADDED | END_HEADERS), _BROKEN),
    "a priority that is cut": (frame(HEADERS, b"\0\0", PRIORITY_FLAG | END_HEADERS), _BROKEN),
    "a push": (frame(PUSH_PROMISE, b"\0\0\0\2", END_HEADERS), _BROKEN),
}


@pytest.mark.parametrize(("data", "code"), TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_frames_without_measure_end_the_connection(data, code):
    with pytest.raises(PeerBroken) as flood:
        FrameReader().feed(data, 0.0)
    assert flood.value.code == code


def test_what_must_end_soon_is_told_apart():
    reader = FrameReader()
    reader.feed(frame(DATA, b"x" * 100)[:50], 0.0)
    assert not reader.unfinished
    reader.feed(frame(DATA, b"x" * 100)[50:] + frame(HEADERS, b"xy")[:10], 0.0)
    first = reader.unfinished
    reader.feed(b"y" + frame(CONTINUATION, b"x", END_HEADERS)[:5], 0.0)
    assert reader.unfinished == first > 0
    reader.feed(frame(CONTINUATION, b"x", END_HEADERS)[5:] + frame(PING, b"12345678")[:12], 0.0)
    assert reader.unfinished > first


def test_a_header_block_within_bounds_passes_and_is_known_while_it_lasts():
    reader = FrameReader()
    reader.feed(frame(HEADERS, b"x" * 16_000) + frame(CONTINUATION, b"x" * 16_000), 0.0)
    assert reader.in_block
    reader.feed(frame(CONTINUATION, b"x", END_HEADERS), 0.0)
    assert not reader.in_block


_FRAMES = st.builds(
    frame,
    st.integers(0, 10),
    st.binary(max_size=24),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]),
    st.integers(0, 5),
)
_BYTES = st.lists(_FRAMES | st.binary(max_size=12), max_size=8).map(b"".join)


@given(_BYTES)
@example(frame(DATA, b"x" * 30) + frame(DATA, b"", END_STREAM))
def test_any_bytes_are_read_alike_however_they_are_cut(data):
    fuzz_frames(data)


@given(_BYTES)
@example(b"\x01" + frame(HEADERS, b"\x88", 5))
@example(b"\x00" + frame(HEADERS, b"\x82\x87\x84\x41\x01a", 5) + frame(DATA, b"x"))
def test_a_peer_survives_any_bytes(data):
    fuzz_peer(data)


def test_a_fast_download_may_be_answered_with_two_updates_a_frame():
    budgets = Budgets()
    for _ in range(100_000):
        budgets.sent(1)
        budgets.count(WINDOW_UPDATE, 0, 0.0)
        budgets.count(WINDOW_UPDATE, 0, 0.0)
    # Nothing is saved up beyond the burst.
    for _ in range(19_998):
        budgets.count(WINDOW_UPDATE, 0, 0.0)
    with pytest.raises(PeerBroken):
        budgets.count(WINDOW_UPDATE, 0, 0.0)
