"""What a private gateway and its sandboxes are on this machine, seen from outside.

For tests that nothing is left: what belongs to one sandbox is collected while it lives and looked at
again when it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Traces:
    """The processes, cgroups, mounts, sockets and files of one sandbox."""

    sandbox_id: str
    root: Path
    pids: frozenset[int]

    @classmethod
    def of(cls, state: Path, sandbox_id: str) -> Traces:
        """Collects while it runs; `state` is the gateway's state root."""
        root = state / "local/sandboxes" / sandbox_id
        return cls(sandbox_id, root, frozenset(tree(supervisor_pid(state, sandbox_id))))

    def left(self) -> dict[str, list[str]]:
        """What is still there, by kind; empty when nothing is."""
        local = self.root.parents[1]
        found = {
            "processes": [str(pid) for pid in self.pids if is_alive(pid)],
            "cgroups": [
                f"{top}/{name}"
                for top, directories, _ in os.walk("/sys/fs/cgroup")
                for name in directories
                if self.sandbox_id in name
            ],
            "mounts": _lines_with("/proc/self/mountinfo", self.sandbox_id),
            "sockets": _lines_with("/proc/net/unix", self.sandbox_id),
            "files": [str(path) for path in local.glob(f"**/*{self.sandbox_id}*")],
        }
        return {kind: items for kind, items in found.items() if items}


def supervisor_pid(state: Path, sandbox_id: str) -> int:
    text = (state / "local/sandboxes" / sandbox_id / "pid.json").read_text()
    return int(json.loads(text)["pid"])


def process_1_of(state: Path, sandbox_id: str) -> int:
    """Process 1 of a sandbox as the host numbers it: the supervisor's only child."""
    (child,) = children(supervisor_pid(state, sandbox_id))
    return child


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/task/{task}/children").read_text()
                found += [int(child) for child in text.split()]
    return found


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in {"Z", "X"}


def processes_naming(text: str) -> list[int]:
    """Processes whose command line or environment names something."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            said = Path(f"/proc/{pid}/cmdline").read_bytes()
            with contextlib.suppress(OSError):
                said += Path(f"/proc/{pid}/environ").read_bytes()
            if text.encode() in said and is_alive(pid):
                found.append(pid)
    return found


def zygote_pid(state: Path, seconds: float = 5.0) -> int:
    """The zygote of a state directory; its forks, the supervisors, have the same command line."""
    local = str(state / "local")
    deadline = time.monotonic() + seconds
    while True:
        every = {
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if _is_ours(pid, local)
        }
        found = [pid for pid in every if _parent(pid) not in every]
        if len(found) == 1:
            return found[0]
        # Between the end of one and the start of the next, or while a supervisor ends.
        assert time.monotonic() < deadline, f"not one zygote: {found}"
        time.sleep(0.02)


def _is_ours(pid: int, local: str) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "openshell.supervisor.zygote" in argv and local in argv


def _parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def _lines_with(path: str, text: str) -> list[str]:
    return [line for line in Path(path).read_text().splitlines() if text in line]
