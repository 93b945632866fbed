"""Notifications inside one gateway process: who writes announces, who waits is woken.

What concerns other gateways on the same database reaches them through `peers.py`.

Carries no state of record: a subscriber reads the store after being woken. Topics are strings
("sandbox", "logs", "platform", "config"), keys are sandbox ids. Every queue is bounded; a
subscriber that falls behind learns how much it missed. Must be used on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

__all__ = ["CONFIG", "LOGS", "PLATFORM", "SANDBOX", "Bus", "Lagged", "Subscription"]

SANDBOX = "sandbox"
LOGS = "logs"
PLATFORM = "platform"
CONFIG = "config"


class Lagged(Exception):
    """The subscriber was too slow and `dropped` notifications are lost to it."""

    def __init__(self, dropped: int) -> None:
        super().__init__(f"lagged; dropped {dropped}")
        self.dropped = dropped


class Subscription:
    """A bounded queue of notifications for one key; used as a context manager."""

    def __init__(self, bus: Bus, keys: tuple[tuple[str, str], ...], limit: int) -> None:
        self._bus = bus
        self._keys = keys
        self._limit = limit
        self._queue: deque[tuple[str, object]] = deque()
        self._seen: set[str] = set()
        self._dropped = 0
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._bus._forget(self, self._keys)

    def push(self, topic: str, value: object) -> None:
        if value is None:
            # A bare wake-up says "look again": one waiting is as good as many.
            if topic in self._seen:
                return
            self._seen.add(topic)
        elif len(self._queue) >= self._limit:
            self._dropped += 1
            return
        self._queue.append((topic, value))
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def get(self) -> tuple[str, object]:
        """The next notification as (topic, value). Raises `Lagged` once the kept ones are read."""
        while not self._queue:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                raise Lagged(dropped)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        topic, value = self._queue.popleft()
        if value is None:
            self._seen.discard(topic)
        return topic, value


class Bus:
    """Publish and subscribe by (topic, key), and plain listeners by topic."""

    def __init__(self) -> None:
        self._subscribers: dict[tuple[str, str], list[Subscription]] = {}
        self._listeners: dict[str, list[Callable[[str, object], None]]] = {}
        self._outlet: Callable[[str, str, object], None] | None = None

    def subscribe(self, topics: Iterable[str], key: str, *, limit: int = 1024) -> Subscription:
        """One queue for several topics of one key. Values beyond `limit` are counted, not kept."""
        keys = tuple((topic, key) for topic in topics)
        subscription = Subscription(self, keys, limit)
        for entry in keys:
            self._subscribers.setdefault(entry, []).append(subscription)
        return subscription

    def listen(self, topic: str, listener: Callable[[str, object], None]) -> None:
        """Calls `listener(key, value)` at every publication of the topic. It must not block."""
        self._listeners.setdefault(topic, []).append(listener)

    def forward(self, outlet: Callable[[str, str, object], None]) -> None:
        """Shows `outlet(topic, key, value)` all that is published here. It must not block."""
        self._outlet = outlet

    def publish(self, topic: str, key: str, value: object = None) -> None:
        """Without a value: "read it again"."""
        self.deliver(topic, key, value)
        if self._outlet is not None:
            self._outlet(topic, key, value)

    def deliver(self, topic: str, key: str, value: object = None) -> None:
        """As `publish`, for what another gateway has published: it goes no further."""
        for subscription in self._subscribers.get((topic, key), ()):
            subscription.push(topic, value)
        for listener in self._listeners.get(topic, ()):
            listener(key, value)

    def config_changed(self, sandbox_ids: Iterable[str], reason: str) -> None:
        """Makes live sessions push a configuration change; call it after the commit."""
        for sandbox_id in sandbox_ids:
            self.publish(CONFIG, sandbox_id, reason)
            self.publish(SANDBOX, sandbox_id)

    def _forget(self, subscription: Subscription, keys: tuple[tuple[str, str], ...]) -> None:
        for entry in keys:
            present = self._subscribers.get(entry)
            if present is not None and subscription in present:
                present.remove(subscription)
                if not present:
                    del self._subscribers[entry]
