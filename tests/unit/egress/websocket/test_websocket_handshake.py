"""The handshake: what a client may ask, and which answers of a server reach it."""

from __future__ import annotations

import pytest

from openshell.egress.http1 import NO_BODY, Length, RequestHead, ResponseHead
from openshell.egress.http1.framing import CHUNKED
from openshell.egress.websocket.handshake import (
    AnswerRejected,
    Attempt,
    Upgrade,
    accept_of,
    check_answer,
    read_upgrade,
)

# The pair that RFC 6455 1.3 gives.
KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
Fields = dict[bytes, bytes | None]
ASKED: Fields = {
    b"Host": b"h",
    b"Connection": b"keep-alive, Upgrade",
    b"Upgrade": b"WebSocket",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}
GRANTED: Fields = {
    b"Connection": b"Upgrade",
    b"Upgrade": b"websocket",
    b"Sec-WebSocket-Accept": ACCEPT,
}


def request(changed: Fields, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> RequestHead:
    fields = tuple((k, v) for k, v in {**ASKED, **changed}.items() if v is not None)
    return RequestHead(method, b"/", version, fields, NO_BODY)


def answer(changed: Fields, *more: tuple[bytes, bytes]) -> ResponseHead:
    fields = tuple((k, v) for k, v in {**GRANTED, **changed}.items() if v is not None)
    return ResponseHead(b"HTTP/1.1", 101, b"", (*fields, *more), NO_BODY)


def upgrade(**changed: bytes) -> Upgrade:
    names = {"extensions": b"Sec-WebSocket-Extensions", "protocol": b"Sec-WebSocket-Protocol"}
    found = read_upgrade(request({names[name]: value for name, value in changed.items()}))
    assert isinstance(found, Upgrade)
    return found


def test_the_accept_value_of_the_standard() -> None:
    assert accept_of(KEY) == ACCEPT


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(request({b"Connection": b"keep-alive"}), Attempt.FAILED, id="connection"),
        pytest.param(request({b"Upgrade": b"h2c"}), Attempt.FAILED, id="another protocol"),
        pytest.param(request({b"Upgrade": None}), Attempt.FAILED, id="key without upgrade"),
        pytest.param(request({b"Sec-WebSocket-Key": None}), Attempt.FAILED, id="no key"),
        pytest.param(request({b"Sec-WebSocket-Key": b"c2hvcnQ="}), Attempt.FAILED, id="short key"),
        pytest.param(request({b"Sec-WebSocket-Key": b"!" + KEY}), Attempt.FAILED, id="no base64"),
        pytest.param(request({b"Sec-WebSocket-Version": b"8"}), Attempt.FAILED, id="version"),
        pytest.param(request({b"Sec-WebSocket-Version": b"13, 8"}), Attempt.FAILED, id="versions"),
        pytest.param(request({b"Sec-WebSocket-Protocol": b"a b"}), Attempt.FAILED, id="no token"),
        pytest.param(request({b"Sec-WebSocket-Protocol": b"a, a"}), Attempt.FAILED, id="twice"),
        pytest.param(request({}, method=b"POST"), Attempt.FAILED, id="method"),
        pytest.param(request({}, version=b"HTTP/1.0"), Attempt.FAILED, id="HTTP/1.0"),
        pytest.param(
            RequestHead(
                b"GET", b"/", b"HTTP/1.1",
                (*request({}).headers, (b"sec-websocket-key", KEY)), NO_BODY,
            ),
            Attempt.FAILED,
            id="two keys",
        ),
        pytest.param(
            RequestHead(b"GET", b"/", b"HTTP/1.1", ((b"Host", b"h"),), NO_BODY),
            Attempt.NONE,
            id="ordinary",
        ),
        pytest.param(
            RequestHead(
                b"GET", b"/", b"HTTP/1.1", ((b"Connection", b"upgrade"), (b"Upgrade", b"h2c")),
                NO_BODY,
            ),
            Attempt.NONE,
            id="an upgrade to something else",
        ),
    ],
)  # fmt: skip
def test_requests_that_are_no_handshake(head: RequestHead, expected: Attempt) -> None:
    assert isinstance(read_upgrade(request({})), Upgrade)
    assert read_upgrade(head) is expected


