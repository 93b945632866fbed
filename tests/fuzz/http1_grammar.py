"""Streams of HTTP/1 that are right but for one thing or two: strategies for Hypothesis.

A message has a framing and a body that fit; what is put between, and how lines and sizes are written, is
sometimes odd in a way that some reader somewhere takes.
"""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["requests", "responses"]

# Odd things are this rare each, so that a stream holds one or two of them.
_ONE_IN = 25


def mostly(right: list[bytes], odd: list[bytes]) -> st.SearchStrategy[bytes]:
    more = _ONE_IN * len(odd) // len(right)
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
sizes = mostly(
    [b"1", b"3", b"5", b"0", b"00"],
    [
        b"+1", b"-1", b"0x1", b"1_0", b" 1", b"1 ", b"1\t", b"ffffffffffffffff", b"10000000000000001", b"",
        b"1;", b"1;a", b"1;a=b", b'1;a="b"', b"1 ;a", b"1;a\n", b"1,1", b"g", b"\xb9", b"1;\x80", b"1\r",
    ],
)  # fmt: skip
odd_chunks = st.builds(
    b"%b%b%b%b".__mod__,
    st.tuples(sizes, ends, st.sampled_from([b"a", b"abc", b"", b"a\r\n0", b"abcd"]), ends),
)
right_chunks = st.sampled_from(
    [b"1\r\na\r\n", b"3;a=b\r\nabc\r\n", b"0002\r\n\r\n\r\n", b"A\r\n0123456789\r\n"]
)


def rarely(
    right: st.SearchStrategy[bytes], odd: st.SearchStrategy[bytes]
) -> st.SearchStrategy[bytes]:
    return st.integers(0, 7).flatmap(lambda number: odd if number == 0 else right)


trailers = rarely(st.sampled_from([b"", b"", b"X: y\r\n"]), lengths | transfers | others)
chunked = st.builds(
    b"%b%b%b%b%b".__mod__,
    st.tuples(
        st.lists(rarely(right_chunks, odd_chunks), max_size=2).map(b"".join),
        mostly(
            [b"0", b"000"],
            [b"", b"0;a", b"0x0", b" 0", b"0 ", b"-0", b"0_0", b"+0", b"0;", b'0;a="b"'],
        ),
        ends,
        trailers,
        ends,
    ),
)
more = rarely(
    st.lists(others, max_size=2).map(b"".join),
    st.lists(lengths | transfers | others, max_size=3).map(b"".join),
)
# Fields, the empty line and the body.
contents = st.one_of(
    st.builds(
        b"%bTransfer-Encoding: chunked\r\n%b%b%b".__mod__, st.tuples(more, more, ends, chunked)
    ),
    st.builds(b"%bContent-Length: 3\r\n%b%babc".__mod__, st.tuples(more, more, ends)),
    st.builds(b"%b%b%b".__mod__, st.tuples(transfers, ends, chunked)),
    st.builds(b"%b%babc".__mod__, st.tuples(lengths, ends)),
    st.builds(b"%b%b".__mod__, st.tuples(more, ends)),
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
    b"%b %b%b%bHost: a\r\n%b".__mod__,
    st.tuples(methods, targets, versions, ends, contents),
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
    b"%b %b%b%b".__mod__,
    st.tuples(
        mostly([b"HTTP/1.1"], [b"HTTP/1.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.12", b"ICY"]),
        statuses,
        ends,
        contents,
    ),
)
