"""What one change of profiles means for one sandbox, in sentences. Pure.

Compares two situations that differ in nothing but profiles: policies by what they allow
(`profile_diff`) and credentials by where they may go. Sandboxes whose policy and providers are equal
share the answer (`profile_change`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.gateway.services.profile_diff import Difference, PolicyComparer
from openshell.providers.environment import plan_environment
from openshell.providers.fitness import effective_policy
from openshell.providers.situation import Fault, Situation
from openshell.providers.token_grants import expand

__all__ = ["Effects", "Impact", "effects_between", "impact_messages"]

SENTENCES_PER_LIST: Final = 50
"""Of one sandbox in one answer; a person reads no more, and the number of the others is told."""
SENTENCES_IN_ALL: Final = 10_000
"""Of one answer, about 1.5 MB; sandboxes after that are told with numbers only."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What equal sandboxes gain and lose."""

    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    unbound: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    """Those that were not there before."""

    @property
    def is_empty(self) -> bool:
        return not (self.gained or self.lost or self.bound or self.unbound or self.faults)


@dataclass(frozen=True, slots=True)
class Impact:
    workspace: str
    sandbox: str
    sandbox_id: str
    effects: Effects


def effects_between(
    before: Situation, after: Situation, faults: Sequence[Fault], comparer: PolicyComparer
) -> Effects:
    old_policy, new_policy = effective_policy(before), effective_policy(after)
    difference = Difference()
    # Neither or both are there: no profile makes a policy.
    if old_policy is not None and new_policy is not None:
        difference = comparer.compare(old_policy, new_policy)
    old, new = set(_credentials(before)), set(_credentials(after))
    return Effects(
        gained=difference.gained,
        lost=difference.lost,
        bound=tuple(sorted(new - old)),
        unbound=tuple(sorted(old - new)),
        faults=tuple(faults),
    )


def impact_messages(impacts: Iterable[Impact]) -> list[ext.SandboxImpact]:
    """For the answer; sandboxes without any change are left out."""
    left = SENTENCES_IN_ALL
    messages = []
    for impact in impacts:
        effects = impact.effects
        if effects.is_empty:
            continue
        lists = []
        for sentences in (effects.gained, effects.lost, effects.bound, effects.unbound):
            cut = _cut(sentences, min(left, SENTENCES_PER_LIST))
            left = max(0, left - len(cut))
            lists.append(cut)
        gained, lost, bound, unbound = lists
        messages.append(
            ext.SandboxImpact(
                workspace=impact.workspace,
                sandbox=impact.sandbox,
                sandbox_id=impact.sandbox_id,
                gained=gained,
                lost=lost,
                credentials_bound=bound,
                credentials_unbound=unbound,
                conflicts=[
                    ext.ImpactConflict(code=fault.code.value, message=fault.message)
                    for fault in effects.faults
                ],
            )
        )
    return messages


def _cut(sentences: Sequence[str], limit: int) -> list[str]:
    if len(sentences) <= limit:
        return list(sentences)
    return [*sentences[:limit], f"and {len(sentences) - limit} more"]


def _credentials(situation: Situation) -> Iterator[str]:
    """Every key and every grant with each place where it may go."""
    plan = plan_environment(situation)
    for credential in plan.credentials:
        owner = f"{credential.provider.name}:{credential.key}"
        for endpoint in credential.endpoints:
            yield f"{owner} {_place(endpoint.host, endpoint.port, endpoint.path)}"
    for grant in expand(situation.attached):
        place = _place(grant.host, grant.port, grant.path)
        yield f"{grant.provider}:{grant.credential} {place}"


def _place(host: str, port: int, path: str) -> str:
    return f"{host}:{port}{path if path.startswith('/') or not path else f'/{path}'}"
