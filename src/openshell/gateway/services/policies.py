"""Policy revisions over the API: status, history, and the supervisor's word on what it enforces."""

from __future__ import annotations

from typing import Any, Final

from openshell._proto import openshell_pb2
from openshell.gateway.auth.principal import require_sandbox
from openshell.gateway.errors import invalid_argument, not_found
from openshell.gateway.events import SANDBOX, Bus
from openshell.gateway.records import Kind
from openshell.gateway.services.global_policy import GLOBAL_SCOPE
from openshell.gateway.services.lookup import (
    find_sandbox,
    find_sandbox_by_id,
    require_field,
    save_sandbox,
)
from openshell.gateway.services.revisions import revision_message, set_failed, set_loaded
from openshell.gateway.store.model import Row, Store, Tx
from openshell.gateway.workspaces import open_workspace

__all__ = ["Policies"]

_LIST_DEFAULT: Final = 50
"""Revisions of a list that names no limit; the contract's number."""


class Policies:
    """The revision methods of the API."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus

    async def GetSandboxPolicyStatus(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetSandboxPolicyStatusRequest, _context: Any
    ) -> openshell_pb2.GetSandboxPolicyStatusResponse:
        is_global: bool = getattr(request, "global")
        if not is_global:
            require_field(request.name, "name")

        def read(tx: Tx) -> tuple[Row | None, int]:
            scope, active = _scope(tx, request.workspace, request.name, is_global=is_global)
            return tx.get_version(Kind.SANDBOX_POLICY, scope, request.version or None), active

        revision, active = await self._store.read(read)
        if revision is None:
            if request.version:
                raise not_found(f"policy revision {request.version} not found")
            if is_global:
                raise not_found("no global policy revision found")
            raise not_found("no policy revision found for this sandbox")
        return openshell_pb2.GetSandboxPolicyStatusResponse(
            revision=revision_message(revision, with_policy=True), active_version=active
        )

    async def ListSandboxPolicies(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ListSandboxPoliciesRequest, _context: Any
    ) -> openshell_pb2.ListSandboxPoliciesResponse:
        is_global: bool = getattr(request, "global")
        if not is_global:
            require_field(request.name, "name")

        def read(tx: Tx) -> list[Row]:
            scope, _active = _scope(tx, request.workspace, request.name, is_global=is_global)
            return list(
                tx.list(
                    Kind.SANDBOX_POLICY,
                    scope=scope,
                    limit=request.limit or _LIST_DEFAULT,
                    offset=request.offset,
                    newest_first=True,
                )
            )

        rows = await self._store.read(read)
        return openshell_pb2.ListSandboxPoliciesResponse(
            revisions=[revision_message(row, with_policy=False) for row in rows]
        )

    async def ReportPolicyStatus(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ReportPolicyStatusRequest, _context: Any
    ) -> openshell_pb2.ReportPolicyStatusResponse:
        require_field(request.sandbox_id, "sandbox_id")
        require_sandbox(request.sandbox_id)
        if not request.version:
            raise invalid_argument("version is required")
        loaded = request.status == openshell_pb2.POLICY_STATUS_LOADED
        if not loaded and request.status != openshell_pb2.POLICY_STATUS_FAILED:
            raise invalid_argument("status must be POLICY_STATUS_LOADED or POLICY_STATUS_FAILED")

        def write(tx: Tx) -> bool:
            row, sandbox = find_sandbox_by_id(tx, request.sandbox_id)
            revision = tx.get_version(Kind.SANDBOX_POLICY, request.sandbox_id, request.version)
            if revision is None:
                raise not_found("policy revision not found")
            if not loaded:
                return set_failed(tx, revision, request.load_error)
            # Reports come in order; one that lags behind a newer loaded revision tells nothing new.
            if request.version < sandbox.status.current_policy_version:
                return False
            changed = set_loaded(tx, revision)
            if sandbox.status.current_policy_version != request.version:
                sandbox.status.current_policy_version = request.version
                save_sandbox(tx, row, sandbox)
                changed = True
            return changed

        if await self._store.write(write):
            self._bus.publish(SANDBOX, request.sandbox_id)
        return openshell_pb2.ReportPolicyStatusResponse()


def _scope(tx: Tx, workspace: str, name: str, *, is_global: bool) -> tuple[str, int]:
    """Where the revisions are, and which one the supervisor enforces (0: it has no say)."""
    if is_global:
        return GLOBAL_SCOPE, 0
    _row, sandbox = find_sandbox(tx, open_workspace(tx, workspace), name)
    return sandbox.metadata.id, sandbox.status.current_policy_version
