"""Judges requests by their head: rest endpoints, and the handshake and plain messages of websocket.

Method, path and query decide; rules of all covering endpoints that have such rules add up.
"""

from __future__ import annotations

from openshell.policy import advice
from openshell.policy.decide import EndpointConfig
from openshell.policy.judge_graphql import judge_operations
from openshell.policy.messages import WebSocketMessage, WebSocketUpgrade
from openshell.policy.protocols import WEBSOCKET_TEXT
from openshell.policy.question import Question, Refusal
from openshell.policy.rest import RestRule, presets_of
from openshell.policy.transport import transport_denial

__all__ = ["judge_rest", "judge_websocket"]


def judge_rest(question: Question) -> Refusal | None:
    return _judge_head(question, question.request.method)


def judge_websocket(question: Question) -> Refusal | None:
    """A handshake is judged like a GET; then each text message as a request of its own."""
    content = question.request.content
    if isinstance(content, WebSocketUpgrade) and question.request.method.upper() == "GET":
        return _judge_head(question, question.request.method)
    if isinstance(content, WebSocketMessage):
        if question.rules[question.config].graphql is None:
            return _judge_head(question, WEBSOCKET_TEXT)
        if content.is_control:
            return None
        return judge_operations(question, content.graphql, "websocket", WEBSOCKET_TEXT)
    return question.malformed(
        "websocket_required", "websocket endpoint requires a valid WebSocket upgrade request"
    )


def _judge_head(question: Question, shown_method: str) -> Refusal | None:
    method = shown_method.upper()
    request = question.request
    denial = transport_denial(question, shown_method)
    if denial is not None:
        return denial
    for _, rules in question.allowing():
        if any(rule.allows(method, request) for rule in rules.rest.allow):
            return None
    nearest, suggestion = _nearest_allow(question, shown_method)
    reason = f"{shown_method} {request.path} not permitted by policy"
    return Refusal("no_allow", reason, nearest, suggestion)


def _nearest_allow(question: Question, shown_method: str) -> tuple[str, str]:
    """The allow rule that agrees on the path, else on the method, else the endpoint itself."""
    method, path, config = shown_method.upper(), question.request.path, question.config
    best: tuple[int, RestRule, EndpointConfig] | None = None
    for endpoint in (config, *question.may_allow):
        for rule in question.rules[endpoint].rest.allow:
            score = 2 * bool(rule.matches_path(path)) + rule.covers_method(method)
            if score and (best is None or score > best[0]):
                best = (score, rule, endpoint)
    where = best[2] if best else config
    nearest = best[1].location if best else config.location
    if where.endpoint.access and not where.endpoint.rules:
        presets = presets_of(where.protocol)
        wanted = next((a for a, methods in presets.items() if method in methods), "full")
        return nearest, advice.set_access(wanted, where.location)
    return nearest, advice.add_allow_rule(shown_method, path, where.location)
