"""Rows to messages and back, for the kinds whose payload is a protobuf message with ObjectMeta.

The row is authoritative for the resource version; what the payload says of it is overwritten on
every read. Used by every service.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from openshell._proto import datamodel_pb2
from openshell.gateway.store.model import NewRow, Row

__all__ = ["Kind", "load", "load_all", "metadata_of", "to_row"]


M = TypeVar("M", bound=Message)

_log = logging.getLogger(__name__)


class Kind:
    """Names of object kinds in the store; the contract's `object_type` values."""

    SANDBOX = "sandbox"
    SNAPSHOT = "snapshot"
    PROVIDER = "provider"
    PROVIDER_PROFILE = "provider_profile"
    PROFILE_REVISION = "provider_profile_revision"
    REFRESH_STATE = "provider_credential_refresh_state"
    SSH_SESSION = "ssh_session"
    SERVICE_ENDPOINT = "service_endpoint"
    INFERENCE_ROUTE = "inference_route"
    INFERENCE_BUDGET = "inference_budget"
    INFERENCE_METER = "inference_meter"
    WORKSPACE = "workspace"
    WORKSPACE_MEMBER = "workspace_member"
    SANDBOX_SETTINGS = "sandbox_settings"
    GATEWAY_SETTINGS = "gateway_settings"
    SANDBOX_POLICY = "sandbox_policy"
    DRAFT_POLICY_CHUNK = "draft_policy_chunk"
    CREDENTIAL = "credential.gateway-encrypted"


def load(row: Row, message_class: type[M]) -> M:
    """The row's message, its metadata carrying the row's resource version."""
    message: Any = message_class.FromString(row.payload)
    message.metadata.resource_version = row.resource_version
    loaded: M = message
    return loaded


def metadata_of(row: Row) -> datamodel_pb2.ObjectMeta:
    """What the row itself says: all that is known of one whose content does not read any more."""
    return datamodel_pb2.ObjectMeta(
        id=row.id,
        name=row.name or "",
        workspace=row.workspace,
        created_at_ms=row.created_at_ms,
        labels=row.labels,
        resource_version=row.resource_version,
    )


def load_all(rows: Sequence[Row], message_class: type[M]) -> list[M]:
    """Those that read. A damaged row is told and left out: it is no reason to refuse what is about others."""
    found = []
    for row in rows:
        try:
            found.append(load(row, message_class))
        except DecodeError:
            _log.error("the stored %s %s is damaged and left out", row.kind, row.name or row.id)
    return found


def to_row(
    kind: str, message: Message, *, scope: str | None = None, status: str | None = None
) -> NewRow:
    """A row to put, keyed by the message's own metadata."""
    carrier: Any = message
    metadata: datamodel_pb2.ObjectMeta = carrier.metadata
    return NewRow(
        id=metadata.id,
        kind=kind,
        workspace=metadata.workspace,
        name=metadata.name or None,
        scope=scope,
        status=status,
        payload=message.SerializeToString(),
        labels=dict(metadata.labels),
        created_at_ms=metadata.created_at_ms,
    )
