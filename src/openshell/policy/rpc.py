"""JSON-RPC and MCP rules of one endpoint, compiled: methods, and on MCP the tool that is called.

`judge_rpc` decides what follows from a match.
"""

from __future__ import annotations

from dataclasses import dataclass

from openshell.policy.globs import GlobError, TextMatcher, compile_glob
from openshell.policy.messages import RpcCall
from openshell.policy.model import Endpoint, L7Rule
from openshell.policy.protocols import (
    TOOLS_CALL,
    allows_known_methods,
    is_known_mcp_method,
    requires_strict_tool_names,
    rpc_method,
)

__all__ = ["RpcRule", "RpcRules", "compile_rpc"]


@dataclass(frozen=True, slots=True, eq=False)
class RpcRule:
    location: str
    matches_method: TextMatcher
    # None: any tool, and calls of no tool.
    tools: tuple[TextMatcher, ...] | None

    def matches(self, call: RpcCall) -> bool:
        if not self.matches_method(call.method):
            return False
        if self.tools is None:
            return True
        tool = call.tool if call.method == TOOLS_CALL else None
        return tool is not None and any(glob(tool) for glob in self.tools)


@dataclass(frozen=True, slots=True, eq=False)
class RpcRules:
    allow: tuple[RpcRule, ...]
    deny: tuple[RpcRule, ...]
    # mcp only: every known method is allowed, calls of tools only where no rule names tools.
    profile: bool
    names_tools: bool
    strict_names: bool

    def allows(self, call: RpcCall) -> bool:
        if any(rule.matches(call) for rule in self.allow):
            return True
        if not self.profile or not is_known_mcp_method(call.method):
            return False
        return call.method != TOOLS_CALL or not self.names_tools


def _everything(_text: str) -> bool:
    return True


def _compile_rule(rule: L7Rule, endpoint: Endpoint, where: str, *, is_mcp: bool) -> RpcRule:
    """What validation refuses is not guessed at: it cannot be read here either."""
    tool = rule.params.get("name") if is_mcp else None
    if rule.path or rule.query or len(rule.params) != (tool is not None):
        raise GlobError(f"{where}: path, query and params do not go with this protocol")
    method = rpc_method(rule, endpoint)
    matches: TextMatcher = _everything
    try:
        if method != "*":
            matches = compile_glob(method, ".") if is_mcp else method.__eq__
        tools = None if tool is None else tuple(compile_glob(glob, ".") for glob in tool.globs)
    except GlobError as error:
        raise GlobError(f"{where}: {error}") from error
    return RpcRule(where, matches, tools)


def _compile_rules(
    rules: tuple[L7Rule, ...], endpoint: Endpoint, location: str, *, is_mcp: bool
) -> tuple[RpcRule, ...]:
    return tuple(
        _compile_rule(rule, endpoint, f"{location}[{index}]", is_mcp=is_mcp)
        for index, rule in enumerate(rules)
        if rpc_method(rule, endpoint)
    )


def compile_rpc(endpoint: Endpoint, location: str) -> RpcRules:
    """Raises `GlobError` for what cannot be read."""
    is_mcp = endpoint.protocol.strip().lower() == "mcp"
    profile = is_mcp and allows_known_methods(endpoint)
    allow = _compile_rules(endpoint.rules, endpoint, f"{location}.rules", is_mcp=is_mcp)
    if profile and not endpoint.rules:
        allow = (RpcRule(f"{location}.mcp", _everything, None),)
    return RpcRules(
        allow=allow,
        deny=_compile_rules(endpoint.deny_rules, endpoint, f"{location}.deny_rules", is_mcp=is_mcp),
        profile=profile,
        names_tools=any("name" in rule.params for rule in endpoint.rules),
        strict_names=requires_strict_tool_names(endpoint),
    )
