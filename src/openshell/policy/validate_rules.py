"""Checks of single allow and deny rules, protocol by protocol.

The reference finds these mistakes only when a supervisor loads the policy; here the gateway refuses
them before there is a revision, with the same code. Blank text counts as absent, as the messages
between gateway and supervisor cannot tell the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from openshell.policy.findings import Finding
from openshell.policy.globs import GlobError, compile_glob
from openshell.policy.model import Endpoint, L7Rule, Matcher
from openshell.policy.protocols import (
    OPERATION_TYPES,
    REST_METHODS,
    RPC_PROTOCOLS,
    TOOLS_CALL,
    WEBSOCKET_METHODS,
    WEBSOCKET_TEXT,
    has_graphql_policy,
    is_graphql_rule,
    requires_strict_tool_names,
    rpc_method,
)
from openshell.policy.validate_inspection import allows_nothing
from openshell.policy.validate_report import Report

__all__ = ["check_rules"]

_GLOB_CHARS: Final = frozenset("*?[]{}")


def check_rules(endpoint: Endpoint, protocol: str, report: Report) -> Iterator[Finding]:
    """All rules of an endpoint whose protocol is known and not tcp."""
    for field, rule, allows in _rules(endpoint):
        yield from _check_matchers(rule, field, report)
        if protocol in RPC_PROTOCOLS:
            yield from _check_rpc(rule, endpoint, protocol, field, report)
            continue
        if rule.params:
            yield report.l7(
                "params_foreign",
                f"{field}.params",
                "tool and params are only valid for protocol mcp",
            )
        if rule.command and protocol != "sql":
            yield report.foreign(f"{field}.command", "command", protocol)
        if protocol == "graphql":
            yield from _check_graphql(rule, field, report)
        elif protocol == "websocket":
            yield from _check_websocket(rule, endpoint, field, report, allows=allows)
        elif protocol != "sql":
            yield from _check_rest(rule, protocol, field, report)
    if protocol == "mcp":
        yield from _check_mixed_tools(endpoint, report)


def _rules(endpoint: Endpoint) -> Iterator[tuple[str, L7Rule, bool]]:
    for index, rule in enumerate(endpoint.rules):
        yield f"rules[{index}].allow", rule, True
    for index, rule in enumerate(endpoint.deny_rules):
        yield f"deny_rules[{index}]", rule, False


def _check_matchers(rule: L7Rule, field: str, report: Report) -> Iterator[Finding]:
    for kind, matchers in (("query", rule.query), ("params", rule.params)):
        for name, matcher in sorted(matchers.items()):
            where = f"{field}.{kind}.{name}"
            if matcher.glob and matcher.any_of:
                yield report.l7("matcher", where, "a matcher is one glob or any, not both")
            elif not matcher.glob and not matcher.any_of:
                yield report.l7("matcher", where, "a matcher needs a glob or any")
            for glob in matcher.globs:
                yield from report.glob(glob, where)


def _check_transport(
    rule: L7Rule, field: str, methods: tuple[str, ...], report: Report
) -> Iterator[Finding]:
    if rule.method and rule.method.upper() not in methods:
        yield report.warning(
            "unknown_method", f"{field}.method", f"expected one of {' '.join(methods)}"
        )
    if not rule.method or not rule.path:
        yield report.warning(
            "rule_never_matches", field, "the rule never matches: method and path are both needed"
        )
    if rule.path:
        yield from report.glob(rule.path, f"{field}.path")


def _check_rest(rule: L7Rule, protocol: str, field: str, report: Report) -> Iterator[Finding]:
    for key in ("operation_type", "operation_name", "fields"):
        if getattr(rule, key):
            yield report.foreign(f"{field}.{key}", key, protocol)
    yield from _check_transport(rule, field, REST_METHODS, report)


def _check_names(rule: L7Rule, field: str, report: Report) -> Iterator[Finding]:
    if rule.operation_name:
        yield from report.glob(rule.operation_name, f"{field}.operation_name")
    for position, name in enumerate(rule.fields):
        if name:
            yield from report.glob(name, f"{field}.fields[{position}]")
        else:
            yield report.l7("graphql_fields", f"{field}.fields", "a field must not be empty")


def _check_graphql(rule: L7Rule, field: str, report: Report) -> Iterator[Finding]:
    for key in ("method", "path", "query"):
        if getattr(rule, key):
            yield report.foreign(f"{field}.{key}", key, "graphql")
    yield from _check_names(rule, field, report)


def _check_websocket(
    rule: L7Rule, endpoint: Endpoint, field: str, report: Report, *, allows: bool
) -> Iterator[Finding]:
    if is_graphql_rule(rule):
        if rule.method or rule.path or rule.query:
            yield report.l7(
                "websocket_mixed",
                field,
                "a rule is either for the connection (method, path, query) or for GraphQL "
                "operations, not both",
            )
        if rule.operation_type not in (*OPERATION_TYPES, "*"):
            yield report.l7(
                "operation_type",
                f"{field}.operation_type",
                "operation_type must be query, mutation, subscription, or *",
            )
        yield from _check_names(rule, field, report)
        return
    if allows and rule.method.upper() == WEBSOCKET_TEXT and has_graphql_policy(endpoint):
        yield report.l7(
            "websocket_text",
            f"{field}.method",
            f"{WEBSOCKET_TEXT} cannot be allowed where messages are judged as GraphQL operations",
        )
    yield from _check_transport(rule, field, WEBSOCKET_METHODS, report)


def _check_rpc(
    rule: L7Rule, endpoint: Endpoint, protocol: str, field: str, report: Report
) -> Iterator[Finding]:
    if rule.path or rule.query:
        yield report.l7(
            "rpc_path", field, f"path and query are not valid in rules of protocol {protocol}"
        )
    for key in ("command", "operation_type", "operation_name", "fields"):
        if getattr(rule, key):
            yield report.foreign(f"{field}.{key}", key, protocol)
    method = rpc_method(rule, endpoint)
    # A blank allow is already reported as denying everything, when all are blank.
    if not method and not (allows_nothing(rule) and all(map(allows_nothing, endpoint.rules))):
        hint = " or set mcp.allow_all_known_mcp_methods" if protocol == "mcp" else ""
        yield report.l7("rpc_method", field, f"a rule needs a method{hint}")
    if protocol == "mcp":
        yield from _check_mcp(rule, method, endpoint, field, report)
        return
    if method != "*" and _has_glob(method):
        yield report.l7(
            "rpc_method_glob", f"{field}.method", "method must be exact or '*' for json-rpc"
        )
    if rule.params:
        yield report.l7(
            "rpc_params", f"{field}.params", "tool and params are not valid for json-rpc"
        )


def _check_mcp(
    rule: L7Rule, method: str, endpoint: Endpoint, field: str, report: Report
) -> Iterator[Finding]:
    if _has_glob(method):
        # The profile writes '*' for a method left out; it cannot be told from a written one.
        implied = rpc_method(L7Rule(params=rule.params), endpoint) == method
        if not implied and not method.startswith("tools/"):
            yield report.l7(
                "mcp_method_glob",
                f"{field}.method",
                "a method pattern must start with tools/; for every method leave it out and set "
                "mcp.allow_all_known_mcp_methods: true",
            )
        yield from report.glob(method, f"{field}.method")
    others = sorted(name for name in rule.params if name != "name")
    if others:
        yield report.l7(
            "mcp_params", f"{field}.params", f"only params.name is supported, not {others[0][:40]}"
        )
    tool = rule.params.get("name")
    if tool is None:
        return
    if method not in ("", TOOLS_CALL):
        yield report.l7(
            "mcp_tool_method", f"{field}.tool", f"a tool needs method {TOOLS_CALL}, not {method}"
        )
    if not requires_strict_tool_names(endpoint) and _is_wildcard(tool):
        yield report.l7(
            "mcp_tool_wildcard",
            f"{field}.tool",
            "tool patterns need strict tool names; name each tool or remove "
            "mcp.strict_tool_names: false",
        )


def _check_mixed_tools(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    """Beside rules for single tools, none may speak of all tools at once."""
    if not any("name" in rule.params for rule in endpoint.rules):
        return
    for field, rule, _allows in _rules(endpoint):
        if "name" not in rule.params and _matches_tools_call(rpc_method(rule, endpoint)):
            yield report.l7(
                "mcp_mixed_tools",
                field,
                f"a rule without tool matches {TOOLS_CALL} while other rules name tools; give it a "
                "tool or another method",
            )


def _matches_tools_call(method: str) -> bool:
    try:
        return bool(method) and bool(compile_glob(method, ".")(TOOLS_CALL))
    except GlobError:
        return True


def _has_glob(text: str) -> bool:
    return not _GLOB_CHARS.isdisjoint(text)


def _is_wildcard(matcher: Matcher) -> bool:
    return any(_has_glob(glob) for glob in matcher.globs)
