"""The one configuration that is in force: policy, credentials and routes, swapped together.

Readers take `holder.current` and use that object for a whole decision; nobody looks twice. The
holder tells subscribers synchronously about a swap, so that live tunnels are judged again before
the event loop runs anything else. It is used from one event loop only and takes no locks.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from openshell.egress.credentials import CredentialSet
from openshell.egress.inference.routes import Routes
from openshell.egress.middleware import Middlewares
from openshell.policy.compile import CompiledPolicy

__all__ = ["Generation", "GenerationHolder"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One immutable configuration; `number` grows by at least one with every swap."""

    number: int
    policy: CompiledPolicy
    credentials: CredentialSet = field(repr=False)
    # None: the gateway has never sent any.
    inference: Routes | None = field(default=None, repr=False)
    # None: the policy attaches no stage to any host, and requests pay for this look alone.
    middleware: Middlewares | None = field(default=None, repr=False)


class GenerationHolder:
    """Keeps the current generation and tells those who must judge again."""

    def __init__(self, first: Generation) -> None:
        self._current = first
        self._subscribers: dict[int, Callable[[Generation], None]] = {}
        self._next_key = 0
        self._moved = asyncio.Event()

    @property
    def current(self) -> Generation:
        return self._current

    def swap(self, new: Generation) -> None:
        """Put `new` in force. A number that does not grow would hide the change from readers."""
        if new.number <= self._current.number:
            raise ValueError(
                f"generation {new.number} does not follow generation {self._current.number}"
            )
        self._current = new
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        for callback in tuple(self._subscribers.values()):
            callback(new)

    def subscribe(self, callback: Callable[[Generation], None]) -> Callable[[], None]:
        """Call `callback` at every swap; the returned function ends that."""
        key = self._next_key
        self._next_key += 1
        self._subscribers[key] = callback

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    async def changed(self, number: int) -> Generation:
        """Wait until a generation newer than `number` is in force."""
        while self._current.number <= number:
            await self._moved.wait()
        return self._current
