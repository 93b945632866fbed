"""One direction of a stream: windows opened as the taker takes, ends that keep their form."""

import pytest

from openshell.egress.http2.half import TURN, Half
from openshell.egress.http2.offers import common
from openshell.egress.http2.shares import FIRST_WINDOW, LARGEST_WINDOW, Shares


class End:
    """A peer that takes what its window says."""

    def __init__(self, window=0):
        self.window = window
        self.sent = []
        self.opened = 0

    def room(self, stream_id):
        return self.window

    def send_data(self, stream_id, data, *, end=False):
        self.window -= sum(map(len, data))
        self.sent.append((b"".join(data), end))

    def send_headers(self, stream_id, fields, *, end=False):
        self.sent.append((fields, end))

    def open_window(self, stream_id, octets):
        self.opened += octets


def make(window=0, shares=None):
    source, target = End(), End(window)
    return source, target, Half((target, 1), (source, 3), shares or Shares())


def test_nothing_is_granted_before_it_went_on():
    source, target, half = make(window=0)
    half.push((b"x" * 60_000,), 60_000)
    assert half.pump() is False
    assert (half.held, source.opened) == (60_000, 0)
    target.window = 60_000
    half.pump()
    assert half.held == 0
    assert source.opened > 0


def test_padding_is_granted_at_once():
    source, _, half = make()
    for _ in range(300):
        half.push((b"",), 256)
    assert source.opened >= 300 * 256 - FIRST_WINDOW // 2


def test_a_turn_is_bounded():
    _, target, half = make(window=1_000_000)
    half.push((b"x" * 200_000,), 200_000)
    assert half.pump() is True
    assert TURN <= sum(len(data) for data, _ in target.sent) < TURN + 16_384


def test_small_pieces_go_in_one_frame_and_the_last_carries_the_end():
    _, target, half = make(window=100)
    for piece in (b"a", b"b", b"c"):
        half.push((piece,), 1)
    half.end()
    half.pump()
    assert target.sent == [(b"abc", True)]
    assert half.finished


ENDS = {
    "without data": ((), None, [(b"", True)]),
    "with trailers": ((b"a",), [("t", "1")], [(b"a", False), ([("t", "1")], True)]),
    "trailers alone": ((), [("t", "1")], [([("t", "1")], True)]),
}


@pytest.mark.parametrize(("pieces", "trailers", "sent"), ENDS.values(), ids=ENDS.keys())
def test_an_end_goes_on_once(pieces, trailers, sent):
    _, target, half = make(window=100)
    for piece in pieces:
        half.push((piece,), len(piece))
    half.end(trailers)
    half.pump()
    half.pump()
    assert target.sent == sent


def test_windows_grow_while_there_is_a_stock_and_come_back():
    shares = Shares(stock=3 * FIRST_WINDOW)
    source, _, half = make(window=10**9, shares=shares)
    for _ in range(100):
        half.push((b"x" * 60_000,), 60_000)
        while half.pump():
            pass
    # 1 and 2 of the three were taken, no more were there; less than half a window waits to be granted.
    assert 6_000_000 + FIRST_WINDOW <= source.opened <= 6_000_000 + 3 * FIRST_WINDOW
    assert not shares.take_window(FIRST_WINDOW)
    half.drop()
    half.drop()
    assert shares.take_window(3 * FIRST_WINDOW)


def test_windows_grow_to_a_limit():
    source, _, half = make(window=10**9)
    for _ in range(2_000):
        half.push((b"x" * 60_000,), 60_000)
        while half.pump():
            pass
    assert source.opened - 120_000_000 <= 2 * LARGEST_WINDOW


def test_what_nobody_takes_any_more_is_granted_and_forgotten():
    source, target, half = make(window=10)
    half.drop()
    half.push((b"x" * 60_000,), 60_000)
    half.pump()
    assert target.sent == []
    assert (half.held, source.opened) == (0, 60_000)


def test_what_waits_takes_the_memory_of_its_bytes_however_small_the_pieces():
    _, target, half = make(window=0)
    for _ in range(4_000):
        buffer = memoryview(b"ab" * 50_000)
        half.push((buffer[:1], buffer[1:2], buffer[2:2]), 2)
        half.pump()
    assert half.held == 8_000
    assert len(half._waiting) == 1
    assert isinstance(half._waiting[0], bytes)
    target.window = 10_000
    half.pump()
    assert b"".join(data for data, _ in target.sent) == b"ab" * 4_000


def test_streams_are_counted():
    shares = Shares(streams=1)
    assert shares.take_stream()
    assert not shares.take_stream()
    shares.return_stream()
    assert shares.take_stream()


def test_protocols_are_offered_in_our_order():
    assert common((b"http/1.1", b"grpc-exp", b"h2")) == ("h2", "http/1.1")
    assert common((b"spdy/3",)) == ()
