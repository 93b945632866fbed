"""The slow evaluator for requests, written from the contract's tables alone (see policy_reference).

`trusted` limits whose allow rules count, as on private addresses.
"""

import re

from openshell.policy.messages import (
    GraphqlCall,
    GraphqlRequest,
    RpcRequest,
    RpcStream,
    WebSocketMessage,
    WebSocketUpgrade,
)
from unit.policy.policy_reference import glob_matches, route_matches

REST = {
    "read-only": ["GET", "HEAD", "OPTIONS"],
    "read-write": ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"],
    "full": ["*"],
}
WEBSOCKET = {"read-only": ["GET"], "read-write": ["GET", "WEBSOCKET_TEXT"], "full": ["*"]}
GRAPHQL = {"read-only": ["query"], "read-write": ["query", "mutation"], "full": ["*"]}

# Client to server, of the protocol's own list.
REQUESTS = {
    "initialize",
    "ping",
    "completion/complete",
    "logging/setLevel",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tools/call",
    "tools/list",
}
NOTIFICATIONS = {
    f"notifications/{name}"
    for name in ("cancelled", "initialized", "progress", "roots/list_changed", "tasks/status")
}


def authorize(policy, matched, request, trusted=None):
    """One of allow, audit, deny, hard, plain. `matched` and `trusted`: (key, index) of endpoints."""
    endpoints = [
        (place, policy.network_policies[place[0]].endpoints[place[1]]) for place in matched
    ]
    l7 = [e for _, e in endpoints if e.protocol not in ("", "tcp")]
    if not l7:
        return "plain"
    chosen = _choose(l7, request.path)
    if chosen is None or chosen.protocol == "sql":
        return "hard"
    if "%2F" in request.path and not chosen.allow_encoded_slash:
        return "hard"
    covering = [p for p in endpoints if not p[1].path or glob_matches(p[1].path, request.path, "/")]
    deniers = [e for _, e in covering]
    allowers = [e for place, e in covering if trusted is None or place in trusted]
    result = FAMILIES[chosen.protocol](chosen, allowers, deniers, request)
    if result in ("allow", "hard"):
        return result
    return "deny" if chosen.enforcement == "enforce" else "audit"


def _choose(l7, path):
    if len(l7) == 1:
        return l7[0]
    routes = [e for e in l7 if route_matches(e.path, path)]
    ranks = [len(e.path.replace("*", "")) for e in routes]
    return routes[ranks.index(max(ranks))] if routes else None


# Rules for the head of a request.


def _has_head_rules(endpoint):
    return endpoint.protocol in ("", "tcp", "rest", "websocket", "sql")


def _speaks_of_operations(rule):
    return bool(rule.operation_type or rule.operation_name or rule.fields)


def _head_applies(endpoint, rule, method, request, every):
    if not rule.method or not rule.path:
        return False
    if endpoint.protocol == "websocket" and _speaks_of_operations(rule):
        return False
    method, wanted = method.upper(), rule.method.upper()
    if wanted not in ("*", method) and not (wanted == "GET" and method == "HEAD"):
        return False
    if not glob_matches(rule.path, request.path, "/"):
        return False
    for name, matcher in rule.query.items():
        values = request.query.get(name, ())
        hits = [any(glob_matches(g, v, ".") for g in matcher.globs) for v in values]
        if not hits or not (all(hits) if every else any(hits)):
            return False
    return True


def _head_denied(deniers, method, request):
    return any(
        _head_applies(e, rule, method, request, False)
        for e in deniers
        if _has_head_rules(e)
        for rule in e.deny_rules
    )


def _head(allowers, deniers, method, request):
    if _head_denied(deniers, method, request):
        return "no"
    for e in filter(_has_head_rules, allowers):
        presets = (WEBSOCKET if e.protocol == "websocket" else REST).get(e.access, ())
        upper = method.upper()
        if any(p in ("*", upper) or (p, upper) == ("GET", "HEAD") for p in presets):
            return "allow"
        if any(_head_applies(e, rule, method, request, True) for rule in e.rules):
            return "allow"
    return "no"


def rest(chosen, allowers, deniers, request):
    return _head(allowers, deniers, request.method, request)


def websocket(chosen, allowers, deniers, request):
    content = request.content
    if isinstance(content, WebSocketUpgrade) and request.method.upper() == "GET":
        return _head(allowers, deniers, request.method, request)
    if not isinstance(content, WebSocketMessage):
        return "hard"
    if not _has_graphql(chosen):
        return _head(allowers, deniers, "WEBSOCKET_TEXT", request)
    if content.is_control:
        return "allow"
    return _operations("websocket", allowers, deniers, content.graphql, request, "WEBSOCKET_TEXT")


# GraphQL.


def _has_graphql(endpoint):
    if endpoint.protocol == "graphql":
        return True
    return endpoint.protocol == "websocket" and bool(
        endpoint.graphql_persisted_queries
        or endpoint.persisted_queries not in ("", "deny")
        or any(_speaks_of_operations(r) for r in endpoint.rules + endpoint.deny_rules)
    )


