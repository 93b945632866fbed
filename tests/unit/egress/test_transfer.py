"""The request body on its way up: framing followed, markers found however they are cut."""

import pytest

from openshell.egress.credentials import MarkerScanner
from openshell.egress.http1 import RequestHead
from openshell.egress.http1.framing import Chunked
from openshell.egress.transfer import MarkerInBody, RequestBody
from unit.egress.feeding import CUTS

MARKER = b'{"key": "openshell:resolve:env:v1_TOKEN"}'
HARMLESS = b'{"key": "openshell:resolve:Env:v1_TOKEN"}'


class Client:
    left = b""

    def unread(self, data):
        self.left += data


class CountingScanner(MarkerScanner):
    __slots__ = ("looks",)

    def __init__(self):
        super().__init__()
        self.looks = 0

    def feed(self, chunk):
        self.looks += 1
        return super().feed(chunk)


def chunked(data, size):
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def body():
    return RequestBody(RequestHead(b"POST", b"/", b"HTTP/1.1", (), Chunked()), scan=True)


@pytest.mark.parametrize("cutting", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_marker_in_chunks_is_found_however_it_is_cut(size, cutting):
    passing, wire = body(), b""
    for piece in cutting(chunked(HARMLESS, size)):
        wire += b"".join(passing.take(piece, Client()))
    assert passing.done
    assert wire == chunked(HARMLESS, size)
    stopped = body()
    with pytest.raises(MarkerInBody):
        for piece in cutting(chunked(MARKER, size)):
            stopped.take(piece, Client())


def test_a_marker_in_a_trailer_is_found():
    data = b"1\r\nx\r\n0\r\nX-Key: openshell:resolve:env:v1_TOKEN\r\n\r\n"
    with pytest.raises(MarkerInBody):
        body().take(data, Client())


def test_many_small_chunks_cost_one_look_per_read():
    stream, counting = body(), CountingScanner()
    stream.scanner = counting
    client = Client()
    stream.take(chunked(b"x" * 10_000, 1) + b"GET /next", client)
    assert stream.done
    assert client.left == b"GET /next"
    assert counting.looks == 1
