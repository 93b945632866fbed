"""What refresh writes into a provider's record: minted values and their common end.

Each function runs in a transaction of the caller and changes the row that it reads there. Values
pass as handles of the credential store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from openshell._proto import datamodel_pb2
from openshell.gateway.credentials.model import CredentialRef
from openshell.gateway.errors import failed_precondition
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.services.provider_records import credential_refs, record_from_row
from openshell.gateway.store.model import MatchResourceVersion, Row, Tx
from openshell.providers.records import MAX_CREDENTIALS

__all__ = ["forget_expiry", "set_expiry", "write_values"]


def write_values(
    tx: Tx, row: Row, driver: str, handles: Mapping[str, str], expires_at_ms: int
) -> list[CredentialRef]:
    """Points the keys at new values that end together; what they pointed at before."""
    dropped = credential_refs(record_from_row(row), handles)
    message = load(row, datamodel_pb2.Provider)
    for key, handle in handles.items():
        message.credential_handles[key].CopyFrom(
            datamodel_pb2.CredentialHandle(driver=driver, handle=handle)
        )
    if len(message.credential_handles) > MAX_CREDENTIALS:
        raise failed_precondition(
            f"provider '{message.metadata.name}' would have more than {MAX_CREDENTIALS} "
            "credentials; remove one first"
        )
    _put(tx, row, message, dict.fromkeys(handles, expires_at_ms))
    return dropped


def set_expiry(tx: Tx, row: Row, keys: Iterable[str], expires_at_ms: int) -> None:
    """0 removes it."""
    _put(tx, row, load(row, datamodel_pb2.Provider), dict.fromkeys(keys, expires_at_ms))


def forget_expiry(tx: Tx, row: Row, keys: Iterable[str], expires_at_ms: int) -> None:
    """Removes the end that refresh set; one that somebody set since stays."""
    message = load(row, datamodel_pb2.Provider)
    ours = [
        key
        for key in keys
        if expires_at_ms and message.credential_expires_at_ms.get(key) == expires_at_ms
    ]
    if ours:
        _put(tx, row, message, dict.fromkeys(ours, 0))


def _put(tx: Tx, row: Row, message: datamodel_pb2.Provider, expiries: Mapping[str, int]) -> None:
    for key, expires_at_ms in expiries.items():
        if expires_at_ms > 0:
            message.credential_expires_at_ms[key] = expires_at_ms
        else:
            message.credential_expires_at_ms.pop(key, None)
    if len(message.credential_expires_at_ms) > MAX_CREDENTIALS:
        raise failed_precondition(
            f"provider '{message.metadata.name}' would have more than {MAX_CREDENTIALS} expiries; "
            "remove one first"
        )
    tx.put(to_row(Kind.PROVIDER, message), MatchResourceVersion(row.resource_version))
