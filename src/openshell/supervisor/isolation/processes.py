"""The processes of a sandbox as the supervisor sees them from outside.

Reads the host's /proc below process 1: children, sessions, and both numbers of each process.
Used to find the host pid of a program and to end everything that belongs to one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

__all__ = ["PROGRAM_MARK", "SandboxProcess", "descendants", "host_pid", "kill", "kill_program"]

# In the environment of every program that process 1 starts, with a number of its own: a daemon that
# has left session and parents still carries it. One that also clears its environment belongs to the
# sandbox alone.
PROGRAM_MARK = "OPENSHELL_PROGRAM"
# The beginning of an environment that is searched for the mark: what a process can put in front of
# it bounds the time that a process costs us.
_ENVIRONMENT_BYTES = 128 << 10

# A fork bomb dies round by round; more rounds than this are a race we lose, and then
# the sandbox itself can be killed.
_KILL_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class SandboxProcess:
    """One process: its pid here, its pid inside, its parent and session here, its age."""

    pid: int
    inner_pid: int
    parent: int
    session: int
    state: str
    # Clock ticks since boot: with it a pid names one process for good.
    started: int


def _read(path: str, most: int = 1 << 20) -> bytes:
    """A file of /proc up to a bound; the kernel hands lists out a page at a time."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while most > 0 and (part := os.read(opened, most)):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
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
        return SandboxProcess(
            pid, inner, int(fields[1]), int(fields[3]), fields[0].decode(), int(fields[19])
        )
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


def kill(process: SandboxProcess) -> None:
    """Kill that very process: its pid may be a stranger's by now, on this host."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        found = _describe(process.pid)
        if found is not None and (found.inner_pid, found.started) == (
            process.inner_pid,
            process.started,
        ):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        environment = _read(f"/proc/{pid}/environ", _ENVIRONMENT_BYTES)
    except OSError:
        return False
    return mark in environment.split(b"\0")


def _members(init_pid: int, leader: int, mark: bytes) -> list[SandboxProcess]:
    """Living processes that belong to a program: by descent, session or mark."""
    members = {leader}
    result: list[SandboxProcess] = []
    for process in descendants(init_pid):
        if (
            leader in {process.pid, process.session}
            or process.parent in members
            or _is_marked(process.pid, mark)
        ):
            members.add(process.pid)
            if process.state != "Z":
                result.append(process)
    return result


def kill_program(init_pid: int, leader: int, number: int) -> bool:
    """Kill a program with its session, its offspring and its daemons; False if some came back."""
    mark = f"{PROGRAM_MARK}={number}".encode()
    for _ in range(_KILL_ROUNDS):
        members = _members(init_pid, leader, mark)
        if not members:
            return True
        for process in members:
            kill(process)
    return False
