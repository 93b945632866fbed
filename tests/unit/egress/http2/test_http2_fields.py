"""Header lists: what is read, what is refused and why, what is written."""

import pytest
from hpack import NeverIndexedHeaderTuple
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.fuzz_http2 import fuzz_fields
from openshell.egress.http1 import CHUNKED, NO_BODY, Length, render_request_head
from openshell.egress.http2.fields import (
    LIST_LIMIT,
    Malformed,
    MalformedFields,
    read_request,
    read_response,
    read_trailers,
    write_request,
    write_response,
)

GET = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a.example"),
    (b":path", b"/x"),
]


def without(name):
    return [pair for pair in GET if pair[0] != name]


def with_(name, value):
    return [(key, value if key == name else old) for key, old in GET]


def read(fields, *, ended=True):
    return read_request(fields, ended=ended, scheme="https")


READ = {
    "plain": (GET, True, ((b"host", b"a.example"),), NO_BODY),
    "body of unknown length": (GET, False, ((b"host", b"a.example"),), CHUNKED),
    "body of known length": (
        [*GET, (b"content-length", b"5")],
        False,
        ((b"host", b"a.example"), (b"content-length", b"5")),
        Length(5),
    ),
    "length of no body": (
        [*GET, (b"content-length", b"0")],
        True,
        ((b"host", b"a.example"), (b"content-length", b"0")),
        Length(0),
    ),
    "host instead of authority": (
        [*without(b":authority"), (b"host", b"a.example")],
        True,
        ((b"host", b"a.example"),),
        NO_BODY,
    ),
    "host repeats authority": (
        [*GET, (b"host", b"A.example")],
        True,
        ((b"host", b"a.example"),),
        NO_BODY,
    ),
    "trailers wanted": (
        [*GET, (b"te", b"trailers")],
        True,
        ((b"host", b"a.example"), (b"te", b"trailers")),
        NO_BODY,
    ),
}

REFUSED = {
    Malformed.TOO_LARGE: [*GET, (b"x", b"v" * LIST_LIMIT)],
    Malformed.TOO_MANY: [*GET, *((b"x", b"") for _ in range(300))],
    Malformed.NAME: [*GET, (b"X", b"1")],
    Malformed.VALUE: [*GET, (b"x", b"1\n2")],
    Malformed.NOT_UTF8: [*GET, (b"x", b"\xff")],
    Malformed.CONNECTION_SPECIFIC: [*GET, (b"upgrade", b"h2c")],
    Malformed.PSEUDO_UNKNOWN: [*GET, (b":protocol", b"websocket")],
    Malformed.PSEUDO_REPEATED: [*GET, (b":path", b"/x")],
    Malformed.PSEUDO_LATE: [GET[0], (b"x", b"1"), *GET[1:]],
    Malformed.PSEUDO_MISSING: without(b":path"),
    Malformed.METHOD: with_(b":method", b"GE T"),
    Malformed.CONNECT: with_(b":method", b"CONNECT"),
    Malformed.SCHEME: with_(b":scheme", b"http"),
    Malformed.PATH: with_(b":path", b"/a b"),
    Malformed.AUTHORITY: with_(b":authority", b"user@a.example"),
    Malformed.AUTHORITY_CONFLICT: [*GET, (b"host", b"b.example")],
    Malformed.LENGTH: [*GET, (b"content-length", b"+5")],
    Malformed.LENGTH_BROKEN: [*GET, (b"content-length", b"5")],
}

