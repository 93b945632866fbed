"""A policy asked about requests of which only the head is known, and of that perhaps no query.

Asks twice, once as if the rest were as good as can be and once as if it were as bad as can be; only
where both answers agree does the head decide. The answers are the compiled policy's own. Callers:
`explain`, `replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from openshell.policy.compile import compile_policy
from openshell.policy.decide import (
    ConnectionDenied,
    ConnectionRequest,
    EndpointConfig,
    L7Request,
)
from openshell.policy.globs import GlobError, compile_glob
from openshell.policy.messages import (
    Content,
    GraphqlCall,
    GraphqlRequest,
    RpcCall,
    RpcRequest,
    RpcStream,
    WebSocketMessage,
    WebSocketUpgrade,
)
from openshell.policy.model import Endpoint, L7Rule, SandboxPolicy
from openshell.policy.protocols import WEBSOCKET_TEXT, has_graphql_policy, is_graphql_rule
from openshell.policy.trial import Outcome, Trial, is_opened, try_request

__all__ = ["HeadPolicy", "HeadTrial", "Unseen"]


class Unseen(StrEnum):
    """What a request's answer hangs on, beyond the part of it that is known."""

    QUERY = "query"
    BODY = "body"
    # Whether it was a WebSocket handshake.
    UPGRADE = "upgrade"


@dataclass(frozen=True, slots=True)
class HeadTrial:
    # Where something is unseen: what may be, with as much of a refusal as is known.
    trial: Trial
    unseen: Unseen | None = None

    @property
    def outcome(self) -> Outcome | None:
        """None where it cannot be told."""
        return self.trial.outcome if self.unseen is None else None


# Refusals that come before anything of a request but its path is looked at.
_BEFORE_JUDGING: Final = frozenset(
    {"no_route", "encoded_slash", "evaluation_error", "unsupported_protocol"}
)
_BODY_PROTOCOLS: Final = frozenset({"graphql", "json-rpc", "mcp"})
_ANY_OPERATION: Final = GraphqlRequest((GraphqlCall("query"),))
_ANY_CALL: Final = RpcRequest((RpcCall("ping"),))
_Change: TypeAlias = Callable[[Endpoint], Endpoint]


class HeadPolicy:
    """A policy for requests without their bodies and, unless `knows_query`, without their queries.

    `worst` is the policy itself where queries are known.
    """

    def __init__(self, policy: SandboxPolicy, *, knows_query: bool) -> None:
        best = _with_endpoints(policy, _suited_body)
        worst = policy
        if not knows_query:
            best = _with_endpoints(best, lambda endpoint: _without_queries(endpoint, suits=True))
            worst = _with_endpoints(worst, lambda endpoint: _without_queries(endpoint, suits=False))
        self.best: Final = compile_policy(best, generation=1)
        self.worst: Final = compile_policy(worst, generation=1)

    def ask(
        self,
        connection: ConnectionRequest,
        request: L7Request | None,
        *,
        encrypted: bool,
        upgrade: bool | None = None,
    ) -> HeadTrial:
        """`upgrade`: whether the request is a WebSocket handshake; None where nobody knows."""
        answer = self.best.connect(connection)
        if (
            request is None
            or isinstance(answer, ConnectionDenied)
            or not is_opened(answer, encrypted=encrypted)
        ):
            return HeadTrial(Trial(answer, None))
        config = self.best.governing(answer, request.path)
        good, bad = _probes(config, request, upgrade)
        best = Trial(answer, self.best.authorize(answer, good))
        worst = try_request(self.worst, connection, bad, encrypted=encrypted)
        refusal = worst.refusal
        if refusal is not None and refusal.reason_code in _BEFORE_JUDGING:
            return HeadTrial(worst)
        if best.outcome is worst.outcome:
            return HeadTrial(best)
        unseen = _unseen(config, request)
        return HeadTrial(worst if unseen is Unseen.QUERY else best, unseen)


def _unseen(config: EndpointConfig | None, request: L7Request) -> Unseen:
    if config is None:
        return Unseen.QUERY
    if config.protocol in _BODY_PROTOCOLS:
        return Unseen.BODY
    if config.protocol != "websocket":
        return Unseen.QUERY
    if request.method.upper() != WEBSOCKET_TEXT:
        return Unseen.UPGRADE
    return Unseen.BODY if config.judges_graphql else Unseen.QUERY


def _probes(
    config: EndpointConfig | None, request: L7Request, upgrade: bool | None
) -> tuple[L7Request, L7Request]:
    """The request with the best and with the worst that it may say beyond its head."""
    protocol, method = (config.protocol if config else ""), request.method.upper()
    if method == WEBSOCKET_TEXT:
        if protocol != "websocket":
            # Nobody looks at messages there: what counts is the handshake that opened the way.
            handshake = L7Request("GET", request.path, request.query)
            return handshake, handshake
        return _saying(request, WebSocketMessage(is_control=True)), _saying(
            request, WebSocketMessage()
        )
    best: Content | None = None
    match protocol:
        case "graphql" if method in ("GET", "POST"):
            best = _ANY_OPERATION
        case "json-rpc":
            best = _ANY_CALL
        case "mcp":
            best = RpcStream() if method == "GET" else _ANY_CALL
        case "websocket" if upgrade is not False:
            handshake = _saying(request, WebSocketUpgrade())
            return handshake, handshake if upgrade else request
    return _saying(request, best), request


def _saying(request: L7Request, content: Content | None) -> L7Request:
    return L7Request(request.method, request.path, request.query, content)


def _with_endpoints(policy: SandboxPolicy, change: _Change) -> SandboxPolicy:
    rules = {
        key: replace(rule, endpoints=tuple(change(endpoint) for endpoint in rule.endpoints))
        for key, rule in policy.network_policies.items()
    }
    return replace(policy, network_policies=MappingProxyType(rules))


def _suited_body(endpoint: Endpoint) -> Endpoint:
    """As if every body asked for nothing but what is allowed and not denied."""
    match endpoint.protocol.strip().lower():
        case "graphql":
            return replace(endpoint, access="full", rules=(), deny_rules=())
        case "json-rpc" | "mcp":
            return replace(endpoint, access="", rules=(L7Rule(method="*"),), deny_rules=())
        case "websocket" if has_graphql_policy(endpoint):
            heads = tuple(rule for rule in endpoint.deny_rules if not is_graphql_rule(rule))
            # The setting keeps messages what they are: GraphQL.
            return replace(endpoint, persisted_queries="allow_registered", deny_rules=heads)
    return endpoint


def _without_queries(endpoint: Endpoint, *, suits: bool) -> Endpoint:
    """As if queries suited every allow rule and no deny rule, or none and all."""
    return replace(
        endpoint,
        rules=tuple(_without_query(endpoint.rules, keep=suits)),
        deny_rules=tuple(_without_query(endpoint.deny_rules, keep=not suits)),
    )


def _without_query(rules: Iterable[L7Rule], *, keep: bool) -> Iterator[L7Rule]:
    for rule in rules:
        # What cannot be read refuses everything, whatever the query.
        if not rule.query or not _is_readable(rule):
            yield rule
        elif keep:
            yield replace(rule, query=MappingProxyType({}))


def _is_readable(rule: L7Rule) -> bool:
    try:
        for matcher in rule.query.values():
            for glob in matcher.globs:
                compile_glob(glob, ".")
    except GlobError:
        return False
    return True
