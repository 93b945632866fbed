"""openshell.ext.v1.Pausing and Snapshots: holding a sandbox, copies of its workspace, forks.

A snapshot's row belongs to its sandbox (its scope) and is complete only once the driver has the copy
whole; `settle` removes, at a gateway's start, what an earlier one left unfinished. What a driver
cannot do is refused by name. Sandboxes' own lives are `lifecycle.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell._proto import openshell_ext_snapshots_pb2 as ext
from openshell.codec.policy import policy_to_proto
from openshell.drivers.base import ComputeDriver, DriverError, KeepsWorkspaces, WorkspaceSource
from openshell.gateway import status
from openshell.gateway.compute import Compute
from openshell.gateway.driver_view import driver_error
from openshell.gateway.errors import (
    already_exists,
    failed_precondition,
    not_found,
    resource_exhausted,
)
from openshell.gateway.hosting import refuse_foreign
from openshell.gateway.lifecycle import Lifecycle
from openshell.gateway.limits import check_name, check_required
from openshell.gateway.phases import Phase
from openshell.gateway.records import Kind, load, load_all, to_row
from openshell.gateway.services.revisions import base_policy
from openshell.gateway.services.sandboxes import create_named, generate_name
from openshell.gateway.store import MatchResourceVersion, MustCreate, NewRow, Row, Store, Tx
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace

__all__ = ["MAX_SNAPSHOTS", "SnapshotService"]

MAX_SNAPSHOTS: Final = 32
"""Per sandbox: each is a copy on disk, and an agent's owner forgets them."""

_log = logging.getLogger(__name__)
_FORKED: Final = frozenset({Phase.READY, Phase.STOPPED, Phase.ERROR, Phase.PROVISIONING})


