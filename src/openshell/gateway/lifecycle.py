"""What users ask of a sandbox's compute: create, delete, stop, start; and what a restart finishes.

Each request first stores what it is going to do, then calls the driver, then stores how it went,
and runs to its end even when the client leaves. Observations are `compute.py`, RPCs
`services/sandboxes.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError, Message

from openshell._proto import openshell_pb2
from openshell.drivers.base import (
    ComputeDriver,
    DriverError,
    DriverErrorCode,
    DriverSandbox,
    KeepsWorkspaces,
    SandboxStatus,
    WorkspaceSource,
)
from openshell.gateway import status
from openshell.gateway.compute import Compute
from openshell.gateway.driver_view import driver_error, driver_sandbox
from openshell.gateway.errors import (
    ApiError,
    Code,
    aborted,
    already_exists,
    failed_precondition,
    internal,
    not_found,
)
from openshell.gateway.events import SANDBOX, Bus
from openshell.gateway.hosting import refuse_foreign
from openshell.gateway.phases import Event, Phase, next_phase
from openshell.gateway.records import Kind, load, load_all, metadata_of, to_row
from openshell.gateway.sessions import Sessions
from openshell.gateway.store import (
    MatchResourceVersion,
    MustCreate,
    Row,
    Store,
    Tx,
    UniqueViolation,
)
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace

__all__ = ["Admit", "BuildConfig", "Lifecycle", "MintToken"]

STOP_ALL_CONCURRENCY: Final = 16
"""Sandboxes stopped at a time when the gateway is told to stop them all."""

Admit = Callable[[Tx, openshell_pb2.Sandbox], None]
"""Refuses a sandbox that may not be created: providers, policy. Inside the creating transaction."""
BuildConfig = Callable[[Tx, openshell_pb2.Sandbox], Message]
"""The configuration a supervisor starts with, as its GetSandboxConfig will answer it."""
MintToken = Callable[[str], str]
"""The supervisor's bearer token for a sandbox id."""

_RUNNING: Final = frozenset(
    {Phase.UNSPECIFIED, Phase.PROVISIONING, Phase.READY, Phase.UNKNOWN, Phase.STARTING}
)

_log = logging.getLogger(__name__)


