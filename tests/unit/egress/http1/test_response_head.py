"""What a response head may look like, and how its body ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.fuzz_http1_head import fuzz_response_head
from openshell.egress.http1 import (
    CHUNKED,
    NO_BODY,
    RESPONSE_HEAD_LIMIT,
    UNTIL_CLOSE,
    Framing,
    HeadRejected,
    Length,
    RejectReason,
    ResponseHead,
    ResponseHeadReader,
    render_response_head,
)
from unit.egress.feeding import CUTS, read_head


def lines(*parts: bytes) -> bytes:
    return b"\r\n".join(parts) + b"\r\n\r\n"


ACCEPTED: dict[str, tuple[bytes, bytes, Framing, bool]] = {
    "length": (b"GET", lines(b"HTTP/1.1 200 OK", b"Content-Length: 3"), Length(3), True),
    "chunked": (b"GET", lines(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"), CHUNKED, True),
    "until_close": (b"GET", lines(b"HTTP/1.1 200 OK"), UNTIL_CLOSE, False),
    "until_close_http10": (
        b"GET",
        lines(b"HTTP/1.0 200 OK", b"Connection: keep-alive"),
        UNTIL_CLOSE,
        False,
    ),
    "event_stream": (
        b"GET",
        lines(b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream"),
        UNTIL_CLOSE,
        False,
    ),
    "head": (b"HEAD", lines(b"HTTP/1.1 200 OK", b"Content-Length: 3"), NO_BODY, True),
    "no_content": (b"GET", lines(b"HTTP/1.1 204 No Content"), NO_BODY, True),
    "not_modified": (
        b"GET",
        lines(b"HTTP/1.1 304 Not Modified", b"Content-Length: 9"),
        NO_BODY,
        True,
    ),
    "continue": (b"POST", lines(b"HTTP/1.1 100 Continue"), NO_BODY, True),
    "early_hints": (b"GET", lines(b"HTTP/1.1 103 Early Hints", b"Link: </a>"), NO_BODY, True),
    "no_reason": (b"GET", lines(b"HTTP/1.1 200 ", b"Content-Length: 0"), Length(0), True),
    "no_reason_no_space": (b"GET", lines(b"HTTP/1.1 200", b"Content-Length: 0"), Length(0), True),
    "latin1_reason": (
        b"GET",
        lines(b"HTTP/1.1 200 \xe9t\xe9", b"Content-Length: 0"),
        Length(0),
        True,
    ),
    "close": (
        b"GET",
        lines(b"HTTP/1.1 200 OK", b"Content-Length: 0", b"Connection: close"),
        Length(0),
        False,
    ),
    "http10_keep_alive": (
        b"GET",
        lines(b"HTTP/1.0 200 OK", b"Content-Length: 0", b"Connection: keep-alive"),
        Length(0),
        True,
    ),
    "http10": (b"GET", lines(b"HTTP/1.0 200 OK", b"Content-Length: 0"), Length(0), False),
}

R = RejectReason
REFUSED: dict[str, tuple[bytes, RejectReason]] = {
    "bad_version": (lines(b"HTTP/2 200 OK"), R.STATUS_LINE),
    "short_status": (lines(b"HTTP/1.1 20 OK"), R.STATUS_LINE),
    "long_status": (lines(b"HTTP/1.1 2000 OK"), R.STATUS_LINE),
    "zero_status": (lines(b"HTTP/1.1 099 OK"), R.STATUS_LINE),
    "not_http": (lines(b"SSH-2.0-OpenSSH"), R.STATUS_LINE),
    "both_framings": (
        lines(b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        R.LENGTH_AND_CODING,
    ),
    "both_framings_without_body": (
        lines(b"HTTP/1.1 204 No", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        R.LENGTH_AND_CODING,
    ),
    "length_conflict": (
        lines(b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Content-Length: 4"),
        R.LENGTH_CONFLICT,
    ),
    "gzip_coding": (
        lines(b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip, chunked"),
        R.TRANSFER_CODING,
    ),
    "http10_chunked": (
        lines(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"),
        R.CODING_IN_HTTP10,
    ),
    "split_response": (lines(b"HTTP/1.1 200 OK", b"X: a\rb"), R.CONTROL_BYTE),
    "bare_lf": (b"HTTP/1.1 200 OK\nContent-Length: 3\n\n", R.BARE_LF),
    "too_large": (lines(b"HTTP/1.1 200 OK", b"X: " + b"a" * RESPONSE_HEAD_LIMIT), R.TOO_LARGE),
    "obs_fold": (lines(b"HTTP/1.1 200 OK", b"X: a", b" b"), R.FOLDED_LINE),
}


def read(method: bytes, parts: list[bytes]) -> tuple[ResponseHead, bytes] | None:
    return read_head(ResponseHeadReader(limit=RESPONSE_HEAD_LIMIT, request_method=method), parts)


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(
    ("method", "raw", "framing", "keeps"), ACCEPTED.values(), ids=ACCEPTED.keys()
)
def test_accepted(method: bytes, raw: bytes, framing: Framing, keeps: bool, feeding) -> None:
    found = read(method, list(feeding(raw + b"body")))
    assert found is not None
    head, leftover = found
    assert (head.framing, head.keep_alive, leftover) == (framing, keeps, b"body")


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(("raw", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(raw: bytes, reason: RejectReason, feeding) -> None:
    with pytest.raises(HeadRejected) as caught:
        read(b"GET", list(feeding(raw)))
    assert caught.value.reason is reason


def test_interim_heads_are_followed_by_the_final_one() -> None:
    stream = (
        lines(b"HTTP/1.1 100 Continue") + lines(b"HTTP/1.1 200 OK", b"Content-Length: 2") + b"ok"
    )
    first = read(b"POST", [stream])
    assert first is not None
    assert first[0].is_interim
    second = read(b"POST", [first[1]])
    assert second is not None
    assert (second[0].is_interim, second[0].status, second[1]) == (False, 200, b"ok")


def test_switching_protocols_is_final() -> None:
    found = read(b"GET", [lines(b"HTTP/1.1 101 Switching Protocols")])
    assert found is not None
    assert not found[0].is_interim


def test_event_stream_is_recognised() -> None:
    found = read(
        b"GET", [lines(b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream; charset=utf-8")]
    )
    assert found is not None
    assert found[0].is_event_stream


@pytest.mark.parametrize("status", [b"100 Continue", b"103 Early Hints", b"204 No Content"])
@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_body_that_cannot_be_is_not_declared_to_the_client(status: bytes, field: bytes) -> None:
    found = read(b"GET", [lines(b"HTTP/1.1 " + status, field, b"X: 1") + b"5"])
    assert found is not None
    head, leftover = found
    assert (head.framing, head.headers, leftover) == (NO_BODY, ((b"X", b"1"),), b"5")


@pytest.mark.parametrize("status", [b"200 OK", b"304 Not Modified"])
def test_the_length_of_a_body_left_out_is_kept(status: bytes) -> None:
    found = read(b"HEAD", [lines(b"HTTP/1.1 " + status, b"Content-Length: 5")])
    assert found is not None
    assert (found[0].framing, found[0].values(b"content-length")) == (NO_BODY, (b"5",))


def test_a_head_does_not_show_cookies() -> None:
    found = read(b"GET", [lines(b"HTTP/1.1 204 No", b"Set-Cookie: session=secret")])
    assert found is not None
    assert "secret" in str(found[0].headers)
    assert "secret" not in repr(found[0])


def test_writing_gives_back_what_was_read() -> None:
    raw = lines(b"HTTP/1.1 200 All good", b"x-b: 1", b"Content-Length: 3", b"X-B: 2")
    found = read(b"GET", [raw])
    assert found is not None
    assert render_response_head(found[0]) == raw


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    fuzz_response_head(data)
    fuzz_response_head(b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n")
