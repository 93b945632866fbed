"""WatchSandbox: a snapshot first, then what the caller follows.

Subscribes before it reads, so that nothing is lost between the two. Status notifications carry no
state: each makes the record be read again, several at once are one. Lines of the log come from the
store on replay and from the bus live, told apart by their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from openshell._proto import openshell_pb2
from openshell.gateway.compute import Compute
from openshell.gateway.errors import ApiError, not_found, resource_exhausted
from openshell.gateway.events import LOGS, PLATFORM, SANDBOX, Bus, Lagged, Subscription
from openshell.gateway.limits import check_required
from openshell.gateway.loglines import line_filter, line_message
from openshell.gateway.records import Kind, load
from openshell.gateway.store import LogLine, Store

__all__ = ["WatchService"]

LOG_TAIL_DEFAULT = 200
"""Lines replayed when the caller names no number; the contract's."""
LOG_TAIL_MAX = 2_000
"""Lines replayed at most."""
QUEUE = 1_024
"""Notifications a slow watcher may be behind before it is told that it lost some."""

_READY = openshell_pb2.SANDBOX_PHASE_READY


class WatchService:
    """One RPC."""

    def __init__(self, store: Store, compute: Compute, bus: Bus) -> None:
        self._store = store
        self._compute = compute
        self._bus = bus

    async def WatchSandbox(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.WatchSandboxRequest, context: Any
    ) -> None:
        check_required("id", request.id)
        topics = [SANDBOX]
        if request.follow_logs:
            topics.append(LOGS)
        if request.follow_events:
            topics.append(PLATFORM)
        with self._bus.subscribe(topics, request.id, limit=QUEUE) as subscription:
            await self._watch(request, context, subscription)

    async def _watch(
        self,
        request: openshell_pb2.WatchSandboxRequest,
        context: Any,
        subscription: Subscription,
    ) -> None:
        sandbox = await self._read(request.id)
        if sandbox is None:
            raise not_found("sandbox not found")
        await context.write(openshell_pb2.SandboxStreamEvent(sandbox=sandbox))
        passes = line_filter(request.log_sources, request.log_min_level)
        last_line = await self._replay(request, context, passes)
        if request.stop_on_terminal and sandbox.status.phase == _READY:
            return
        while True:
            try:
                topic, value = await subscription.get()
            except Lagged as lagged:
                raise _too_slow(lagged) from lagged
            if topic == LOGS and isinstance(value, Iterable):
                await _write_lines(context, value, passes, last_line)
            elif topic == PLATFORM and isinstance(value, openshell_pb2.PlatformEvent):
                await context.write(openshell_pb2.SandboxStreamEvent(event=value))
            elif topic == SANDBOX and not await self._status(request, context):
                return

    async def _status(self, request: openshell_pb2.WatchSandboxRequest, context: Any) -> bool:
        """Sends the record again; False at the end of the stream."""
        sandbox = await self._read(request.id)
        if sandbox is None:
            return False
        if not request.follow_status:
            return True
        await context.write(openshell_pb2.SandboxStreamEvent(sandbox=sandbox))
        return not (request.stop_on_terminal and sandbox.status.phase == _READY)

    async def _read(self, sandbox_id: str) -> openshell_pb2.Sandbox | None:
        row = await self._store.read(lambda tx: tx.get_by_id(Kind.SANDBOX, sandbox_id))
        return None if row is None else self._compute.show(load(row, openshell_pb2.Sandbox))

    async def _replay(
        self,
        request: openshell_pb2.WatchSandboxRequest,
        context: Any,
        passes: Callable[[LogLine], bool],
    ) -> int:
        """Kept lines and events; the id of the last line, so that live ones are not repeated."""
        last_line = 0
        if request.follow_logs:
            wanted = min(request.log_tail_lines or LOG_TAIL_DEFAULT, LOG_TAIL_MAX)
            lines = await self._store.read(lambda tx: tx.read_logs(request.id, last=wanted))
            last_line = lines[-1].id if lines else 0
            recent = [line for line in lines if line.timestamp_ms >= request.log_since_ms]
            await _write_lines(context, recent, passes, 0)
        if request.follow_events:
            for event in self._compute.platform_events(request.id, request.event_tail):
                await context.write(openshell_pb2.SandboxStreamEvent(event=event))
        return last_line


async def _write_lines(
    context: Any, lines: Iterable[Any], passes: Callable[[LogLine], bool], after: int
) -> None:
    for line in lines:
        known = line.id and line.id <= after
        if not known and passes(line):
            await context.write(openshell_pb2.SandboxStreamEvent(log=line_message(line)))


def _too_slow(lagged: Lagged) -> ApiError:
    return resource_exhausted(str(lagged))
