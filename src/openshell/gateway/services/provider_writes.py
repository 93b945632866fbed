"""What the provider RPCs decide and write inside one transaction; `providers.py` does the rest.

A write is judged by what it leaves behind: the sandboxes that use the provider are looked at as they
were and as they are now, and a fault that is new undoes everything. Secrets are written and dropped
through the credential store, in the same transaction where that store is the database.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from openshell._proto import datamodel_pb2
from openshell.gateway.credentials.model import CredentialRef, CredentialStore, Prepared
from openshell.gateway.errors import failed_precondition, invalid_argument, not_found
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.refresh.states import drop_states, read_states
from openshell.gateway.refresh.users import Users
from openshell.gateway.services.catalogues import read_catalogue
from openshell.gateway.services.client_certificates import refuse_bad_pair
from openshell.gateway.services.provider_records import credential_refs, record_from_row
from openshell.gateway.services.situations import sandboxes_using
from openshell.gateway.store.model import MatchResourceVersion, Row, Tx
from openshell.gateway.workspaces import open_workspace
from openshell.providers.profile.model import MINTABLE, ProviderProfile
from openshell.providers.records import (
    NewProvider,
    ProviderChange,
    ProviderRecord,
    RecordRefused,
    UpdatePlan,
    check_new,
    plan_update,
)
from openshell.providers.types import canonical_type

__all__ = [
    "Applied",
    "apply_change",
    "check_creation",
    "find_provider",
    "plan_change",
    "remove_provider",
    "set_handles",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """A changed record, the secrets it let go of and the sandboxes that are to be told."""

    row: Row
    dropped: list[CredentialRef]
    sandbox_ids: list[str]


def find_provider(tx: Tx, workspace: str, name: str) -> Row:
    row = tx.get(Kind.PROVIDER, workspace, name)
    if row is None:
        raise not_found(f"provider '{name}' not found")
    return row


def check_creation(tx: Tx, requested: str, new: NewProvider) -> str:
    """The workspace that the provider will be in; raises for what may not become a record."""
    workspace = open_workspace(tx, requested, must_be_active=True)
    try:
        check_new(new, workspace, may_be_empty=_may_be_empty(tx, workspace, new.type))
    except RecordRefused as refused:
        raise invalid_argument(str(refused)) from None
    profile = _profile_of(tx, workspace, new.type)
    refuse_bad_pair(profile, new.credentials, _moment(tx))
    return workspace


def plan_change(row: Row, change: ProviderChange) -> UpdatePlan:
    try:
        return plan_update(record_from_row(row), change)
    except RecordRefused as refused:
        raise invalid_argument(str(refused)) from None


def set_handles(message: datamodel_pb2.Provider, driver: str, prepared: Prepared) -> None:
    """Points keys at sealed values."""
    for key, handle in prepared.handles.items():
        message.credential_handles[key].CopyFrom(
            datamodel_pb2.CredentialHandle(driver=driver, handle=handle)
        )


def apply_change(
    tx: Tx, credentials: CredentialStore, row: Row, change: ProviderChange, prepared: Prepared
) -> Applied:
    """Merges into the row, which was read in this transaction."""
    record = record_from_row(row)
    plan = plan_change(row, change)
    _refuse_refreshed_keys(tx, record, change)
    profile = _profile_of(tx, row.workspace, record.type)
    refuse_bad_pair(profile, change.credentials, _moment(tx))
    users = Users(tx, row)
    message = load(row, datamodel_pb2.Provider)
    dropped = credential_refs(record, dict.fromkeys((*plan.store_keys, *plan.remove_keys)))
    for key in plan.remove_keys:
        del message.credential_handles[key]
    set_handles(message, credentials.driver, prepared)
    message.ClearField("config")
    message.config.update(plan.config)
    message.ClearField("credential_expires_at_ms")
    message.credential_expires_at_ms.update(plan.expires_at_ms)
    credentials.commit(tx, prepared)
    stored = tx.put(to_row(Kind.PROVIDER, message), MatchResourceVersion(row.resource_version))
    credentials.retire(tx, dropped)
    users.refuse_new_faults()
    return Applied(stored, dropped, users.ids)


def remove_provider(tx: Tx, credentials: CredentialStore, row: Row) -> list[CredentialRef]:
    """Removes the record with every secret of it; the secrets' references, for `retired`."""
    name = row.name or ""
    users = sandboxes_using(tx, row.workspace, name)
    if users:
        names = ", ".join(sorted(sandbox.metadata.name for sandbox in users))
        raise failed_precondition(
            f"provider '{name}' is attached to sandbox(es): {names}; detach it first"
        )
    try:
        record = record_from_row(row)
        dropped = credential_refs(record, record.handles)
    except DecodeError:
        # Nothing names its secrets any more: they stay behind, sealed, and nobody can ask for them.
        _log.error("provider '%s' was damaged; its sealed values stay in the store", name)
        dropped = []
    credentials.retire(tx, dropped)
    dropped += drop_states(tx, credentials, row.id)
    tx.delete(Kind.PROVIDER, row.id, row.resource_version)
    return dropped


def _profile_of(tx: Tx, workspace: str, provider_type: str) -> ProviderProfile | None:
    entry = read_catalogue(tx, workspace).effective(canonical_type(provider_type))
    return entry.profile if entry is not None else None


def _moment(tx: Tx) -> dt.datetime:
    return dt.datetime.fromtimestamp(tx.now_ms / 1000, dt.UTC)


def _may_be_empty(tx: Tx, workspace: str, provider_type: str) -> bool:
    """Whether the type's values can all come into being at run time."""
    entry = read_catalogue(tx, workspace).effective(canonical_type(provider_type))
    return entry is not None and entry.profile.allows_empty_credentials


def _refuse_refreshed_keys(tx: Tx, record: ProviderRecord, change: ProviderChange) -> None:
    owned = {
        key
        for state in read_states(tx, record.id)
        if state.strategy in MINTABLE
        for key in state.keys
    }
    touched = sorted(owned.intersection(change.credentials))
    if touched:
        raise failed_precondition(
            f"provider '{record.name}': the gateway refreshes {', '.join(touched)}; use provider "
            "refresh rotate, configure or delete instead of writing them"
        )
