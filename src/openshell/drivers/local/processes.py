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

__all__ = ["find_cgroups", "has_ended", "remove_cgroups", "send", "wait_ended"]

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
    # Copies, made at once: the driver closes its own descriptor when it sees the end, and the loop
    # keeps one reader per descriptor.
    copies = [os.dup(pidfd) for pidfd in pidfds]
    try:
        async with asyncio.timeout(timeout):
            for copy in copies:
                await _wait_ended(copy)
    except TimeoutError:
        return False
    finally:
        for copy in copies:
            os.close(copy)
    return True


async def _wait_ended(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)


def find_cgroups(sandbox_id: str, proc: str = "/proc") -> tuple[str, ...]:
    """Groups of a sandbox, found by their name: its supervisor may have died before it said so."""
    found: list[str] = []
    try:
        with open(f"{proc}/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            points = [f[1] for f in (line.split(" ") for line in file) if f[2].startswith("cgroup")]
        with open(f"{proc}/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            own = {line.rstrip("\n").split(":", 2)[2] for line in file}
    except (OSError, IndexError):
        return ()
    for point in points:
        for path in own | {os.path.dirname(path) for path in own} | {"/"}:
            group = f"{point}{path.rstrip('/')}/openshell-{sandbox_id}"
            if os.path.isdir(group) and group not in found:
                found.append(group)
    return tuple(found)


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
