"""The gate in front of the library: frames counted, notices taken out, floods stopped."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.fuzz_http2 import fuzz_gate, fuzz_peer
from openshell.egress.http2.gate import Budget, Flood, FrameGate, GoAway

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, UPDATE, CONTINUATION = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
)
ACK = END_STREAM = 1
END_HEADERS = 4


def frame(kind, payload=b"", flags=0, stream=1):
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def goaway(last, error=0, text=b""):
    return frame(GOAWAY, struct.pack(">II", last, error) + text, stream=0)


def test_frames_pass_as_they_are():
    data = frame(SETTINGS) + frame(HEADERS, b"abc", END_HEADERS) + frame(DATA, b"x" * 100)
    passed = FrameGate().feed(data, 0.0)
    assert passed.data is data
    assert passed.notices == ()


@pytest.mark.parametrize("size", [1, 2, 5, 9, 11, 1000])
def test_goaway_is_taken_out_however_it_is_cut(size):
    before, after = frame(PING, b"12345678"), frame(DATA, b"tail")
    data = before + goaway(7, 11, b"too busy") + after
    gate, passed, notices = FrameGate(), b"", []
    for start in range(0, len(data), size):
        frames = gate.feed(data[start : start + size], 0.0)
        passed += frames.data
        notices += frames.notices
    assert passed == before + after
    assert notices == [GoAway(7, 11)]


def test_the_preface_is_no_frame():
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    gate = FrameGate(preface=len(preface))
    assert gate.feed(preface[:10], 0.0).data == preface[:10]
    assert gate.unfinished
    assert gate.feed(preface[10:] + frame(SETTINGS), 0.0).data == preface[10:] + frame(SETTINGS)
    assert not gate.unfinished


FLOODS = {
    "http2_rapid_reset": (frame(RST, b"\0\0\0\x08"), 200),
    "http2_ping_flood": (frame(PING, b"12345678"), 200),
    "http2_settings_flood": (frame(SETTINGS, stream=0), 20),
    "http2_empty_frame_flood": (frame(DATA), 200),
    "http2_idle_frame_flood": (frame(UPDATE, b"\0\0\0\1"), 20_000),
}


@pytest.mark.parametrize(("code", "case"), FLOODS.items(), ids=FLOODS.keys())
def test_a_budget_allows_a_burst_and_refills(code, case):
    one, burst = case
    gate = FrameGate()
    gate.feed(one * burst, 100.0)
    with pytest.raises(Flood) as flood:
        gate.feed(one, 100.0)
    assert flood.value.code == code
    again = FrameGate()
    again.feed(one * burst, 100.0)
    again.feed(one, 102.0)


@pytest.mark.parametrize(
    "harmless",
    [frame(PING, b"12345678", ACK), frame(DATA, b"x"), frame(DATA, b"", END_STREAM)],
    ids=["answered pings", "data", "ends"],
)
def test_what_brings_something_is_not_counted(harmless):
    FrameGate().feed(harmless * 30_000, 0.0)


def test_time_that_stands_still_or_runs_back_refills_nothing():
    budget = Budget("code", 1, 1.0)
    budget.spend(5.0)
    for now in (5.0, 4.0):
        with pytest.raises(Flood):
            budget.spend(now)
    budget.spend(6.0)


TOO_MUCH = {
    "a frame": (b"\x00\x40\x01\x00\x00\0\0\0\1", "http2_frame_too_large"),
    "pieces of a header block": (
        frame(HEADERS, b"x") + frame(CONTINUATION, b"x") * 16,
        "http2_header_block_too_large",
    ),
    "bytes of a header block": (
        frame(HEADERS, b"x" * 16_000) + frame(CONTINUATION, b"x" * 16_000) * 4,
        "http2_header_block_too_large",
    ),
    "goaway without its numbers": (frame(GOAWAY, b"1234"), "http2_malformed_goaway"),
    "goaway inside a header block": (frame(HEADERS, b"x") + goaway(1), "http2_malformed_goaway"),
}


@pytest.mark.parametrize(("data", "code"), TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_frames_without_measure_end_the_connection(data, code):
    with pytest.raises(Flood) as flood:
        FrameGate().feed(data, 0.0)
    assert flood.value.code == code


def test_what_must_end_soon_is_told_apart():
    gate = FrameGate()
    gate.feed(frame(DATA, b"x" * 100)[:50], 0.0)
    assert not gate.unfinished
    gate.feed(frame(DATA, b"x" * 100)[50:] + frame(HEADERS, b"xy")[:10], 0.0)
    first = gate.unfinished
    gate.feed(b"y" + frame(CONTINUATION, b"x", END_HEADERS)[:5], 0.0)
    assert gate.unfinished == first > 0
    gate.feed(frame(CONTINUATION, b"x", END_HEADERS)[5:] + frame(PING, b"12345678")[:12], 0.0)
    assert gate.unfinished > first


def test_a_header_block_within_bounds_passes_and_is_known_while_it_lasts():
    gate = FrameGate()
    gate.feed(frame(HEADERS, b"x" * 16_000) + frame(CONTINUATION, b"x" * 16_000), 0.0)
    assert gate.in_block
    gate.feed(frame(CONTINUATION, b"x", END_HEADERS), 0.0)
    assert not gate.in_block


_FRAMES = st.builds(
    frame,
    st.integers(0, 10),
    st.binary(max_size=24),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]),
    st.integers(0, 5),
)
_BYTES = st.lists(_FRAMES | st.binary(max_size=12), max_size=8).map(b"".join)


@given(_BYTES)
@example(goaway(3) + goaway(1)[:12])
def test_any_bytes_pass_the_gate_alike_however_they_are_cut(data):
    fuzz_gate(data)


@given(_BYTES)
@example(b"\x01" + frame(HEADERS, b"\x88", 5))
@example(b"\x00" + frame(HEADERS, b"\x82\x87\x84\x41\x01a", 5) + frame(DATA, b"x"))
def test_a_peer_survives_any_bytes(data):
    fuzz_peer(data)
