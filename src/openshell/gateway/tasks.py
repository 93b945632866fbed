"""The one place of the gateway that starts background tasks: named, referenced, reported, ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Tasks"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Tasks:
    """Owns tasks whose lifetime is no scope. `close` cancels what is left and waits for it."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def complete(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Runs to the end even when the caller is cancelled meanwhile."""
        return await asyncio.shield(self.spawn(name, work))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.debug("task %s ended with an error", task.get_name(), exc_info=task.exception())

    async def close(self) -> None:
        while self._running:
            running = list(self._running)
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            self._running.difference_update(running)
