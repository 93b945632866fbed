"""A policy compiled for one generation: immutable, and the only place that decides.

`connect` answers for a connection and `authorize` for each inspected request on it; both are pure
functions of their arguments, called by the egress pipeline and by offline checks alike. Anything
that cannot be evaluated is refused. Validation is not repeated here, but what it would have
rejected (an unreadable pattern, a protocol not built yet) refuses too, since a policy may arrive
without having been validated.

A refusal costs more than an admission: only then is the nearest rule looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from openshell.policy import advice
from openshell.policy.decide import (
    ConnectionAllowed,
    ConnectionDecision,
    ConnectionRequest,
    EndpointConfig,
    L7Request,
    RequestAllowed,
    RequestAudited,
    RequestDecision,
    RequestDenied,
)
from openshell.policy.endpoint_rules import EndpointRules
from openshell.policy.hosts import HostIndex, is_acceptable_host, is_address, normalize_host
from openshell.policy.judge_graphql import judge_graphql
from openshell.policy.judge_rest import judge_rest, judge_websocket
from openshell.policy.judge_rpc import judge_json_rpc, judge_mcp
from openshell.policy.programs import Match, programs_of
from openshell.policy.question import Judge, Question, Refusal
from openshell.policy.refusals import Refusals, Target

__all__ = ["CompiledPolicy"]

_JUDGES: Final[Mapping[str, Judge]] = {
    "rest": judge_rest,
    "websocket": judge_websocket,
    "graphql": judge_graphql,
    "json-rpc": judge_json_rpc,
    "mcp": judge_mcp,
}


class CompiledPolicy:
    """One generation of a policy. Share it freely: nothing in it changes."""

    __slots__ = (
        "_index",
        "_quarantine",
        "_refusals",
        "_rule_count",
        "_rules",
        "generation",
        "has_tcp",
    )

    def __init__(
        self,
        *,
        generation: int,
        targets: Iterable[Target],
        rules: Mapping[EndpointConfig, EndpointRules],
        rule_count: int,
        quarantine_text: str | None = None,
    ) -> None:
        self.generation: Final = generation
        targets = tuple(targets)
        # Whether some endpoint is a plain TCP connection.
        self.has_tcp: Final = any(t.config.is_tcp for t in targets)
        self._index = HostIndex((t.config.endpoint.host, t) for t in targets)
        self._rules = rules
        self._rule_count = rule_count
        self._quarantine = quarantine_text
        self._refusals = Refusals(generation, self._index, rule_count)

    def __repr__(self) -> str:
        state = "quarantined" if self._quarantine is not None else f"{self._rule_count} rules"
        return f"<CompiledPolicy generation {self.generation}, {state}>"

    @property
    def is_quarantined(self) -> bool:
        return self._quarantine is not None

    def could_resolve(self, host: str, *, relaxed: bool = False) -> bool:
        """Whether some rule could allow this name for some port and some program."""
        host = normalize_host(host)
        if self._quarantine is not None or not is_acceptable_host(host):
            return False
        return any(t.ports and (relaxed or t.rule.has_binaries) for t in self._index.find(host))

    def connect(self, request: ConnectionRequest) -> ConnectionDecision:
        if self._quarantine is not None:
            return self._refusals.connection(request, "quarantine", self._quarantine, None, "fix")
        host = normalize_host(request.host)
        if not is_acceptable_host(host):
            reason = "policy evaluation error: the host is not a name or an address"
            return self._refusals.connection(
                request, "invalid_host", reason, None, "use a valid host name"
            )
        targets = self._targets(host, request.port)
        targets.sort(key=_by_order)
        programs = programs_of(request)
        grades: dict[str, Match] = {}
        matched: list[EndpointConfig] = []
        trusted: list[EndpointConfig] = []
        for target in targets:
            rule = target.rule
            grade = grades.get(rule.key)
            if grade is None:
                grade = Match.NAMED if request.relaxed else rule.match(programs)
                grades[rule.key] = grade
            if grade is Match.NONE:
                continue
            config = target.config
            matched.append(config)
            if (
                grade is Match.NAMED
                and config.is_exact_host
                and not config.endpoint.advisor_proposed
            ):
                trusted.append(config)
        if not matched:
            return self._refusals.unmatched(request, host, targets)
        return ConnectionAllowed(
            host=host,
            port=request.port,
            binary=request.binary,
            matched_policy=matched[0].policy_key,
            configs=tuple(c for c in matched if _is_candidate(c)),
            endpoints=tuple(matched),
            trusted=tuple(trusted),
            generation=self.generation,
        )

    def is_tcp_only(self, host: str, port: int) -> bool:
        """Whether, for whatever program, only plain TCP connections are declared for this place."""
        targets = self._targets(normalize_host(host), port)
        return bool(targets) and all(t.config.is_tcp for t in targets)

    def _targets(self, host: str, port: int) -> list[Target]:
        targets = [t for t in self._index.find(host) if port in t.ports]
        if any(t.config.is_tcp for t in targets) and is_address(host):
            # A wildcard stands for labels of names; a plain connection is never found by address.
            return [t for t in targets if not t.config.is_tcp]
        return targets

    def authorize(
        self, connection: ConnectionAllowed, request: L7Request, *, trusted_only: bool = False
    ) -> RequestDecision:
        """Judges one request of a connection that this same generation allowed.

        After a reload ask `connect` again first: a decision of another generation is refused here.
        `trusted_only`: the destination is a private address that only `connection.trusted` opened,
        so only those endpoints may allow; deny rules of all still count.
        """
        l7_configs = connection.l7_configs
        if self._quarantine is not None:
            return self._hard(connection, None, "quarantine", self._quarantine)
        if connection.generation != self.generation:
            reason = "the connection was judged by another policy generation"
            return self._hard(connection, None, "stale_generation", reason)
        if not l7_configs:
            return RequestAllowed(connection.matched_policy, None, self.generation)
        config = _choose(l7_configs, request.path)
        if config is None:
            reason = "no L7 endpoint path matched request"
            return self._hard(connection, None, "no_route", reason, request)
        if "%2F" in request.path and not config.allow_encoded_slash:
            reason = f"the path contains an encoded slash and {config.location} does not allow it"
            suggestion = advice.keep_encoded_slash(config.location)
            return self._hard(connection, config, "encoded_slash", reason, suggestion=suggestion)
        judge = _JUDGES.get(config.protocol)
        if judge is None:
            reason = f"protocol '{config.protocol}' is not supported yet"
            return self._hard(connection, config, "unsupported_protocol", reason)
        covering: list[tuple[EndpointConfig, EndpointRules]] = []
        for endpoint in connection.endpoints:
            rules = self._rules.get(endpoint)
            if rules is None:
                reason = "policy evaluation error: the endpoint belongs to another policy"
                return self._hard(connection, config, "evaluation_error", reason)
            if not rules.covers_path(request.path):
                continue
            if rules.broken is not None:
                reason = f"policy evaluation error: {rules.broken}"
                return self._hard(connection, config, "evaluation_error", reason)
            covering.append((endpoint, rules))
        may_allow = connection.trusted if trusted_only else connection.endpoints
        question = Question(config, request, covering, may_allow, self._rules, trusted_only)
        refusal = judge(question)
        if refusal is None:
            return RequestAllowed(connection.matched_policy, config, self.generation)
        return self._refused(connection, config, refusal)

    def governing(self, connection: ConnectionAllowed, path: str) -> EndpointConfig | None:
        """Which endpoint says how a request of this path is read; None if none inspects it."""
        return _choose(connection.l7_configs, path)

    def _refused(
        self, connection: ConnectionAllowed, config: EndpointConfig, refusal: Refusal
    ) -> RequestDecision:
        policy = connection.matched_policy
        if refusal.hard or config.enforcement == "enforce":
            return RequestDenied(
                policy=policy,
                config=config,
                reason_code=refusal.code,
                reason=refusal.reason,
                hard=refusal.hard,
                nearest_rule=refusal.nearest,
                suggestion=refusal.suggestion,
                generation=self.generation,
            )
        return RequestAudited(
            policy,
            config,
            refusal.code,
            refusal.reason,
            refusal.nearest,
            refusal.suggestion,
            self.generation,
        )

    def _hard(
        self,
        connection: ConnectionAllowed,
        config: EndpointConfig | None,
        code: str,
        reason: str,
        request: L7Request | None = None,
        *,
        suggestion: str = "",
    ) -> RequestDenied:
        nearest = config.location if config is not None else None
        if code == "quarantine":
            suggestion = advice.fix_candidate()
        elif code == "no_route" and request is not None:
            nearest = connection.l7_configs[0].location
            suggestion = advice.cover_path(request.path, nearest)
        return RequestDenied(
            policy=connection.matched_policy,
            config=config,
            reason_code=code,
            reason=reason,
            hard=True,
            nearest_rule=nearest,
            suggestion=suggestion,
            generation=self.generation,
        )


def _by_order(target: Target) -> int:
    return target.order


def _is_candidate(config: EndpointConfig) -> bool:
    return config.is_inspected or bool(config.endpoint.allowed_ips or config.endpoint.tls)


def _choose(configs: tuple[EndpointConfig, ...], path: str) -> EndpointConfig | None:
    """A single config serves every request; of several, the most specific path that matches."""
    if len(configs) == 1:
        return configs[0]
    matching = [config for config in configs if config.matches_route(path)]
    return max(matching, key=lambda config: config.specificity, default=None)
