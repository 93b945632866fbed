"""Access to workspaces, checked inside the transaction that uses the answer.

Membership is judged only where an identity provider gives users roles; no such provider is built
yet, so every authenticated user is the platform's admin and existence is what is left to check.
"""

from __future__ import annotations

from openshell._proto import datamodel_pb2
from openshell.gateway.errors import failed_precondition, not_found
from openshell.gateway.records import Kind, load
from openshell.gateway.store import NewRow, Tx, Unconditional

__all__ = ["DEFAULT", "ensure_default", "open_workspace", "workspace_name"]

DEFAULT = "default"


def workspace_name(requested: str) -> str:
    """The empty name stands for the default workspace."""
    return requested or DEFAULT


def open_workspace(tx: Tx, requested: str, *, must_be_active: bool = False) -> str:
    """The name of an existing workspace; NOT_FOUND, or FAILED_PRECONDITION while it is deleted."""
    name = workspace_name(requested)
    row = tx.get(Kind.WORKSPACE, "", name)
    if row is None:
        raise not_found(f"workspace '{name}' not found")
    if must_be_active:
        workspace = load(row, datamodel_pb2.Workspace)
        if workspace.status.phase == datamodel_pb2.WORKSPACE_PHASE_TERMINATING:
            raise failed_precondition(f"workspace '{name}' is being deleted; choose another one")
    return name


def ensure_default(tx: Tx, new_id: str) -> None:
    """Creates the default workspace where it is missing; run at every start."""
    if tx.get(Kind.WORKSPACE, "", DEFAULT) is not None:
        return
    workspace = datamodel_pb2.Workspace(
        metadata=datamodel_pb2.ObjectMeta(id=new_id, name=DEFAULT, created_at_ms=tx.now_ms),
        status=datamodel_pb2.WorkspaceStatus(phase=datamodel_pb2.WORKSPACE_PHASE_ACTIVE),
    )
    tx.put(
        NewRow(
            id=new_id,
            kind=Kind.WORKSPACE,
            name=DEFAULT,
            payload=workspace.SerializeToString(),
            created_at_ms=tx.now_ms,
        ),
        Unconditional(),
    )
