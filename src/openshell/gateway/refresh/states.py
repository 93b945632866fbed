"""Refresh states as rows: what is configured for one credential key of one provider, and how it went.

A row holds plain material and handles of sealed material, never a sealed value; it goes with its
secrets in the transaction that ends it, so no state is ever seen while it is being deleted. A
credential store outside the database queues what it could not remove itself, inside `retire`. While
one gateway mints, the row is claimed: its status says so and its due time is when the claim ends,
so that a gateway that dies delays a renewal and nothing more.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.credentials.model import CredentialRef, CredentialStore
from openshell.gateway.records import Kind, load, metadata_of, to_row
from openshell.gateway.store.model import MatchResourceVersion, MustCreate, Row, Tx
from openshell.providers.profile.model import Strategy
from openshell.providers.situation import RefreshState

__all__ = [
    "State",
    "drop_states",
    "find_state",
    "is_claimed",
    "load_anyway",
    "material_refs",
    "material_slot",
    "put_state",
    "read_state",
    "read_states",
    "set_handles",
    "state_name",
    "status_message",
    "strategy_of",
]

State = openshell_pb2.StoredProviderCredentialRefreshState

_IDLE: Final = "idle"
_MINTING: Final = "minting"

_log = logging.getLogger(__name__)


def state_name(provider_id: str, key: str) -> str:
    return f"provider-refresh-{provider_id}-{key.encode().hex()}"


def material_slot(key: str, material: str) -> str:
    """The credential key under which a piece of secret material is sealed: no provider can have it."""
    digest = hashlib.sha256(f"{key}\0{material}".encode()).hexdigest()
    return f"refresh-{digest[:40]}"


def find_state(tx: Tx, provider: Row, key: str) -> Row | None:
    return tx.get(Kind.REFRESH_STATE, provider.workspace, state_name(provider.id, key))


def read_state(row: Row) -> RefreshState:
    """The state as the rules of sandboxes see it."""
    message = load(row, State)
    return RefreshState(
        id=row.id,
        provider_id=message.provider_id,
        key=message.credential_key,
        strategy=strategy_of(message.strategy) or Strategy.UNSPECIFIED,
        epoch=message.authorization_epoch,
        outputs=dict(message.additional_output_keys),
        resource_version=row.resource_version,
    )


def strategy_of(number: int) -> Strategy | None:
    """None for a number that this version does not know."""
    try:
        return Strategy(number)
    except ValueError:
        return None


def load_anyway(row: Row) -> State:
    """The state; of a damaged one what is needed to see, replace and delete it.

    Nothing names the secrets of a damaged one any more: they stay in the store, sealed.
    """
    try:
        return load(row, State)
    except DecodeError:
        _log.error("the stored refresh %s is damaged", row.name)
    state = State(
        metadata=metadata_of(row),
        provider_id=row.scope or "",
        status="damaged",
        last_error="damaged: configure it again",
    )
    with contextlib.suppress(ValueError):
        key = bytes.fromhex((row.name or "").rpartition("-")[2])
        state.credential_key = key.decode()
    return state


def read_states(tx: Tx, provider_id: str) -> tuple[RefreshState, ...]:
    """Every state of a provider, by key."""
    rows = tx.all(Kind.REFRESH_STATE, scope=provider_id)
    return tuple(sorted(map(read_state, rows), key=lambda state: state.key))


def is_claimed(row: Row, message: State, now_ms: int) -> bool:
    """Whether some gateway is minting for it right now."""
    return row.status == _MINTING and message.next_refresh_at_ms > now_ms


def put_state(tx: Tx, message: State, over: Row | None, *, minting: bool = False) -> Row:
    """Writes the state over the row it was read from, or as a new one."""
    row = to_row(
        Kind.REFRESH_STATE,
        message,
        scope=message.provider_id,
        status=_MINTING if minting else _IDLE,
    )
    return tx.put(
        row, MustCreate() if over is None else MatchResourceVersion(over.resource_version)
    )


def material_refs(message: State, names: Iterable[str] | None = None) -> dict[str, CredentialRef]:
    """Store references of secret material by its name; all of it unless `names` are given."""
    handles = message.secret_material_handles
    return {
        name: CredentialRef(
            handles[name].handle,
            message.provider_id,
            material_slot(message.credential_key, name),
        )
        for name in (sorted(handles) if names is None else names)
        if name in handles
    }


def drop_states(tx: Tx, credentials: CredentialStore, provider_id: str) -> list[CredentialRef]:
    """Removes every state of a provider with its secrets, next to the removal of the provider.

    The answer goes to `CredentialStore.retired` after the commit.
    """
    dropped: list[CredentialRef] = []
    for row in tx.all(Kind.REFRESH_STATE, scope=provider_id):
        dropped += material_refs(load_anyway(row)).values()
        tx.delete(Kind.REFRESH_STATE, row.id, row.resource_version)
    credentials.retire(tx, dropped)
    return dropped


def set_handles(message: State, driver: str, handles: dict[str, str]) -> None:
    """Points material names at sealed values."""
    for name, handle in handles.items():
        message.secret_material_handles[name].CopyFrom(
            datamodel_pb2.CredentialHandle(driver=driver, handle=handle)
        )


def status_message(message: State) -> openshell_pb2.ProviderCredentialRefreshStatus:
    """What a client may see of a state."""
    return openshell_pb2.ProviderCredentialRefreshStatus(
        provider_name=message.provider_name,
        provider_id=message.provider_id,
        credential_key=message.credential_key,
        strategy=message.strategy,
        status=message.status,
        expires_at_ms=message.expires_at_ms,
        next_refresh_at_ms=message.next_refresh_at_ms,
        last_refresh_at_ms=message.last_refresh_at_ms,
        last_error=message.last_error,
    )
