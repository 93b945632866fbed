"""Invariant: whatever is read from a body without an error, every other reader finds there too: one that takes
the first of two keys, one that takes the last, one that folds case. Nothing but a value ever comes out."""

from __future__ import annotations

import json
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

from graphql import GraphQLError, parse
from graphql.utilities import get_operation_ast

from openshell.egress.bodies.graphql import QUERY_NAMES, read_graphql_body, read_graphql_query
from openshell.egress.bodies.graphql_ws import read_graphql_message
from openshell.egress.bodies.rpc import read_rpc
from openshell.egress.content import Wanted, read_content
from openshell.egress.http1 import HeadRejected, RequestHeadReader
from openshell.egress.route import Pending
from openshell.policy.decide import EndpointConfig, L7Request
from openshell.policy.messages import GraphqlCall
from openshell.policy.target import TargetRejected, parse_query


def _first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As Go reads into a struct: the last key that is equal but for case."""
    return {key.casefold(): value for key, value in pairs}


def _items(body: bytes, hook: Any) -> list[Any]:
    document = json.loads(body, object_pairs_hook=hook)
    return document if isinstance(document, list) else [document]


def _get(item: Any, name: str, hook: Any) -> Any:
    return (
        item.get(name.casefold() if hook is _folded else name) if isinstance(item, dict) else None
    )


_READERS = (dict, _first, _folded)


def fuzz_rpc(body: bytes, is_mcp: bool) -> None:
    found = read_rpc(body, is_mcp=is_mcp)
    assert bool(found.error) != bool(found.calls or found.responses)
    if found.error:
        assert "\n" not in found.error
        return
    for hook in _READERS:
        calls = [i for i in _items(body, hook) if _get(i, "method", hook) is not None]
        assert [_get(call, "method", hook) for call in calls] == [c.method for c in found.calls]
        for call, read in zip(calls, found.calls, strict=True):
            assert read.has_id == ("id" in call)
            if read.method == "tools/call":
                name = _get(_get(call, "params", hook), "name", hook)
                assert read.tool == (name if isinstance(name, str) else None)


def fuzz_graphql(body: bytes) -> None:
    found = read_graphql_body(body)
    assert bool(found.error) != bool(found.operations)
    if found.error:
        return
    for hook in _READERS:
        items = _items(body, hook)
        assert len(items) == len(found.operations)
        for item, call in zip(items, found.operations, strict=True):
            _same_operation(item, call, hook)


def _same_operation(item: Any, call: GraphqlCall, hook: Any) -> None:
    query, name = _get(item, "query", hook), _get(item, "operationName", hook)
    if call.operation_type:
        assert not call.persisted
        chosen = get_operation_ast(parse(query, no_location=True), name or None)
        assert chosen is not None
        assert chosen.operation.value == call.operation_type
        assert not any(_get(item, key, hook) for key in ("id", "documentId", "queryId"))
        return
    assert not query
    entry = _get(_get(item, "extensions", hook), "persistedQuery", hook)
    known = {_get(entry, "sha256Hash", hook)}
    known |= {_get(item, key, hook) for key in ("id", "documentId", "queryId")}
    assert {one for one in known if one} == {call.persisted}


def fuzz_graphql_get(query: bytes) -> None:
    try:
        params = parse_query(query)
    except TargetRejected:
        return
    found = read_graphql_query(params)
    assert bool(found.error) != bool(found.operations)
    if found.error:
        return
    pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True)
    for name in QUERY_NAMES:
        # First or last, it is the same one.
        assert len([value for key, value in pairs if key == name]) <= 1
    given = dict(pairs)
    (call,) = found.operations
    if call.operation_type:
        try:
            document = parse(given["query"], no_location=True)
        except GraphQLError as error:
            raise AssertionError("a document was read that is none") from error
        assert get_operation_ast(document, given.get("operationName") or None) is not None


def fuzz_graphql_message(text: str) -> None:
    found = read_graphql_message(text)
    assert found.is_control != (found.graphql is not None)


def fuzz_media_type(config: EndpointConfig, lines: bytes) -> None:
    """What is taken for JSON in UTF-8 is that to a reader of MIME as well."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n" + lines + b"\r\n\r\n"
    try:
        read = RequestHeadReader(limit=16384, require_host=True).feed(head)
    except HeadRejected:
        return
    if read is None:
        return
    outcome = read_content(config, Pending(read), L7Request("POST", "/"), "")
    if not isinstance(outcome, Wanted):
        return
    (value,) = read.values(b"content-type")
    message = Message()
    message["Content-Type"] = value.decode("latin-1")
    assert message.get_content_maintype() == "application"
    subtype = message.get_content_subtype()
    assert subtype in ("json", "json-rpc") or subtype.endswith("+json")
    assert message.get_content_charset("utf-8") in ("utf-8", "utf8")
    assert all(v.strip().lower() == b"identity" for v in read.values(b"content-encoding"))
