"""Judges JSON-RPC and MCP requests: each call of a body, answers, and the stream of events.

The first call that is refused refuses all. Only endpoints of the same protocol may allow; deny rules
of all covering endpoints count. What MCP would let slip past a rule for tools is refused even where
an endpoint only records: a call of a tool without id, without a name, or with an odd name.
"""

from __future__ import annotations

import re

from openshell.policy import advice
from openshell.policy.messages import RpcCall, RpcRequest, RpcStream
from openshell.policy.protocols import MCP_REQUESTS, TOOLS_CALL
from openshell.policy.question import Question, Refusal
from openshell.policy.rpc import RpcRules
from openshell.policy.transport import transport_denial

__all__ = ["judge_json_rpc", "judge_mcp"]

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def judge_json_rpc(question: Question) -> Refusal | None:
    content = question.request.content
    fault = _fault(question, content)
    if fault or not isinstance(content, RpcRequest):
        return _rejected(question, fault or "only POST carries calls")
    if content.responses:
        return question.malformed(
            "rpc_response", "JSON-RPC response frames are not permitted from client to server"
        )
    return _judge_calls(question, content.calls)


def judge_mcp(question: Question) -> Refusal | None:
    content = question.request.content
    if isinstance(content, RpcStream) and question.request.method.upper() == "GET":
        return _judge_calls(question, ())
    fault = _fault(question, content)
    if fault or not isinstance(content, RpcRequest):
        return _rejected(question, fault or "no JSON")
    rules = question.rules[question.config].rpc
    strict = rules is None or rules.strict_names
    for call in content.calls:
        fault = _mcp_fault(call, strict=strict)
        if fault:
            return _rejected(question, fault)
    return _judge_calls(question, content.calls)


def _rejected(question: Question, detail: str) -> Refusal:
    return question.malformed("rpc_rejected", f"JSON-RPC request rejected: {detail}")


def _fault(question: Question, content: object) -> str:
    if not isinstance(content, RpcRequest):
        return "no JSON"
    if content.error:
        return content.error
    if question.request.method.upper() != "POST":
        return "only POST carries calls"
    return "" if content.calls or content.responses else "empty batch"


def _mcp_fault(call: RpcCall, *, strict: bool) -> str:
    if not call.has_id and call.method in MCP_REQUESTS:
        return f"{call.method} without id"
    if call.method != TOOLS_CALL:
        return ""
    if call.tool is None:
        return f"{TOOLS_CALL} needs a name of text in params"
    if strict and not _TOOL_NAME.fullmatch(call.tool):
        return "the tool's name is not 1 to 128 of A-Z a-z 0-9 _ . -"
    return ""


def _judge_calls(question: Question, calls: tuple[RpcCall, ...]) -> Refusal | None:
    denial = transport_denial(question, question.request.method)
    if denial is not None:
        return denial
    protocol, location = question.config.protocol, question.config.location
    allowing = [
        rules.rpc
        for _, rules in question.allowing()
        if rules.rpc is not None and rules.protocol == protocol
    ]
    if not allowing:
        how = advice.cover_path(question.request.path, location)
        return Refusal("no_allow", _unlisted(question), location, how)
    for call in calls:
        refusal = _judge_call(question, call, allowing)
        if refusal is not None:
            return refusal
    return None


def _unlisted(question: Question) -> str:
    return f"{question.request.method} {question.request.path} not permitted by policy"


def _judge_call(question: Question, call: RpcCall, allowing: list[RpcRules]) -> Refusal | None:
    for _, rules in question.covering:
        if rules.rpc is None:
            continue
        for rule in rules.rpc.deny:
            if rule.matches(call):
                request = question.request
                return Refusal(
                    "deny_rule",
                    f"{request.method} {request.path} blocked by deny rule",
                    rule.location,
                    advice.lift_deny_rule(rule.location),
                )
    if any(rules.allows(call) for rules in allowing):
        return None
    location = question.config.location
    # The nearest rule is one for the same method.
    near = next(
        (
            rule.location
            for rules in allowing
            for rule in rules.allow
            if rule.matches_method(call.method)
        ),
        location,
    )
    how = advice.add_call(call.method, call.tool, location)
    return Refusal("no_allow", _unlisted(question), near, how)
