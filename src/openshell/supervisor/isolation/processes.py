"""The processes of a sandbox as the supervisor sees them from outside.

Reads the host's /proc below process 1: children, sessions, and both numbers of each process.
Used to find the host pid of a program and to end everything that belongs to one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

__all__ = ["SandboxProcess", "descendants", "host_pid", "kill_session"]

# A fork bomb of a session dies round by round; more rounds than this are a race we lose, and then
# the sandbox itself can be killed.
_KILL_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class SandboxProcess:
    """One process: its pid here, its pid inside, its parent and session here."""

    pid: int
    inner_pid: int
    parent: int
    session: int
    state: str


def _read(path: str) -> bytes:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(opened, 65536)
    finally:
        os.close(opened)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return found


def _describe(pid: int) -> SandboxProcess | None:
    try:
        # The name may hold anything, also parentheses: fields count from the last one.
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        inner = pid
        for line in _read(f"/proc/{pid}/status").splitlines():
            if line.startswith(b"NSpid:"):
                inner = int(line.split()[-1])
                break
        return SandboxProcess(pid, inner, int(fields[1]), int(fields[3]), fields[0].decode())
    except (OSError, ValueError, IndexError):
        return None


def descendants(root: int) -> list[SandboxProcess]:
    """Return every process below `root`, parents before children."""
    found: list[SandboxProcess] = []
    waiting = _children(root)
    seen: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        described = _describe(pid)
        if described is not None:
            found.append(described)
            waiting += _children(pid)
    return found


def host_pid(init_pid: int, inner_pid: int) -> int | None:
    """Translate a pid reported by process 1; its own children come first and are the usual case."""
    for pid in reversed(_children(init_pid)):
        described = _describe(pid)
        if described is not None and described.inner_pid == inner_pid:
            return pid
    for process in descendants(init_pid):
        if process.inner_pid == inner_pid:
            return process.pid
    return None


def _members(init_pid: int, leader: int, session: int) -> list[int]:
    """Processes of a session, and all that descend from its leader or members."""
    members = {leader}
    result: list[int] = []
    for process in descendants(init_pid):
        if process.pid == leader or process.session == session or process.parent in members:
            members.add(process.pid)
            if process.state != "Z":
                result.append(process.pid)
    return result


def kill_session(init_pid: int, leader: int) -> bool:
    """Kill a program with its whole session and offspring; False if some kept coming back.

    Programs that left both (a daemon whose parents are gone) belong to the sandbox alone.
    """
    for _ in range(_KILL_ROUNDS):
        members = _members(init_pid, leader, leader)
        if not members:
            return True
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return False
