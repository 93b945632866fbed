"""What of a sandbox is on this machine: processes, mounts, namespaces, groups, files."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from openshell.drivers.local.state import (
    IsolationRecord,
    ProcessRecord,
    read_record,
    start_ticks,
)


def pids(world: Any, box: str) -> tuple[int, int]:
    """The supervisor of a sandbox and its process 1."""
    process = read_record(world.paths(box).process, ProcessRecord)
    isolation = read_record(world.paths(box).isolation, IsolationRecord)
    assert process is not None
    assert isolation is not None
    return process.pid, isolation.init.pid


def processes_of(state_dir: str, sandbox_id: str) -> list[str]:
    """Processes whose open files or memory of a command line point at this sandbox."""
    found = []
    root = f"{state_dir}/sandboxes/{sandbox_id}"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
            for link in (f"/proc/{pid}/cwd", *links):
                with contextlib.suppress(OSError):
                    if os.readlink(link).startswith(root):
                        found.append(pid)
                        break
    return found


def namespaces_of(pid: int) -> set[str]:
    """Namespaces that a process is in."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/ns"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/ns/{name}"))
    return found


def _held_by(pid: int) -> set[str]:
    """Namespaces that a process holds open: a supervisor's are its sandbox's."""
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if ":[" in target and not target.startswith(("socket:", "pipe:", "anon_inode:")):
                    found.add(target)
    return found


def ticks_now() -> int:
    """The clock that start times of processes are told in."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def holders_of(namespaces: set[str], until: int) -> list[str]:
    """Processes that are in one of these namespaces or hold it open.

    Only those that started before `until`: the kernel gives numbers of namespaces out again at
    once, for example to another test's sandbox.
    """
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        started = start_ticks(int(pid))
        if started is None or started >= until:
            continue
        if (namespaces_of(int(pid)) | _held_by(int(pid))) & namespaces:
            found.append(pid)
    return found


def mounts_under(path: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line for line in file if path in line]


def groups_of(sandbox_id: str) -> list[str]:
    found = []
    for root, directories, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{root}/{name}" for name in directories if sandbox_id in name]
    return found


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
