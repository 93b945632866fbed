"""Revisions of a policy as rows: numbered, never changed in content, each with a status.

A revision is pending when stored, loaded or failed when the supervisor says so, superseded when a
newer one takes its place. All functions run inside a transaction of the caller. A sandbox's rows
have its id as scope: whoever deletes a sandbox deletes that scope in the same transaction. Those of
the gateway-wide policy (`global_policy.py`) have a scope of their own and are loaded when stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_from_proto, policy_hash, policy_to_proto
from openshell.gateway.records import Kind
from openshell.gateway.store.model import MatchResourceVersion, MustCreate, NewRow, Row, Tx
from openshell.policy.model import SandboxPolicy

__all__ = [
    "FAILED",
    "LOADED",
    "PENDING",
    "SUPERSEDED",
    "Stored",
    "append_revision",
    "base_policy",
    "latest_revision",
    "payload_of",
    "revision_message",
    "set_failed",
    "set_loaded",
    "store_revision",
    "supersede_below",
]

PENDING: Final = "pending"
LOADED: Final = "loaded"
FAILED: Final = "failed"
SUPERSEDED: Final = "superseded"

_STATUS: Final[Mapping[str, openshell_pb2.PolicyStatus.ValueType]] = {
    PENDING: openshell_pb2.POLICY_STATUS_PENDING,
    LOADED: openshell_pb2.POLICY_STATUS_LOADED,
    FAILED: openshell_pb2.POLICY_STATUS_FAILED,
    SUPERSEDED: openshell_pb2.POLICY_STATUS_SUPERSEDED,
}

MAX_LOAD_ERROR: Final = 8192
"""Characters kept of a supervisor's reason: it lists every fault of a policy, yet is bounded."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The outcome of storing: the revision that now is the latest, and whether it is a new one."""

    version: int
    policy_hash: str
    created: bool


def latest_revision(tx: Tx, scope: str) -> Row | None:
    return tx.get_version(Kind.SANDBOX_POLICY, scope, None)


def payload_of(row: Row) -> openshell_pb2.PolicyRevisionPayload:
    return openshell_pb2.PolicyRevisionPayload.FromString(row.payload)


def base_policy(tx: Tx, sandbox: openshell_pb2.Sandbox) -> SandboxPolicy | None:
    """What a user wrote last: the latest revision, else the policy the sandbox was created with."""
    row = latest_revision(tx, sandbox.metadata.id)
    if row is not None:
        return policy_from_proto(payload_of(row).policy)
    if sandbox.spec.HasField("policy"):
        return policy_from_proto(sandbox.spec.policy)
    return None


def store_revision(
    tx: Tx,
    sandbox_id: str,
    workspace: str,
    policy: SandboxPolicy,
    provenance: Mapping[str, str],
) -> Stored:
    """Appends a pending revision and supersedes older ones, unless the latest says the same."""
    latest = latest_revision(tx, sandbox_id)
    digest = policy_hash(policy)
    if latest is not None:
        payload = payload_of(latest)
        if payload.hash == digest and dict(payload.provenance) == dict(provenance):
            return Stored(latest.version or 0, digest, created=False)
    payload = openshell_pb2.PolicyRevisionPayload(
        policy=policy_to_proto(policy), hash=digest, provenance=provenance
    )
    version = append_revision(tx, sandbox_id, workspace, payload, PENDING)
    return Stored(version, digest, created=True)


def append_revision(
    tx: Tx,
    scope: str,
    workspace: str,
    payload: openshell_pb2.PolicyRevisionPayload,
    status: str,
) -> int:
    """Stores the next version of a scope, supersedes the older ones, answers its number."""
    latest = latest_revision(tx, scope)
    version = 1 + ((latest.version or 0) if latest else 0)
    supersede_below(tx, scope, version)
    row = NewRow(
        # Derived, so that a repeated transaction writes the same row.
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"policy:{scope}:{version}")),
        kind=Kind.SANDBOX_POLICY,
        workspace=workspace,
        scope=scope,
        version=version,
        status=status,
        payload=payload.SerializeToString(deterministic=True),
    )
    tx.put(row, MustCreate())
    return version


def supersede_below(tx: Tx, scope: str, version: int) -> None:
    """Pending and loaded revisions older than this one have had their time; failed ones stay failed."""
    for status in (PENDING, LOADED):
        for row in tx.list(
            Kind.SANDBOX_POLICY, scope=scope, status=status, limit=1000, newest_first=True
        ):
            if (row.version or 0) < version:
                _restate(tx, row, SUPERSEDED, row.payload)


def set_loaded(tx: Tx, row: Row) -> bool:
    """The supervisor enforces this revision. False when nothing changed."""
    if row.status == LOADED:
        return False
    payload = payload_of(row)
    payload.loaded_at_ms = tx.now_ms
    payload.ClearField("load_error")
    _restate(tx, row, LOADED, payload.SerializeToString(deterministic=True))
    supersede_below(tx, row.scope or "", row.version or 0)
    return True


def set_failed(tx: Tx, row: Row, load_error: str) -> bool:
    """The supervisor refused this revision. False when nothing changed."""
    payload = payload_of(row)
    error = load_error[:MAX_LOAD_ERROR]
    if row.status == FAILED and payload.load_error == error:
        return False
    payload.load_error = error
    _restate(tx, row, FAILED, payload.SerializeToString(deterministic=True))
    return True


def revision_message(row: Row, *, with_policy: bool) -> openshell_pb2.SandboxPolicyRevision:
    payload = payload_of(row)
    policy: sandbox_pb2.SandboxPolicy | None = payload.policy if with_policy else None
    return openshell_pb2.SandboxPolicyRevision(
        version=row.version or 0,
        policy_hash=payload.hash,
        status=_STATUS.get(row.status or "", openshell_pb2.POLICY_STATUS_UNSPECIFIED),
        load_error=payload.load_error,
        created_at_ms=row.created_at_ms,
        loaded_at_ms=payload.loaded_at_ms,
        policy=policy,
        provenance=payload.provenance,
    )


def _restate(tx: Tx, row: Row, status: str, payload: bytes) -> None:
    changed = NewRow(
        id=row.id,
        kind=row.kind,
        payload=payload,
        workspace=row.workspace,
        name=row.name,
        scope=row.scope,
        version=row.version,
        status=status,
        labels=row.labels,
        created_at_ms=row.created_at_ms,
    )
    tx.put(changed, MatchResourceVersion(row.resource_version))
