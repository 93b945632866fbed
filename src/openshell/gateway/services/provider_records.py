"""Provider rows, records and messages: the payload holds handles, the answer holds neither.

A stored payload is a Provider message whose `credentials` map is always empty. Every answer to a
client is made by `redacted`, the only way from a row to a response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf.message import DecodeError

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.credentials.model import CredentialRef
from openshell.gateway.records import load, metadata_of
from openshell.gateway.store.model import Row
from openshell.providers.records import Handle, NewProvider, ProviderChange, ProviderRecord

__all__ = [
    "REDACTED",
    "change_from_request",
    "credential_refs",
    "new_from_message",
    "record_from_row",
    "redacted",
]

REDACTED: Final = "REDACTED"
"""Stands where a value would be; part of the contract."""


def record_from_row(row: Row) -> ProviderRecord:
    message = load(row, datamodel_pb2.Provider)
    return ProviderRecord(
        id=row.id,
        name=message.metadata.name,
        workspace=row.workspace,
        type=message.type,
        handles={
            key: Handle(handle.driver, handle.handle)
            for key, handle in message.credential_handles.items()
        },
        config=dict(message.config),
        expires_at_ms=dict(message.credential_expires_at_ms),
        profile_workspace=message.profile_workspace,
        resource_version=row.resource_version,
    )


def credential_refs(record: ProviderRecord, keys: Mapping[str, object]) -> list[CredentialRef]:
    """Store references of those of the keys that the record holds."""
    return [
        CredentialRef(handle.handle, record.id, key)
        for key, handle in record.handles.items()
        if key in keys
    ]


def redacted(row: Row) -> datamodel_pb2.Provider:
    """The provider as a client may see it; of a damaged one, what is needed to delete it."""
    try:
        message = load(row, datamodel_pb2.Provider)
    except DecodeError:
        return datamodel_pb2.Provider(metadata=metadata_of(row))
    keys = [*message.credential_handles, *message.credentials]
    message.ClearField("credential_handles")
    message.ClearField("credentials")
    for key in keys:
        message.credentials[key] = REDACTED
    return message


def new_from_message(message: datamodel_pb2.Provider) -> NewProvider:
    return NewProvider(
        name=message.metadata.name,
        type=message.type,
        credentials=dict(message.credentials),
        config=dict(message.config),
        expires_at_ms=dict(message.credential_expires_at_ms),
        profile_workspace=message.profile_workspace,
        has_handles=bool(message.credential_handles),
    )


def change_from_request(request: openshell_pb2.UpdateProviderRequest) -> ProviderChange:
    """Expiries of the request stand over those of the record in it."""
    message = request.provider
    return ProviderChange(
        type=message.type,
        profile_workspace=message.profile_workspace,
        credentials=dict(message.credentials),
        config=dict(message.config),
        expires_at_ms={
            **message.credential_expires_at_ms,
            **request.credential_expires_at_ms,
        },
        has_handles=bool(message.credential_handles),
    )