class SnapshotService:
    """The RPCs of both services."""

    def __init__(
        self,
        store: Store,
        driver: ComputeDriver,
        compute: Compute,
        lifecycle: Lifecycle,
        tasks: Tasks,
        *,
        new_id: Callable[[], str],
        restrict: Callable[[openshell_pb2.Sandbox, Any], None],
        choose: Callable[[tuple[str, ...]], str] = secrets.choice,
    ) -> None:
        self._store = store
        self._driver = driver
        self._compute = compute
        self._lifecycle = lifecycle
        self._tasks = tasks
        self._new_id = new_id
        self._restrict = restrict
        self._choose = choose

    # -- pausing

    async def Pause(  # noqa: N802  named as the RPC
        self, request: ext.PauseRequest, _context: Any
    ) -> openshell_pb2.SandboxResponse:
        check_required("name", request.name)
        return self._answer(await self._lifecycle.pause(request.workspace, request.name))

    async def Resume(  # noqa: N802  named as the RPC
        self, request: ext.PauseRequest, _context: Any
    ) -> openshell_pb2.SandboxResponse:
        check_required("name", request.name)
        return self._answer(await self._lifecycle.resume(request.workspace, request.name))

    # -- snapshots

    async def Create(  # noqa: N802  named as the RPC
        self, request: ext.CreateSnapshotRequest, _context: Any
    ) -> ext.Snapshot:
        check_required("sandbox", request.sandbox)
        if request.name:
            check_name("name", request.name)
        keeper = self._keeper()
        snapshot_id = self._new_id()

        def begin(tx: Tx) -> ext.Snapshot:
            row = self._own(tx, request.workspace, request.sandbox)
            refuse_phases(load(row, openshell_pb2.Sandbox), _FORKED, "snapshot")
            taken = {item.metadata.name for item in _of(tx, row.id)}
            if len(taken) >= MAX_SNAPSHOTS:
                raise resource_exhausted(
                    f"sandbox '{row.name}' has {MAX_SNAPSHOTS} snapshots: delete one first"
                )
            name = request.name or _free_name(taken)
            if name in taken:
                raise already_exists(f"sandbox '{row.name}' has a snapshot '{name}' already")
            snapshot = ext.Snapshot(
                metadata=datamodel_pb2.ObjectMeta(
                    id=snapshot_id, name=name, workspace=row.workspace, created_at_ms=tx.now_ms
                ),
                sandbox_id=row.id,
                sandbox_name=row.name or "",
            )
            tx.put(_row(snapshot), MustCreate())
            return snapshot

        async def run() -> ext.Snapshot:
            snapshot = await self._store.write(begin)
            try:
                facts = await keeper.take_snapshot(snapshot.sandbox_id, snapshot_id)
            except BaseException as error:
                await self._store.write(lambda tx: tx.delete(Kind.SNAPSHOT, snapshot_id))
                if isinstance(error, DriverError):
                    raise driver_error(error) from error
                raise
            snapshot.complete = True
            snapshot.bytes, snapshot.entries = facts.data_bytes, facts.entries
            snapshot.skipped, snapshot.consistent = facts.skipped, facts.consistent
            snapshot.method = facts.method

            def finish(tx: Tx) -> None:
                row = tx.get_by_id(Kind.SNAPSHOT, snapshot_id)
                if row is None:
                    raise not_found("the sandbox was deleted meanwhile")
                tx.put(_row(snapshot), MatchResourceVersion(row.resource_version))

            await self._store.write(finish)
            return snapshot

        return await self._tasks.complete("create snapshot", run())

    async def List(  # noqa: N802  named as the RPC
        self, request: ext.ListSnapshotsRequest, _context: Any
    ) -> ext.ListSnapshotsResponse:
        check_required("sandbox", request.sandbox)

        def read(tx: Tx) -> list[ext.Snapshot]:
            row = _sandbox(tx, request.workspace, request.sandbox)
            return [item for item in _of(tx, row.id) if item.complete]

        found = sorted(await self._store.read(read), key=lambda item: item.metadata.created_at_ms)
        return ext.ListSnapshotsResponse(snapshots=found)

    async def Delete(  # noqa: N802  named as the RPC
        self, request: ext.DeleteSnapshotRequest, _context: Any
    ) -> ext.DeleteSnapshotResponse:
        check_required("sandbox", request.sandbox)
        check_required("name", request.name)
        keeper = self._keeper()

        def find(tx: Tx) -> ext.Snapshot | None:
            row = self._own(tx, request.workspace, request.sandbox)
            return next((i for i in _of(tx, row.id) if i.metadata.name == request.name), None)

        async def run() -> bool:
            snapshot = await self._store.read(find)
            if snapshot is None or not snapshot.complete:
                return False
            try:
                await keeper.delete_snapshot(snapshot.sandbox_id, snapshot.metadata.id)
            except DriverError as error:
                raise driver_error(error) from error
            return await self._store.write(
                lambda tx: tx.delete(Kind.SNAPSHOT, snapshot.metadata.id)
            )

        return ext.DeleteSnapshotResponse(
            deleted=await self._tasks.complete("delete snapshot", run())
        )

    async def Restore(  # noqa: N802  named as the RPC
        self, request: ext.RestoreRequest, _context: Any
    ) -> openshell_pb2.SandboxResponse:
        check_required("sandbox", request.sandbox)
        check_required("snapshot", request.snapshot)
        keeper = self._keeper()

        def find(tx: Tx) -> tuple[openshell_pb2.Sandbox, str]:
            row = self._own(tx, request.workspace, request.sandbox)
            sandbox = load(row, openshell_pb2.Sandbox)
            if status.phase_of(sandbox) is not Phase.STOPPED:
                raise failed_precondition(
                    f"sandbox '{row.name}' is {status.phase_of(sandbox).name}: a snapshot is "
                    "restored into a stopped one; stop it first, or fork the snapshot"
                )
            return sandbox, _complete(tx, row, request.snapshot).metadata.id

        sandbox, snapshot_id = await self._store.read(find)
        try:
            await self._tasks.complete("restore", keeper.restore(sandbox.metadata.id, snapshot_id))
        except DriverError as error:
            raise driver_error(error) from error
        return self._answer(sandbox)

    async def Fork(  # noqa: N802  named as the RPC
        self, request: ext.ForkRequest, context: Any
    ) -> openshell_pb2.SandboxResponse:
        check_required("sandbox", request.sandbox)
        name = request.name or generate_name(self._choose)
        check_name("name", name)
        self._keeper()

        def plan(tx: Tx) -> tuple[openshell_pb2.Sandbox, WorkspaceSource]:
            row = self._own(tx, request.workspace, request.sandbox)
            source = load(row, openshell_pb2.Sandbox)
            refuse_phases(source, _FORKED, "fork")
            snapshot = _complete(tx, row, request.snapshot) if request.snapshot else None
            forked = openshell_pb2.Sandbox(
                metadata=datamodel_pb2.ObjectMeta(
                    id=self._new_id(),
                    name=name,
                    workspace=row.workspace,
                    labels=source.metadata.labels,
                ),
                spec=source.spec,
                status=openshell_pb2.SandboxStatus(
                    sandbox_name=name, phase=openshell_pb2.SANDBOX_PHASE_PROVISIONING
                ),
            )
            policy = base_policy(tx, source)
            if policy is not None:
                forked.spec.policy.CopyFrom(policy_to_proto(policy))
            if request.without_providers:
                del forked.spec.providers[:]
            return forked, WorkspaceSource(row.id, snapshot.metadata.id if snapshot else "")

        forked, source = await self._store.read(plan)
        self._restrict(forked, context)
        create = functools.partial(self._lifecycle.create, workspace_from=source)
        created = await create_named(forked, create, given=request.name, choose=self._choose)
        return self._answer(created)

    # -- a gateway's start

    async def settle(self) -> None:
        """Removes what an earlier gateway left half made, rows and copies."""
        if not isinstance(self._driver, KeepsWorkspaces):
            return

        def rows(tx: Tx) -> list[tuple[str, list[ext.Snapshot]]]:
            own = tx.all(Kind.SANDBOX, scope=self._compute.host_id)
            return [(row.id, _of(tx, row.id)) for row in own]

        for sandbox_id, snapshots in await self._store.read(rows):
            try:
                there = set(await self._driver.snapshots(sandbox_id))
                for snapshot in snapshots:
                    known = snapshot.metadata.id
                    if not snapshot.complete or known not in there:
                        await self._store.write(
                            lambda tx, known=known: tx.delete(Kind.SNAPSHOT, known)  # type: ignore[misc]
                        )
                    else:
                        there.discard(known)
                for unknown in there:
                    await self._driver.delete_snapshot(sandbox_id, unknown)
            except DriverError as error:
                _log.warning("sandbox %s: snapshots not settled: %s", sandbox_id, error.message)

    # -- small parts

    def _keeper(self) -> KeepsWorkspaces:
        if not isinstance(self._driver, KeepsWorkspaces):
            raise failed_precondition(
                f"the compute driver '{self._driver.capabilities().driver_name}' keeps no "
                "workspaces: it can neither snapshot nor fork"
            )
        return self._driver

    def _own(self, tx: Tx, workspace: str, name: str) -> Row:
        row = _sandbox(tx, workspace, name)
        refuse_foreign(row, self._compute.host_id)
        return row

    def _answer(self, sandbox: openshell_pb2.Sandbox) -> openshell_pb2.SandboxResponse:
        return openshell_pb2.SandboxResponse(sandbox=self._compute.show(sandbox))


