"""Ending what belongs to a sandbox, and knowing that it has ended.

Works on pidfds only, so that a pid that was given to somebody else is never signalled. The
supervisor and the first process inside are ended together: either one's death takes everything
else along, and both descriptors say when it is over.
"""

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Sequence

__all__ = ["has_ended", "remove_cgroups", "send", "wait_ended"]

# A group is busy for a moment after its last process was reaped.
_CGROUP_TRIES = 20
_CGROUP_PAUSE = 0.005


def send(pidfd: int, number: signal.Signals) -> None:
    """Signal the process; one that has ended is fine."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def has_ended(pidfd: int) -> bool:
    """Whether the process has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


async def wait_ended(pidfds: Sequence[int], timeout: float) -> bool:
    """Wait until all have ended; False when time ran out."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            for pidfd in pidfds:
                # A copy: the loop keeps one reader per descriptor, and the driver has its own.
                copy = os.dup(pidfd)
                ended = asyncio.Event()
                loop.add_reader(copy, ended.set)
                try:
                    if not has_ended(copy):
                        await ended.wait()
                finally:
                    loop.remove_reader(copy)
                    os.close(copy)
    except TimeoutError:
        return False
    return True


async def remove_cgroups(paths: Sequence[str]) -> tuple[str, ...]:
    """Remove empty groups, deepest first; answers what could not be removed."""
    left: list[str] = []
    for path in sorted(paths, key=len, reverse=True):
        for _ in range(_CGROUP_TRIES):
            try:
                os.rmdir(path)
                break
            except FileNotFoundError:
                break
            except OSError:
                _kill_group(path)
                await asyncio.sleep(_CGROUP_PAUSE)
        else:
            left.append(path)
    return tuple(left)


def _kill_group(path: str) -> None:
    """End whatever is still in a group; only the unified hierarchy has the file."""
    with contextlib.suppress(OSError):
        fd = os.open(f"{path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
