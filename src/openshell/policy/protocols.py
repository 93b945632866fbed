"""Words of the inspected protocols, and what an endpoint's fields mean once defaults are applied.

Facts only, shared by validation, compilation and ambiguity checks, so that all three read an
endpoint in one way. Nothing here judges.
"""

from __future__ import annotations

from typing import Final

from openshell.policy.model import Endpoint, L7Rule, implied_method

__all__ = [
    "DEFAULT_BODY_BYTES",
    "MCP_REQUESTS",
    "OPERATION_TYPES",
    "PROTOCOLS",
    "REST_METHODS",
    "RPC_PROTOCOLS",
    "TOOLS_CALL",
    "WEBSOCKET_METHODS",
    "WEBSOCKET_TEXT",
    "allows_known_methods",
    "graphql_body_bytes",
    "has_graphql_policy",
    "is_graphql_rule",
    "is_known_mcp_method",
    "requires_strict_tool_names",
    "rpc_body_bytes",
    "rpc_method",
]

PROTOCOLS: Final = ("tcp", "rest", "websocket", "graphql", "sql", "json-rpc", "mcp")
RPC_PROTOCOLS: Final = frozenset(("json-rpc", "mcp"))
OPERATION_TYPES: Final = ("query", "mutation", "subscription")

REST_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "*")
# The method under which each text message of a client is judged.
WEBSOCKET_TEXT: Final = "WEBSOCKET_TEXT"
WEBSOCKET_METHODS: Final = ("GET", WEBSOCKET_TEXT, "*")

# What is read of a body in order to judge it, where the policy does not say.
DEFAULT_BODY_BYTES: Final = 65_536

TOOLS_CALL: Final = "tools/call"
# Requests that a client may send to an MCP server, with an id.
MCP_REQUESTS: Final = frozenset(
    (
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "ping",
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
        TOOLS_CALL,
        "tools/list",
    )
)
_MCP_NOTIFICATIONS: Final = frozenset(
    (
        "notifications/cancelled",
        "notifications/initialized",
        "notifications/progress",
        "notifications/roots/list_changed",
        "notifications/tasks/status",
    )
)


def is_known_mcp_method(method: str) -> bool:
    return method in MCP_REQUESTS or method in _MCP_NOTIFICATIONS


def is_graphql_rule(rule: L7Rule) -> bool:
    return bool(rule.operation_type or rule.operation_name or rule.fields)


def has_graphql_policy(endpoint: Endpoint) -> bool:
    """Whether the messages of a websocket endpoint are judged as GraphQL operations."""
    return bool(
        endpoint.graphql_persisted_queries
        or endpoint.persisted_queries not in ("", "deny")
        or any(is_graphql_rule(rule) for rule in (*endpoint.rules, *endpoint.deny_rules))
    )


def allows_known_methods(endpoint: Endpoint) -> bool:
    """Whether the method profile of an mcp endpoint is on."""
    return endpoint.mcp is not None and bool(endpoint.mcp.allow_all_known_mcp_methods)


def requires_strict_tool_names(endpoint: Endpoint) -> bool:
    return endpoint.mcp is None or endpoint.mcp.strict_tool_names is not False


def rpc_method(rule: L7Rule, endpoint: Endpoint) -> str:
    """The method of a rule, as the profile completes it."""
    return rule.method or implied_method(rule, endpoint)


def graphql_body_bytes(endpoint: Endpoint) -> int:
    return endpoint.graphql_max_body_bytes or DEFAULT_BODY_BYTES


def rpc_body_bytes(endpoint: Endpoint) -> int:
    return endpoint.json_rpc_max_body_bytes or DEFAULT_BODY_BYTES
