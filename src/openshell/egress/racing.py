"""Connecting to one of several pinned addresses without waiting long for those that do not answer.

The order of the plan is the order of the attempts. The next address is tried as soon as one has
failed, or after a short head start, while the earlier attempts go on; the first connection wins and
the others are dropped. So an address that swallows packets costs a quarter of a second, not its whole
time. No name is looked up here. Called by `upstream` (RFC 8305 5 has the idea and the numbers).
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from openshell.egress.destination import Address
from openshell.egress.stream import Stream, dial

__all__ = ["HEAD_START", "dial_any"]

# RFC 8305 8: long enough for a server at the other end of the world, too short to annoy anybody.
HEAD_START: Final = 0.25


async def dial_any(
    addresses: Sequence[Address], port: int, seconds: float, *, head_start: float = HEAD_START
) -> Stream:
    """The first connection to be made; each attempt has `seconds`. Raises the last OSError."""
    if len(addresses) == 1:
        return await dial(str(addresses[0]), port, seconds)
    left = list(addresses)
    running: set[asyncio.Task[Stream]] = set()
    error: OSError = OSError("no address")
    try:
        while left or running:
            if left:
                attempt = dial(str(left.pop(0)), port, seconds)
                running.add(asyncio.create_task(attempt, name="dial"))
            done, running = await asyncio.wait(
                running,
                timeout=head_start if left else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            winner: Stream | None = None
            for task in done:
                failed = task.exception()
                if failed is None and winner is None:
                    winner = task.result()
                elif failed is None:
                    task.result().abort()
                elif isinstance(failed, OSError):
                    error = failed
                else:
                    raise failed
            if winner is not None:
                return winner
    finally:
        await _drop(running)
    raise error


async def _drop(running: set[asyncio.Task[Stream]]) -> None:
    """End the attempts that are not needed; one may have succeeded in the meantime."""
    for task in running:
        task.cancel()
    for ended in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(ended, Stream):
            ended.abort()
