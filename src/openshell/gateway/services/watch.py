"""WatchSandbox: a snapshot first, then what the caller follows.

Subscribes before it reads, so that nothing is lost between the two. Notifications of status and log
carry no state: each makes the store be read again, several at once are one.
"""

from __future__ import annotations

from typing import Any

from openshell._proto import openshell_pb2
from openshell.gateway.compute import Compute
from openshell.gateway.errors import not_found, resource_exhausted
from openshell.gateway.events import LOGS, PLATFORM, SANDBOX, Bus, Lagged, Subscription
from openshell.gateway.limits import check_required
from openshell.gateway.records import Kind, load
from openshell.gateway.services.logs import LogFilter, line_message
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
        lines = _Lines(self._store, request, context)
        await self._replay(request, context, lines)
        if request.stop_on_terminal and sandbox.status.phase == _READY:
            return
        while True:
            try:
                topic, value = await subscription.get()
            except Lagged as lagged:
                raise resource_exhausted(str(lagged)) from lagged
            if topic == LOGS:
                await lines.follow()
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
        row = await self._store.look_up(lambda tx: tx.get_by_id(Kind.SANDBOX, sandbox_id))
        return None if row is None else self._compute.show(load(row, openshell_pb2.Sandbox))

    async def _replay(
        self, request: openshell_pb2.WatchSandboxRequest, context: Any, lines: _Lines
    ) -> None:
        if request.follow_logs:
            await lines.replay()
        if request.follow_events:
            for event in self._compute.platform_events(request.id, request.event_tail):
                await context.write(openshell_pb2.SandboxStreamEvent(event=event))


class _Lines:
    """The log of one watched sandbox: what was sent last, and what passes."""

    def __init__(
        self, store: Store, request: openshell_pb2.WatchSandboxRequest, context: Any
    ) -> None:
        self._store = store
        self._context = context
        self._sandbox_id = request.id
        self._tail = min(request.log_tail_lines or LOG_TAIL_DEFAULT, LOG_TAIL_MAX)
        self._since_ms = request.log_since_ms
        self._filter = LogFilter(sources=request.log_sources, min_level=request.log_min_level)
        self._last_id = 0

    async def replay(self) -> None:
        """The kept lines; only these are held against the caller's start time."""
        lines = await self._read(self._tail)
        await self._send([line for line in lines if line.timestamp_ms >= self._since_ms])

    async def follow(self) -> None:
        lines = await self._read(QUEUE)
        if len(lines) == QUEUE:
            raise resource_exhausted("lagged; dropped older lines: read them with GetSandboxLogs")
        await self._send(lines)

    async def _read(self, last: int) -> list[LogLine]:
        after = self._last_id
        lines = await self._store.read(
            lambda tx: tx.read_logs(self._sandbox_id, last=last, after_id=after)
        )
        if lines:
            self._last_id = lines[-1].id
        return lines

    async def _send(self, lines: list[LogLine]) -> None:
        for line in lines:
            if self._filter.admits(line):
                await self._context.write(openshell_pb2.SandboxStreamEvent(log=line_message(line)))
