"""A store that stops one writer where a test wants it, so that others can run in between.

    pause = store.pause_next_write(Point.BEFORE_COMMIT)
    writer = asyncio.ensure_future(service.Something(...))
    await pause.reached(writer)
    ...                             # whatever others do meanwhile
    pause.end()

It stops in the thread of the transaction, whatever locks that holds are held. The first attempt is
stopped; when the database makes the writer try again, that runs through.
"""

from __future__ import annotations

import asyncio
import enum
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from openshell.gateway.store.model import Store, Tx

__all__ = ["Pause", "PausingStore", "Point"]

T = TypeVar("T")

LONGEST_SECONDS = 5.0
"""Less than any store waits for a lock; a test that forgets `end` fails by it."""


class Point(enum.Enum):
    """Where a writer stops."""

    BEFORE_WRITE = "before its transaction"
    """After whatever it read to prepare the transaction; nothing is locked."""
    BEFORE_CHANGE = "before its first change"
    """The transaction has begun and has read what decides it."""
    BEFORE_COMMIT = "before its commit"
    """All is written and judged, nobody sees it yet."""


class Pause:
    """One stop. Made by `PausingStore.pause_next_write`."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.was_reached = False
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._ended = threading.Event()

    async def reached(self, writer: asyncio.Future[Any]) -> bool:
        """Waits for the writer to stop here; False when it ended without coming by."""
        arrival = asyncio.ensure_future(self._arrived.wait())
        await asyncio.wait((arrival, writer), return_when=asyncio.FIRST_COMPLETED)
        arrival.cancel()
        return self.was_reached

    def end(self) -> None:
        self._ended.set()

    def hold(self) -> None:
        """Called in the thread of the transaction. Stops once."""
        if self.was_reached:
            return
        self.was_reached = True
        self._loop.call_soon_threadsafe(self._arrived.set)
        assert self._ended.wait(LONGEST_SECONDS), "the pause was never ended"

    def around(self, fn: Callable[[Tx], T]) -> Callable[[Tx], T]:
        def paused(tx: Tx) -> T:
            if self.point is Point.BEFORE_CHANGE:
                result = fn(_PausingTx(tx, self.hold))
            else:
                result = fn(tx)
            if self.point is Point.BEFORE_COMMIT:
                self.hold()
            return result

        return paused


class _PausingTx:
    """Implements `Tx`; the first statement that changes something waits."""

    def __init__(self, tx: Tx, hold: Callable[[], None]) -> None:
        self._tx = tx
        self._hold = hold

    def __getattr__(self, name: str) -> Any:
        if name in ("put", "delete", "delete_scope", "append_logs", "delete_logs"):
            self._hold()
        return getattr(self._tx, name)


class PausingStore:
    """Implements `Store` on another one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pause: Pause | None = None
        self.entered = asyncio.Event()
        """Set when somebody asks for a write; a test clears it."""
        self.writes = 0

    def pause_next_write(self, point: Point) -> Pause:
        self._pause = Pause(point)
        return self._pause

    async def write(self, fn: Callable[[Tx], T]) -> T:
        self.writes += 1
        self.entered.set()
        pause, self._pause = self._pause, None
        if pause is None:
            return await self._store.write(fn)
        if pause.point is Point.BEFORE_WRITE:
            await asyncio.to_thread(pause.hold)
        return await self._store.write(pause.around(fn))

    def read(self, fn: Callable[[Tx], T]) -> Awaitable[T]:
        return self._store.read(fn)

    def look_up(self, fn: Callable[[Tx], T]) -> Awaitable[T]:
        return self._store.look_up(fn)

    async def close(self) -> None:
        await self._store.close()
