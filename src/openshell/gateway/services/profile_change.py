"""Carrying out a change of profiles inside one transaction, and what it does to sandboxes.

A snapshot is taken, the rows are written, then every sandbox with a provider whose profile is
another one now is looked at as it was and as it would be. Faults that it did not have before forbid
the change, and the caller undoes the transaction. A fault that was there already, word for word,
does not: nothing but profiles differs between the two, so this change is not its cause, and an old
fault of some sandbox blocks nobody. Neither provider records nor sandbox policies are written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.message import DecodeError

from openshell._proto import openshell_pb2
from openshell.gateway.errors import aborted
from openshell.gateway.records import Kind
from openshell.gateway.services.catalogues import PLATFORM
from openshell.gateway.services.profile_diff import MAX_LOOKALIKES, PolicyComparer
from openshell.gateway.services.profile_history import Deed, append_revision
from openshell.gateway.services.profile_impact import Effects, Impact, effects_between
from openshell.gateway.services.profile_plan import ERROR, Diagnostic, Write, bounded
from openshell.gateway.services.profile_rows import create_row, replace_row
from openshell.gateway.services.provider_records import record_from_row
from openshell.gateway.services.situations import Situations, sandboxes_in
from openshell.gateway.store.model import Row, Tx
from openshell.policy.model import SandboxPolicy
from openshell.providers.fitness import find_faults, profile_faults
from openshell.providers.situation import Attached, Entry, Fault, FaultCode, Situation

__all__ = ["Snapshot", "User", "fault_diagnostics", "measure", "refuse_stale", "write_all"]

_PLACES: Final = {
    FaultCode.AMBIGUOUS_GRANTS: (
        "credentials.token_grant.audience_overrides",
        "{operation} would create ambiguous dynamic token grants on sandbox '{sandbox}': {message}",
    ),
    FaultCode.LAYER_CONFLICT: (
        "endpoints",
        "the composed policy of sandbox '{sandbox}' would have conflicting endpoint metadata: {message}",
    ),
    FaultCode.KEY_CLASH: ("credentials.env_vars", "sandbox '{sandbox}': {message}"),
    FaultCode.NO_USABLE_ENDPOINT: ("endpoints", "{message}"),
}
"""Field of the profile and wording. All other faults are about endpoints."""
_ELSEWHERE: Final = ("endpoints", "sandbox '{sandbox}': {message}")


@dataclass(frozen=True, slots=True)
class User:
    """A sandbox with providers whose profile is another one now."""

    sandbox: openshell_pb2.Sandbox
    before: Mapping[str, Entry | None]
    """What those providers' types meant before, by provider."""
    profiles: Mapping[str, str]
    """Ids of the profiles that changed, by provider."""

    @property
    def id(self) -> str:
        return self.sandbox.metadata.id

    def shown(self, scope: str) -> str:
        """Its name where the scope says the workspace, else both."""
        metadata = self.sandbox.metadata
        return metadata.name if scope else f"{metadata.workspace}/{metadata.name}"


class Snapshot:
    """What profiles meant before a change. Made before the writes, in the same transaction."""

    def __init__(self, tx: Tx, scope: str) -> None:
        self._tx = tx
        self._workspace = None if scope == PLATFORM else scope
        self._sandboxes = sandboxes_in(tx, self._workspace)
        before = Situations(tx)
        self._before = {
            workspace: before.catalogue(workspace)
            for workspace in {sandbox.metadata.workspace for sandbox in self._sandboxes}
        }

    def users(self, now: Situations) -> list[User]:
        """The sandboxes that see another profile after the writes. `now` was made after them."""
        changed: dict[tuple[str, str], tuple[Entry | None, str]] = {}
        for row in self._tx.all(Kind.PROVIDER, workspace=self._workspace):
            catalogue = self._before.get(row.workspace)
            if catalogue is None:
                continue
            try:
                record = record_from_row(row)
            except DecodeError:
                # No sandbox is handed anything of it, whatever profiles say.
                continue
            meaning = (record.type, record.profile_workspace)
            old = catalogue.for_provider(*meaning)
            new = now.catalogue(row.workspace).for_provider(*meaning)
            some = new or old
            if some is not None and _print(old) != _print(new):
                changed[row.workspace, record.name] = old, some.profile.id
        found = []
        for sandbox in self._sandboxes:
            workspace = sandbox.metadata.workspace
            names = [n for n in dict.fromkeys(sandbox.spec.providers) if (workspace, n) in changed]
            if names:
                before = {name: changed[workspace, name][0] for name in names}
                profiles = {name: changed[workspace, name][1] for name in names}
                found.append(User(sandbox, before, profiles))
        return found