@pytest.mark.parametrize(
    ("offer", "safe"),
    [
        (b"permessage-deflate", b"permessage-deflate; client_no_context_takeover"),
        (
            b"x-other, permessage-deflate; server_no_context_takeover",
            b"permessage-deflate; client_no_context_takeover; server_no_context_takeover",
        ),
        (b"permessage-deflate; client_max_window_bits", b""),
        (b"permessage-deflate; client_no_context_takeover=1", b""),
        (b"permessage-deflate; server_no_context_takeover; server_no_context_takeover", b""),
        (
            b"permessage-deflate; client_max_window_bits, permessage-deflate",
            b"permessage-deflate; client_no_context_takeover",
        ),
        (b"x-webkit-deflate-frame", b""),
    ],
)
def test_what_is_offered_to_the_server(offer: bytes, safe: bytes) -> None:
    assert upgrade(extensions=offer).safe_offer == safe


def test_answers_that_fit() -> None:
    assert check_answer(upgrade(), answer({}), parsed=True) is False
    asked = upgrade(protocol=b"chat, chat.v2")
    chosen = answer({b"Sec-WebSocket-Protocol": b"chat.v2"})
    assert check_answer(asked, chosen, parsed=True) is False


@pytest.mark.parametrize(
    "more",
    [b"", b"; server_no_context_takeover", b"; server_max_window_bits=12"],
)
def test_compression_that_was_offered(more: bytes) -> None:
    asked = upgrade(extensions=b"permessage-deflate")
    granted: Fields = {b"Sec-WebSocket-Extensions": asked.safe_offer + more}
    assert check_answer(asked, answer(granted), parsed=True) is True


def test_an_extension_of_messages_that_nobody_reads() -> None:
    asked = upgrade(extensions=b"x-mine; a=1, Other")
    granted: Fields = {b"Sec-WebSocket-Extensions": b"other; b=2"}
    assert check_answer(asked, answer(granted), parsed=False) is False
    with pytest.raises(AnswerRejected):
        check_answer(asked, answer(granted), parsed=True)


CLEAN = b"permessage-deflate"


@pytest.mark.parametrize("parsed", [True, False])
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(answer({b"Upgrade": b"h2c"}), id="protocol"),
        pytest.param(answer({b"Upgrade": None}), id="no upgrade"),
        pytest.param(answer({b"Connection": b"close"}), id="connection"),
        pytest.param(answer({b"Sec-WebSocket-Accept": b"x"}), id="accept"),
        pytest.param(answer({b"Sec-WebSocket-Accept": None}), id="no accept"),
        pytest.param(answer({}, (b"Sec-WebSocket-Accept", ACCEPT)), id="accept twice"),
        pytest.param(answer({b"Sec-WebSocket-Protocol": b"chat"}), id="subprotocol"),
        pytest.param(answer({b"Sec-WebSocket-Extensions": CLEAN}), id="extension"),
    ],
)
def test_answers_that_do_not_reach_the_client(head: ResponseHead, parsed: bool) -> None:
    with pytest.raises(AnswerRejected):
        check_answer(upgrade(), head, parsed=parsed)


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param(b"", id="context kept"),
        pytest.param(b"; client_no_context_takeover; client_max_window_bits=9", id="our window"),
        pytest.param(b"; client_no_context_takeover; server_max_window_bits=16", id="window"),
        pytest.param(
            b"; client_no_context_takeover; server_max_window_bits=9; server_max_window_bits=8",
            id="two windows",
        ),
        pytest.param(b"; client_no_context_takeover, x-other", id="another one"),
    ],
)
def test_compression_in_other_terms(parameters: bytes) -> None:
    asked = upgrade(extensions=CLEAN)
    head = answer({b"Sec-WebSocket-Extensions": CLEAN + parameters})
    with pytest.raises(AnswerRejected):
        check_answer(asked, head, parsed=True)


def test_a_body_is_no_part_of_a_handshake() -> None:
    head = request({})
    for framing, expected in ((Length(0), Upgrade), (Length(1), Attempt), (CHUNKED, Attempt)):
        found = read_upgrade(RequestHead(b"GET", b"/", b"HTTP/1.1", head.headers, framing))
        assert isinstance(found, expected)
