"""What changes of profiles change in policies, worked out once for many sandboxes. Pure.

Two policies are cut into parts that have no place in common: whatever is allowed at a place is said
by one part alone, so parts can be compared by themselves, those that are the same on both sides need
not be, and sandboxes that share a provider share its part. The comparison is that of `policy diff`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from openshell.policy.diff import ChangeKind, Effect, FieldChange, ReachChange, diff_policies
from openshell.policy.diff_text import terms_line
from openshell.policy.hosts import is_wildcard_host, normalize_host
from openshell.policy.model import NetworkRule, SandboxPolicy

__all__ = ["MAX_LOOKALIKES", "Difference", "PolicyComparer"]

_Rules: TypeAlias = dict[str, NetworkRule]
_Place: TypeAlias = tuple[str, int]

MAX_LOOKALIKES: Final = 32
"""Remembered answers that only a full comparison tells apart: asking must not cost more than working
it out again, however many sandboxes have policies of their own."""

_EVERYWHERE: Final = ""
"""The host of a place that any other may be part of."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Sentences, sorted."""

    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Part:
    """The rules of both sides that speak of the same places."""

    before: _Rules
    after: _Rules
    places: frozenset[_Place]


class PolicyComparer:
    """Remembers the parts that it has compared."""

    def __init__(self) -> None:
        self._known: dict[object, list[tuple[_Part, Difference]]] = {}

    def compare(self, before: SandboxPolicy, after: SandboxPolicy) -> Difference:
        """Network rules only: profiles add nothing else."""
        parts = _changed_parts(before.network_policies, after.network_policies)
        found = [self._difference(part) for part in parts]
        return Difference(
            gained=tuple(sorted(sentence for part in found for sentence in part.gained)),
            lost=tuple(sorted(sentence for part in found for sentence in part.lost)),
        )

    def _difference(self, part: _Part) -> Difference:
        known = self._known.setdefault((part.places, *part.before, "", *part.after), [])
        for seen, difference in known:
            if seen.before == part.before and seen.after == part.after:
                return difference
        difference = _compare(part)
        if len(known) < MAX_LOOKALIKES:
            known.append((part, difference))
        return difference


def _changed_parts(
    before: Mapping[str, NetworkRule], after: Mapping[str, NetworkRule]
) -> Iterator[_Part]:
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    if not changed:
        return
    places = {
        key: {*_places(before.get(key)), *_places(after.get(key))} for key in {*before, *after}
    }
    for keys in _groups(places):
        if not changed.isdisjoint(keys):
            yield _Part(
                {key: before[key] for key in sorted(keys) if key in before},
                {key: after[key] for key in sorted(keys) if key in after},
                frozenset(place for key in keys for place in places[key]),
            )


def _places(rule: NetworkRule | None) -> Iterator[_Place]:
    """Hosts with ports; patterns, addresses and missing ports count as all that they might meet."""
    for endpoint in rule.endpoints if rule is not None else ():
        host = normalize_host(endpoint.host)
        wide = not host or is_wildcard_host(host)
        for port in endpoint.ports or (0,):
            yield (_EVERYWHERE if wide else host, port)


def _groups(places: Mapping[str, set[_Place]]) -> Iterable[set[str]]:
    """Keys of rules that have a place in common, directly or through others."""
    group_of = {key: {key} for key in places}
    owners: dict[_Place, str] = {}
    ports: dict[int, set[str]] = {}
    for key, own in places.items():
        for place in own:
            _join(group_of, key, owners.setdefault(place, key))
            ports.setdefault(place[1], set()).add(key)
    for (host, port), owner in owners.items():
        # What has no port meets every port.
        if host == _EVERYWHERE or not port:
            for key in ports[port] if port else places:
                _join(group_of, owner, key)
    return {id(group): group for group in group_of.values()}.values()


def _join(group_of: dict[str, set[str]], one: str, two: str) -> None:
    large, small = group_of[one], group_of[two]
    if large is small:
        return
    if len(large) < len(small):
        large, small = small, large
    large |= small
    for key in small:
        group_of[key] = large


def _compare(part: _Part) -> Difference:
    gained: list[str] = []
    lost: list[str] = []
    before, after = (SandboxPolicy(network_policies=r) for r in (part.before, part.after))
    for change in diff_policies(before, after).network:
        for effect, sentence in _sentences(change):
            if effect is not Effect.NARROWER:
                gained.append(sentence)
            if effect is not Effect.WIDER:
                lost.append(sentence)
    return Difference(tuple(gained), tuple(lost))


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
