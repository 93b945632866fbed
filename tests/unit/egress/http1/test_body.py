"""How bodies end, and which chunk framing is refused."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.fuzz_http1_body import follow, fuzz_chunked_body
from openshell.egress.http1 import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    BodyDecoder,
    BodyRejected,
    BodyRejectReason,
    Length,
)
from unit.egress.feeding import CUTS, cut

ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "empty": (b"0\r\n\r\n", b""),
    "one": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "upper_and_lower_hex": (
        b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        b"01234567890123456789",
    ),
    "leading_zeros": (b"0005\r\nhello\r\n00\r\n\r\n", b"hello"),
    "extension": (b"5;chunk-signature=ab12\r\nhello\r\n0;x\r\n\r\n", b"hello"),
    "crlf_in_data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "trailer": (b"1\r\na\r\n0\r\nX-Sum: 1\r\nY: \r\n\r\n", b"aX-Sum: 1\r\nY: \r\n"),
}

B = BodyRejectReason
REFUSED: dict[str, tuple[bytes, BodyRejectReason]] = {
    "bare_lf_size": (b"5\nhello\r\n0\r\n\r\n", B.BARE_LF),
    "bare_lf_after_extension": (b"5;a\nhello\r\n0\r\n\r\n", B.BARE_LF),
    "bare_lf_trailer": (b"0\r\nX: a\n\r\n", B.BARE_LF),
    "bare_lf_end": (b"0\r\n\n", B.BARE_LF),
    "empty_size": (b"\r\nhello", B.CHUNK_SIZE),
    "prefix": (b"0x5\r\nhello\r\n", B.CHUNK_SIZE),
    "sign": (b"+5\r\nhello\r\n", B.CHUNK_SIZE),
    "negative": (b"-5\r\nhello\r\n", B.CHUNK_SIZE),
    "underscore": (b"1_0\r\nhello\r\n", B.CHUNK_SIZE),
    "space_before": (b" 5\r\nhello\r\n", B.CHUNK_SIZE),
    "space_after": (b"5 \r\nhello\r\n", B.CHUNK_SIZE),
    "bare_cr": (b"5\rx\r\nhello\r\n", B.CHUNK_SIZE),
    "too_many_digits": (b"0000000000000005\r\nhello\r\n", B.CHUNK_SIZE),
    "quoted_extension": (b'5;a="b"\r\nhello\r\n', B.CHUNK_EXTENSION),
    "blank_extension": (b"5; a\r\nhello\r\n", B.CHUNK_EXTENSION),
    "empty_extension": (b"5;\r\nhello\r\n", B.CHUNK_EXTENSION),
    "long_line": (b"5;" + b"a" * 300 + b"\r\nhello\r\n", B.CHUNK_LINE_TOO_LONG),
    "endless_line": (b"1" * 400, B.CHUNK_LINE_TOO_LONG),
    "many_extensions": ((b"1;" + b"a" * 250 + b"\r\nx\r\n") * 80 + b"0\r\n\r\n", B.CHUNK_OVERHEAD),
    "no_end": (b"5\r\nhelloworld\r\n", B.CHUNK_END),
    "lf_end": (b"5\r\nhello\n0\r\n\r\n", B.CHUNK_END),
    "cr_end": (b"5\r\nhello\r0\r\n\r\n", B.CHUNK_END),
    "trailer_no_colon": (b"0\r\nX\r\n\r\n", B.TRAILER),
    "trailer_space": (b"0\r\nX : a\r\n\r\n", B.TRAILER),
    "trailer_fold": (b"0\r\nX: a\r\n b\r\n\r\n", B.TRAILER),
    "trailer_nul": (b"0\r\nX: a\0\r\n\r\n", B.TRAILER),
    "trailer_is_request": (b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", B.TRAILER),
    "trailer_length": (b"0\r\nContent-Length: 5\r\n\r\n", B.TRAILER_FORBIDDEN),
    "trailer_authorization": (b"0\r\nAUTHORIZATION: x\r\n\r\n", B.TRAILER_FORBIDDEN),
    "trailers_too_large": (
        b"0\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 400,
        B.TRAILERS_TOO_LARGE,
    ),
}


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(("raw", "data"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(raw: bytes, data: bytes, feeding) -> None:
    for behind in (b"", b"GET / HTTP/1.1\r\n"):
        assert follow(list(feeding(raw + behind))) == (raw, data, True, behind, None)


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(("raw", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(raw: bytes, reason: BodyRejectReason, feeding) -> None:
    wire, _, done, _, found = follow(list(feeding(raw)))
    assert (found, done) == (reason, False)
    assert raw.startswith(wire)


def test_every_reason_has_a_row() -> None:
    assert {reason for _, reason in REFUSED.values()} | {B.TRUNCATED} == set(BodyRejectReason)


def test_nothing_of_an_unfinished_line_is_forwarded() -> None:
    decoder = BodyDecoder(CHUNKED)
    assert decoder.feed(b"5;a").wire == ()
    assert b"".join(decoder.feed(b"=b\r\nhe").wire) == b"5;a=b\r\nhe"


def test_a_marker_across_chunks_is_whole_in_the_data() -> None:
    assert follow([b"3\r\nope\r\n3\r\nnsh\r\n", b"3\r\nell\r\n0\r\n\r\n"])[1] == b"openshell"


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
def test_length(feeding) -> None:
    decoder = BodyDecoder(Length(5))
    wire = b""
    for part in feeding(b"helloNEXT"):
        wire += b"".join(decoder.feed(part).wire)
    assert (wire, decoder.done, decoder.leftover) == (b"hello", True, b"NEXT")


@pytest.mark.parametrize("framing", [NO_BODY, Length(0)])
def test_no_body(framing) -> None:
    decoder = BodyDecoder(framing)
    assert decoder.done
    assert decoder.feed(b"x").wire == ()
    assert decoder.leftover == b"x"


def test_until_close() -> None:
    decoder = BodyDecoder(UNTIL_CLOSE)
    chunk = b"abc"
    assert decoder.feed(chunk).wire[0] is chunk
    assert not decoder.done
    decoder.end_of_stream()
    assert decoder.done


@pytest.mark.parametrize("framing", [CHUNKED, Length(5)])
def test_a_close_inside_a_body_is_refused(framing) -> None:
    decoder = BodyDecoder(framing)
    decoder.feed(b"4\r\n")
    with pytest.raises(BodyRejected) as caught:
        decoder.end_of_stream()
    assert caught.value.reason is B.TRUNCATED


def test_whole_pieces_are_handed_on_without_copying() -> None:
    chunk = b"x" * 100_000
    assert BodyDecoder(Length(200_000)).feed(chunk).wire[0] is chunk
    decoder = BodyDecoder(CHUNKED)
    decoder.feed(b"30d40\r\n")
    assert decoder.feed(chunk).wire[0] is chunk


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=6), st.integers(0, 1000))
def test_chunks_come_back_and_a_second_parser_agrees(chunks: list[bytes], seed: int) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert follow(list(cut(raw + b"rest", seed))) == (raw, b"".join(chunks), True, b"rest", None)
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    data = b""
    while not isinstance(event := peer.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA
        if isinstance(event, h11.Data):
            data += event.data
    assert data == b"".join(chunks)


@given(st.text("0123abfF;=x\r\n: ", max_size=40).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    fuzz_chunked_body(data)
    fuzz_chunked_body(b"0\r\n" + data)
