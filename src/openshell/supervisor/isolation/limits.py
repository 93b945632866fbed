"""Resource limits that a process carries itself and its children inherit.

They hold for everyone, also where no cgroup may be made: the number of processes counts per user
namespace when set inside it. What cgroups add is in cgroups.py.
"""

from __future__ import annotations

import resource

from openshell.supervisor.isolation.model import Layer, LayerStatus, Limits

__all__ = ["apply_limits"]

# Process 1 is a copy of a supervisor with all its modules and lives under the same bound: it must
# still be able to start programs.
_HEADROOM_BYTES = 16 << 20


def _lower(kind: int, value: int) -> None:
    _soft, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _own_data_bytes() -> int:
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def apply_limits(limits: Limits, *, memory_in_cgroup: bool) -> list[Layer]:
    """Set the limits of this process and all it starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # init itself counts
    _lower(resource.RLIMIT_NPROC, limits.pids + 1)
    layers = [Layer("rlimits", LayerStatus.ENFORCED, f"no core files, {limits.pids} processes")]
    if limits.memory_bytes is not None and not memory_in_cgroup:
        bound = max(limits.memory_bytes, _own_data_bytes() + _HEADROOM_BYTES)
        _lower(resource.RLIMIT_DATA, bound)
        detail = f"{bound} bytes for each process: no memory cgroup may be made here"
        layers.append(Layer("memory", LayerStatus.PARTLY, detail))
    return layers
