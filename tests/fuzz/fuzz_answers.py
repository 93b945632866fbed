"""Invariants of answers that servers give: counts of tokens are the same however a stream is cut; a request
for a model is one request with the route's model for every reader; an answer with a token is read or refused
by the documented error, and what is kept can stand in a header."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

from openshell.egress.credentials.grants import TokenUnavailable
from openshell.egress.http1 import NO_BODY, BodyDecoder, RequestHead, RequestHeadReader
from openshell.egress.inference.patterns import find_pattern
from openshell.egress.inference.rewriting import BodyUnreadable, rewrite
from openshell.egress.inference.routes import Route
from openshell.egress.inference.usage import StreamUsage, Usage, usage_of
from openshell.gateway.peers import _TOPICS as TOPICS
from openshell.gateway.peers import WORD_MAX, Peers
from openshell.providers.refresh_answers import RefreshRefused, read_token_answer
from openshell.supervisor.bearer import Token
from openshell.supervisor.token_issuer import read_answer

_MODEL, _KEY = "model-of-the-route", "key-of-the-operator"
_ASKED = 1_700_000_000_000
_VISIBLE = frozenset(map(chr, range(0x21, 0x7F)))
_BODY_PATHS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
)


def fuzz_usage(data: bytes) -> None:
    counts = []
    for parts in (
        [data],
        [data[i : i + 1] for i in range(len(data))],
        [memoryview(data)[:9], memoryview(data)[9:]],
    ):
        follower = StreamUsage()
        follower.feed(parts)
        counts.append(follower.usage)
    assert counts[0] == counts[1] == counts[2]
    for usage in (counts[0], usage_of(data)):
        for number in (usage.tokens_in, usage.tokens_out):
            assert number is None or 0 <= number < 1 << 40
    # A whole answer and the same answer as an event say the same.
    if b"\n" not in data and b'"usage"' in data:
        follower = StreamUsage()
        follower.feed([b"data:" + data, b"\n"])
        assert follower.usage == usage_of(data)
    assert b"usage" in data or counts[0] == Usage()


@cache
def _route() -> Route:
    return Route.read(
        name="inference.local",
        base_url="https://models.example/v1",
        protocols=("openai_chat_completions",),
        key=_KEY,
        model=_MODEL,
        provider_type="openai",
        timeout_secs=0,
        model_in_path=False,
        path_override=None,
    )


def fuzz_inference_request(data: bytes) -> None:
    """The first byte chooses the path, the second whether the body comes as JSON in our spelling."""
    path = _BODY_PATHS[data[0] % len(_BODY_PATHS)] if data else _BODY_PATHS[0]
    body = data[1:]
    pattern = find_pattern(b"POST", path)
    assert pattern is not None
    head = RequestHead(b"POST", path.encode(), b"HTTP/1.1", ((b"Authorization", b"mine"),), NO_BODY)
    try:
        outgoing = rewrite(_route(), pattern, head, path, "", body)
    except BodyUnreadable:
        return
    reader = RequestHeadReader(limit=8192, require_host=True)
    sent = reader.feed(outgoing.wire)
    assert sent is not None
    assert sent.values(b"authorization") == (b"Bearer " + _KEY.encode(),)
    decoder = BodyDecoder(sent.framing)
    written = b"".join(decoder.feed(reader.leftover).data)
    assert decoder.done
    assert not decoder.leftover
    for hook in (dict, _first, _folded):
        assert json.loads(written, object_pairs_hook=hook)["model"] == _MODEL
    was, now = json.loads(body), json.loads(written)
    assert {k for k in was if k.casefold() != "model"} == now.keys() - {"model"}
    assert outgoing.wants_stream == (pattern.can_stream and was.get("stream") is True)


def _first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key.casefold(): value for key, value in pairs}


def fuzz_issued_token(data: bytes) -> None:
    """The first byte says whether the status is one of success."""
    status = 200 if data[:1] < b"\x80" else 400
    body = data[1:]
    try:
        issued = read_answer(status, body)
    except TokenUnavailable as error:
        assert str(error).isprintable()
        return
    assert status == 200
    assert set(issued.value) <= _VISIBLE
    assert 0 <= issued.expires_in <= 10**12


def fuzz_renewed_token(data: bytes) -> None:
    try:
        minted = read_token_answer(200, data, key="KEY", asked_at_ms=_ASKED, lifetime_seconds=3600)
    except RefreshRefused as error:
        assert str(error).isprintable()
        return
    assert set(minted.values["KEY"]) <= _VISIBLE
    assert set(minted.refresh_token) <= _VISIBLE
    assert _ASKED < minted.expires_at_ms <= _ASKED + 3600 * 1000


def fuzz_token_expiry(data: bytes) -> None:
    """The claims of a token of ours, and the whole of one."""
    payload = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    for text in (f"e30.{payload}.c2ln", data.decode("latin-1")):
        expiry = Token(text, "/nowhere").expires_at()
        assert expiry is None or expiry >= 0


class _Bus:
    def __init__(self) -> None:
        self.delivered: list[tuple[str, str, object]] = []

    def deliver(self, topic: str, key: str, value: object) -> None:
        self.delivered.append((topic, key, value))


def fuzz_notice(data: bytes) -> None:
    """A datagram that claims to come from another gateway."""
    bus = _Bus()
    Peers(bus, None, None, own_id="me")._receive(data)  # type: ignore[arg-type]
    for topic, key, value in bus.delivered:
        assert topic in TOPICS
        assert len(key) <= WORD_MAX
        assert value is None or len(str(value)) <= WORD_MAX
