"""Requests as one line of text, for the case tables of protocols.

`METHOD PATH?QUERY | CONTENT`, where CONTENT is nothing, `upgrade`, `stream`, `text`, `control`,
`graphql` or `rpc` with items separated by `;` (`query Name: field field`, `persisted KEY`,
`error: words` / `METHOD TOOL`, `notify METHOD`, `response`, `error: words`). The method TEXT is a
message on a WebSocket.
"""

from openshell.policy import L7Request
from openshell.policy.messages import (
    GraphqlCall,
    GraphqlRequest,
    RpcCall,
    RpcRequest,
    RpcStream,
    WebSocketMessage,
    WebSocketUpgrade,
)


def _graphql(items):
    calls = []
    for item in items:
        head, _, rest = item.partition(":")
        if head == "error":
            return GraphqlRequest(error=rest.strip())
        kind, _, name = head.strip().partition(" ")
        if kind == "persisted":
            calls.append(GraphqlCall("", persisted=name))
        else:
            calls.append(GraphqlCall(kind, name, tuple(rest.split())))
    return GraphqlRequest(tuple(calls))


def _rpc(items):
    calls, responses = [], 0
    for item in items:
        words = item.split(" ", 1)
        if words[0] == "error:":
            return RpcRequest(error=words[1])
        if words[0] == "response":
            responses += 1
        elif words[0] == "notify":
            calls.append(RpcCall(words[1], has_id=False))
        else:
            calls.append(RpcCall(words[0], words[1] if len(words) > 1 else None))
    return RpcRequest(tuple(calls), responses)


def request_of(line):
    head, _, content = line.partition(" | ")
    method, target = head.split(" ")
    path, _, query = target.partition("?")
    params = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        params[name] = (*params.get(name, ()), value)
    kind, _, rest = content.partition(" ")
    items = [item.strip() for item in rest.split(";") if item.strip()]
    value = {
        "": lambda: None,
        "upgrade": WebSocketUpgrade,
        "stream": RpcStream,
        "text": WebSocketMessage,
        "control": lambda: WebSocketMessage(is_control=True),
        "graphql": lambda: _graphql(items),
        "rpc": lambda: _rpc(items),
    }[kind]()
    if method == "TEXT":
        method = "WEBSOCKET_TEXT"
        if isinstance(value, GraphqlRequest):
            value = WebSocketMessage(value)
    return L7Request(method, path, params, value)
