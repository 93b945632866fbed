"""How many requests of one sandbox may be in their chains at a time. No I/O; of one event loop.

A request takes its place before its body is read and gives it back when it is judged. More of them wait, and
beyond that requests are refused at once: what an agent sends must not pile up here.
"""

import asyncio
from typing import Final

__all__ = ["WorkQueue"]

# The contract's numbers.
_RUNNING: Final = 32
_WAITING: Final = 64
# As long as a chain may take: by then one of those before it has failed or is done.
_WAIT_SECONDS: Final = 30.0


class WorkQueue:
    """Places for requests in their chains."""

    __slots__ = ("_places", "_seconds", "_waiting")

    def __init__(self, seconds: float = _WAIT_SECONDS) -> None:
        self._places = asyncio.Semaphore(_RUNNING)
        self._waiting = 0
        self._seconds = seconds

    async def enter(self) -> bool:
        """Take a place; False if there is none to be had."""
        if self._places.locked():
            if self._waiting >= _WAITING:
                return False
            self._waiting += 1
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._places.acquire()
            except TimeoutError:
                return False
            finally:
                self._waiting -= 1
        return await self._places.acquire()

    def leave(self) -> None:
        self._places.release()
