"""What a sandbox logs: events and plain lines, queued without ever blocking, pushed in batches.

The queue is bounded; when it is full new lines are dropped and counted, and the count is said once
there is room. A gateway that is away costs old lines, never the proxy's time. Lines are free of
secrets by the contract of their makers; this module adds nothing to them.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping

import grpc
import grpc.aio

from openshell import ocsf
from openshell._proto import openshell_pb2
from openshell.supervisor.backoff import Backoff
from openshell.supervisor.gateway_client import GatewayClient

__all__ = ["LEVELS", "Logs"]

# Lines that may wait: the contract's queue.
_MAX_WAITING = 1024
# A batch is sent when it has so many lines or is so old; the gateway keeps 100 of one batch.
_BATCH_LINES = 50
_BATCH_SECONDS = 0.2
# One line's JSON form; the gateway takes at most 1 MiB in one message.
_MAX_JSON = 8 << 10
_MAX_MESSAGE = 8 << 10
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 30.0

LEVELS: Mapping[str, int] = {"error": 0, "warn": 1, "info": 2, "debug": 3, "trace": 4}


class Logs:
    """One queue of lines; its consumer is `push`."""

    def __init__(
        self,
        sandbox_id: str,
        context: ocsf.EventContext,
        *,
        level: str = "info",
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._sandbox_id = sandbox_id
        self._context = context
        self._threshold = LEVELS.get(level.lower(), LEVELS["info"])
        self._clock_ms = clock_ms
        self._lines: deque[openshell_pb2.SandboxLogLine] = deque()
        self._dropped = 0
        self._arrived = asyncio.Event()
        self._finishing = False

    def emit(self, event: ocsf.Event) -> None:
        """Log an event; never blocks. The sink of everything that decides."""
        if len(self._lines) >= _MAX_WAITING:
            self._dropped += 1
            return
        document = ocsf.to_json(event, self._context)
        fields = {"ocsf": document.decode()} if len(document) <= _MAX_JSON else {}
        self._add("OCSF", "ocsf", ocsf.to_line(event), fields, event.time_ms)

    def log(self, level: str, target: str, message: str) -> None:
        """Log a plain line; warnings and errors also go to the supervisor's own output."""
        if LEVELS[level] <= LEVELS["warn"]:
            sys.stderr.write(f"{level.upper()} {target}: {message}\n")
            sys.stderr.flush()
        if LEVELS[level] <= self._threshold:
            self._add(level.upper(), target, message, {}, self._clock_ms())

    def _add(
        self, level: str, target: str, message: str, fields: Mapping[str, str], time_ms: int
    ) -> None:
        if len(self._lines) >= _MAX_WAITING:
            self._dropped += 1
            return
        self._lines.append(
            openshell_pb2.SandboxLogLine(
                sandbox_id=self._sandbox_id,
                timestamp_ms=time_ms,
                level=level,
                target=target,
                message=message[:_MAX_MESSAGE],
                source="sandbox",
                fields=fields,
            )
        )
        self._arrived.set()

    async def push(self, client: GatewayClient) -> None:
        """Send batches until cancelled, or for good until the gateway refuses our identity."""
        backoff = Backoff(_FIRST_WAIT, _LONGEST_WAIT)
        while True:
            try:
                await client.stub.PushSandboxLogs(
                    self._batches(backoff), metadata=client.metadata()
                )
            except grpc.aio.AioRpcError as error:
                if error.code() in {
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.UNIMPLEMENTED,
                }:
                    sys.stderr.write(f"WARN logs: push ended: {error.code().name}\n")
                    return
            if self._finishing and not self._lines:
                return
            await asyncio.sleep(backoff.next())

    def finish(self) -> None:
        """No more lines come: `push` sends what waits and returns."""
        self._finishing = True
        self._arrived.set()

    async def _batches(
        self, backoff: Backoff
    ) -> AsyncIterator[openshell_pb2.PushSandboxLogsRequest]:
        while True:
            while not self._lines:
                if self._finishing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            if len(self._lines) < _BATCH_LINES and not self._finishing:
                # A moment for others to come along.
                await asyncio.sleep(_BATCH_SECONDS)
            if self._dropped and len(self._lines) < _MAX_WAITING:
                dropped, self._dropped = self._dropped, 0
                self._add("WARN", "logs", f"{dropped} log lines were dropped", {}, self._clock_ms())
            batch = [self._lines.popleft() for _ in range(min(_BATCH_LINES, len(self._lines)))]
            yield openshell_pb2.PushSandboxLogsRequest(sandbox_id=self._sandbox_id, logs=batch)
            backoff.reset()
