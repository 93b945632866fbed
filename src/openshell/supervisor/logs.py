"""What a sandbox logs: events and plain lines, queued without ever blocking, pushed in batches.

Queueing costs an append: lines are made when they are sent, so a flood that is dropped costs
nothing. What an operator must see (refusals, findings, warnings) has a queue of its own, so that an
agent cannot push its refusals out with traffic that is allowed. Both are bounded; what did not fit
is counted, and the count is said. A gateway that is away costs the lines that do not fit, never the
proxy's time.
Lines are free of secrets by the contract of their makers; this module adds nothing to them.
"""

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio

from openshell import ocsf
from openshell._proto import openshell_pb2
from openshell.supervisor.backoff import Backoff
from openshell.supervisor.gateway_client import GatewayClient

__all__ = ["LEVELS", "Logs"]

# Lines that may wait, in each of the two queues: the contract's queue.
_MAX_WAITING = 1024
# A batch is sent when it has so many lines; the gateway keeps 100 of one batch.
_BATCH_LINES = 50
# Or when it is so old. What an operator must see, and the first line after a pause, waits only for
# its companions: someone may look for it the next moment. A flood of small batches costs both ends
# more than the lines are worth.
_FIRST_SECONDS = 0.02
_BATCH_SECONDS = 0.2
# The pause before a full batch that follows another, at most 1,000 lines in a second: a line that is sent
# costs as much as a tenth of the request it tells of, at both ends. Only a flood goes beyond that for
# longer than the queue lasts, and the gateway's table would not keep its lines anyway.
_FULL_SECONDS = 0.05
# One line's JSON form; the gateway takes at most 1 MiB in one message.
_MAX_JSON = 8 << 10
_MAX_MESSAGE = 8 << 10
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 30.0

LEVELS: Mapping[str, int] = {"error": 0, "warn": 1, "info": 2, "debug": 3, "trace": 4}

_REFUSED_FOR_GOOD = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
# The same lines would be refused again, and all others wait behind them.
_NEVER_TAKEN = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


@dataclass(frozen=True, slots=True)
class _Plain:
    time_ms: int
    level: str
    target: str
    message: str


_Entry: TypeAlias = ocsf.Event | _Plain


class _Stream:
    """What one call carries until it is answered: entries, and whether each was important."""

    def __init__(self) -> None:
        self.sent: list[tuple[bool, _Entry]] = []
        self.is_over = False


