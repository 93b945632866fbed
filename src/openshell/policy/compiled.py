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
from openshell.policy.hosts import HostIndex, is_acceptable_host, normalize_host
from openshell.policy.programs import Match, programs_of
from openshell.policy.refusals import Refusals, Target
from openshell.policy.rest import ACCESS_PRESETS, RestRule, RestRules

__all__ = ["CompiledPolicy"]


class CompiledPolicy:
    """One generation of a policy. Share it freely: nothing in it changes."""

    __slots__ = ("_index", "_quarantine", "_refusals", "_rest", "_rule_count", "generation")

    def __init__(
        self,
        *,
        generation: int,
        targets: Iterable[Target],
        rest: Mapping[EndpointConfig, RestRules],
        rule_count: int,
        quarantine_text: str | None = None,
    ) -> None:
        self.generation: Final = generation
        self._index = HostIndex((t.config.endpoint.host, t) for t in targets)
        self._rest = rest
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
        targets = [t for t in self._index.find(host) if request.port in t.ports]
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
            suggestion = f"set allow_encoded_slash: true at {config.location}"
            return self._hard(connection, config, "encoded_slash", reason, suggestion=suggestion)
        if config.protocol != "rest":
            reason = f"protocol '{config.protocol}' is not supported yet"
            return self._hard(connection, config, "unsupported_protocol", reason)
        return self._authorize_rest(connection, config, request, trusted_only)

    def _authorize_rest(
        self,
        connection: ConnectionAllowed,
        config: EndpointConfig,
        request: L7Request,
        trusted_only: bool,
    ) -> RequestDecision:
        method = request.method.upper()
        shown = f"{request.method} {request.path}"
        may_allow = connection.trusted if trusted_only else connection.endpoints
        covering: list[tuple[EndpointConfig, RestRules]] = []
        for endpoint in connection.endpoints:
            rules = self._rest.get(endpoint)
            if rules is None:
                reason = "policy evaluation error: the endpoint belongs to another policy"
                return self._hard(connection, config, "evaluation_error", reason)
            if not rules.covers_path(request.path):
                continue
            if rules.broken is not None:
                reason = f"policy evaluation error: {rules.broken}"
                return self._hard(connection, config, "evaluation_error", reason)
            covering.append((endpoint, rules))
        for _, rules in covering:
            for rule in rules.deny:
                if rule.denies(method, request):
                    return self._not_allowed(
                        connection,
                        config,
                        "deny_rule",
                        f"{shown} blocked by deny rule",
                        rule.location,
                        advice.lift_deny_rule(rule.location),
                    )
        for endpoint, rules in covering:
            if trusted_only and endpoint not in may_allow:
                continue
            if any(rule.allows(method, request) for rule in rules.allow):
                return RequestAllowed(connection.matched_policy, config, self.generation)
        nearest, suggestion = self._nearest_allow(config, may_allow, method, request)
        return self._not_allowed(
            connection, config, "no_allow", f"{shown} not permitted by policy", nearest, suggestion
        )

    def _nearest_allow(
        self,
        config: EndpointConfig,
        endpoints: tuple[EndpointConfig, ...],
        method: str,
        request: L7Request,
    ) -> tuple[str, str]:
        """The allow rule that agrees on the path, else on the method, else the endpoint itself."""
        best: tuple[int, RestRule, EndpointConfig] | None = None
        for endpoint in (config, *endpoints):
            for rule in self._rest[endpoint].allow:
                score = 2 * bool(rule.matches_path(request.path)) + rule.covers_method(method)
                if score and (best is None or score > best[0]):
                    best = (score, rule, endpoint)
        where = best[2] if best else config
        nearest = best[1].location if best else config.location
        if where.endpoint.access and not where.endpoint.rules:
            wanted = next(
                (a for a, methods in ACCESS_PRESETS.items() if method in methods or a == "full"),
                "full",
            )
            return nearest, advice.set_access(wanted, where.location)
        return nearest, advice.add_allow_rule(request.method, request.path, where.location)

    def _not_allowed(
        self,
        connection: ConnectionAllowed,
        config: EndpointConfig,
        code: str,
        reason: str,
        nearest: str,
        suggestion: str,
    ) -> RequestDecision:
        policy = connection.matched_policy
        if config.enforcement == "enforce":
            return RequestDenied(
                policy, config, code, reason, False, nearest, suggestion, self.generation
            )
        return RequestAudited(policy, config, code, reason, nearest, suggestion, self.generation)

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
