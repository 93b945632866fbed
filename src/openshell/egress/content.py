"""What a request says to a policy that looks beyond its head: GraphQL, JSON-RPC, MCP.

Pure. Says which part of a request is read, asks for the body where that is the one, and refuses what two
readers could take for two things: another media type or charset than we parse, a coding, an operation in
the query of a POST, a body behind a GET. The parsers are those of `bodies`; what they find wrong is content
too, which policy refuses. Called by `judging`, under every generation anew; what was read once is kept
with the request.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from openshell.egress.bodies.graphql import (
    QUERY_NAMES,
    read_graphql_body,
    read_graphql_query,
)
from openshell.egress.bodies.rpc import read_rpc
from openshell.egress.body_faults import BodyFault, BodyUse, RefusedBody
from openshell.egress.credentials import find_marker
from openshell.egress.http1 import Length, NoBody, RequestHead
from openshell.egress.route import Pending
from openshell.policy.decide import EndpointConfig, L7Request
from openshell.policy.messages import Content, GraphqlRequest, RpcRequest, RpcStream

__all__ = ["CONTENT_LIMIT", "Wanted", "read_content"]

# Whatever a policy says: reading as much takes about a second and thirty times the memory. Larger bodies
# are refused with this number, which is what servers of MCP take.
CONTENT_LIMIT: Final = 4 * 1024 * 1024

_EMPTY: Final = Length(0)
_STREAM: Final = b"text/event-stream"

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_JSON_TYPE = re.compile(
    rb"application/(?:json|json-rpc|[a-z0-9!#$&^_.-]+\+json)((?:[ \t]*;[ \t]*"
    + _TOKEN
    + rb"=(?:"
    + _TOKEN
    + rb'|"[^"\\;,]*"))*)',
    re.IGNORECASE,
)
_CHARSET = re.compile(rb";[ \t]*charset=([^;]*)", re.IGNORECASE)
_UTF8: Final = frozenset({b"utf-8", b"utf8"})

# A parameter that some server takes for one of ours: case, blanks before it, brackets or NUL behind.
_ALMOST = re.compile(
    rf"\W*({'|'.join(QUERY_NAMES)})(?!\w)",
    re.IGNORECASE,
)
_ENCODED_NAME = re.compile(rb"=\?base64\?(.*)\?=")
_PLACEHOLDER_ERROR: Final = "a credential placeholder stands in place of a name"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The content is in the body, of which at most `limit` bytes are read."""

    limit: int


def read_content(
    config: EndpointConfig, pending: Pending, request: L7Request, query: str
) -> Content | Wanted | RefusedBody:
    """The content of a request that `config` governs; `query` is that of the target as it came."""
    head, limit = pending.head, min(config.body_bytes, CONTENT_LIMIT)
    if request.method == "POST" and not _has_no_body(head):
        why = _unreadable(head)
        if why:
            return RefusedBody(BodyFault.MEDIA, BodyUse.JUDGING, why, config.protocol)
        if pending.body is None:
            if not pending.is_streaming:
                return Wanted(limit)
            detail = "the policy changed while the request was on its way; send it again"
            return RefusedBody(BodyFault.LATE, BodyUse.JUDGING, detail, config.protocol)
        if len(pending.body) > limit:
            # Held under a generation that reads more.
            return RefusedBody.held(BodyFault.SIZE, BodyUse.JUDGING, limit, 0, config.protocol)
    known = pending.content
    if known is not None and known[0] == config.protocol:
        return known[1]
    if config.protocol == "graphql":
        content: Content = _graphql(pending, request, query)
    else:
        content = _rpc(pending, request, is_mcp=config.protocol == "mcp")
    pending.content = config.protocol, content
    return content


def _has_no_body(head: RequestHead) -> bool:
    return isinstance(head.framing, NoBody) or head.framing == _EMPTY


