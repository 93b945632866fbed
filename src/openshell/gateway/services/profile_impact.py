"""What one change of profiles means for one sandbox, in sentences. Pure.

Compares two situations that differ in nothing but profiles: policies by what they allow, as
`policy diff` does, and credentials by where they may go. Sandboxes whose policy and providers are
equal share the answer, so that a change that concerns hundreds is worked out a few times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.policy.diff import ChangeKind, Effect, FieldChange, ReachChange, diff_policies
from openshell.policy.diff_text import terms_line
from openshell.policy.model import SandboxPolicy
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


def effects_between(before: Situation, after: Situation, faults: Sequence[Fault]) -> Effects:
    gained, lost = _policy_sentences(effective_policy(before), effective_policy(after))
    old, new = set(_credentials(before)), set(_credentials(after))
    return Effects(
        gained=tuple(gained),
        lost=tuple(lost),
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


def _policy_sentences(
    before: SandboxPolicy | None, after: SandboxPolicy | None
) -> tuple[list[str], list[str]]:
    if before is None or after is None or before == after:
        return [], []
    gained: list[str] = []
    lost: list[str] = []
    # Profiles add network rules and nothing else, so static sections never differ.
    for change in diff_policies(before, after).network:
        for effect, sentence in _sentences(change):
            if effect is not Effect.NARROWER:
                gained.append(sentence)
            if effect is not Effect.WIDER:
                lost.append(sentence)
    return gained, lost


def _sentences(change: ReachChange) -> Iterator[tuple[Effect, str]]:
    place = f"{change.reach.binary} to {change.reach.place}"
    if change.kind is ChangeKind.GAINED and change.after is not None:
        yield Effect.WIDER, f"{place}: {terms_line(change.after)}"
    elif change.kind is ChangeKind.LOST and change.before is not None:
        yield Effect.NARROWER, f"{place}: {terms_line(change.before)}"
    for field in change.fields:
        yield from ((effect, f"{place}: {text}") for effect, text in _field_sentences(field))


def _field_sentences(field: FieldChange) -> Iterator[tuple[Effect, str]]:
    if field.field == "allow":
        # A lost rule may have included others that stay.
        left = ", ".join(field.now) or "nothing"
        yield from ((Effect.NARROWER, f"allow {rule} (now {left})") for rule in field.lost)
        yield from ((Effect.WIDER, f"allow {rule}") for rule in field.gained)
    elif field.field == "deny":
        yield from ((Effect.WIDER, f"no longer denied: {rule}") for rule in field.lost)
        yield from ((Effect.NARROWER, f"denied now: {rule}") for rule in field.gained)
    else:
        old, new = (", ".join(words) or "none" for words in (field.lost, field.gained))
        yield field.effect, f"{field.field} {old} -> {new}"


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
