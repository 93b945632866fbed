"""GraphQL requests as the operations that policy judges (`proxy.md` 11.1, `policy.md` 6.8).

The envelope is read here, the document by `graphql_document`, which is imported when the first one
arrives: most sandboxes never see any, and its library takes megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from openshell.egress.bodies.strict_json import JsonRejected, misspelled, read_json, spellings
from openshell.egress.bodies.tokens import Tokens
from openshell.policy.messages import GraphqlCall, GraphqlRequest

__all__ = [
    "MAX_OPERATIONS",
    "QUERY_NAMES",
    "read_graphql_body",
    "read_graphql_payload",
    "read_graphql_query",
]

MAX_OPERATIONS: Final = 100
"""Requests of one batch: each document costs a parse."""

_ID_NAMES: Final = ("id", "documentId", "queryId")
QUERY_NAMES: Final = ("query", "operationName", "extensions", *_ID_NAMES)
"""Parameters of a GET that say which operation is asked for, and keys of a POST that do."""

_NAMES: Final = spellings(*QUERY_NAMES)
_PERSISTED: Final = spellings("persistedQuery", "sha256Hash")


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
        tokens = Tokens(is_batch=len(items) > 1)
        return GraphqlRequest(tuple(_request(item, tokens) for item in items))
    except (JsonRejected, _Rejected) as rejected:
        return GraphqlRequest(error=str(rejected))


def read_graphql_payload(payload: Any) -> GraphqlRequest:
    """The operation of one WebSocket message's payload, already JSON."""
    try:
        return GraphqlRequest((_request(payload, Tokens()),))
    except _Rejected as rejected:
        return GraphqlRequest(error=str(rejected))


def read_graphql_query(params: Mapping[str, Sequence[str]]) -> GraphqlRequest:
    """The operation of a GET, from its decoded query parameters."""
    try:
        for name in QUERY_NAMES:
            if len(params.get(name, ())) > 1:
                raise _Rejected(f"the parameter {name} is repeated")
        given: dict[str, Any] = {name: params[name][0] for name in QUERY_NAMES if params.get(name)}
        if sum(bool(given.get(name)) for name in _ID_NAMES) > 1:
            raise _Rejected("more than one id parameter")
        if "extensions" in given:
            given["extensions"] = _extensions(given["extensions"])
        return GraphqlRequest((_request({k: v for k, v in given.items() if v}, Tokens()),))
    except _Rejected as rejected:
        return GraphqlRequest(error=str(rejected))


def _extensions(text: str) -> Any:
    try:
        return read_json(text.encode("utf-8", "surrogatepass"))
    except JsonRejected as rejected:
        # The contract ignores them; a server that reads more than we do would not.
        raise _Rejected("extensions are no JSON") from rejected


def _request(item: Any, tokens: Tokens) -> GraphqlCall:
    if not isinstance(item, dict):
        raise _Rejected("not a JSON object")
    _check_spelling(item, _NAMES)
    name = _text(item, "operationName")
    query = _text(item, "query")
    ids = {text for text in (_text(item, name) for name in _ID_NAMES) if text}
    persisted = {found for found in (_hash(item), *ids) if found}
    if query:
        if ids:
            # Servers differ in which of the two they look at.
            raise _Rejected("both a document and an id")
        return _read_document(query, name, tokens)
    if not persisted:
        raise _Rejected("neither a query nor a persisted operation")
    if len(persisted) > 1:
        raise _Rejected("more than one persisted operation")
    return GraphqlCall("", name, (), persisted.pop())


def _read_document(query: str, name: str, tokens: Tokens) -> GraphqlCall:
    from openshell.egress.bodies.graphql_document import (  # noqa: PLC0415  megabytes, rarely
        DocumentRejected,
        operation_of,
    )

    try:
        return operation_of(query, name, tokens)
    except DocumentRejected as rejected:
        raise _Rejected(str(rejected)) from rejected


def _check_spelling(found: Mapping[str, Any], names: Mapping[str, str]) -> None:
    meant = misspelled(found, names)
    if meant:
        raise _Rejected(f"'{meant}' must be spelled like this")


def _text(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise _Rejected(f"{name} is not text")
    return value or ""


def _hash(item: dict[str, Any]) -> str:
    extensions = item.get("extensions")
    if not isinstance(extensions, dict):
        return ""
    _check_spelling(extensions, _PERSISTED)
    entry = extensions.get("persistedQuery")
    if not isinstance(entry, dict):
        return ""
    _check_spelling(entry, _PERSISTED)
    return _text(entry, "sha256Hash")