class Lifecycle:
    """Requests in, driver calls and records out."""

    def __init__(
        self,
        *,
        store: Store,
        driver: ComputeDriver,
        compute: Compute,
        sessions: Sessions,
        bus: Bus,
        tasks: Tasks,
        admit: Admit,
        build_config: BuildConfig,
        mint_token: MintToken,
        endpoint: str,
    ) -> None:
        self._store = store
        self._driver = driver
        self._compute = compute
        self._sessions = sessions
        self._bus = bus
        self._tasks = tasks
        self._admit = admit
        self._build_config = build_config
        self._mint_token = mint_token
        self._endpoint = endpoint
        self._driver_name = driver.capabilities().driver_name

    # -- create

    async def create(
        self, sandbox: openshell_pb2.Sandbox, *, workspace_from: WorkspaceSource | None = None
    ) -> openshell_pb2.Sandbox:
        """Stores a new record and has the driver create it; the record as stored."""
        view = driver_sandbox(sandbox, self._driver_name, endpoint=self._endpoint)
        view = dataclasses.replace(view, workspace_from=workspace_from)
        try:
            await self._driver.validate_create(view)
        except DriverError as error:
            raise driver_error(error) from error
        view = dataclasses.replace(view, token=self._mint_token(sandbox.metadata.id))

        def insert(tx: Tx) -> tuple[openshell_pb2.Sandbox, bytes]:
            open_workspace(tx, sandbox.metadata.workspace, must_be_active=True)
            self._admit(tx, sandbox)
            sandbox.metadata.created_at_ms = tx.now_ms
            owned = to_row(Kind.SANDBOX, sandbox, scope=self._compute.host_id)
            row = tx.put(owned, MustCreate())
            stored = load(row, openshell_pb2.Sandbox)
            return stored, self._build_config(tx, stored).SerializeToString()

        async def run() -> openshell_pb2.Sandbox:
            self._compute.creating.add(view.id)
            self._compute.judged.add(view.id)
            try:
                stored, config = await self._store.write(insert)
                await self._create_compute(dataclasses.replace(view, initial_config=config))
            except UniqueViolation as error:
                raise _taken(sandbox) from error
            finally:
                self._compute.creating.discard(view.id)
            return stored

        return await self._tasks.complete("create sandbox", run())

    async def _create_compute(self, view: DriverSandbox) -> None:
        try:
            await self._driver.create(view)
        except DriverError as error:
            _log.warning("sandbox %s (%s) was not created: %s", view.name, view.id, error.message)
            await self._compute.remove(view.id)
            if error.code is DriverErrorCode.INVALID_ARGUMENT:
                raise internal(error.message) from error
            raise driver_error(error) from error
        except BaseException:
            await self._compute.remove(view.id)
            raise

    # -- delete

    async def delete(self, workspace: str, name: str) -> bool:
        """Removes a sandbox; False when its compute was already gone."""

        def mark(tx: Tx) -> tuple[openshell_pb2.Sandbox, bool]:
            opened = open_workspace(tx, workspace)
            row = tx.get(Kind.SANDBOX, opened, name)
            if row is None:
                raise not_found(f"sandbox '{name}' not found")
            refuse_foreign(row, self._compute.host_id)
            sandbox = _readable(row)
            before = openshell_pb2.Sandbox()
            before.CopyFrom(sandbox)
            if next_phase(status.phase_of(sandbox), Event.DELETE) is None:
                return before, False
            status.apply_transition(sandbox, Event.DELETE, "Deleting", "", tx.now_ms)
            marked = to_row(Kind.SANDBOX, sandbox, scope=row.scope)
            tx.put(marked, MatchResourceVersion(row.resource_version))
            return before, True

        async def run() -> bool:
            before, marked = await self._store.write(mark)
            if not marked:
                # Somebody else is at it; what they do is what was asked.
                return True
            return await self._delete_compute(before)

        return await self._tasks.complete("delete sandbox", run())

    async def _delete_compute(self, before: openshell_pb2.Sandbox) -> bool:
        sandbox_id = before.metadata.id
        self._sessions.mark_not_ready(sandbox_id)
        self._bus.publish(SANDBOX, sandbox_id)
        try:
            existed = await self._driver.delete(sandbox_id)
        except DriverError as error:
            _log.warning("sandbox %s was not deleted: %s", sandbox_id, error.message)
            await self._recover_delete(before)
            raise internal(f"the sandbox could not be deleted: {error.message}") from error
        # The driver promises that nothing is left when it returns.
        await self._compute.remove(sandbox_id)
        return existed

    async def _recover_delete(self, before: openshell_pb2.Sandbox) -> None:
        """The record shows what is there instead of a deletion that does not happen."""
        sandbox_id = before.metadata.id
        try:
            seen: SandboxStatus | None = await self._driver.get(sandbox_id)
        except DriverError as error:
            if error.code is DriverErrorCode.NOT_FOUND:
                await self._compute.remove(sandbox_id)
                return
            seen = None

        def restore(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
            if status.phase_of(sandbox) is not Phase.DELETING:
                return False
            sandbox.status.CopyFrom(before.status)
            if seen is not None:
                status.apply_snapshot(sandbox, seen, session_ready=False, now_ms=now_ms)
            return True

        await self._compute.update(sandbox_id, restore)

    # -- stop and start

    async def stop(self, workspace: str, name: str) -> openshell_pb2.Sandbox:
        sandbox, phase = await self._begin(
            workspace, name, Event.STOP, "Stopping", already=Phase.STOPPED
        )
        if phase is Phase.STOPPED:
            return sandbox
        return await self._tasks.complete("stop sandbox", self._stop_compute(sandbox))

    async def _stop_compute(self, sandbox: openshell_pb2.Sandbox) -> openshell_pb2.Sandbox:
        sandbox_id = sandbox.metadata.id
        self._sessions.mark_not_ready(sandbox_id)
        self._sessions.paused.discard(sandbox_id)
        try:
            await self._driver.stop(sandbox_id)
        except DriverError as error:
            raise await self._not_done(sandbox_id, error, "stop") from error

        def stopped(record: openshell_pb2.Sandbox, now_ms: int) -> bool:
            return status.apply_transition(record, Event.STOP_DONE, "Stopped", "", now_ms)

        result = await self._compute.update(sandbox_id, stopped)
        self._sessions.disconnect(sandbox_id, "the sandbox is stopped")
        return _present(result)

    async def start(self, workspace: str, name: str) -> openshell_pb2.Sandbox:
        sandbox, phase = await self._begin(
            workspace, name, Event.START, "Starting", already=Phase.READY
        )
        if phase is Phase.READY:
            return sandbox
        return await self._tasks.complete("start sandbox", self._start_compute(sandbox))

    async def _start_compute(self, sandbox: openshell_pb2.Sandbox) -> openshell_pb2.Sandbox:
        sandbox_id = sandbox.metadata.id

        def config(tx: Tx) -> bytes:
            row = tx.get_by_id(Kind.SANDBOX, sandbox_id)
            if row is None:
                raise _replaced()
            return self._build_config(tx, load(row, openshell_pb2.Sandbox)).SerializeToString()

        initial = await self._store.write(config)
        try:
            await self._driver.start(
                sandbox_id, token=self._mint_token(sandbox_id), initial_config=initial
            )
        except DriverError as error:
            raise await self._not_done(sandbox_id, error, "start") from error
        return _present(await self._compute.update(sandbox_id, lambda _record, _now: False))

    # -- pause and resume

    async def pause(self, workspace: str, name: str) -> openshell_pb2.Sandbox:
        """Holds every process of a running sandbox; one that is held already is fine."""
        sandbox = await self._set_paused(workspace, name, paused=True)
        sandbox_id = sandbox.metadata.id

        async def run() -> openshell_pb2.Sandbox:
            # Before anything is held: what comes later is told why it gets no answer.
            self._sessions.paused.add(sandbox_id)
            try:
                await self._keeper().pause(sandbox_id)
            except (ApiError, DriverError) as error:
                self._sessions.paused.discard(sandbox_id)
                await self._compute.update(sandbox_id, lambda kept, _: status.clear_paused(kept))
                if isinstance(error, DriverError):
                    raise driver_error(error) from error
                raise
            return sandbox

        return await self._tasks.complete("pause sandbox", run())

    async def resume(self, workspace: str, name: str) -> openshell_pb2.Sandbox:
        """Lets them go on; one that is not held is fine."""
        keeper = self._keeper()
        sandbox = await self._set_paused(workspace, name, paused=False)

        async def run() -> openshell_pb2.Sandbox:
            try:
                await keeper.resume(sandbox.metadata.id)
            except DriverError as error:
                raise driver_error(error) from error
            self._sessions.paused.discard(sandbox.metadata.id)
            return sandbox

        return await self._tasks.complete("resume sandbox", run())

    async def _set_paused(
        self, workspace: str, name: str, *, paused: bool
    ) -> openshell_pb2.Sandbox:
        def write(tx: Tx) -> openshell_pb2.Sandbox:
            row = tx.get(Kind.SANDBOX, open_workspace(tx, workspace), name)
            if row is None:
                raise not_found(f"sandbox '{name}' not found")
            refuse_foreign(row, self._compute.host_id)
            sandbox = load(row, openshell_pb2.Sandbox)
            phase = status.phase_of(sandbox)
            if paused and phase is not Phase.READY:
                raise failed_precondition(f"sandbox '{name}' is {phase.name}; it cannot pause now")
            changed = (
                status.set_paused(sandbox, tx.now_ms) if paused else status.clear_paused(sandbox)
            )
            if changed:
                stored = to_row(Kind.SANDBOX, sandbox, scope=row.scope)
                tx.put(stored, MatchResourceVersion(row.resource_version))
            return sandbox

        sandbox = await self._store.write(write)
        self._bus.publish(SANDBOX, sandbox.metadata.id)
        return sandbox

    def _keeper(self) -> KeepsWorkspaces:
        if not isinstance(self._driver, KeepsWorkspaces):
            raise failed_precondition(
                f"the compute driver '{self._driver_name}' cannot pause a sandbox; stop it instead"
            )
        return self._driver

    async def _hold_again(self, sandbox: openshell_pb2.Sandbox) -> None:
        """The record decides: an earlier gateway may have ended between it and the driver."""
        if not isinstance(self._driver, KeepsWorkspaces):
            return
        if status.is_paused(sandbox):
            await self._driver.pause(sandbox.metadata.id)
        else:
            await self._driver.resume(sandbox.metadata.id)

    async def _begin(
        self, workspace: str, name: str, event: Event, reason: str, *, already: Phase
    ) -> tuple[openshell_pb2.Sandbox, Phase]:
        """Stores the transition; the record and the phase it is in now."""

        def write(tx: Tx) -> openshell_pb2.Sandbox:
            row = tx.get(Kind.SANDBOX, open_workspace(tx, workspace), name)
            if row is None:
                raise not_found(f"sandbox '{name}' not found")
            refuse_foreign(row, self._compute.host_id)
            sandbox = load(row, openshell_pb2.Sandbox)
            phase = status.phase_of(sandbox)
            if phase is already:
                return sandbox
            if next_phase(phase, event) is None:
                raise failed_precondition(
                    f"sandbox '{name}' is {phase.name}; it cannot {event.value} now"
                )
            if event is Event.STOP:
                tx.delete_scope(Kind.SSH_SESSION, row.id)
            if event is Event.START:
                # What cannot be delivered refuses the start, before the phase says otherwise.
                self._build_config(tx, sandbox)
            if not status.apply_transition(sandbox, event, reason, "", tx.now_ms):
                return sandbox
            changed = to_row(Kind.SANDBOX, sandbox, scope=row.scope)
            return load(
                tx.put(changed, MatchResourceVersion(row.resource_version)), openshell_pb2.Sandbox
            )

        sandbox = await self._store.write(write)
        self._bus.publish(SANDBOX, sandbox.metadata.id)
        return sandbox, status.phase_of(sandbox)

    async def _not_done(self, sandbox_id: str, error: DriverError, verb: str) -> ApiError:
        """After a failed call the driver says what is there; the record follows it."""
        try:
            await self._compute.apply_snapshot(await self._driver.get(sandbox_id))
        except DriverError:
            _log.warning("sandbox %s: its state is unknown after a failed %s", sandbox_id, verb)
        return driver_error(error, f"the sandbox could not {verb}: ")

    # -- the gateway's own start and stop

    def _own(self, tx: Tx) -> list[Row]:
        return tx.all(Kind.SANDBOX, scope=self._compute.host_id)

    async def recover(self) -> None:
        """Finishes what an earlier gateway began: stops, starts, deletions; undoes half a creation."""
        rows = await self._store.read(self._own)
        for sandbox in load_all(rows, openshell_pb2.Sandbox):
            try:
                match status.phase_of(sandbox):
                    case Phase.DELETING:
                        await self._delete_compute(sandbox)
                    case Phase.STOPPING:
                        await self._stop_compute(sandbox)
                    case Phase.STARTING:
                        await self._start_compute(sandbox)
                    case Phase.UNSPECIFIED | Phase.PROVISIONING if _never_ran(sandbox):
                        # Stored, but perhaps not yet with the driver when that gateway ended.
                        if sandbox.metadata.id not in self._compute.creating:
                            await self._compute.lost_compute(sandbox.metadata.id)
                    case phase if phase in _RUNNING:
                        await self._hold_again(sandbox)
                    case _:
                        continue
            except (ApiError, DriverError) as error:
                _log.warning("sandbox %s: recovery failed: %s", sandbox.metadata.id, error.message)

    async def stop_all(self) -> list[str]:
        """Stops every running sandbox; the sentences of those that could not be stopped."""
        gate = asyncio.Semaphore(STOP_ALL_CONCURRENCY)
        failures: list[str] = []

        async def stop_one(sandbox: openshell_pb2.Sandbox) -> None:
            async with gate:
                try:
                    await self._stop_whatever(sandbox)
                except (ApiError, DriverError) as error:
                    failures.append(f"{sandbox.metadata.name}: {error.message}")

        rows = await self._store.read(self._own)
        running = [
            sandbox
            for sandbox in load_all(rows, openshell_pb2.Sandbox)
            if status.phase_of(sandbox) in _RUNNING
            # Its main process has ended, but its supervisor still holds the output for a client.
            or self._sessions.get(sandbox.metadata.id) is not None
        ]
        await asyncio.gather(*(stop_one(sandbox) for sandbox in running))
        return failures

    async def _stop_whatever(self, sandbox: openshell_pb2.Sandbox) -> None:
        try:
            await self.stop(sandbox.metadata.workspace, sandbox.metadata.name)
        except ApiError as error:
            if error.code is not Code.FAILED_PRECONDITION:
                raise
            # Over, or coming up, perhaps since a moment ago, as after a start of the gateway: users
            # cannot stop it now, the end of the gateway can.
            await self._driver.stop(sandbox.metadata.id)


def _readable(row: Row) -> openshell_pb2.Sandbox:
    """The record; of a damaged one what the row itself says, so that it can be deleted."""
    try:
        return load(row, openshell_pb2.Sandbox)
    except DecodeError:
        _log.error("the stored sandbox %s is damaged; it is deleted as asked", row.name)
        return openshell_pb2.Sandbox(metadata=metadata_of(row))


def _never_ran(sandbox: openshell_pb2.Sandbox) -> bool:
    """No supervisor of it was ever heard of."""
    return not sandbox.status.creation_phases and not sandbox.status.main_process_instance_id


def _taken(sandbox: openshell_pb2.Sandbox) -> ApiError:
    return already_exists(
        f"sandbox '{sandbox.metadata.name}' already exists in workspace "
        f"'{sandbox.metadata.workspace}'; choose another name or delete it first"
    )


def _replaced() -> ApiError:
    return aborted("the sandbox was deleted or replaced meanwhile")


def _present(sandbox: openshell_pb2.Sandbox | None) -> openshell_pb2.Sandbox:
    if sandbox is None:
        raise _replaced()
    return sandbox
