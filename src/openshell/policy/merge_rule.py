"""`add_rule`: where an incoming rule goes, and whether that grants more than it spells out.

A rule grants binaries x endpoints x ports. Folding one into another could therefore give a program
an endpoint that nobody named for it; the three scope checks refuse that. Only `merge` calls this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from openshell.policy.merge_endpoint import Notes, fold, normalize_endpoint
from openshell.policy.merge_operations import AddRule, MergeRefused, MergeWarning, RefusalKind
from openshell.policy.merge_scope import Place, authorities, declares, same_place
from openshell.policy.model import (
    PROVIDER_KEY_PREFIX,
    Binary,
    Endpoint,
    NetworkRule,
    SandboxPolicy,
)

__all__ = ["SCOPE_CODES", "AddedRule", "add_rule"]

SCOPE_CODES: Final = (
    "scope_new_binary",
    "scope_undeclared_port",
    "scope_existing_binaries",
)
# Names listed in a message; a rule of hundreds would hide the sentence.
_MAX_LISTED: Final = 10


@dataclass(frozen=True, slots=True)
class AddedRule:
    policy: SandboxPolicy
    # The rule that now holds it; not always the one that was named.
    key: str
    warnings: tuple[MergeWarning, ...]


def add_rule(
    policy: SandboxPolicy, operation: AddRule, index: int, *, by_user: bool
) -> AddedRule | MergeRefused:
    name = operation.rule_name.strip()
    incoming = _normalize(name, operation.rule)
    rules = policy.network_policies
    if name in rules:
        return _merged(policy, rules[name], incoming, index, by_user)
    target = _sharing(rules, incoming)
    if target is None:
        return _inserted(policy, incoming, index, ())
    folded = _merged(policy, target, incoming, index, by_user)
    if not isinstance(folded, MergeRefused):
        note = MergeWarning(
            "folded",
            f"network_policies.{target.key}",
            f"rule '{name}' was merged into rule '{target.key}', which has the same endpoint",
            index,
        )
        return replace(folded, warnings=(note, *folded.warnings))
    if folded.code not in SCOPE_CODES:
        return folded
    kept = MergeWarning(
        "kept_apart",
        f"network_policies.{name}",
        f"rule '{name}' stays a rule of its own beside '{target.key}': merging {folded.message}",
        index,
    )
    return _inserted(policy, incoming, index, (kept,))


def _normalize(name: str, rule: NetworkRule) -> NetworkRule:
    """Of binaries named twice the one that a person declared counts."""
    binaries: dict[str, Binary] = {}
    for binary in rule.binaries:
        known = binaries.get(binary.path)
        if known is None or known.advisor_proposed:
            binaries[binary.path] = binary
    return NetworkRule(
        key=name,
        name=rule.name or name,
        endpoints=tuple(normalize_endpoint(endpoint) for endpoint in rule.endpoints),
        binaries=tuple(binaries.values()),
    )


def _sharing(rules: Mapping[str, NetworkRule], incoming: NetworkRule) -> NetworkRule | None:
    for key in sorted(rules):
        if key.startswith(PROVIDER_KEY_PREFIX):
            continue
        held = rules[key].endpoints
        if any(same_place(one, two) for one in held for two in incoming.endpoints):
            return rules[key]
    return None


def _inserted(
    policy: SandboxPolicy, rule: NetworkRule, index: int, warnings: tuple[MergeWarning, ...]
) -> AddedRule:
    if not rule.binaries:
        where = f"network_policies.{rule.key}.binaries"
        message = "the rule has no binaries and matches no program; name /** for any program"
        warnings = (*warnings, MergeWarning("no_binaries", where, message, index))
    return AddedRule(_with_rule(policy, rule), rule.key, warnings)


def _with_rule(policy: SandboxPolicy, rule: NetworkRule) -> SandboxPolicy:
    rules = {**policy.network_policies, rule.key: rule}
    return replace(policy, network_policies=MappingProxyType(dict(sorted(rules.items()))))


def _merged(
    policy: SandboxPolicy, existing: NetworkRule, incoming: NetworkRule, index: int, by_user: bool
) -> AddedRule | MergeRefused:
    notes = Notes(index)
    endpoints = list(existing.endpoints)
    for endpoint in incoming.endpoints:
        refused = _fold_in(endpoints, endpoint, existing.key, notes)
        if refused is not None:
            return refused
    refused = _scope_conflict(existing, incoming, endpoints)
    if refused is not None:
        return refused
    binaries = _binaries(existing, incoming, endpoints, notes, by_user)
    merged = replace(existing, endpoints=tuple(endpoints), binaries=binaries)
    return AddedRule(_with_rule(policy, merged), existing.key, tuple(notes.warnings))


def _fold_in(
    endpoints: list[Endpoint], incoming: Endpoint, key: str, notes: Notes
) -> MergeRefused | None:
    """Folds one endpoint into those of a rule, or appends it.

    Each port goes to the entry that has it already, preferably to one that it would not change;
    ports that no entry has join the first of those.
    """
    mates = [
        at
        for at, held in enumerate(endpoints)
        if same_place(held, incoming) and _may_fold(held, incoming, notes.index)
    ]
    shares: dict[int, list[int]] = {}
    rest: list[int] = []
    for port in incoming.ports:
        holders = [at for at in mates if port in endpoints[at].ports]
        if not holders:
            rest.append(port)
            continue
        same = [at for at in holders if _is_unchanged_by(endpoints[at], incoming, notes.index)]
        shares.setdefault((same or holders)[0], []).append(port)
    if not shares:
        endpoints.append(incoming)
        return None
    first = min(shares)
    for at, ports in shares.items():
        part = replace(incoming, ports=tuple(ports + (rest if at == first else [])))
        folded = fold(endpoints[at], part, f"network_policies.{key}.endpoints[{at}]", notes)
        if isinstance(folded, MergeRefused):
            return folded
        endpoints[at] = folded
    return None


def _may_fold(held: Endpoint, incoming: Endpoint, index: int) -> bool:
    """Entries with different marks stay apart, unless a marked one adds nothing but binaries."""
    if held.advisor_proposed == incoming.advisor_proposed:
        return True
    return incoming.advisor_proposed and _is_unchanged_by(held, incoming, index, strictly=True)


def _is_unchanged_by(
    held: Endpoint, incoming: Endpoint, index: int, *, strictly: bool = False
) -> bool:
    """Whether folding changes nothing and ignores nothing. `strictly`: on all its ports."""
    part = incoming
    if not strictly:
        part = replace(incoming, ports=tuple(p for p in incoming.ports if p in held.ports))
    notes = Notes(index)
    return fold(held, part, "", notes) == held and not notes.warnings


def _scope_conflict(
    existing: NetworkRule, incoming: NetworkRule, merged: Iterable[Endpoint]
) -> MergeRefused | None:
    old, new = _paths(existing.binaries), _paths(incoming.binaries)
    merged = tuple(merged)
    if old and (not new or new - old):
        missing = _undeclared(incoming.endpoints, merged)
        if missing is not None:
            who = f"binary '{min(new - old)}'" if new else "any binary"
            host, ports = missing
            return _conflict(
                "scope_new_binary",
                f"would grant {who} undeclared authorization for {host} on ports {ports} "
                f"in rule '{existing.key}'; declare those too or use another rule name",
            )
    changed = _changed(existing.endpoints, merged)
    named = authorities(incoming.endpoints)
    for host, _, ports in _by_endpoint(place for place in changed if place not in named):
        return _conflict(
            "scope_undeclared_port",
            f"would change authorization for {host} on undeclared ports {ports} in rule "
            f"'{existing.key}'; declare those ports too",
        )
    if changed and new and (not old or old - new):
        lacking = "the existing any-binary scope" if not old else _listed(old - new)
        host, _, ports = _by_endpoint(changed)[0]
        return _conflict(
            "scope_existing_binaries",
            f"would grant existing binaries new or changed authorization for {host} on ports "
            f"{ports} in rule '{existing.key}'; also declare {lacking}",
        )
    return None


def _conflict(code: str, message: str) -> MergeRefused:
    return MergeRefused(code, RefusalKind.PRECONDITION, message)


def _paths(binaries: Iterable[Binary]) -> set[str]:
    return {binary.path for binary in binaries}


def _listed(names: set[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:_MAX_LISTED])
    more = len(names) - _MAX_LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def _undeclared(
    incoming: Iterable[Endpoint], merged: Iterable[Endpoint]
) -> tuple[str, list[int]] | None:
    """The first endpoint of the merged rule that the operation does not spell out."""
    incoming = tuple(incoming)
    for endpoint in merged:
        told = {port for mine in incoming if declares(mine, endpoint) for port in mine.ports}
        missing = sorted(set(endpoint.ports) - told)
        if missing:
            return endpoint.host or "<any host>", missing
    return None


def _changed(before: Iterable[Endpoint], after: Iterable[Endpoint]) -> list[Place]:
    old, new = authorities(before), authorities(after)
    return sorted(place for place in {*old, *new} if old.get(place) != new.get(place))


def _by_endpoint(places: Iterable[Place]) -> list[tuple[str, str, list[int]]]:
    grouped: dict[tuple[str, str], list[int]] = {}
    for host, path, port in places:
        grouped.setdefault((host or "<any host>", path), []).append(port)
    return [(host, path, sorted(ports)) for (host, path), ports in grouped.items()]


def _binaries(
    existing: NetworkRule,
    incoming: NetworkRule,
    merged: Iterable[Endpoint],
    notes: Notes,
    by_user: bool,
) -> tuple[Binary, ...]:
    where = f"network_policies.{existing.key}.binaries"
    if not existing.binaries:
        if incoming.binaries:
            notes.add(
                "any_binary",
                where,
                "the rule has no binaries and keeps none; those named are ignored: to give it some, "
                f"remove it first (--remove-rule {existing.key}) and add it again",
            )
        return ()
    if not incoming.binaries:
        notes.add(
            "binaries_dropped",
            where,
            "the rule has no binaries now and matches no program; name /** for any program",
        )
        return ()
    # A person who names the program and all that the rule opens has made the entry their own.
    adopts = by_user and _undeclared(incoming.endpoints, merged) is None
    named = {b.path for b in incoming.binaries if not b.advisor_proposed}
    kept = [
        replace(held, advisor_proposed=False) if adopts and held.path in named else held
        for held in existing.binaries
    ]
    known = _paths(kept)
    return (*kept, *(binary for binary in incoming.binaries if binary.path not in known))
