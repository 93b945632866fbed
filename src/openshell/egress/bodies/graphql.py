"""GraphQL requests as the operations that policy judges (`proxy.md` 11.1, `policy.md` 6.8).

The envelope is read here, the document by `graphql_document`, which is imported when the first one
arrives: most sandboxes never see any, and its library takes megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from openshell.egress.bodies.strict_json import JsonRejected, read_json
from openshell.policy.messages import GraphqlCall, GraphqlRequest

__all__ = ["MAX_OPERATIONS", "read_graphql_body", "read_graphql_payload", "read_graphql_query"]

MAX_OPERATIONS: Final = 100
"""Requests of one batch: each document costs a parse."""

_ID_NAMES: Final = ("id", "documentId", "queryId")
_SINGLE: Final = ("query", "operationName", "extensions", *_ID_NAMES)


class _Rejected(Exception):
    """What is wrong with the request, in words without quotes from it."""


def read_graphql_body(body: bytes) -> GraphqlRequest:
    """The operations of a POST: one JSON object, or an array of them."""
    try:
        document = read_json(body)
        items = document if isinstance(document, list) else [document]
        if not items:
            raise _Rejected("empty batch")
        if len(items) > MAX_OPERATIONS:
            raise _Rejected(f"batch of more than {MAX_OPERATIONS} requests")
        return GraphqlRequest(tuple(_request(item) for item in items))
    except (JsonRejected, _Rejected) as rejected:
        return GraphqlRequest(error=str(rejected))


def read_graphql_payload(payload: Any) -> GraphqlRequest:
    """The operation of one WebSocket message's payload, already JSON."""
    try:
        return GraphqlRequest((_request(payload),))
    except _Rejected as rejected:
        return GraphqlRequest(error=str(rejected))


def read_graphql_query(params: Mapping[str, Sequence[str]]) -> GraphqlRequest:
    """The operation of a GET, from its decoded query parameters."""
    try:
        for name in _SINGLE:
            if len(params.get(name, ())) > 1:
                raise _Rejected(f"the parameter {name} is repeated")
        given: dict[str, Any] = {name: params[name][0] for name in _SINGLE if params.get(name)}
        if sum(bool(given.get(name)) for name in _ID_NAMES) > 1:
            raise _Rejected("more than one id parameter")
        if "extensions" in given:
            given["extensions"] = _extensions(given["extensions"])
        return GraphqlRequest((_request({k: v for k, v in given.items() if v}),))
    except _Rejected as rejected:
        return GraphqlRequest(error=str(rejected))


def _extensions(text: str) -> Any:
    """None when it is no JSON: the contract ignores it then, and so nothing is registered by it."""
    try:
        return read_json(text.encode("utf-8", "surrogatepass"))
    except JsonRejected:
        return None


def _request(item: Any) -> GraphqlCall:
    if not isinstance(item, dict):
        raise _Rejected("not a JSON object")
    name = _text(item, "operationName")
    query = _text(item, "query")
    persisted = _hash(item) or next((i for i in (_text(item, n) for n in _ID_NAMES) if i), "")
    if query:
        from openshell.egress.bodies.graphql_document import (  # noqa: PLC0415  megabytes, rarely
            DocumentRejected,
            operation_of,
        )

        try:
            return operation_of(query, name)
        except DocumentRejected as rejected:
            raise _Rejected(str(rejected)) from rejected
    if not persisted:
        raise _Rejected("neither a query nor a persisted operation")
    return GraphqlCall("", name, (), persisted)


def _text(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise _Rejected(f"{name} is not text")
    return value or ""


def _hash(item: dict[str, Any]) -> str:
    extensions = item.get("extensions")
    entry = extensions.get("persistedQuery") if isinstance(extensions, dict) else None
    found = entry.get("sha256Hash") if isinstance(entry, dict) else None
    return found if isinstance(found, str) else ""
