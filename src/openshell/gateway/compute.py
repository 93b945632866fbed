"""The driver's host: carries what drivers and supervisors report into sandbox records.

Every change is one transaction that reads, decides (`status.py`) and writes; then watchers are told.
Requests of users that touch compute (create, delete, stop, start) are in `lifecycle.py`, RPCs in
`services/`. Owns the watch on the driver and the periodic comparison of its list with the records.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.drivers.base import (
    ComputeDriver,
    Deleted,
    DriverError,
    DriverErrorCode,
    DriverEvent,
    PlatformEvent,
    SandboxStatus,
)
from openshell.gateway import status
from openshell.gateway.driver_view import platform_event
from openshell.gateway.events import PLATFORM, SANDBOX, Bus
from openshell.gateway.hosting import adopt
from openshell.gateway.phases import Event, Phase
from openshell.gateway.records import Kind, load, load_all, to_row
from openshell.gateway.sessions import EXT_REPORT, Session, Sessions
from openshell.gateway.store import MatchResourceVersion, Row, Store, StoreError, Tx
from openshell.gateway.tasks import Tasks

__all__ = ["Compute", "remove_sandbox"]

RECONCILE_SECONDS = 60.0
"""Between two comparisons of the driver's list with the records; the watch is the usual way."""
WATCH_RETRY_SECONDS = 2.0
"""Before a broken watch is opened again."""
MISSING_AFTER_MS = 300_000
"""A record younger than this may still be on its way to the driver."""
PLATFORM_EVENTS_KEPT = 50
"""Per sandbox, in memory: what a new watcher can be shown."""

_log = logging.getLogger(__name__)

Change = Callable[[openshell_pb2.Sandbox, int], bool]

# Kinds whose scope is the sandbox's id.
_SCOPED = (
    Kind.SANDBOX_POLICY,
    Kind.DRAFT_POLICY_CHUNK,
    Kind.SSH_SESSION,
    Kind.SNAPSHOT,
    Kind.INFERENCE_METER,
)


def remove_sandbox(tx: Tx, row: Row) -> None:
    """Removes a record and everything that belongs to it."""
    for kind in _SCOPED:
        tx.delete_scope(kind, row.id)
    settings = tx.get(Kind.SANDBOX_SETTINGS, row.workspace, row.name or "")
    if settings is not None:
        tx.delete(Kind.SANDBOX_SETTINGS, settings.id)
    for endpoint in tx.list(
        Kind.SERVICE_ENDPOINT,
        workspace=row.workspace,
        label_selector={"sandbox": row.name or ""},
        limit=1000,
    ):
        tx.delete(Kind.SERVICE_ENDPOINT, endpoint.id)
    tx.delete_logs(row.id)
    tx.delete(Kind.SANDBOX, row.id)


