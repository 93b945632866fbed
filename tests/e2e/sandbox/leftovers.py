"""What of a sandbox is on this machine: processes, mounts, namespaces, groups, files."""

from __future__ import annotations

import contextlib
import os


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


def network_namespaces() -> set[str]:
    """Every network namespace that some process of ours is in or holds open."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if target.startswith("net:["):
                        found.add(target)
    return found


def mounts() -> set[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return {line.split(" - ")[0].split(" ", 1)[1] for line in file}


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
