"""Which providers a sandbox has: attach, detach, list.

Each change is written, then looked at and refused in one transaction (`situations.py`): the provider
exists, no two own one variable, the policy agrees with the new set. A second writer that comes too
late gets the answer it would have got had it come second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openshell._proto import openshell_pb2
from openshell.gateway.errors import failed_precondition, invalid_argument
from openshell.gateway.events import Bus
from openshell.gateway.records import Kind
from openshell.gateway.services.lookup import (
    check_expected_version,
    find_sandbox,
    refuse_deleting,
    require_field,
    save_sandbox,
)
from openshell.gateway.services.provider_records import redacted
from openshell.gateway.services.situations import refuse_faults, situation_of
from openshell.gateway.store.model import Row, Store, Tx
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace
from openshell.providers.fitness import find_faults
from openshell.providers.records import MAX_NAME_BYTES

__all__ = ["Attachments"]


class Attachments:
    """The attachment methods of the API."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        show: Callable[[openshell_pb2.Sandbox], openshell_pb2.Sandbox] = lambda sandbox: sandbox,
        tasks: Tasks | None = None,
    ) -> None:
        """`show` turns a stored sandbox into what a client may see (its lease, for example)."""
        self._store = store
        self._bus = bus
        self._tasks = tasks or Tasks()
        self._show = show

    async def AttachSandboxProvider(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.AttachSandboxProviderRequest, _context: Any
    ) -> openshell_pb2.AttachSandboxProviderResponse:
        _check_names(request.sandbox_name, request.provider_name)

        def write(tx: Tx) -> tuple[openshell_pb2.Sandbox, bool]:
            workspace = open_workspace(tx, request.workspace, must_be_active=True)
            if tx.get(Kind.PROVIDER, workspace, request.provider_name) is None:
                raise failed_precondition(f"provider '{request.provider_name}' not found")
            row, sandbox = find_sandbox(tx, workspace, request.sandbox_name)
            refuse_deleting(sandbox)
            check_expected_version(row, request.expected_resource_version)
            if request.provider_name in sandbox.spec.providers:
                return sandbox, False
            names = [*dict.fromkeys(sandbox.spec.providers), request.provider_name]
            sandbox.spec.providers[:] = names
            stored = save_sandbox(tx, row, sandbox)
            refuse_faults(situation_of(tx, stored), gate=True)
            return stored, True

        sandbox, attached = await self._tasks.complete("attach provider", self._change(write))
        return openshell_pb2.AttachSandboxProviderResponse(
            sandbox=self._show(sandbox), attached=attached
        )

    async def DetachSandboxProvider(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.DetachSandboxProviderRequest, _context: Any
    ) -> openshell_pb2.DetachSandboxProviderResponse:
        _check_names(request.sandbox_name, request.provider_name)

        def write(tx: Tx) -> tuple[openshell_pb2.Sandbox, bool]:
            workspace = open_workspace(tx, request.workspace)
            row, sandbox = find_sandbox(tx, workspace, request.sandbox_name)
            check_expected_version(row, request.expected_resource_version)
            if request.provider_name not in sandbox.spec.providers:
                return sandbox, False
            # What was wrong before must not keep anybody from taking things away.
            known = find_faults(situation_of(tx, sandbox), gate=False)
            kept = [n for n in dict.fromkeys(sandbox.spec.providers) if n != request.provider_name]
            sandbox.spec.providers[:] = kept
            stored = save_sandbox(tx, row, sandbox)
            refuse_faults(situation_of(tx, stored), gate=False, known=known)
            return stored, True

        sandbox, detached = await self._tasks.complete("detach provider", self._change(write))
        return openshell_pb2.DetachSandboxProviderResponse(
            sandbox=self._show(sandbox), detached=detached
        )

    async def _change(
        self, write: Callable[[Tx], tuple[openshell_pb2.Sandbox, bool]]
    ) -> tuple[openshell_pb2.Sandbox, bool]:
        """Writes and announces; a caller that hangs up must not separate the two."""
        sandbox, changed = await self._store.write(write)
        if changed:
            self._bus.config_changed([sandbox.metadata.id], "providers")
        return sandbox, changed

    async def ListSandboxProviders(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ListSandboxProvidersRequest, _context: Any
    ) -> openshell_pb2.ListSandboxProvidersResponse:
        require_field(request.sandbox_name, "sandbox_name")

        def read(tx: Tx) -> list[Row]:
            workspace = open_workspace(tx, request.workspace)
            _row, sandbox = find_sandbox(tx, workspace, request.sandbox_name)
            rows = []
            for name in dict.fromkeys(sandbox.spec.providers):
                row = tx.get(Kind.PROVIDER, workspace, name)
                if row is None:
                    raise failed_precondition(f"provider '{name}' not found")
                rows.append(row)
            return rows

        rows = await self._store.read(read)
        return openshell_pb2.ListSandboxProvidersResponse(providers=[redacted(r) for r in rows])


def _check_names(sandbox_name: str, provider_name: str) -> None:
    require_field(sandbox_name, "sandbox_name")
    require_field(provider_name, "provider_name")
    if len(provider_name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise invalid_argument(f"provider_name exceeds maximum length ({MAX_NAME_BYTES} bytes)")
