"""Finding what a request names, inside the transaction that will act on it.

Sandboxes by name or id; each refusal in the words and codes of the contract. Workspaces are found by
`openshell.gateway.workspaces`, what a sandbox's providers are by `situations.py`.
"""

from __future__ import annotations

from openshell._proto import openshell_pb2
from openshell.gateway.errors import aborted, failed_precondition, invalid_argument, not_found
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.store.model import MatchResourceVersion, Row, Tx

__all__ = [
    "check_expected_version",
    "find_sandbox",
    "find_sandbox_by_id",
    "refuse_deleting",
    "require_field",
    "save_sandbox",
]


def require_field(value: str, name: str) -> str:
    if not value.strip():
        raise invalid_argument(f"{name} is required")
    return value


def find_sandbox(tx: Tx, workspace: str, name: str) -> tuple[Row, openshell_pb2.Sandbox]:
    row = tx.get(Kind.SANDBOX, workspace, name)
    if row is None:
        raise not_found(f"sandbox '{name}' not found")
    return row, load(row, openshell_pb2.Sandbox)


def find_sandbox_by_id(tx: Tx, sandbox_id: str) -> tuple[Row, openshell_pb2.Sandbox]:
    row = tx.get_by_id(Kind.SANDBOX, require_field(sandbox_id, "sandbox_id"))
    if row is None:
        raise not_found("sandbox not found")
    return row, load(row, openshell_pb2.Sandbox)


def check_expected_version(row: Row, expected: int) -> None:
    """Zero expects nothing."""
    if expected not in (0, row.resource_version):
        raise aborted(
            f"concurrent modification (current resource_version: {row.resource_version}); "
            "read it again and retry",
            current_resource_version=str(row.resource_version),
        )


def refuse_deleting(sandbox: openshell_pb2.Sandbox) -> None:
    if sandbox.status.phase == openshell_pb2.SANDBOX_PHASE_DELETING:
        raise failed_precondition(f"sandbox '{sandbox.metadata.name}' is being deleted")


def save_sandbox(tx: Tx, row: Row, sandbox: openshell_pb2.Sandbox) -> openshell_pb2.Sandbox:
    """Writes the record over the row it was read from; as it is stored now."""
    changed = to_row(Kind.SANDBOX, sandbox, scope=row.scope, status=row.status)
    stored = tx.put(changed, MatchResourceVersion(row.resource_version))
    return load(stored, openshell_pb2.Sandbox)