def refuse_phases(sandbox: openshell_pb2.Sandbox, allowed: frozenset[Phase], verb: str) -> None:
    """Refuses what is coming or going: its workspace is not settled."""
    phase = status.phase_of(sandbox)
    if phase not in allowed:
        raise failed_precondition(
            f"sandbox '{sandbox.metadata.name}' is {phase.name}; it cannot {verb} now"
        )


def _sandbox(tx: Tx, workspace: str, name: str) -> Row:
    row = tx.get(Kind.SANDBOX, open_workspace(tx, workspace), name)
    if row is None:
        raise not_found(f"sandbox '{name}' not found")
    return row


def _of(tx: Tx, sandbox_id: str) -> list[ext.Snapshot]:
    return load_all(tx.all(Kind.SNAPSHOT, scope=sandbox_id), ext.Snapshot)


def _complete(tx: Tx, row: Row, name: str) -> ext.Snapshot:
    for snapshot in _of(tx, row.id):
        if snapshot.metadata.name == name and snapshot.complete:
            return snapshot
    raise not_found(f"sandbox '{row.name}' has no snapshot '{name}'")


def _free_name(taken: set[str]) -> str:
    return next(
        name
        for number in range(1, MAX_SNAPSHOTS + 2)
        if (name := f"snapshot-{number}") not in taken
    )


def _row(snapshot: ext.Snapshot) -> NewRow:
    """Without a name of its own in the table: it is unique only among its sandbox's."""
    row = to_row(Kind.SNAPSHOT, snapshot, scope=snapshot.sandbox_id)
    return dataclasses.replace(row, name=None)
