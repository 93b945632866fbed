"""Refusals of connections: which side missed, the rule that is nearest, the smallest change.

A refusal costs more than an admission, and only here. The sentences are those of `advice`; called by
the compiled policy when nothing matched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openshell.policy import advice
from openshell.policy.decide import ConnectionDenied, ConnectionRequest, EndpointConfig
from openshell.policy.hosts import HostIndex, normalize_host
from openshell.policy.programs import Match, Rule, programs_of

__all__ = ["Refusals", "Target"]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """An endpoint as found by host. `order` is rule key ascending, then position."""

    order: int
    rule: Rule
    ports: frozenset[int]
    config: EndpointConfig


class Refusals:
    """Refuses connections for one generation of a policy."""

    __slots__ = ("_generation", "_index", "_rule_count")

    def __init__(self, generation: int, index: HostIndex[Target], rule_count: int) -> None:
        self._generation = generation
        self._index = index
        self._rule_count = rule_count

    def unmatched(
        self, request: ConnectionRequest, host: str, targets: list[Target]
    ) -> ConnectionDenied:
        """No rule matched both sides: say which side missed, and what is closest."""
        port, binary = request.port, request.binary
        if targets:
            keys = list(dict.fromkeys(t.rule.key for t in targets))
            reason = "; ".join(
                advice.binary_reason(binary, key, request.ancestors, request.cmdline)
                for key in keys
            )
            # The author's own rule is the one that a change of the policy reaches.
            nearest = min(keys, key=advice.comes_with_provider)
            suggestion = advice.add_binary(binary, nearest)
            return self.connection(request, "binary_not_allowed", reason, nearest, suggestion)
        if not self._rule_count:
            suggestion = advice.add_rule(host, port, binary)
            reason = advice.no_policy_reason()
            return self.connection(request, "no_policy", reason, None, suggestion)
        reason = advice.endpoint_reason(host, port)
        programs = programs_of(request)
        # A provider's rule is not the place for an endpoint of the author's.
        other_port = _of_author(self._index.find(host))
        near = other_port or _of_author(self._index.find_near(host))
        if not near:
            suggestion = advice.add_rule(host, port, binary)
            return self.connection(request, "endpoint_not_allowed", reason, None, suggestion)
        # A rule that already knows the program needs only one change.
        best = min(near, key=lambda t: (t.rule.match(programs) is Match.NONE, t.order))
        if other_port:
            suggestion = advice.add_port(host, port, best.config.location)
        else:
            suggestion = advice.add_endpoint(host, port, best.rule.key)
        if not request.relaxed and best.rule.match(programs) is Match.NONE:
            suggestion += f" and {advice.add_binary(binary, best.rule.key)}"
        return self.connection(request, "endpoint_not_allowed", reason, best.rule.key, suggestion)

    def connection(
        self, request: ConnectionRequest, code: str, reason: str, nearest: str | None, how: str
    ) -> ConnectionDenied:
        return ConnectionDenied(
            host=normalize_host(request.host),
            port=request.port,
            binary=request.binary,
            reason_code=code,
            reason=reason,
            nearest_rule=nearest,
            suggestion=advice.fix_candidate() if code == "quarantine" else how,
            generation=self._generation,
        )


def _of_author(targets: Iterable[Target]) -> list[Target]:
    return [target for target in targets if not advice.comes_with_provider(target.rule.key)]
