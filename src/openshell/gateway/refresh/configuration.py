"""Writes and removes refresh configurations: each in one transaction with all that it is about.

What a configuration must satisfy is decided by `openshell.providers.refresh_configure`; here the
provider, its profile and the sandboxes that have it are read. Secret material is sealed before the
transaction, so what decided about sealing is read twice and has to be the same: of two configurations
at once one is written, and the other one's secrets never are.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from openshell._proto import openshell_pb2
from openshell.gateway.credentials.model import CredentialRef, CredentialStore, Prepared
from openshell.gateway.errors import aborted, failed_precondition, not_found
from openshell.gateway.events import Bus
from openshell.gateway.records import Kind, load
from openshell.gateway.refresh.provider_values import forget_expiry, set_expiry
from openshell.gateway.refresh.refusals import translated
from openshell.gateway.refresh.states import (
    State,
    find_state,
    load_anyway,
    material_refs,
    material_slot,
    put_state,
    read_states,
    set_handles,
    state_name,
)
from openshell.gateway.refresh.users import Users
from openshell.gateway.services.catalogues import read_catalogue, v2_enabled
from openshell.gateway.services.provider_records import record_from_row
from openshell.gateway.services.situations import sandboxes_using
from openshell.gateway.store.model import Row, Store, Tx
from openshell.gateway.workspaces import open_workspace
from openshell.providers.profile.model import ProviderProfile, Strategy
from openshell.providers.refresh import RefreshRefused, next_due, pin_outputs, secret_names
from openshell.providers.refresh_configure import (
    ConfigurePlan,
    ConfigureRequest,
    check_material,
    check_subject,
    plan_configure,
)

__all__ = ["Configurations", "find_provider"]

_EPOCH_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a configuration is about, as one transaction sees it."""

    provider: Row
    profile: ProviderProfile | None
    present: Row | None
    secret: frozenset[str]
    """Names of the material that is sealed."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What may not differ between sealing the material and writing it."""
        version = self.present.resource_version if self.present is not None else 0
        return (self.provider.id, version, self.secret)


@dataclass(frozen=True, slots=True)
class _Written:
    state: State = field(repr=False)
    dropped: list[CredentialRef]
    sandbox_ids: list[str]