class Compute:
    """Observations in, records out."""

    def __init__(
        self,
        store: Store,
        driver: ComputeDriver,
        sessions: Sessions,
        bus: Bus,
        tasks: Tasks,
        *,
        host_id: str,
    ) -> None:
        self._store = store
        self._driver = driver
        self._sessions = sessions
        self._bus = bus
        self._tasks = tasks
        self._events: dict[str, deque[openshell_pb2.PlatformEvent]] = {}
        self.creating: set[str] = set()
        """Sandboxes whose create call to the driver has not returned."""
        self.host_id = host_id
        """The scope of the rows that are this host's to reconcile and remove."""
        self.judged: set[str] = set()
        """Sandboxes whose lease is judged here: whether another gateway's is Ready, it says itself."""

    async def adopt(self) -> None:
        """Learns which sandboxes are this host's; call it before anything is served."""

        def unowned(tx: Tx) -> bool:
            return any(row.scope is None for row in tx.all(Kind.SANDBOX))

        listed: set[str] = set()
        if await self._store.read(unowned):
            listed = {entry.id for entry in await self._driver.list()}
        self.judged = await self._store.write(lambda tx: adopt(tx, self.host_id, listed))

        def paused(tx: Tx) -> set[str]:
            own = tx.all(Kind.SANDBOX, scope=self.host_id)
            held = filter(status.is_paused, load_all(own, openshell_pb2.Sandbox))
            return {sandbox.metadata.id for sandbox in held}

        self._sessions.paused = await self._store.read(paused)

    def start(self) -> None:
        """Begins to watch the driver; call after its `open`."""
        self._tasks.spawn("driver watch", self._watch())
        self._tasks.spawn("driver reconcile", self._reconcile_for_ever())

    # -- records

    async def update(self, sandbox_id: str, change: Change) -> openshell_pb2.Sandbox | None:
        """Applies a change in one transaction and announces it; the record after it."""
        sandbox, changed = await self._change(sandbox_id, change)
        if changed:
            self._bus.publish(SANDBOX, sandbox_id)
        return sandbox

    async def _change(
        self, sandbox_id: str, change: Change
    ) -> tuple[openshell_pb2.Sandbox | None, bool]:
        """One transaction; the record after it and whether it is another."""

        def write(tx: Tx) -> tuple[openshell_pb2.Sandbox | None, bool]:
            row = tx.get_by_id(Kind.SANDBOX, sandbox_id)
            if row is None:
                return None, False
            sandbox = load(row, openshell_pb2.Sandbox)
            if not change(sandbox, tx.now_ms):
                return sandbox, False
            stored = tx.put(
                to_row(Kind.SANDBOX, sandbox, scope=row.scope, status=row.status),
                MatchResourceVersion(row.resource_version),
            )
            return load(stored, openshell_pb2.Sandbox), True

        return await self._store.write(write)

    def show(self, sandbox: openshell_pb2.Sandbox) -> openshell_pb2.Sandbox:
        """The record as a client may see it."""
        return status.project(
            sandbox,
            leased=self._sessions.is_ready(sandbox.metadata.id)
            or sandbox.metadata.id not in self.judged,
            now_ms=sandbox.metadata.created_at_ms,
        )

    async def remove(self, sandbox_id: str) -> bool:
        """Removes the record with all that belongs to it."""

        def write(tx: Tx) -> bool:
            row = tx.get_by_id(Kind.SANDBOX, sandbox_id)
            if row is None:
                return False
            remove_sandbox(tx, row)
            return True

        removed = await self._store.write(write)
        self.judged.discard(sandbox_id)
        self._sessions.paused.discard(sandbox_id)
        self._events.pop(sandbox_id, None)
        self._sessions.disconnect(sandbox_id, "the sandbox is deleted")
        self._bus.publish(SANDBOX, sandbox_id)
        return removed

    def platform_events(self, sandbox_id: str, last: int) -> list[openshell_pb2.PlatformEvent]:
        kept = self._events.get(sandbox_id, ())
        return list(kept)[-last:] if last else []

    # -- supervisors

    async def session_connected(self, session: Session) -> None:
        """A peer that reports phases is ready once it says so; another is ready now."""

        def change(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
            same_run = sandbox.status.main_process_instance_id == session.instance_id
            # A supervisor that comes back to a new gateway was ready before.
            session.ready = EXT_REPORT not in session.extensions or (
                same_run
                and not sandbox.status.HasField("exit_code")
                and status.main_started(sandbox.status.creation_phases)
            )
            if not session.ready:
                return False
            return status.apply_session_ready(sandbox, session.instance_id, now_ms)

        await self._update_by_session(session, change)

    async def session_lost(self, session: Session) -> None:
        def change(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
            # Another may have connected while this transaction waited for its turn.
            if self._sessions.get(session.sandbox_id) is not None:
                return False
            return status.apply_session_lost(sandbox, now_ms)

        await self.update(session.sandbox_id, change)

    async def reported(self, session: Session, report: openshell_ext_pb2.SandboxReport) -> None:
        started = status.main_started(report.phases)

        def change(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
            changed = status.apply_report(sandbox, report, now_ms)
            if started and not sandbox.status.HasField("exit_code"):
                session.ready = True
                changed |= status.apply_session_ready(sandbox, session.instance_id, now_ms)
            return changed

        await self._update_by_session(session, change)

    async def _update_by_session(self, session: Session, change: Change) -> None:
        sandbox, changed = await self._change(session.sandbox_id, change)
        if sandbox is None:
            session.close("the sandbox is deleted")
        ready = sandbox is not None and status.phase_of(sandbox) is Phase.READY
        if not ready:
            # Deleted, stopped or failed meanwhile: it may stay connected, nothing runs through it.
            session.ready = False
        # Whether Ready is shown depends on the session too, so the record may be the same and look
        # new.
        if changed or ready:
            self._bus.publish(SANDBOX, session.sandbox_id)

    async def main_exited(self, sandbox_id: str, instance_id: str, exit_code: int) -> None:
        def change(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
            return status.apply_exit(sandbox, instance_id, exit_code, now_ms)

        await self.update(sandbox_id, change)
        session = self._sessions.get(sandbox_id)
        if session is not None and session.instance_id == instance_id:
            session.ready = False

    # -- the driver

    async def _watch(self) -> None:
        while True:
            try:
                async for event in self._driver.watch():
                    await self._apply(event)
            except (DriverError, StoreError) as error:
                _log.warning("the driver's watch broke: %s", error)
            except Exception:
                _log.exception("the driver's watch broke")
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    async def _apply(self, event: DriverEvent) -> None:
        match event:
            case SandboxStatus():
                await self.apply_snapshot(event)
            case Deleted(sandbox_id):
                await self._deleted(sandbox_id)
            case PlatformEvent():
                shown = platform_event(event)
                kept = self._events.setdefault(event.id, deque(maxlen=PLATFORM_EVENTS_KEPT))
                kept.append(shown)
                self._bus.publish(PLATFORM, event.id, shown)

    async def apply_snapshot(self, seen: SandboxStatus) -> None:
        session = self._sessions.get(seen.id)

        def change(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
            ready = session is not None and session.ready
            return status.apply_snapshot(sandbox, seen, session_ready=ready, now_ms=now_ms)

        sandbox = await self.update(seen.id, change)
        if sandbox is not None and status.phase_of(sandbox) is Phase.STOPPED:
            self._sessions.disconnect(seen.id, "the sandbox is stopped")

    async def _deleted(self, sandbox_id: str) -> None:
        # `create` still owns a record whose driver call failed and was undone.
        if sandbox_id not in self.creating:
            await self.remove(sandbox_id)

    async def _reconcile_for_ever(self) -> None:
        while True:
            try:
                await self.reconcile()
            except (DriverError, StoreError) as error:
                _log.warning("reconciliation failed: %s", error)
            except Exception:
                _log.exception("reconciliation failed")
            await asyncio.sleep(RECONCILE_SECONDS)

    async def reconcile(self) -> None:
        """Applies the driver's list; records without compute are failed or removed."""
        seen = {entry.id: entry for entry in await self._driver.list()}
        for entry in seen.values():
            await self.apply_snapshot(entry)

        def missing(tx: Tx) -> list[str]:
            return [
                row.id
                for row in tx.all(Kind.SANDBOX, scope=self.host_id)
                if row.id not in seen and tx.now_ms - row.created_at_ms > MISSING_AFTER_MS
            ]

        for sandbox_id in await self._store.read(missing):
            if sandbox_id not in self.creating:
                await self.lost_compute(sandbox_id)

    async def lost_compute(self, sandbox_id: str) -> None:
        """Fails or removes a record, unless the driver has its compute after all."""
        try:
            await self._driver.get(sandbox_id)
        except DriverError as error:
            if error.code is not DriverErrorCode.NOT_FOUND:
                raise
        else:
            return

        def change(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
            return status.apply_transition(
                sandbox,
                Event.MISSING,
                "ComputeResourceMissing",
                "the compute of this sandbox is gone; delete it and create another",
                now_ms,
            )

        sandbox = await self.update(sandbox_id, change)
        # What failed keeps its record: it holds the reason.
        if sandbox is not None and status.phase_of(sandbox) is not Phase.ERROR:
            _log.warning("sandbox %s: its compute is gone, the record is removed", sandbox_id)
            await self.remove(sandbox_id)
