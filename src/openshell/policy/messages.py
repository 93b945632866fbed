"""What a request says beyond its head, already read: what GraphQL, JSON-RPC and MCP rules match.

Reading bodies and frames is the proxy's work. It hands over either what it found or `error`, a few
words on why the bytes are not what the protocol expects; such a request is refused even where an
endpoint only records. A value left out counts as not read, which is refused as well.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "Content",
    "GraphqlCall",
    "GraphqlRequest",
    "RpcCall",
    "RpcRequest",
    "RpcStream",
    "WebSocketMessage",
    "WebSocketUpgrade",
]


class GraphqlCall(msgspec.Struct, frozen=True):
    """One operation that a client asks for."""

    # query, mutation or subscription; "" for a persisted operation sent without its document.
    operation_type: str
    operation_name: str = ""
    # Names of the root fields (never aliases), sorted, each once; fragments are looked into.
    fields: tuple[str, ...] = ()
    # The hash, else the id, under which an operation without document is registered.
    persisted: str = ""


class GraphqlRequest(msgspec.Struct, frozen=True):
    """All operations of a request, a batch's pooled."""

    operations: tuple[GraphqlCall, ...] = ()
    error: str = ""


class RpcCall(msgspec.Struct, frozen=True):
    """One call; on mcp endpoints the parameters of known methods have been checked for type."""

    method: str
    # `params.name` of tools/call where it is text; None otherwise.
    tool: str | None = None
    # A message without id is a notification.
    has_id: bool = True


class RpcRequest(msgspec.Struct, frozen=True):
    """The body of a POST: calls and answers to the server's own calls, of a batch or single."""

    calls: tuple[RpcCall, ...] = ()
    responses: int = 0
    error: str = ""


class RpcStream(msgspec.Struct, frozen=True):
    """A GET without body that accepts text/event-stream: the client waits for events."""


class WebSocketUpgrade(msgspec.Struct, frozen=True):
    """The request is a valid handshake."""


class WebSocketMessage(msgspec.Struct, frozen=True):
    """A text message of the client; the request around it carries path and query of the handshake.

    Where messages are judged as GraphQL, exactly one of `graphql` and `is_control` is given:
    control is connection_init, connection_terminate, ping, pong, complete and stop.
    """

    graphql: GraphqlRequest | None = None
    is_control: bool = False


Content: TypeAlias = GraphqlRequest | RpcRequest | RpcStream | WebSocketUpgrade | WebSocketMessage
