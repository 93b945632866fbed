"""Invariant: putting a value in place changes nothing but the placeholder: as many segments, pairs and
strings as before, with the same names, and what is sent holds no marker. A name that is cut by a stream is
learnt as if it had come whole."""

from __future__ import annotations

import json
import re

from openshell.egress.credentials import (
    Binding,
    BoundEndpoint,
    CredentialSet,
    EndpointScope,
    MarkerScanner,
    Rewritten,
    RewrittenBody,
    find_marker,
    rewrite_body,
    rewrite_head,
)
from openshell.egress.http1 import NO_BODY, RequestHead
from openshell.policy.target import TargetRejected, canonicalize, parse_query

SCOPE = EndpointScope("api.example", 443, "/")
MARK = "openshell:resolve:env:v7_KEY"
# What the agent's own text must not hold, for the comparison to be simple.
_OTHER = re.compile(r"openshell:resolve:env:(?!v7_KEY(?![A-Za-z0-9_]))|OPENSHELL-RESOLVE-ENV-")


class TooInvolved(Exception):
    """The agent's own text is one for which the comparison would have to do what it compares with."""


def holding(value: str) -> CredentialSet:
    binding = Binding((BoundEndpoint("api.example", 443),), "provider:KEY")
    return CredentialSet.build(7, {"KEY": value}, {"KEY": binding})


def fuzz_target(target: bytes, value: str) -> None:
    try:
        canonical = canonicalize(target, allow_encoded_slash=True)
    except TargetRejected:
        return
    before = canonical.origin_form.encode()
    head = RequestHead(b"GET", before, b"HTTP/1.1", ((b"Host", b"api.example"),), NO_BODY)
    outcome = rewrite_head(holding(value), head, SCOPE, now_ms=0)
    if not isinstance(outcome, Rewritten):
        return
    sent = outcome.head.target
    assert not find_marker(sent)
    assert not re.search(rb"[\x00-\x20\x7f-\xff]", sent)
    path, _, query = sent.partition(b"?")
    old_path = canonical.path.encode()
    assert path.count(b"/") == old_path.count(b"/")
    # However a server reads it, every segment that held no placeholder stays what and where it was.
    read = canonicalize(sent, allow_encoded_slash=True).path.split("/")
    were = canonical.path.split("/")
    assert len(read) == len(were)
    for was, now in zip(were, read, strict=True):
        assert was == now or "openshell:resolve" in was
    params = parse_query(query)
    assert list(params) == list(canonical.params)
    for name, values in canonical.params.items():
        assert params[name] == tuple(_replaced(text, value) for text in values)


def fuzz_form(body: bytes, value: str) -> None:
    outcome = rewrite_body(
        holding(value),
        body,
        (b"application/x-www-form-urlencoded",),
        SCOPE,
        is_encoded=False,
        now_ms=0,
    )
    if not isinstance(outcome, RewrittenBody):
        return
    assert not find_marker(outcome.data)
    before, after = body.split(b"&"), outcome.data.split(b"&")
    assert len(before) == len(after)
    for was, now in zip(before, after, strict=True):
        assert was.partition(b"=")[:2] == now.partition(b"=")[:2]
        assert was == now or find_marker(was)


def fuzz_json(body: bytes, value: str) -> None:
    outcome = rewrite_body(
        holding(value), body, (b"application/json",), SCOPE, is_encoded=False, now_ms=0
    )
    if not isinstance(outcome, RewrittenBody):
        return
    assert not find_marker(outcome.data)
    if outcome.data == body:
        return
    assert json.loads(outcome.data) == _deeply(json.loads(body), value)


def fuzz_scanned_name(data: bytes, cut: int) -> None:
    whole, parts = MarkerScanner(), MarkerScanner()
    whole.feed(data)
    for at in range(0, len(data), cut):
        parts.feed(data[at : at + cut])
    assert whole.found == parts.found
    if whole.is_settled and parts.is_settled:
        assert whole.placeholder == parts.placeholder


def _replaced(text: str, value: str) -> str:
    if _OTHER.search(text):
        raise TooInvolved
    return text.replace(MARK, value)


def _deeply(document: object, value: str) -> object:
    if isinstance(document, str):
        # Strings whose marker is escaped in the text are left as they are.
        return _replaced(document, value) if MARK in document else document
    if isinstance(document, list):
        return [_deeply(item, value) for item in document]
    if isinstance(document, dict):
        return {name: _deeply(item, value) for name, item in document.items()}
    return document
