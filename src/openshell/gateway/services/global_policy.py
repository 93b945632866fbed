"""The policy for all sandboxes: its revisions, and whether it is in force.

While there is one it stands in place of every sandbox's own, in full: no rule of an attached
provider is added, no credential is bound by the sandbox's own rules, and sandboxes take no update.
Its revisions are loaded when stored, because no supervisor acknowledges them; it is in force as long
as its latest revision is loaded, and deleting it supersedes them all. Inside transactions only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_hash, policy_to_proto
from openshell.gateway.errors import failed_precondition
from openshell.gateway.services.revisions import (
    LOADED,
    Stored,
    append_revision,
    latest_revision,
    payload_of,
    supersede_below,
)
from openshell.gateway.store.model import Row, Tx
from openshell.policy.model import SandboxPolicy

__all__ = [
    "GLOBAL_SCOPE",
    "Origin",
    "global_revision",
    "policy_origin",
    "refuse_while_global",
    "retire_global",
    "store_global",
]

GLOBAL_SCOPE: Final = "__global__"
"""Scope of the gateway-wide revisions. No sandbox has it as id: those are UUIDs."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the policy that a sandbox's supervisor is to enforce comes from."""

    source: sandbox_pb2.PolicySource.ValueType
    version: int
    """Of the sandbox's own latest revision, whatever is in force."""
    global_version: int
    """0 unless the gateway-wide policy is in force."""


def global_revision(tx: Tx) -> Row | None:
    """The revision in force; None when there is no gateway-wide policy."""
    row = latest_revision(tx, GLOBAL_SCOPE)
    return row if row is not None and row.status == LOADED else None


def policy_origin(tx: Tx, sandbox: openshell_pb2.Sandbox) -> Origin:
    latest = latest_revision(tx, sandbox.metadata.id)
    version = (latest.version or 0) if latest is not None else 0
    everywhere = global_revision(tx)
    if everywhere is None:
        return Origin(sandbox_pb2.POLICY_SOURCE_SANDBOX, version, 0)
    # 1 is the contract's number for a sandbox that has no policy of its own.
    return Origin(sandbox_pb2.POLICY_SOURCE_GLOBAL, version or 1, everywhere.version or 0)


def refuse_while_global(tx: Tx) -> None:
    if global_revision(tx) is not None:
        raise failed_precondition(
            "policy is managed globally; delete global policy before sandbox policy update "
            "(policy delete --global)"
        )


def store_global(tx: Tx, policy: SandboxPolicy) -> Stored:
    """Puts a policy in force everywhere, unless the one in force says the same."""
    digest = policy_hash(policy)
    present = global_revision(tx)
    if present is not None and payload_of(present).hash == digest:
        return Stored(present.version or 0, digest, created=False)
    payload = openshell_pb2.PolicyRevisionPayload(
        policy=policy_to_proto(policy), hash=digest, loaded_at_ms=tx.now_ms
    )
    version = append_revision(tx, GLOBAL_SCOPE, "", payload, LOADED)
    return Stored(version, digest, created=True)


def retire_global(tx: Tx) -> bool:
    """Gives every sandbox its own policy back. False when there was no gateway-wide policy."""
    present = global_revision(tx)
    if present is None:
        return False
    supersede_below(tx, GLOBAL_SCOPE, (present.version or 0) + 1)
    return True