class Configurations:
    """Configures and deletes the refresh of single credentials."""

    def __init__(
        self,
        store: Store,
        credentials: CredentialStore,
        bus: Bus,
        *,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._bus = bus
        self._new_id = new_id

    async def configure(self, workspace: str, asked: ConfigureRequest) -> State:
        """What is stored now. Raises `ApiError`, and then nothing was written."""
        with translated():
            check_subject(asked)
            # To learn what has to be sealed; decided again inside the write.
            seen = await self._store.read(lambda tx: _look(tx, workspace, asked))
        sealed = {material_slot(asked.key, n): asked.material[n] for n in sorted(seen.secret)}
        prepared = await self._credentials.prepare(seen.provider.id, sealed)
        try:
            with translated():
                written = await self._store.write(
                    lambda tx: self._write(tx, workspace, asked, seen, prepared)
                )
        except Exception:
            await self._credentials.discard(prepared)
            raise
        await self._announce(written)
        return written.state

    async def delete(self, workspace: str, provider: str, key: str) -> bool:
        """False when there is none. The values stay; their end goes if refresh had set it."""

        def write(tx: Tx) -> _Written | None:
            row = find_provider(tx, workspace, provider)
            present = find_state(tx, row, key)
            if present is None:
                return None
            state = load_anyway(present)
            dropped = list(material_refs(state).values())
            tx.delete(Kind.REFRESH_STATE, present.id, present.resource_version)
            self._credentials.retire(tx, dropped)
            forget_expiry(tx, row, _keys(state), state.expires_at_ms)
            users = sandboxes_using(tx, row.workspace, provider)
            return _Written(state, dropped, [sandbox.metadata.id for sandbox in users])

        written = await self._store.write(write)
        if written is None:
            return False
        await self._announce(written)
        return True

    async def _announce(self, written: _Written) -> None:
        self._bus.config_changed(written.sandbox_ids, "providers")
        await self._credentials.retired(written.dropped)

    def _write(
        self, tx: Tx, workspace: str, asked: ConfigureRequest, seen: _Subject, prepared: Prepared
    ) -> _Written:
        subject = _look(tx, workspace, asked)
        if subject.identity != seen.identity:
            raise aborted(
                f"the refresh of '{asked.key}', its provider or its profile changed meanwhile; "
                "look at them again and retry"
            )
        users = Users(tx, subject.provider)
        state = self._state(tx, subject, asked, prepared)
        refused: RefreshRefused | None = None
        try:
            _apply(state, plan_configure(asked, subject.profile))
        except RefreshRefused as error:
            # A clash of keys is told first: that is the contract's order.
            refused = error
        dropped: list[CredentialRef] = []
        if subject.present is not None:
            dropped = list(material_refs(load_anyway(subject.present)).values())
        row = put_state(tx, state, subject.present)
        self._credentials.commit(tx, prepared)
        self._credentials.retire(tx, dropped)
        if asked.expires_at_ms is not None:
            set_expiry(tx, subject.provider, _keys(state), asked.expires_at_ms)
        _refuse_own_clash(tx, state)
        users.refuse_new_faults()
        if refused is not None:
            raise refused
        return _Written(load(row, State), dropped, users.ids)

    def _state(
        self, tx: Tx, subject: _Subject, asked: ConfigureRequest, prepared: Prepared
    ) -> State:
        """The new state but for what its profile adds."""
        before = load_anyway(subject.present) if subject.present is not None else State()
        strategy = check_subject(asked)
        provider = subject.provider
        state = State(
            provider_id=provider.id,
            provider_name=provider.name or "",
            credential_key=asked.key,
            strategy=openshell_pb2.ProviderCredentialRefreshStrategy.ValueType(strategy),
            material={n: v for n, v in asked.material.items() if v and n not in subject.secret},
            secret_material_keys=sorted(subject.secret),
            expires_at_ms=(
                before.expires_at_ms if asked.expires_at_ms is None else asked.expires_at_ms
            ),
            last_refresh_at_ms=before.last_refresh_at_ms,
            status="configured",
            additional_output_keys=pin_outputs(subject.profile, asked.key, strategy),
            authorization_epoch=secrets.token_hex(_EPOCH_BYTES),
        )
        state.metadata.CopyFrom(before.metadata)
        if subject.present is None:
            state.metadata.id = self._new_id()
            state.metadata.name = state_name(provider.id, asked.key)
            state.metadata.workspace = provider.workspace
            state.metadata.created_at_ms = tx.now_ms
        handles = {n: prepared.handles[material_slot(asked.key, n)] for n in subject.secret}
        set_handles(state, self._credentials.driver, handles)
        return state


def find_provider(tx: Tx, workspace: str, name: str) -> Row:
    row = tx.get(Kind.PROVIDER, open_workspace(tx, workspace), name)
    if row is None:
        raise not_found(f"provider '{name}' not found")
    return row


def _look(tx: Tx, workspace: str, asked: ConfigureRequest) -> _Subject:
    """The checks that need no profile, in the contract's order, and what the rest needs."""
    workspace = open_workspace(tx, workspace)
    strategy = check_subject(asked)
    if strategy is Strategy.AWS_STS_ASSUME_ROLE and not v2_enabled(tx):
        raise failed_precondition("aws_sts_assume_role needs the setting providers_v2_enabled")
    check_material(asked)
    provider = find_provider(tx, workspace, asked.provider)
    record = record_from_row(provider)
    entry = read_catalogue(tx, workspace).for_provider(record.type, record.profile_workspace)
    profile = entry.profile if entry is not None else None
    return _Subject(
        provider,
        profile,
        find_state(tx, provider, asked.key),
        secret_names(profile, asked.key, strategy, asked.material, asked.secret_names),
    )


def _apply(state: State, plan: ConfigurePlan) -> None:
    state.token_url = plan.token_url
    state.scopes.extend(plan.scopes)
    state.refresh_before_seconds = plan.refresh_before_seconds
    state.max_lifetime_seconds = plan.max_lifetime_seconds
    state.next_refresh_at_ms = next_due(state.expires_at_ms, plan.refresh_before_seconds)


def _keys(state: State) -> list[str]:
    return [state.credential_key, *state.additional_output_keys.values()]


def _refuse_own_clash(tx: Tx, state: State) -> None:
    """Two grants of one provider must not write one variable, whether a sandbox has it or not."""
    wanted = set(_keys(state))
    for other in read_states(tx, state.provider_id):
        taken = sorted(wanted.intersection(other.keys)) if other.key != state.credential_key else []
        if taken:
            raise failed_precondition(
                f"the refresh of '{other.key}' already writes {', '.join(taken)}; delete it first"
            )
