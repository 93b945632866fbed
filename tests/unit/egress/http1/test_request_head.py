"""What a request head may look like: two tables, and properties over them."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.fuzz_http1_head import fuzz_request_head
from openshell.egress.http1 import (
    CHUNKED,
    FIRST_HEAD_LIMIT,
    NO_BODY,
    Chunked,
    Framing,
    HeadRejected,
    Length,
    NoBody,
    RejectReason,
    RequestHead,
    RequestHeadReader,
    render_request_head,
)
from unit.egress.feeding import CUTS, cut, read_head

NEXT = b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n"


def lines(*parts: bytes) -> bytes:
    return b"\r\n".join(parts) + b"\r\n\r\n"


def get(*fields: bytes) -> bytes:
    return lines(b"GET / HTTP/1.1", b"Host: a", *fields)


ACCEPTED: dict[str, tuple[bytes, Framing]] = {
    "plain": (get(), NO_BODY),
    "length": (get(b"Content-Length: 5"), Length(5)),
    "zero_length": (get(b"Content-Length: 0"), Length(0)),
    "identical_lengths": (get(b"Content-Length: 5", b"content-length:  5 "), Length(5)),
    "chunked": (get(b"Transfer-Encoding: Chunked"), CHUNKED),
    "http10_without_host": (lines(b"GET / HTTP/1.0"), NO_BODY),
    "odd_method_and_target": (lines(b"M-SEARCH * HTTP/1.1", b"Host: [::1]:1900"), NO_BODY),
    "utf8_value": (get("X-Name: café".encode()), NO_BODY),
    "empty_value": (get(b"X-Empty:"), NO_BODY),
    "tab_in_value": (get(b"X-Tab: a\tb"), NO_BODY),
    "connection_options": (get(b"Connection: close, X-Mine"), NO_BODY),
    "host_with_port": (lines(b"GET / HTTP/1.1", b"hOST: a.example:8080"), NO_BODY),
    "connect": (lines(b"CONNECT a:443 HTTP/1.1", b"Host: a:443"), NO_BODY),
    "connect_length_zero": (
        lines(b"CONNECT a:443 HTTP/1.1", b"Host: a", b"Content-Length: 0"),
        Length(0),
    ),
}

R = RejectReason
REFUSED: dict[str, tuple[bytes, RejectReason]] = {
    "too_large": (get(b"X: " + b"a" * FIRST_HEAD_LIMIT), R.TOO_LARGE),
    "never_ending": (b"A" * (FIRST_HEAD_LIMIT + 9), R.TOO_LARGE),
    "too_many_fields": (get(*[b"a:1"] * 300), R.TOO_MANY_FIELDS),
    "bare_lf_everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", R.BARE_LF),
    "bare_lf_in_fields": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", R.BARE_LF),
    "bare_lf_first": (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", R.BARE_LF),
    "not_utf8": (get(b"X: \xff\xfe"), R.NOT_UTF8),
    "nul": (get(b"X: a\0b"), R.CONTROL_BYTE),
    "bare_cr": (get(b"X: a\rb"), R.CONTROL_BYTE),
    "cr_before_crlf": (get(b"X: a\r"), R.CONTROL_BYTE),
    "delete": (get(b"X: a\x7f"), R.CONTROL_BYTE),
    "vertical_tab_length": (get(b"Content-Length:\x0b5"), R.CONTROL_BYTE),
    "empty_head": (b"\r\n\r\n", R.REQUEST_LINE),
    "empty_line_first": (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", R.REQUEST_LINE),
    "two_spaces": (lines(b"GET  / HTTP/1.1", b"Host: a"), R.REQUEST_LINE),
    "space_in_target": (lines(b"GET /a b HTTP/1.1", b"Host: a"), R.REQUEST_LINE),
    "http09": (lines(b"GET /"), R.REQUEST_LINE),
    "trailing_space": (lines(b"GET / HTTP/1.1 ", b"Host: a"), R.REQUEST_LINE),
    "method_not_token": (lines(b"G(T / HTTP/1.1", b"Host: a"), R.METHOD),
    "empty_method": (lines(b" / HTTP/1.1", b"Host: a"), R.METHOD),
    "empty_target": (lines(b"GET  HTTP/1.1", b"Host: a"), R.TARGET),
    "tab_in_target": (lines(b"GET /a\tb HTTP/1.1", b"Host: a"), R.TARGET),
    "http2": (lines(b"GET / HTTP/2.0", b"Host: a"), R.VERSION),
    "http12": (lines(b"GET / HTTP/1.2", b"Host: a"), R.VERSION),
    "lowercase_version": (lines(b"GET / http/1.1", b"Host: a"), R.VERSION),
    "obs_fold": (get(b"X: a", b" b"), R.FOLDED_LINE),
    "obs_fold_tab_framing": (get(b"Transfer-Encoding:", b"\tchunked"), R.FOLDED_LINE),
    "no_colon": (get(b"Nonsense"), R.NO_COLON),
    "space_before_colon": (get(b"Content-Length : 5"), R.FIELD_NAME),
    "empty_name": (get(b": a"), R.FIELD_NAME),
    "name_not_token": (get(b"X(Y): a"), R.FIELD_NAME),
    "name_not_ascii": (get("Xé: a".encode()), R.FIELD_NAME),
    "empty_connection_option": (get(b"Connection: close,,x"), R.CONNECTION_OPTION),
    "bad_connection_option": (get(b"Connection: a b"), R.CONNECTION_OPTION),
    "empty_connection": (get(b"Connection:"), R.CONNECTION_OPTION),
    "connection_names_host": (get(b"Connection: Host"), R.CONNECTION_FORBIDDEN),
    "connection_names_length": (get(b"Connection: close, content-length"), R.CONNECTION_FORBIDDEN),
    "connection_names_te": (get(b"Connection: Transfer-Encoding"), R.CONNECTION_FORBIDDEN),
    "length_list": (get(b"Content-Length: 5, 5"), R.LENGTH_INVALID),
    "length_plus": (get(b"Content-Length: +5"), R.LENGTH_INVALID),
    "length_negative": (get(b"Content-Length: -5"), R.LENGTH_INVALID),
    "length_hex": (get(b"Content-Length: 0x5"), R.LENGTH_INVALID),
    "length_leading_zero": (get(b"Content-Length: 010"), R.LENGTH_INVALID),
    "length_empty": (get(b"Content-Length:"), R.LENGTH_INVALID),
    "length_huge": (get(b"Content-Length: " + b"9" * 19), R.LENGTH_INVALID),
    "length_inner_space": (get(b"Content-Length: 5 5"), R.LENGTH_INVALID),
    "length_arabic_digit": (get("Content-Length: ٥".encode()), R.LENGTH_INVALID),
    "length_conflict": (get(b"Content-Length: 5", b"Content-Length: 6"), R.LENGTH_CONFLICT),
    "coding_list": (get(b"Transfer-Encoding: gzip, chunked"), R.TRANSFER_CODING),
    "coding_twice": (
        get(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        R.TRANSFER_CODING,
    ),
    "coding_identity": (get(b"Transfer-Encoding: identity"), R.TRANSFER_CODING),
    "coding_parameter": (get(b"Transfer-Encoding: chunked;a=b"), R.TRANSFER_CODING),
    "coding_empty": (get(b"Transfer-Encoding:"), R.TRANSFER_CODING),
    "length_and_coding": (
        get(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        R.LENGTH_AND_CODING,
    ),
    "coding_and_length": (get(b"transfer-encoding: x", b"content-length: 5"), R.LENGTH_AND_CODING),
    "coding_in_http10": (
        lines(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"),
        R.CODING_IN_HTTP10,
    ),
    "connect_with_body": (
        lines(b"CONNECT a:1 HTTP/1.1", b"Host: a", b"Content-Length: 5"),
        R.CONNECT_BODY,
    ),
    "connect_chunked": (
        lines(b"CONNECT a:1 HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked"),
        R.CONNECT_BODY,
    ),
    "host_missing": (lines(b"GET / HTTP/1.1", b"Accept: */*"), R.HOST_MISSING),
    "host_repeated": (get(b"Host: b"), R.HOST_REPEATED),
    "host_repeated_same": (get(b"Host: a"), R.HOST_REPEATED),
    "host_userinfo": (lines(b"GET / HTTP/1.1", b"Host: u@a"), R.HOST_INVALID),
    "host_list": (lines(b"GET / HTTP/1.1", b"Host: a, b"), R.HOST_INVALID),
    "host_path": (lines(b"GET / HTTP/1.1", b"Host: a/b"), R.HOST_INVALID),
    "host_empty": (lines(b"GET / HTTP/1.1", b"Host:"), R.HOST_INVALID),
    "host_percent_encoded": (lines(b"GET / HTTP/1.1", b"Host: a%2eb"), R.HOST_INVALID),
    "host_wildcard": (lines(b"GET / HTTP/1.1", b"Host: *.a"), R.HOST_INVALID),
    "host_empty_label": (lines(b"GET / HTTP/1.1", b"Host: a..b"), R.HOST_INVALID),
    "length_with_underscore": (get(b"Content_Length: 5"), R.FIELD_NAME),
    "coding_with_underscore": (get(b"TRANSFER_encoding: chunked"), R.FIELD_NAME),
    "host_port_text": (lines(b"GET / HTTP/1.1", b"Host: a:https"), R.HOST_INVALID),
}


def new() -> RequestHeadReader:
    return RequestHeadReader(limit=FIRST_HEAD_LIMIT, require_host=True)


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(("raw", "framing"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(raw: bytes, framing: Framing, feeding) -> None:
    for behind in (b"", NEXT):
        found = read_head(new(), list(feeding(raw + behind)))
        assert found is not None
        head, leftover = found
        assert leftover == behind
        assert head.framing == framing
        assert raw.startswith(b"%b %b %b\r\n" % (head.method, head.target, head.version))


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(("raw", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(raw: bytes, reason: RejectReason, feeding) -> None:
    for behind in (b"", NEXT):
        reader = new()
        with pytest.raises(HeadRejected) as caught:
            read_head(reader, list(feeding(raw + behind)))
        assert caught.value.reason is reason
        assert caught.value.status == (431 if "too_" in reason.value else 400)
        with pytest.raises(HeadRejected):
            reader.feed(get())
        with pytest.raises(HeadRejected):
            reader.end_of_stream()


def test_every_reason_has_a_row() -> None:
    responses_only = {R.STATUS_LINE}
    covered = {reason for _, reason in REFUSED.values()} | {R.TRUNCATED} | responses_only
    assert covered == set(RejectReason)


def test_end_of_stream_inside_a_head_is_an_abort() -> None:
    reader = new()
    reader.end_of_stream()
    reader.feed(b"GET /")
    assert reader.pending
    with pytest.raises(HeadRejected) as caught:
        reader.end_of_stream()
    assert caught.value.reason is R.TRUNCATED


def test_the_limit_counts_the_whole_head() -> None:
    raw = get(b"X: " + b"a" * 40)
    assert RequestHeadReader(limit=len(raw), require_host=True).feed(raw) is not None
    with pytest.raises(HeadRejected):
        RequestHeadReader(limit=len(raw) - 1, require_host=True).feed(raw)


def test_host_may_be_absent_where_the_target_names_it() -> None:
    reader = RequestHeadReader(limit=FIRST_HEAD_LIMIT, require_host=False)
    assert reader.feed(lines(b"CONNECT a:443 HTTP/1.1")) is not None


def test_identical_lengths_are_sent_on_once() -> None:
    head = new().feed(ACCEPTED["identical_lengths"][0])
    assert head is not None
    assert head.values(b"content-length") == (b"5",)


def test_order_and_spelling_are_kept() -> None:
    raw = get(b"x-B: 1", b"X-a: 2", b"x-b: 3")
    head = new().feed(raw)
    assert head is not None
    assert render_request_head(head) == raw
    assert head.values(b"x-b") == (b"1", b"3")


@pytest.mark.parametrize(
    ("raw", "keeps"),
    [
        (get(), True),
        (get(b"Connection: Close"), False),
        (lines(b"GET / HTTP/1.0"), False),
        (lines(b"GET / HTTP/1.0", b"Connection: Keep-Alive"), True),
    ],
)
def test_keep_alive(raw: bytes, keeps: bool) -> None:
    head = new().feed(raw)
    assert head is not None
    assert head.keep_alive is keeps


def test_upgrade_needs_the_connection_option() -> None:
    one = new().feed(get(b"Upgrade: h2c"))
    two = new().feed(get(b"Connection: Upgrade", b"Upgrade: H2C, websocket"))
    assert one is not None
    assert two is not None
    assert one.upgrade_tokens() == frozenset()
    assert two.upgrade_tokens() == {b"h2c", b"websocket"}


def test_a_head_shows_neither_target_nor_fields() -> None:
    head = new().feed(lines(b"GET /?k=sk-secret HTTP/1.1", b"Host: a", b"X-Key: sk-secret"))
    assert head is not None
    assert "secret" in str(head.headers)
    assert "secret" not in repr(head)


def test_the_text_of_a_refusal_holds_nothing_of_the_peer() -> None:
    with pytest.raises(HeadRejected) as caught:
        new().feed(get(b"Authorization : Bearer sk-secret"))
    assert "secret" not in str(caught.value) + repr(caught.value)


token = st.text("abcXYZ019-_", min_size=1, max_size=12).map(str.encode)
value = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20
)
value = value.filter(lambda text: not any(0x7F <= ord(c) < 0xA0 for c in text)).map(str.encode)


@st.composite
def heads(draw) -> RequestHead:
    framing = draw(st.sampled_from([NO_BODY, CHUNKED, Length(7)]))
    fields = [
        (b"X-" + name, text) for name, text in draw(st.lists(st.tuples(token, value), max_size=6))
    ]
    fields.insert(draw(st.integers(0, len(fields))), (b"Host", b"example.com"))
    if framing == CHUNKED:
        fields.append((b"Transfer-Encoding", b"chunked"))
    elif framing == Length(7):
        fields.append((b"Content-Length", b"7"))
    target = b"/" + draw(value).replace(b" ", b"")
    return RequestHead(draw(token), target, b"HTTP/1.1", tuple(fields), framing)


@given(heads(), st.integers(0, 1000))
def test_a_head_comes_back_equal(head: RequestHead, seed: int) -> None:
    found = read_head(
        RequestHeadReader(limit=1 << 16, require_host=True),
        list(cut(render_request_head(head), seed)),
    )
    assert found == (head, b"")


@given(st.binary(max_size=120))
def test_any_bytes(data: bytes) -> None:
    fuzz_request_head(data)


@given(st.sampled_from([raw for raw, _ in (*ACCEPTED.values(), *REFUSED.values())]), st.data())
def test_damaged_rows(raw: bytes, data: st.DataObject) -> None:
    raw = raw[:700]
    place = data.draw(st.integers(0, len(raw)))
    damage = data.draw(
        st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b"\xc3"])
    )
    fuzz_request_head(raw[:place] + damage + raw[place + data.draw(st.integers(0, 2)) :])


def peer_reads(raw: bytes) -> h11.Request:
    """What a second, well-known parser makes of the head."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


def agrees(head: RequestHead) -> None:
    # h11 knows no CONNECT target rules but frames it the same; it takes ASCII targets and UTF-8 values only.
    event = peer_reads(render_request_head(head))
    assert (event.method, event.target) == (head.method, head.target)
    fields = dict(event.headers)
    match head.framing:
        case NoBody():
            assert b"content-length" not in fields
            assert b"transfer-encoding" not in fields
        case Length(octets=octets):
            assert fields[b"content-length"] == b"%d" % octets
        case Chunked():
            assert fields[b"transfer-encoding"] == b"chunked"


@pytest.mark.parametrize("raw", [raw for raw, _ in ACCEPTED.values()], ids=ACCEPTED.keys())
def test_a_second_parser_agrees_on_the_table(raw: bytes) -> None:
    head = new().feed(raw)
    assert head is not None
    agrees(head)


@given(heads().filter(lambda head: head.target.isascii()))
def test_a_second_parser_agrees(head: RequestHead) -> None:
    agrees(head)
