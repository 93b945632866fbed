"""What changed between two policies in terms of what is allowed, not of how it is written.

Renaming a rule, splitting it, or writing a preset out changes nothing here. Each program and place
that either policy names is asked of both, so that a pattern replaced by one of its members shows
as the loss of the rest. `diff_text` writes the result for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from openshell.policy.grants import Grants, Reach, RequestRule, Terms, terms_json
from openshell.policy.model import FilesystemPolicy, JsonValue, SandboxPolicy

__all__ = ["ChangeKind", "Effect", "FieldChange", "PolicyDiff", "ReachChange", "diff_policies"]


class ChangeKind(StrEnum):
    GAINED = "gained"
    LOST = "lost"
    CHANGED = "changed"


class Effect(StrEnum):
    """For whoever is governed: more is possible, less, or simply something else."""

    WIDER = "wider"
    NARROWER = "narrower"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FieldChange:
    field: str
    effect: Effect
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    # For rules: all that hold afterwards, since a lost one may have included others that stay.
    now: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReachChange:
    kind: ChangeKind
    reach: Reach
    before: Terms | None
    after: Terms | None
    fields: tuple[FieldChange, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    network: tuple[ReachChange, ...]
    # Static sections, by their place in the policy.
    sections: tuple[FieldChange, ...]

    @property
    def is_empty(self) -> bool:
        return not self.network and not self.sections

    def of_kind(self, kind: ChangeKind) -> tuple[ReachChange, ...]:
        return tuple(change for change in self.network if change.kind is kind)

    def to_json(self) -> dict[str, JsonValue]:
        """Plain values for a machine."""
        return {
            "network": tuple(_reach_json(change) for change in self.network),
            "sections": tuple(_field_json(change) for change in self.sections),
        }


def diff_policies(before: SandboxPolicy, after: SandboxPolicy) -> PolicyDiff:
    old, new = Grants(before), Grants(after)
    reaches = sorted({*old.reaches(), *new.reaches()})
    found = (_compare(reach, old.terms(reach), new.terms(reach)) for reach in reaches)
    return PolicyDiff(
        network=tuple(change for change in found if change is not None),
        sections=tuple(_sections(before, after)),
    )


def _compare(reach: Reach, before: Terms | None, after: Terms | None) -> ReachChange | None:
    if before is None:
        return None if after is None else ReachChange(ChangeKind.GAINED, reach, None, after)
    if after is None:
        return ReachChange(ChangeKind.LOST, reach, before, None)
    fields = tuple(_fields(before, after))
    return ReachChange(ChangeKind.CHANGED, reach, before, after, fields) if fields else None


def _fields(before: Terms, after: Terms) -> Iterator[FieldChange]:
    old, new = before.protocols, after.protocols
    if old != new:
        effect = Effect.NARROWER if not old else Effect.WIDER if not new else Effect.OTHER
        opaque = ("not inspected",)
        yield FieldChange("inspection", effect, old or opaque, new or opaque)
    if before.is_inspected and after.is_inspected:
        yield from _request_fields(before, after)
    if before.tls != after.tls:
        effect = Effect.WIDER if after.tls == "skip" else Effect.NARROWER
        yield FieldChange("tls", effect, (before.tls,), (after.tls,))
    yield from _set_change("allowed_ips", before.allowed_ips, after.allowed_ips, Effect.OTHER)
    if before.private_addresses != after.private_addresses:
        words = ("private addresses",)
        gained, lost = (words, ()) if after.private_addresses else ((), words)
        effect = Effect.WIDER if gained else Effect.NARROWER
        yield FieldChange("addresses", effect, lost, gained)
    yield from _set_change("credentials", before.credentials, after.credentials)
    yield from _set_change("options", before.options, after.options)


def _request_fields(before: Terms, after: Terms) -> Iterator[FieldChange]:
    if before.enforcement != after.enforcement:
        blocks = {"enforce"}
        old, new = {*before.enforcement}, {*after.enforcement}
        effect = (
            Effect.NARROWER if new == blocks else Effect.WIDER if old == blocks else Effect.OTHER
        )
        lost, gained = tuple(sorted(old - new)), tuple(sorted(new - old))
        yield FieldChange("enforcement", effect, lost, gained)
    yield from _rule_change("allow", before.allow, after.allow, more=Effect.WIDER)
    yield from _rule_change("deny", before.deny, after.deny, more=Effect.NARROWER)


def _rule_change(
    field: str, before: tuple[RequestRule, ...], after: tuple[RequestRule, ...], *, more: Effect
) -> Iterator[FieldChange]:
    gained = _not_included(after, before)
    lost = _not_included(before, after)
    less = Effect.WIDER if more is Effect.NARROWER else Effect.NARROWER
    if gained or lost:
        effect = Effect.OTHER if gained and lost else more if gained else less
        yield FieldChange(field, effect, lost, gained, now=tuple(map(str, after)))


def _not_included(rules: Iterable[RequestRule], others: Iterable[RequestRule]) -> tuple[str, ...]:
    others = tuple(others)
    return tuple(str(rule) for rule in rules if not any(other.includes(rule) for other in others))


def _set_change(
    field: str,
    before: Iterable[str],
    after: Iterable[str],
    more: Effect = Effect.WIDER,
) -> Iterator[FieldChange]:
    old, new = {*before}, {*after}
    lost, gained = tuple(sorted(old - new)), tuple(sorted(new - old))
    if not lost and not gained:
        return
    less = Effect.NARROWER if more is Effect.WIDER else more
    effect = Effect.OTHER if lost and gained else more if gained else less
    yield FieldChange(field, effect, lost, gained)


_NO_FILES = FilesystemPolicy(include_workdir=True)


def _sections(before: SandboxPolicy, after: SandboxPolicy) -> Iterator[FieldChange]:
    old, new = before.filesystem or _NO_FILES, after.filesystem or _NO_FILES
    for name, was, now in (
        ("read_only", old.read_only, new.read_only),
        ("read_write", old.read_write, new.read_write),
    ):
        yield from _set_change(f"filesystem_policy.{name}", was, now)
    if old.include_workdir != new.include_workdir:
        effect = Effect.WIDER if new.include_workdir else Effect.NARROWER
        words = ("true",), ("false",)
        lost, gained = reversed(words) if new.include_workdir else words
        yield FieldChange("filesystem_policy.include_workdir", effect, lost, gained)
    yield from _word("landlock.compatibility", _landlock(before), _landlock(after))
    for name in ("run_as_user", "run_as_group"):
        user = getattr(before.process, name) if before.process else ""
        other = getattr(after.process, name) if after.process else ""
        yield from _word(f"process.{name}", user, other)


def _landlock(policy: SandboxPolicy) -> str:
    return (policy.landlock.compatibility if policy.landlock else "") or "best_effort"


def _word(field: str, before: str, after: str) -> Iterator[FieldChange]:
    if before != after:
        yield FieldChange(
            field, Effect.OTHER, (before,) if before else (), (after,) if after else ()
        )


def _reach_json(change: ReachChange) -> JsonValue:
    return {
        "change": change.kind.value,
        "binary": change.reach.binary,
        "host": change.reach.host,
        "port": change.reach.port,
        "before": terms_json(change.before) if change.before else None,
        "after": terms_json(change.after) if change.after else None,
        "fields": tuple(_field_json(field) for field in change.fields),
    }


def _field_json(change: FieldChange) -> JsonValue:
    return {
        "field": change.field,
        "effect": change.effect.value,
        "lost": change.lost,
        "gained": change.gained,
        "now": change.now,
    }