class Logs:
    """Two queues of lines; their consumer is `push`."""

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
        self._usual: deque[_Entry] = deque()
        self._important: deque[_Entry] = deque()
        self._last_sent = -_BATCH_SECONDS
        self._dropped = 0
        self._arrived = asyncio.Event()
        # Set when what waits should go soon.
        self._urgent = asyncio.Event()
        self._finishing = False
        self._sinks: list[Callable[[ocsf.Event], None]] = []

    def add_sink(self, sink: Callable[[ocsf.Event], None]) -> None:
        """Have every event go there as well; it must not block."""
        self._sinks.append(sink)

    def emit(self, event: ocsf.Event) -> None:
        """Log an event; never blocks. The sink of everything that decides."""
        self._add(event, important=event.severity >= ocsf.Severity.MEDIUM)
        for sink in self._sinks:
            sink(event)

    def log(self, level: str, target: str, message: str) -> None:
        """Log a plain line; warnings and errors also go to the supervisor's own output."""
        important = LEVELS[level] <= LEVELS["warn"]
        if important:
            # That output is a file, on a disk that may be full.
            with contextlib.suppress(OSError):
                sys.stderr.write(f"{level.upper()} {target}: {message}\n")
                sys.stderr.flush()
        if LEVELS[level] <= self._threshold:
            self._add(_Plain(self._clock_ms(), level.upper(), target, message), important=important)

    def _add(self, entry: _Entry, *, important: bool) -> None:
        queue = self._important if important else self._usual
        if len(queue) >= _MAX_WAITING:
            self._dropped += 1
            return
        queue.append(entry)
        self._arrived.set()
        if important or len(queue) >= _BATCH_LINES:
            self._urgent.set()

    async def push(self, client: GatewayClient) -> None:
        """Send batches until cancelled, or for good until the gateway refuses our identity.

        A stream is short: its answer is the only sign that its lines are stored. What a broken one
        carried is sent again, so that a gateway that dies loses nothing and at worst shows twice what
        it had just stored.
        """
        backoff = Backoff(_FIRST_WAIT, _LONGEST_WAIT)
        while await self._something_waits():
            stream = _Stream()
            try:
                await client.stub.PushSandboxLogs(self._batches(stream), metadata=client.metadata())
            except grpc.aio.AioRpcError as error:
                # grpc may go on asking for messages when the call has failed already.
                stream.is_over = True
                if error.code() in _REFUSED_FOR_GOOD:
                    sys.stderr.write(f"WARN logs: push ended: {error.code().name}\n")
                    return
                if error.code() in _NEVER_TAKEN:
                    self._dropped += len(stream.sent)
                else:
                    self._take_back(stream)
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()

    def finish(self) -> None:
        """No more lines come: `push` sends what waits and returns."""
        self._finishing = True
        self._arrived.set()
        self._urgent.set()

    def _waiting(self) -> int:
        return len(self._usual) + len(self._important)

    async def _something_waits(self) -> bool:
        """False when nothing waits and nothing more will come."""
        while not self._waiting():
            if self._finishing:
                return False
            self._arrived.clear()
            await self._arrived.wait()
        return True

    async def _batches(
        self, stream: _Stream
    ) -> AsyncIterator[openshell_pb2.PushSandboxLogsRequest]:
        """What waits now, and what comes while it is sent."""
        loop = asyncio.get_running_loop()
        while self._waiting() and len(stream.sent) < _MAX_WAITING:
            await self._gather(first=loop.time() - self._last_sent >= _BATCH_SECONDS)
            if stream.is_over:
                return
            self._last_sent = loop.time()
            yield openshell_pb2.PushSandboxLogsRequest(
                sandbox_id=self._sandbox_id, logs=self.take_batch(stream)
            )

    def _take_back(self, stream: _Stream) -> None:
        """What was sent without an answer waits again, before all that came since."""
        for important, entry in reversed(stream.sent):
            (self._important if important else self._usual).appendleft(entry)

    async def _gather(self, *, first: bool) -> None:
        """A moment for others to come along."""
        if self._waiting() >= _BATCH_LINES:
            if not (first or self._finishing):
                await asyncio.sleep(_FULL_SECONDS)
            return
        if not (first or self._important or self._finishing):
            self._urgent.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BATCH_SECONDS):
                    await self._urgent.wait()
        if self._waiting() < _BATCH_LINES and not self._finishing:
            await asyncio.sleep(_FIRST_SECONDS)

    def take_batch(self, stream: _Stream | None = None) -> list[openshell_pb2.SandboxLogLine]:
        """The next lines to send, the important ones first to be taken, in the order of time."""
        entries: list[_Entry] = []
        sent = [] if stream is None else stream.sent
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            entries.append(
                _Plain(self._clock_ms(), "WARN", "logs", f"{dropped} log lines were dropped")
            )
            sent.append((True, entries[-1]))
        for queue in (self._important, self._usual):
            while queue and len(entries) < _BATCH_LINES:
                entries.append(queue.popleft())
                sent.append((queue is self._important, entries[-1]))
        entries.sort(key=lambda entry: entry.time_ms)
        return [self._line(entry) for entry in entries]

    def _line(self, entry: _Entry) -> openshell_pb2.SandboxLogLine:
        fields: dict[str, str] = {}
        if isinstance(entry, _Plain):
            level, target, message = entry.level, entry.target, entry.message
        else:
            level, target, message = "OCSF", "ocsf", ocsf.to_line(entry)
            document = ocsf.to_json(entry, self._context)
            if len(document) <= _MAX_JSON:
                fields["ocsf"] = document.decode()
        return openshell_pb2.SandboxLogLine(
            sandbox_id=self._sandbox_id,
            timestamp_ms=entry.time_ms,
            level=level,
            target=target,
            message=message[:_MAX_MESSAGE],
            source="sandbox",
            fields=fields,
        )
