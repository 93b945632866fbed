"""Messages of GraphQL over WebSocket, as policy judges them (`policy.md` 6.10).

Both subprotocols in use are read: operations come as `subscribe` or `start`; what only keeps the
connection going is control. Anything else is an error, because its meaning is the server's alone.
"""

from __future__ import annotations

from typing import Final

from openshell.egress.bodies.graphql import read_graphql_payload
from openshell.egress.bodies.strict_json import JsonRejected, read_json
from openshell.policy.messages import GraphqlRequest, WebSocketMessage

__all__ = ["read_graphql_message"]

_OPERATIONS: Final = frozenset({"subscribe", "start"})
_CONTROL: Final = frozenset(
    {"connection_init", "connection_terminate", "ping", "pong", "complete", "stop"}
)


def read_graphql_message(text: str) -> WebSocketMessage:
    """What one text message of a client asks for."""
    try:
        message = read_json(text.encode())
    except JsonRejected as rejected:
        return _rejected(str(rejected))
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(kind, str):
        return _rejected("the message has no type")
    if kind in _CONTROL:
        return WebSocketMessage(is_control=True)
    if kind not in _OPERATIONS:
        return _rejected("the message is of an unknown type")
    if not isinstance(message.get("id"), str) or not message["id"]:
        return _rejected("the operation has no id")
    if not isinstance(message.get("payload"), dict):
        return _rejected("the operation has no payload")
    return WebSocketMessage(graphql=read_graphql_payload(message["payload"]))


def _rejected(error: str) -> WebSocketMessage:
    return WebSocketMessage(graphql=GraphqlRequest(error=error))
