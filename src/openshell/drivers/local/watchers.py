"""Whoever watches the driver: a bounded queue each, closed with an error when it falls behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from openshell.drivers.base import DriverError, DriverErrorCode, DriverEvent

__all__ = ["Watchers"]

# Events that may wait for one watcher: several for each of a few hundred sandboxes.
_MAX_WAITING = 4096


class Watchers:
    """All subscriptions of one driver."""

    def __init__(self) -> None:
        self._subscriptions: set[_Subscription] = set()

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[AsyncIterator[DriverEvent]]:
        """Events from now on."""
        subscription = _Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription.events()
        finally:
            self._subscriptions.discard(subscription)

    def publish(self, event: DriverEvent) -> None:
        """Give an event to everyone; never waits."""
        for subscription in self._subscriptions:
            subscription.put(event)

    def close(self) -> None:
        """End every subscription normally."""
        for subscription in self._subscriptions:
            subscription.end()


class _Subscription:
    def __init__(self) -> None:
        self._queue: asyncio.Queue[DriverEvent | None] = asyncio.Queue()
        self._lagged = False
        self._ended = False

    def put(self, event: DriverEvent) -> None:
        if self._ended:
            return
        if self._queue.qsize() >= _MAX_WAITING:
            self._lagged = True
            self.end()
            return
        self._queue.put_nowait(event)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[DriverEvent]:
        while (event := await self._queue.get()) is not None:
            yield event
        if self._lagged:
            raise DriverError(
                DriverErrorCode.INTERNAL, "the watcher fell behind; open the watch again"
            )