def write_all(
    tx: Tx, scope: str, writes: Iterable[Write], deed: Deed, new_id: Callable[[], str]
) -> list[Row]:
    """Rows and their history. Versions are those just read; expected ones are checked later."""
    rows = []
    for write in writes:
        if write.row is None:
            row = create_row(tx, scope, write.profile, new_id())
        else:
            row = replace_row(tx, write.row, write.profile)
        append_revision(tx, scope, write.profile.id, deed, row)
        rows.append(row)
    return rows


def refuse_stale(writes: Iterable[Write]) -> None:
    """ABORTED for the first profile that is not at the version that its document started from."""
    for write in writes:
        if write.row is not None and write.expected not in (0, write.row.resource_version):
            current = write.row.resource_version
            raise aborted(
                f"provider profile '{write.profile.id}': concurrent modification (current "
                f"resource_version: {current}, expected: {write.expected}); read it again and retry",
                current_resource_version=str(current),
                profile_id=write.profile.id,
            )


def measure(users: Iterable[User], now: Situations, *, effects: bool) -> list[Impact]:
    """Faults that are new, and with `effects` what is gained and lost; in the order of the users."""
    shared = _Shared(effects)
    impacts = []
    for user in users:
        metadata = user.sandbox.metadata
        found = shared.effects(now.of(user.sandbox), user)
        impacts.append(Impact(metadata.workspace, metadata.name, metadata.id, found))
    return impacts


class _Shared:
    """Sandboxes with equal policies and the same providers have the same effects."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._comparer = PolicyComparer()
        self._known: dict[tuple[str, ...], list[tuple[SandboxPolicy | None, Effects]]] = {}
        self._before: dict[str, Attached] = {}

    def effects(self, now: Situation, user: User) -> Effects:
        then = self._then(now, user)
        effects = self._equal(now, then)
        # These name the sandbox, so they cannot be shared.
        stranded = _new(profile_faults, then, now, frozenset(user.profiles.values()))
        return replace(effects, faults=(*effects.faults, *stranded)) if stranded else effects

    def _equal(self, now: Situation, then: Situation) -> Effects:
        # Names of missing providers count too: they are a fault that names them.
        key = (*(item.record.id for item in now.attached), "", *now.missing)
        known = self._known.setdefault(key, [])
        for policy, effects in known:
            if policy == now.policy:
                return effects
        faults = _new(_faults, then, now)
        effects = (
            effects_between(then, now, faults, self._comparer)
            if self._wanted
            else Effects(faults=faults)
        )
        if len(known) < MAX_LOOKALIKES:
            known.append((now.policy, effects))
        return effects

    def _then(self, now: Situation, user: User) -> Situation:
        return replace(now, attached=tuple(self._as_before(a, user.before) for a in now.attached))

    def _as_before(self, item: Attached, before: Mapping[str, Entry | None]) -> Attached:
        name = item.record.name
        if name not in before:
            return item
        if item.record.id not in self._before:
            self._before[item.record.id] = replace(item, entry=before[name])
        return self._before[item.record.id]


def _faults(situation: Situation) -> tuple[Fault, ...]:
    return find_faults(situation, gate=True)


def _new(
    find: Callable[..., tuple[Fault, ...]], then: Situation, now: Situation, *arguments: object
) -> tuple[Fault, ...]:
    """What is found now and was not found before."""
    faults = find(now, *arguments)
    if not faults:
        return ()
    old = find(then, *arguments)
    return tuple(fault for fault in faults if fault not in old)


def fault_diagnostics(
    users: Sequence[User],
    impacts: Sequence[Impact],
    writes: Sequence[Write],
    deed: Deed,
    scope: str,
) -> list[Diagnostic]:
    """One for each new fault and each changed profile that has a part in it."""
    sources = {write.profile.id: write.source for write in writes}
    found = [
        diagnostic
        for user, impact in zip(users, impacts, strict=True)
        for diagnostic in _of_user(user, impact, sources, deed, scope)
    ]
    return bounded(found)


def _of_user(
    user: User, impact: Impact, sources: Mapping[str, str], deed: Deed, scope: str
) -> Iterator[Diagnostic]:
    for fault in impact.effects.faults:
        # A fault that names none of them was still caused by them.
        named = [user.profiles[name] for name in fault.providers if name in user.profiles]
        field, wording = _PLACES.get(fault.code, _ELSEWHERE)
        message = wording.format(
            operation=deed.operation.value, sandbox=user.shown(scope), message=fault.message
        )
        for profile_id in dict.fromkeys(named or user.profiles.values()):
            yield Diagnostic(
                source=sources.get(profile_id, ""),
                profile_id=profile_id,
                field=field,
                message=message,
                severity=ERROR,
            )


def _print(entry: Entry | None) -> str:
    return entry.fingerprint if entry is not None else ""