def _unreadable(head: RequestHead) -> str:
    """Why the body is no JSON in UTF-8 by its own head; nothing where it may be."""
    codings = [
        item.strip().lower() for v in head.values(b"content-encoding") for item in v.split(b",")
    ]
    if any(coding != b"identity" for coding in codings):
        return "bodies are read here, so Content-Encoding may only be identity"
    types = head.values(b"content-type")
    found = _JSON_TYPE.fullmatch(types[0].strip(b" \t")) if len(types) == 1 else None
    if found is None:
        return "bodies are read here, so there must be one Content-Type and it must be of JSON"
    charsets = [value.strip(b' \t"').lower() for value in _CHARSET.findall(found[1])]
    if len(charsets) > 1 or not _UTF8.issuperset(charsets):
        return "bodies are read here, so their charset must be utf-8"
    return ""


def _graphql(pending: Pending, request: L7Request, query: str) -> GraphqlRequest:
    params = request.query
    if request.method == "POST":
        if ";" in query or any(map(_ALMOST.match, params)):
            # Servers differ in which of the two they prefer.
            return GraphqlRequest(error="the query of a POST says what its body should")
        found = read_graphql_body(pending.body or b"")
    elif request.method == "GET":
        error = _ambiguous(pending.head, params, query)
        if error:
            return GraphqlRequest(error=error)
        found = read_graphql_query(params)
    else:
        return GraphqlRequest(error="only GET and POST carry operations")
    named = (text for call in found.operations for text in (call.operation_name, call.persisted))
    return GraphqlRequest(error=_PLACEHOLDER_ERROR) if _holds_marker(named) else found


def _ambiguous(head: RequestHead, params: Mapping[str, Sequence[str]], query: str) -> str:
    """What a server might read in the query, or behind it, that we do not."""
    if not _has_no_body(head):
        return "a GET with a body"
    if ";" in query:
        return "the query holds ';', which some servers take for '&'"
    if any(name not in QUERY_NAMES and _ALMOST.match(name) for name in params):
        return "a parameter is almost spelled like one of GraphQL"
    # A value put there would be read as a part of the operation.
    values = (value for name in QUERY_NAMES for value in params.get(name, ()))
    return _PLACEHOLDER_ERROR if _holds_marker(values) else ""


def _rpc(pending: Pending, request: L7Request, *, is_mcp: bool) -> RpcRequest | RpcStream:
    head = pending.head
    if request.method != "POST":
        waits = is_mcp and request.method == "GET" and _has_no_body(head) and _accepts_events(head)
        return RpcStream() if waits else RpcRequest(error="only POST carries calls")
    found = read_rpc(pending.body or b"", is_mcp=is_mcp)
    if is_mcp and not found.error and not _agrees(head, found):
        return RpcRequest(error="Mcp-Method or Mcp-Name names another call than the body")
    named = (text for call in found.calls for text in (call.method, call.tool or ""))
    return RpcRequest(error=_PLACEHOLDER_ERROR) if _holds_marker(named) else found


def _agrees(head: RequestHead, found: RpcRequest) -> bool:
    """Whether fields that servers may route by repeat what the body says (MCP 2026-07-28)."""
    methods, names = head.values(b"mcp-method"), head.values(b"mcp-name")
    if not (methods or names):
        return True
    if len(found.calls) + found.responses != 1 or not found.calls:
        return False
    if max(len(methods), len(names)) > 1:
        return False
    call = found.calls[0]
    if methods and methods[0] != call.method.encode("utf-8", "surrogatepass"):
        return False
    return (
        not names
        or call.tool is None
        or _mcp_name(names[0]) == call.tool.encode("utf-8", "replace")
    )


def _mcp_name(value: bytes) -> bytes | None:
    encoded = _ENCODED_NAME.fullmatch(value)
    if encoded is None:
        return value
    try:
        return base64.b64decode(encoded[1], validate=True)
    except ValueError:
        return None


def _accepts_events(head: RequestHead) -> bool:
    return _STREAM in set(_media_ranges(head.values(b"accept")))


def _media_ranges(accepted: Iterable[bytes]) -> Iterator[bytes]:
    for value in accepted:
        for item in value.split(b","):
            yield item.partition(b";")[0].strip().lower()


def _holds_marker(texts: Iterable[str]) -> bool:
    """Names appear in events and answers, where no placeholder may."""
    return any(find_marker(text.encode("utf-8", "surrogatepass")) for text in texts)
