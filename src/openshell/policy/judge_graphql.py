"""Judges GraphQL operations, of a request or of one WebSocket message.

Every operation must be allowed and none denied. Only endpoints of the same protocol may allow: a
broad rest rule on the same host cannot rescue what the graphql endpoint does not list. Deny rules
of all covering endpoints count.
"""

from __future__ import annotations

from collections.abc import Iterable

from openshell.policy import advice
from openshell.policy.decide import EndpointConfig
from openshell.policy.endpoint_rules import EndpointRules
from openshell.policy.graphql import GRAPHQL_PRESETS, GraphqlRules
from openshell.policy.messages import GraphqlCall, GraphqlRequest
from openshell.policy.protocols import OPERATION_TYPES
from openshell.policy.question import Question, Refusal
from openshell.policy.transport import transport_denial

__all__ = ["judge_graphql", "judge_operations"]

_BLOCKED = "GraphQL operation blocked by endpoint policy"


def judge_graphql(question: Question) -> Refusal | None:
    content = question.request.content
    request = content if isinstance(content, GraphqlRequest) else None
    return judge_operations(question, request, "graphql", question.request.method)


def judge_operations(
    question: Question, request: GraphqlRequest | None, protocol: str, shown_method: str
) -> Refusal | None:
    """`protocol`: whose endpoints may allow."""
    fault = _fault(request)
    if request is None or fault:
        return question.malformed("graphql_rejected", f"GraphQL request rejected: {fault}")
    denial = transport_denial(question, shown_method)
    if denial is not None:
        return denial
    peers = _of_protocol(question.covering, protocol)
    allowing = _of_protocol(question.allowing(), protocol)
    if not allowing:
        location = question.config.location
        return Refusal(
            "no_allow",
            "GraphQL operation not permitted by policy",
            location,
            advice.cover_path(question.request.path, location),
        )
    meant: list[GraphqlCall] = []
    for call in request.operations:
        if call.operation_type:
            meant.append(call)
            continue
        if not any(call.persisted in rules.registry for rules in allowing):
            return _unregistered(question, call)
        # Endpoints that register it differently must all be satisfied.
        meant += [r.registry[call.persisted] for r in peers if call.persisted in r.registry]
    return _judge_calls(question, meant, allowing)


def _fault(request: GraphqlRequest | None) -> str:
    if request is None:
        return "the request was not read"
    if request.error:
        return request.error
    if not request.operations:
        return "no operation"
    odd = any(
        call.operation_type and call.operation_type.lower() not in OPERATION_TYPES
        for call in request.operations
    )
    return "unknown operation type" if odd else ""


def _of_protocol(
    pairs: Iterable[tuple[EndpointConfig, EndpointRules]], protocol: str
) -> list[GraphqlRules]:
    return [
        rules.graphql
        for _, rules in pairs
        if rules.graphql is not None and rules.protocol == protocol
    ]


def _judge_calls(
    question: Question, calls: list[GraphqlCall], allowing: list[GraphqlRules]
) -> Refusal | None:
    for _, rules in question.covering:
        if rules.graphql is None:
            continue
        for rule in rules.graphql.deny:
            if any(rule.denies(call) for call in calls):
                how = advice.lift_deny_rule(rule.location)
                return Refusal("deny_rule", _BLOCKED, rule.location, how)
    for call in calls:
        if not any(rule.allows(call) for rules in allowing for rule in rules.allow):
            return _unlisted(question, call, allowing)
    return None


def _unregistered(question: Question, call: GraphqlCall) -> Refusal:
    location = question.config.location
    how = advice.register_operation(call.persisted, location)
    return Refusal("unregistered_query", "GraphQL persisted query is not registered", location, how)


def _unlisted(question: Question, call: GraphqlCall, allowing: list[GraphqlRules]) -> Refusal:
    """The nearest rule is one for the same type of operation."""
    location = question.config.location
    near = next(
        (rule.location for rules in allowing for rule in rules.allow if rule.covers_type(call)),
        location,
    )
    kind = call.operation_type.lower()
    if question.config.endpoint.access and question.config.protocol == "graphql":
        wanted = next((a for a, kinds in GRAPHQL_PRESETS.items() if kind in kinds), "full")
        how = advice.set_access(wanted, location)
    else:
        how = advice.add_operation(kind, call.fields, location)
    return Refusal("no_allow", _BLOCKED, near, how)