def _operation_applies(rule, call, every):
    if not rule.operation_type:
        return False
    if rule.operation_type != "*" and rule.operation_type.lower() != call.operation_type.lower():
        return False
    if rule.operation_name and not glob_matches(rule.operation_name, call.operation_name, "."):
        return False
    if not rule.fields:
        return True
    hits = [any(glob_matches(g, name, ".") for g in rule.fields) for name in call.fields]
    return bool(hits) and (all(hits) if every else any(hits))


def _registered(endpoint, key):
    entry = endpoint.graphql_persisted_queries.get(key)
    if endpoint.persisted_queries != "allow_registered" or not entry:
        return None
    return GraphqlCall(entry.operation_type, entry.operation_name, entry.fields)


def graphql(chosen, allowers, deniers, request):
    content = request.content if isinstance(request.content, GraphqlRequest) else None
    return _operations("graphql", allowers, deniers, content, request, request.method)


def _operations(protocol, allowers, deniers, content, request, method):
    if content is None or content.error or not content.operations:
        return "hard"
    if _head_denied(deniers, method, request):
        return "no"
    peers = [e for e in deniers if e.protocol == protocol and _has_graphql(e)]
    allowers = [e for e in allowers if e.protocol == protocol and _has_graphql(e)]
    calls = []
    for call in content.operations:
        if call.operation_type:
            calls.append(call)
        elif not any(_registered(e, call.persisted) for e in allowers):
            return "no"
        else:
            calls += [c for c in (_registered(e, call.persisted) for e in peers) if c]
    for call in calls:
        if any(
            _operation_applies(rule, call, False)
            for e in deniers
            if _has_graphql(e)
            for rule in e.deny_rules
        ):
            return "no"
        if not any(_operation_listed(e, call) for e in allowers):
            return "no"
    return "allow"


def _operation_listed(endpoint, call):
    kinds = GRAPHQL.get(endpoint.access, ()) if endpoint.protocol == "graphql" else ()
    if "*" in kinds or call.operation_type.lower() in kinds:
        return True
    return any(_operation_applies(rule, call, True) for rule in endpoint.rules)


# JSON-RPC and MCP.


def _profile(endpoint):
    options = endpoint.mcp
    return endpoint.protocol == "mcp" and bool(options and options.allow_all_known_mcp_methods)


def _call_applies(endpoint, rule, call):
    method, tool = rule.method, rule.params.get("name")
    if not method and _profile(endpoint):
        method = "tools/call" if tool else "*"
    if not method:
        return False
    if endpoint.protocol == "json-rpc":
        return method in ("*", call.method)
    if method != "*" and not glob_matches(method, call.method, "."):
        return False
    if tool is None:
        return True
    return (
        call.method == "tools/call"
        and call.tool is not None
        and any(glob_matches(g, call.tool, ".") for g in tool.globs)
    )


def _call_listed(endpoint, call):
    if any(_call_applies(endpoint, rule, call) for rule in endpoint.rules):
        return True
    if not _profile(endpoint):
        return False
    if not endpoint.rules:
        return True
    if call.method not in REQUESTS | NOTIFICATIONS:
        return False
    return call.method != "tools/call" or not any("name" in r.params for r in endpoint.rules)


def _calls(protocol, allowers, deniers, calls, request):
    if _head_denied(deniers, request.method, request):
        return "no"
    allowers = [e for e in allowers if e.protocol == protocol]
    deniers = [e for e in deniers if e.protocol in ("json-rpc", "mcp")]
    if not allowers:
        return "no"
    for call in calls:
        if any(_call_applies(e, rule, call) for e in deniers for rule in e.deny_rules):
            return "no"
        if not any(_call_listed(e, call) for e in allowers):
            return "no"
    return "allow"


def _is_body(request):
    content = request.content
    return (
        isinstance(content, RpcRequest)
        and not content.error
        and request.method.upper() == "POST"
        and bool(content.calls or content.responses)
    )


def json_rpc(chosen, allowers, deniers, request):
    if not _is_body(request) or request.content.responses:
        return "hard"
    return _calls("json-rpc", allowers, deniers, request.content.calls, request)


def mcp(chosen, allowers, deniers, request):
    if isinstance(request.content, RpcStream) and request.method.upper() == "GET":
        return _calls("mcp", allowers, deniers, (), request)
    if not _is_body(request):
        return "hard"
    strict = chosen.mcp is None or chosen.mcp.strict_tool_names is not False
    for call in request.content.calls:
        if call.method in REQUESTS and not call.has_id:
            return "hard"
        if call.method == "tools/call" and (
            call.tool is None or (strict and not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", call.tool))
        ):
            return "hard"
    return _calls("mcp", allowers, deniers, request.content.calls, request)


FAMILIES = {
    "rest": rest,
    "websocket": websocket,
    "graphql": graphql,
    "json-rpc": json_rpc,
    "mcp": mcp,
}
