"""Streams of HTTP/1 that are right, or almost: what we read of them, h11 and llhttp read alike, or we refuse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.fuzz_http1_peers import fuzz_requests_and_peers, fuzz_responses_and_peers
from fuzz.http1_grammar import requests, responses
from fuzz.http1_peers import (
    Message,
    Read,
    h11_requests,
    h11_responses,
    llhttp_requests,
    llhttp_responses,
    read_requests,
    read_responses,
)
from fuzz.smuggling_vectors import VECTORS

EXAMPLES = 150


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(requests, min_size=1, max_size=3).map(b"".join))
def test_requests(stream: bytes) -> None:
    fuzz_requests_and_peers(stream)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.sampled_from([b"\0", b"\1", b"\2"]),
    st.lists(responses, min_size=1, max_size=2).map(b"".join),
)
def test_responses(method: bytes, stream: bytes) -> None:
    fuzz_responses_and_peers(method + stream)


GET = b"GET /n HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_smuggled_requests(vector: bytes) -> None:
    fuzz_requests_and_peers(POST + vector + GET)


GOOD = {
    "two": (GET + GET, [b"", b""]),
    "length": (POST + b"Content-Length: 3\r\n\r\nabc" + GET, [b"abc", b""]),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n2\r\nbc\r\n0\r\n\r\n" + GET, [b"abc", b""]),
    "close": (GET.replace(b"Host", b"Connection: close\r\nHost") + GET, [b""]),
}  # fmt: skip


@pytest.mark.parametrize(("stream", "bodies"), GOOD.values(), ids=GOOD)
def test_all_three_read_what_is_right(stream: bytes, bodies: list[bytes]) -> None:
    """So that agreement is not the agreement of those who read nothing."""
    for reader in (read_requests, h11_requests, llhttp_requests):
        read = reader(stream)
        found = [message.body for message in read.whole][: len(bodies)]
        assert found == bodies, reader
    fuzz_requests_and_peers(stream)


def test_all_three_read_a_right_response() -> None:
    stream = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    for read in (
        read_responses(stream, b"GET"),
        h11_responses(stream, b"GET"),
        llhttp_responses(stream),
    ):
        assert [(m.first, m.body) for m in read.whole] == [((b"100",), b""), ((b"200",), b"ok")]
    assert read_responses(stream[:-1], b"GET").whole == read_responses(stream, b"GET").whole[:1]


@pytest.mark.parametrize(
    "peer",
    [
        Read([Message((b"GET", b"/n"), [(b"host", b"a")], b"", is_whole=True)] * 3),
        Read([Message((b"GET", b"/m"), [(b"host", b"a")], b"", is_whole=True)] * 2),
        Read([Message((b"GET", b"/n"), [(b"host", b"b")], b"", is_whole=True)] * 2),
        Read([Message((b"GET", b"/n"), [(b"host", b"a")], b"x", is_whole=True)] * 2),
        Read([Message((b"GET", b"/n"), [(b"host", b"a")], b"", is_whole=True)]),
    ],
    ids=["one more", "other target", "other field", "other body", "waits"],
)
def test_a_peer_that_differs_is_noticed(peer: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.fuzz_http1_peers.h11_requests", lambda _: peer)
    with pytest.raises(AssertionError):
        fuzz_requests_and_peers(GET + GET)
