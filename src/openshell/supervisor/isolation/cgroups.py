"""Control groups of one sandbox: limits, freezing and killing, as far as the host allows.

Handles the unified hierarchy (v2) with or without controllers and the older one (v1) beside it. A
group that cannot be made is reported, never an error: an ordinary user without delegation has
none, and then rlimits and the death of process 1 do the work. Groups are named `openshell-<id>`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass

from openshell.supervisor.isolation.model import Layer, LayerStatus, Limits

__all__ = [
    "Cgroups",
    "Hierarchies",
    "find_hierarchies",
    "group_name",
    "plan_cgroups",
]

_PREFIX = "openshell-"
_CPU_PERIOD_US = 100_000
# Processes are bounded by the rlimit of the user namespace; a v1 group would add nothing but the
# wait of the first join.
_V1_WANTED = ("memory", "cpu")
# A group is busy until its last process is reaped; that is milliseconds after the kill.
_REMOVE_TRIES, _REMOVE_PAUSE_S = 50, 0.002


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the caller's own groups lie: the v2 directory, and v1 controller -> directory."""

    unified: str | None
    legacy: tuple[tuple[str, str], ...]


def group_name(sandbox_id: str) -> str:
    return f"{_PREFIX}{sandbox_id}"


def find_hierarchies(mounts: str, own: str) -> Hierarchies:
    """Read /proc/self/mounts and /proc/self/cgroup (pure)."""
    paths: dict[str, str] = {}
    unified_path = ""
    for line in own.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            unified_path = path
        for controller in controllers.split(","):
            paths[controller] = path
    unified: str | None = None
    legacy: dict[str, str] = {}
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        point, kind, options = fields[1], fields[2], fields[3].split(",")
        if kind == "cgroup2":
            unified = (point + unified_path).rstrip("/")
        elif kind == "cgroup":
            for controller in _V1_WANTED:
                if controller in options and controller not in legacy:
                    legacy[controller] = (point + paths.get(controller, "/")).rstrip("/")
    return Hierarchies(unified, tuple(legacy.items()))


def _write(path: str, value: str) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(opened, value.encode())
    finally:
        os.close(opened)


def _limit_files(limits: Limits, *, unified: bool) -> dict[str, list[tuple[str, str]]]:
    """Controller -> (file, value) to write for the limits asked for (pure)."""
    files: dict[str, list[tuple[str, str]]] = {"pids": [("pids.max", str(limits.pids))]}
    if limits.memory_bytes is not None:
        value = str(limits.memory_bytes)
        files["memory"] = (
            [("memory.max", value), ("memory.swap.max", "0")]
            if unified
            else [("memory.limit_in_bytes", value), ("memory.memsw.limit_in_bytes", value)]
        )
    if limits.cpu_millis is not None:
        quota = max(1000, limits.cpu_millis * _CPU_PERIOD_US // 1000)
        files["cpu"] = (
            [("cpu.max", f"{quota} {_CPU_PERIOD_US}")]
            if unified
            else [("cpu.cfs_period_us", str(_CPU_PERIOD_US)), ("cpu.cfs_quota_us", str(quota))]
        )
    return files


class Cgroups:
    """The groups of one sandbox; each operation is safe where a group is missing."""

    def __init__(self) -> None:
        self.descriptor: int | None = None
        self.layers: list[Layer] = []
        self.limited: set[str] = set()
        self._unified: str | None = None
        self._legacy: list[str] = []

    @property
    def limits_memory(self) -> bool:
        return "memory" in self.limited

    @property
    def paths(self) -> tuple[str, ...]:
        """Directories that exist for this sandbox: what a cleaner removes after a crash."""
        return (*((self._unified,) if self._unified else ()), *self._legacy)

    def join_later(self) -> None:
        """Give up being born in the v2 group; `join` moves the process there instead."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def join(self, pid: int) -> None:
        """Move process 1 into its v1 groups; v2 it was born in. The first join may wait 20 ms."""
        late = [self._unified] if self._unified and self.descriptor is None else []
        for path in (*late, *self._legacy):
            _write(f"{path}/cgroup.procs", str(pid))

    def freeze(self, *, frozen: bool) -> bool:
        """Stop or continue everything inside; False where no group can."""
        if self._unified is None:
            return False
        try:
            _write(f"{self._unified}/cgroup.freeze", "1" if frozen else "0")
        except OSError:
            return False
        return True

    def kill(self) -> bool:
        if self._unified is None:
            return False
        try:
            _write(f"{self._unified}/cgroup.kill", "1")
        except OSError:
            return False
        return True

    def remove(self) -> bool:
        """Remove the groups once they are empty; False if one is still busy."""
        self.join_later()
        left = [path for path in self.paths if not _remove(path)]
        self._unified = None
        self._legacy = []
        return not left


def _remove(path: str) -> bool:
    for _ in range(_REMOVE_TRIES):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                return False
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return True
    return False


def _make(path: str, files: list[tuple[str, str]]) -> bool:
    """Make one group and set its limits; swap limits are optional everywhere."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError:
        return False
    try:
        for name, value in files:
            optional = "swap" in name or "memsw" in name
            try:
                _write(f"{path}/{name}", value)
            except OSError:
                if not optional:
                    raise
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(path)
        return False
    return True


def _make_unified(groups: Cgroups, parent: str, name: str, limits: Limits) -> None:
    path = f"{parent}/{name}"
    if not _make(path, []):
        return
    groups._unified = path
    groups.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for controller, files in _limit_files(limits, unified=True).items():
        if not os.path.exists(f"{path}/{files[0][0]}"):
            continue
        try:
            for file, value in files:
                if os.path.exists(f"{path}/{file}"):
                    _write(f"{path}/{file}", value)
        except OSError:
            continue
        groups.limited.add(controller)


def _report(groups: Cgroups, limits: Limits) -> list[Layer]:
    layers = []
    for controller, wanted in (
        ("memory", limits.memory_bytes is not None),
        ("cpu", limits.cpu_millis is not None),
    ):
        if not wanted:
            continue
        if controller in groups.limited:
            layers.append(Layer(f"cgroup.{controller}", LayerStatus.ENFORCED))
        else:
            detail = "no such group may be made here (root or systemd delegation needed)"
            layers.append(Layer(f"cgroup.{controller}", LayerStatus.OFF, detail))
    status = LayerStatus.ENFORCED if groups._unified else LayerStatus.OFF
    layers.append(Layer("cgroup.freeze", status))
    return layers


def plan_cgroups(sandbox_id: str, limits: Limits) -> Cgroups:
    """Make the groups that this caller may make, with their limits, before the clone."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        mounts = file.read()
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        own = file.read()
    found = find_hierarchies(mounts, own)
    groups = Cgroups()
    name = group_name(sandbox_id)
    if found.unified is not None:
        # A sibling first: inner groups with processes of their own cannot hand controllers down.
        parents = dict.fromkeys((os.path.dirname(found.unified), found.unified))
        for parent in parents:
            if os.path.exists(f"{parent}/cgroup.procs"):
                _make_unified(groups, parent, name, limits)
            if groups._unified:
                break
    wanted = _limit_files(limits, unified=False)
    for controller, directory in found.legacy:
        if controller in wanted and controller not in groups.limited:
            path = f"{directory}/{name}"
            if _make(path, wanted[controller]):
                groups._legacy.append(path)
                groups.limited.add(controller)
    groups.layers = _report(groups, limits)
    return groups
