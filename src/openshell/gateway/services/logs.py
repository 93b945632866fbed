"""Logs of a sandbox: taken in from its supervisor, kept in the store's bounded table, read back.

A supervisor writes for itself alone: the id and the source of a line are set here, whatever it
sends. Lines are cut, never refused, so that a chatty agent cannot break its own record. Following
is WatchSandbox's affair: every stored batch wakes its subscribers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from openshell._proto import openshell_pb2
from openshell.gateway.auth.principal import require_sandbox
from openshell.gateway.errors import invalid_argument, permission_denied
from openshell.gateway.events import LOGS, Bus
from openshell.gateway.services.lookup import find_sandbox_by_id, require_field
from openshell.gateway.store.model import LogLine, Store, Tx

__all__ = ["DEFAULT_LINES", "LogFilter", "Logs", "line_message"]

DEFAULT_LINES: Final = 2000
"""Lines of a request that names no number; the contract's."""
MAX_LINES: Final = 10_000
"""Lines of one answer at most: bounds its size whatever was asked."""
MAX_ANSWER_BYTES: Final = 3 << 20
"""Of one answer: below the 4 MiB that a gRPC client takes unless told otherwise, and above the size of
one line, so that reading page by page comes to its end. Older lines are for the next page."""
MAX_BATCH_LINES: Final = 100
"""Lines kept of one pushed batch; the contract's. A supervisor sends more batches instead."""
MAX_MESSAGE: Final = 8192
"""Characters of a message: a request line of the largest accepted head, with room."""
MAX_WORD: Final = 256
"""Characters of a level, a target or a field's name."""
MAX_FIELDS: Final = 64
"""Fields of one line; our own events have under thirty."""
MAX_FIELD_VALUE: Final = 8192
"""Characters of one field: an event in its JSON form arrives whole, a cut one could not be read."""

SOURCE_SANDBOX: Final = "sandbox"
SOURCE_GATEWAY: Final = "gateway"

_RANKS: Final[Mapping[str, int]] = {
    "ERROR": 0,
    "WARN": 1,
    "INFO": 2,
    "OCSF": 2,
    "DEBUG": 3,
    "TRACE": 4,
}
_UNKNOWN_RANK: Final = 5


class LogFilter:
    """Which lines a client asked for. Empty conditions let everything through."""

    def __init__(
        self, *, since_ms: int = 0, sources: Sequence[str] = (), min_level: str = ""
    ) -> None:
        self._since_ms = since_ms
        self._sources = frozenset(sources)
        self._rank = _rank(min_level) if min_level else _UNKNOWN_RANK

    def admits(self, line: LogLine) -> bool:
        return (
            line.timestamp_ms >= self._since_ms
            and (not self._sources or (line.source or SOURCE_GATEWAY) in self._sources)
            and _rank(line.level) <= self._rank
        )


def _rank(level: str) -> int:
    return _RANKS.get(level.upper(), _UNKNOWN_RANK)


def line_message(line: LogLine) -> openshell_pb2.SandboxLogLine:
    return openshell_pb2.SandboxLogLine(
        sandbox_id=line.sandbox_id,
        timestamp_ms=line.timestamp_ms,
        level=line.level,
        target=line.target,
        message=line.message,
        source=line.source,
        fields=line.fields,
    )


class Logs:
    """The log methods of the API."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus

    async def GetSandboxLogs(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetSandboxLogsRequest, _context: Any
    ) -> openshell_pb2.GetSandboxLogsResponse:
        require_field(request.sandbox_id, "sandbox_id")
        if request.before_id < 0:
            raise invalid_argument("before_id must not be negative")
        last = min(request.lines or DEFAULT_LINES, MAX_LINES)

        def read(tx: Tx) -> tuple[list[LogLine], bool]:
            find_sandbox_by_id(tx, request.sandbox_id)
            # One more than wanted tells whether there is more.
            lines = tx.read_logs(request.sandbox_id, last=last + 1, before_id=request.before_id)
            return list(lines), tx.is_log_full(request.sandbox_id)

        found, is_full = await self._store.read(read)
        wanted = LogFilter(
            since_ms=request.since_ms, sources=request.sources, min_level=request.min_level
        )
        logs, seen = _newest_within(found[-last:], wanted, MAX_ANSWER_BYTES)
        has_older = len(seen) < len(found)
        # Clocks step: only a page without any line of the time asked for ends the walk.
        is_past = all(line.timestamp_ms < request.since_ms for line in seen)
        reaches = is_past or any(line.timestamp_ms < request.since_ms for line in seen[:1])
        return openshell_pb2.GetSandboxLogsResponse(
            logs=logs,
            buffer_total=len(seen),
            oldest_id=seen[0].id if seen and has_older and not is_past else 0,
            is_complete=reaches or not (has_older or is_full),
        )

    async def PushSandboxLogs(  # noqa: N802  named as the RPC
        self,
        requests: AsyncIterator[openshell_pb2.PushSandboxLogsRequest],
        _context: Any,
    ) -> openshell_pb2.PushSandboxLogsResponse:
        principal = require_sandbox()
        checked = False
        async for request in requests:
            if not request.sandbox_id:
                continue
            if request.sandbox_id != principal.sandbox_id:
                raise permission_denied("logs may only be pushed for the caller's own sandbox")
            batch = list(request.logs[:MAX_BATCH_LINES])
            if batch or not checked:
                await self._append(principal.sandbox_id, batch)
                checked = True
        return openshell_pb2.PushSandboxLogsResponse()

    async def _append(self, sandbox_id: str, batch: Sequence[openshell_pb2.SandboxLogLine]) -> None:
        lines = [_accepted(sandbox_id, line) for line in batch]

        def write(tx: Tx) -> None:
            # Beside the write, so that no line outlives its sandbox.
            find_sandbox_by_id(tx, sandbox_id)
            if lines:
                tx.append_logs(lines)

        await self._store.write(write)
        if lines:
            self._bus.publish(LOGS, sandbox_id)


def _newest_within(
    lines: list[LogLine], wanted: LogFilter, limit: int
) -> tuple[list[openshell_pb2.SandboxLogLine], list[LogLine]]:
    """The longest tail whose wanted lines fit when encoded: those lines, and all of the tail."""
    logs: list[openshell_pb2.SandboxLogLine] = []
    for position in range(len(lines) - 1, -1, -1):
        if not wanted.admits(lines[position]):
            continue
        message = line_message(lines[position])
        limit -= message.ByteSize() + 8
        if limit < 0:
            return logs[::-1], lines[position + 1 :]
        logs.append(message)
    return logs[::-1], lines


def _accepted(sandbox_id: str, line: openshell_pb2.SandboxLogLine) -> LogLine:
    fields = {
        key[:MAX_WORD]: line.fields[key][:MAX_FIELD_VALUE]
        for key in sorted(line.fields)[:MAX_FIELDS]
    }
    return LogLine(
        sandbox_id=sandbox_id,
        timestamp_ms=line.timestamp_ms,
        source=SOURCE_SANDBOX,
        level=line.level[:MAX_WORD],
        target=line.target[:MAX_WORD],
        message=line.message[:MAX_MESSAGE],
        fields=fields,
    )
