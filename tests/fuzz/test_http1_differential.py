"""Streams of HTTP/1 that are right, or almost: what we read of them, h11 and llhttp read alike, or we refuse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.fuzz_http1_peers import fuzz_requests_and_peers, fuzz_responses_and_peers
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

EXAMPLES = 150
# Odd things are this rare each, so that a stream holds one or two of them.
ONE_IN = 25


def mostly(right: list[bytes], odd: list[bytes]) -> st.SearchStrategy[bytes]:
    more = ONE_IN * len(odd) // len(right)
    return st.integers(0, more * len(right) + len(odd) - 1).map(
        lambda number: odd[number] if number < len(odd) else right[(number - len(odd)) % len(right)]
    )


ends = mostly([b"\r\n"] * 6, [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\0\r\n", b" \r\n"])
colons = mostly([b": ", b":"] * 3, [b" :", b"\t: ", b":\t", b":\x0b", b"::", b"", b": \r\n "])
numbers = mostly(
    [b"0", b"1", b"3", b"5"],
    [
        b"+3", b"-1", b"03", b"0x3", b"3_0", b"3 ", b" 3", b"3,3", b"3, 5", b"1e1", b"3;a", b"\xb2", b"3.0", b"",
        b"99999999999999999999", b"18446744073709551619", b"4294967299", b"3\x0b", b"\x0c3",
    ],
)  # fmt: skip
codings = mostly(
    [b"chunked"] * 2,
    [
        b"Chunked", b"CHUNKED", b"identity", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"xchunked",
        b"chunked;q=1", b'"chunked"', b"chunked\x0b", b" chunked ", b",chunked", b"chunked,", b"", b"chunk",
    ],
)  # fmt: skip
values = mostly(
    [b"a", b"close", b"keep-alive", b"100-continue", b"x, y"],
    [
        b"\x80",
        b"\xc3\xa9",
        b"a\tb",
        b"a\0b",
        b"upgrade",
        b"Content-Length",
        b"close, x",
        b"a: b",
        b"\x7f",
        b" ",
    ],
)
names = mostly(
    [b"X", b"Connection", b"Expect", b"Accept"],
    [
        b"Upgrade", b"X Y", b"X\t", b"", b"X\0", b"X\x80", b"Content_Length", b"Transfer-Encoding\0",
        b" X", b"\tX", b"Host", b"Proxy-Connection", b"HTTP2-Settings", b"(X)", b"Keep-Alive", b"Trailer", b"TE",
    ],
)  # fmt: skip
lengths = st.builds(
    b"%b%b%b%b".__mod__,
    st.tuples(
        mostly([b"Content-Length"], [b"content-length", b"Content-Length "]), colons, numbers, ends
    ),
)
transfers = st.builds(
    b"%b%b%b%b".__mod__,
    st.tuples(mostly([b"Transfer-Encoding"], [b"Transfer_Encoding"]), colons, codings, ends),
)
others = st.builds(b"%b%b%b%b".__mod__, st.tuples(names, colons, values, ends))
fields = st.lists(lengths | transfers | others, max_size=4).map(b"".join)

sizes = mostly(
    [b"1", b"3", b"5", b"0", b"00"],
    [
        b"+1", b"-1", b"0x1", b"1_0", b" 1", b"1 ", b"1\t", b"ffffffffffffffff", b"10000000000000001", b"",
        b"1;", b"1;a", b"1;a=b", b'1;a="b"', b"1 ;a", b"1;a\n", b"1,1", b"g", b"\xb9", b"1;\x80", b"1\r",
    ],
)  # fmt: skip
chunks = st.builds(
    b"%b%b%b%b".__mod__,
    st.tuples(sizes, ends, mostly([b"a", b"abc", b"abcde"], [b"", b"a\r\n0"]), ends),
)
trailers = st.lists(lengths | transfers | others, max_size=1).map(b"".join)
chunked = st.builds(
    b"%b%b%b%b%b".__mod__,
    st.tuples(
        st.lists(chunks, max_size=2).map(b"".join),
        mostly([b"0"], [b"", b"0;a"]),
        ends,
        trailers,
        ends,
    ),
)
bodies = chunked | mostly(
    [b"", b"abc", b"abcde"], [b"\r\n", b"\n", b"\0", b"\r\nGET / HTTP/1.1\r\n\r\n"]
)

methods = mostly(
    [b"GET", b"POST", b"HEAD"],
    [
        b"CONNECT",
        b"get",
        b"OPTIONS",
        b"BREW",
        b"",
        b"G ET",
        b"\r\nGET",
        b"\nGET",
        b"G\0T",
        b"PRI",
        b"SOURCE",
    ],
)
targets = mostly(
    [b"/", b"/a?b"], [b"*", b"http://a/", b"a:1", b"", b"/a b", b"/\x80", b"/\t", b"/#", b"//a/"]
)
versions = mostly(
    [b" HTTP/1.1"] * 2 + [b" HTTP/1.0"],
    [
        b"",
        b" HTTP/0.9",
        b" HTTP/1.2",
        b" HTTP/2.0",
        b" http/1.1",
        b"\tHTTP/1.1",
        b" HTTP/1.1 ",
        b" HTTP/11",
    ],
)
requests = st.builds(
    b"%b %b%b%bHost: a\r\n%b%b%b".__mod__,
    st.tuples(methods, targets, versions, ends, fields, ends, bodies),
)
statuses = mostly(
    [b"200 OK", b"204 No", b"304 Not", b"100 Continue", b"404 "],
    [
        b"101 Switching",
        b"103 Early",
        b"99 X",
        b"1000 X",
        b"200",
        b"+20 X",
        b"200\tOK",
        b"",
        b"199 X",
        b"205 X",
        b"2 0",
    ],
)
responses = st.builds(
    b"%b %b%b%b%b%b".__mod__,
    st.tuples(
        mostly([b"HTTP/1.1"], [b"HTTP/1.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.12", b"ICY"]),
        statuses, ends, fields, ends, bodies,
    ),
)  # fmt: skip


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
