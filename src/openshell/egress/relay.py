"""Copies bytes between two connected sockets until both directions have ended: the opaque tunnel.

Raw non-blocking sockets and one buffer of 1 MiB for the whole process: large reads are what makes a copy
loop cheap, and a read is written out before the next one begins, so that one buffer serves every tunnel.
What a slow target does not take at once is kept (at most one buffer's worth, and of all tunnels together no
more than a named limit) and the source waits.
An end of one direction is passed on as a half-close, a connection that was lost as a reset. Nothing is looked at; who may open a tunnel and when it
must close is decided by the pipeline, which calls `close`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["Relay", "RelayEnd", "RelayResult"]

# Measured: 0.33 CPU seconds per GB with 1 MiB, 0.54 with 256 KiB (0.29 with splice, not worth its pipes).
BUFFER_SIZE: Final = 1024 * 1024
# Reads of one direction before the loop gets its turn: at most 4 MiB, about one millisecond.
_ROUNDS: Final = 4

# What slow targets have not taken yet, in all tunnels together. An agent may open a thousand tunnels to a
# fast server and read from none; beyond this, reads are small and a tunnel keeps no more than one of them.
HELD_LIMIT: Final = 32 * 1024 * 1024
CROWDED_READ: Final = 16 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class _Shared:
    """What the process's tunnels share: the buffer to read into, and the count of what is kept."""

    __slots__ = ("_whole", "held")

    def __init__(self) -> None:
        self._whole = memoryview(bytearray(BUFFER_SIZE))
        self.held = 0

    @property
    def buffer(self) -> memoryview:
        return self._whole if self.held < HELD_LIMIT else self._whole[:CROWDED_READ]


_shared: _Shared | None = None


def _share() -> _Shared:
    """Made at the first tunnel so that an idle sandbox does not pay for it."""
    global _shared  # noqa: PLW0603 - one per process is the point
    if _shared is None:
        _shared = _Shared()
    return _shared


class RelayEnd(Enum):
    """Why a relay ended."""

    FINISHED = "finished"
    LOST = "lost"
    IDLE = "idle"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class RelayResult:
    """How a relay ended; `detail` is the caller's reason when it was closed on demand."""

    end: RelayEnd
    to_upstream: int
    to_client: int
    detail: str = ""


class _Direction:
    """One half: reads from `source`, writes to `target`, waits for exactly one of the two."""

    __slots__ = (
        "_held",
        "_loop",
        "_pending",
        "_relay",
        "_shared",
        "_source",
        "_target",
        "count",
        "done",
    )

    def __init__(
        self, relay: Relay, source: socket.socket, target: socket.socket, early: bytes
    ) -> None:
        self._relay = relay
        self._loop = relay.loop
        self._source = source
        self._target = target
        self._shared = _share()
        self._pending = memoryview(early)
        self._held = 0
        self.count = len(early)
        self.done = False

    def start(self) -> None:
        if self._pending:
            self._loop.add_writer(self._target, self._on_writable)
        else:
            self._loop.add_reader(self._source, self._on_readable)

    def stop(self) -> None:
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)
        self._keep(b"")

    def _keep(self, data: bytes) -> None:
        """Holds back what the target has not taken. Counted until all of it is gone: it is one object."""
        self._shared.held += len(data) - self._held
        self._held = len(data)
        self._pending = memoryview(data)

    def _on_readable(self) -> None:
        try:
            for _ in range(_ROUNDS):
                buffer = self._shared.buffer
                size = self._source.recv_into(buffer)
                self._relay.touched = True
                if size == 0:
                    self._loop.remove_reader(self._source)
                    self._finish()
                    return
                self.count += size
                sent = self._send(buffer[:size])
                if sent < size:
                    self._keep(bytes(buffer[sent:size]))
                    self._loop.remove_reader(self._source)
                    self._loop.add_writer(self._target, self._on_writable)
                    return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._relay.lost()

    def _on_writable(self) -> None:
        try:
            sent = self._send(self._pending)
        except OSError:
            self._relay.lost()
            return
        self._relay.touched = True
        self._pending = self._pending[sent:]
        if not self._pending:
            self._keep(b"")
            self._loop.remove_writer(self._target)
            self._loop.add_reader(self._source, self._on_readable)

    def _send(self, data: memoryview) -> int:
        try:
            return self._target.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def _finish(self) -> None:
        self.done = True
        # A target that has gone in the meantime needs no notice.
        with suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)
        self._relay.direction_done()


class Relay:
    """One tunnel. `run` once; `close` ends it from anywhere on the same loop. Owns both sockets."""

    def __init__(
        self,
        client: socket.socket,
        upstream: socket.socket,
        *,
        to_upstream: bytes = b"",
        to_client: bytes = b"",
        idle_seconds: float | None,
        half_closed_seconds: float,
    ) -> None:
        """`to_upstream` and `to_client` are bytes that were read before the relay took over.

        A tunnel without traffic ends after `idle_seconds` (None: never), one of which a direction has
        ended after `half_closed_seconds`.
        """
        self.loop = asyncio.get_running_loop()
        self.touched = False
        self._sockets = (client, upstream)
        self._out = _Direction(self, client, upstream, to_upstream)
        self._back = _Direction(self, upstream, client, to_client)
        self._idle_seconds = idle_seconds
        self._half_closed_seconds = half_closed_seconds
        self._ended: asyncio.Future[tuple[RelayEnd, str]] = self.loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """Bytes so far: to the upstream, to the client."""
        return self._out.count, self._back.count

    async def run(self) -> RelayResult:
        """Copies until the end and closes both sockets, also when cancelled."""
        try:
            if not self._ended.done():
                for sock in self._sockets:
                    sock.setblocking(False)
                self._out.start()
                self._back.start()
                self._arm()
            end, detail = await self._ended
        finally:
            self._out.stop()
            self._back.stop()
            if self._timer is not None:
                self._timer.cancel()
            if not self._is_whole():
                # Cut short must not look like an end: protocols without lengths would take it for one.
                for sock in self._sockets:
                    with suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            for sock in self._sockets:
                sock.close()
        return RelayResult(end, self._out.count, self._back.count, detail)

    def _is_whole(self) -> bool:
        return self._out.done and self._back.done

    def close(self, detail: str = "") -> None:
        """Ends the tunnel now; `run` returns with CLOSED."""
        self._end(RelayEnd.CLOSED, detail)

    # Called by the directions.

    def lost(self) -> None:
        self._end(RelayEnd.LOST)

    def direction_done(self) -> None:
        if self._is_whole():
            self._end(RelayEnd.FINISHED)
        else:
            self._arm()

    def _end(self, end: RelayEnd, detail: str = "") -> None:
        if not self._ended.done():
            self._out.stop()
            self._back.stop()
            self._ended.set_result((end, detail))

    def _arm(self) -> None:
        """Looks again after the allowed silence; traffic only sets a flag and costs no timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        half = self._out.done or self._back.done
        limits = [self._idle_seconds, self._half_closed_seconds if half else None]
        allowed = [seconds for seconds in limits if seconds is not None]
        if allowed:
            self.touched = False
            self._timer = self.loop.call_later(min(allowed), self._check_idle)

    def _check_idle(self) -> None:
        if self.touched:
            self._arm()
        else:
            self._end(RelayEnd.IDLE)