ALSO_REFUSED = {
    "empty name": ([*GET, (b"", b"1")], Malformed.NAME),
    "leading space": ([*GET, (b"x", b" 1")], Malformed.VALUE),
    "te of another kind": ([*GET, (b"te", b"gzip")], Malformed.CONNECTION_SPECIFIC),
    "a name that stands for framing": (
        [*GET, (b"content_length", b"1")],
        Malformed.CONNECTION_SPECIFIC,
    ),
    "two hosts": ([*GET, (b"host", b"a.example"), (b"host", b"a.example")], Malformed.AUTHORITY_CONFLICT),
    "no authority at all": (without(b":authority"), Malformed.PSEUDO_MISSING),
    "the same length twice": (
        [*GET, (b"content-length", b"0"), (b"content-length", b"0")],
        Malformed.LENGTH,
    ),
    "an empty path": (with_(b":path", b""), Malformed.PATH),
    "a line end in the path": (with_(b":path", b"/\r\nx: y"), Malformed.VALUE),
    "a status in a request": ([*GET, (b":status", b"200")], Malformed.PSEUDO_UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "ended", "headers", "framing"), READ.values(), ids=READ.keys())
def test_requests_are_read_as_heads(fields, ended, headers, framing):
    head = read(fields, ended=ended)
    assert (head.method, head.target, head.version) == (b"GET", b"/x", b"HTTP/1.1")
    assert (head.headers, head.framing) == (headers, framing)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [(fields, reason) for reason, fields in REFUSED.items()] + list(ALSO_REFUSED.values()),
    ids=[*(reason.value for reason in REFUSED), *ALSO_REFUSED],
)
def test_malformed_requests_are_refused_by_their_rule(fields, reason):
    assert read(GET)
    with pytest.raises(MalformedFields) as refused:
        read(fields)
    assert refused.value.reason is reason
    large = reason in (Malformed.TOO_LARGE, Malformed.TOO_MANY)
    assert refused.value.status == (431 if large else 400)


def test_every_rule_has_its_case():
    elsewhere = {Malformed.STATUS, Malformed.IN_TRAILERS}
    assert set(REFUSED) | elsewhere == set(Malformed)


@pytest.mark.parametrize("status", [b"20", b"2000", b"abc", b"099", b"101"])
def test_a_status_that_is_none_is_refused(status):
    assert read_response([(b":status", b"200"), (b"x", b"1")]).headers == ((b"x", b"1"),)
    with pytest.raises(MalformedFields) as refused:
        read_response([(b":status", status)])
    assert refused.value.reason is Malformed.STATUS


def test_trailers_may_not_change_what_was_judged():
    assert read_trailers([(b"grpc-status", b"0")]) == ((b"grpc-status", b"0"),)
    for name in (b"content-length", b"host", b"authorization", b"cookie"):
        with pytest.raises(MalformedFields) as refused:
            read_trailers([(name, b"1")])
        assert refused.value.reason is Malformed.IN_TRAILERS


def test_what_the_client_did_not_send_never_enters_a_compression_table():
    head = read([*GET, (b"x-key", b"placeholder"), (b"accept", b"*/*")])
    wire = render_request_head(head).replace(b"placeholder", b"value").replace(b"/x ", b"/value ")
    fields, body = write_request(wire + b"held body", head, "https")
    assert body == b"held body"
    assert fields == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"a.example"),
        (b":path", b"/value"),
        (b"x-key", b"value"),
        (b"accept", b"*/*"),
    ]
    hidden = [name for name, _ in filter(_is_hidden, fields)]
    assert hidden == [b":path", b"x-key"]


def _is_hidden(pair):
    return isinstance(pair, NeverIndexedHeaderTuple)


def test_fields_of_a_connection_do_not_leave_it():
    written = write_response(200, ((b"Connection", b"close"), (b"Content-Type", b"text/plain")))
    assert written == [(b":status", b"200"), (b"content-type", b"text/plain")]


_PARTS = st.sampled_from(
    [
        b":method=GET",
        b":scheme=https",
        b":authority=a",
        b":path=/",
        b"host=a",
        b"te=trailers",
        b"x=1",
    ]
) | st.binary(max_size=12)


@given(st.lists(_PARTS, max_size=9).map(b"\n".join))
@example(b":method=GET\n:scheme=https\n:authority=a\n:path=/\nx=1\ncookie=a\ncookie=b")
def test_any_list_is_read_or_refused(data):
    fuzz_fields(data)
