"""The plain types of isolation: what a sandbox shall be, and what came of it.

Frozen and without behaviour beyond checks of shape, so that planners stay pure. Made by the
supervisor from the driver's request and the policy; read by launch, init and reports.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

__all__ = [
    "INNER_GID",
    "INNER_UID",
    "TRUST_DIRECTORY",
    "TRUST_FILES",
    "WORKSPACE",
    "ExposedPath",
    "LandlockMode",
    "Layer",
    "LayerStatus",
    "Limits",
    "Phase",
    "SandboxSpec",
]

# The one identity that exists inside: user and group `sandbox`.
INNER_UID = 1000
INNER_GID = 1000
WORKSPACE = "/sandbox"
TRUST_DIRECTORY = "/etc/openshell-tls"
# The sandbox's own CA, and the system's roots with it: the only files of that directory.
TRUST_FILES = ("openshell-ca.pem", "ca-bundle.pem")

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?")
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class LandlockMode(enum.StrEnum):
    BEST_EFFORT = "best_effort"
    HARD_REQUIREMENT = "hard_requirement"


class LayerStatus(enum.StrEnum):
    ENFORCED = "enforced"
    PARTLY = "partly"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer of isolation really does, with the reason when it is not everything."""

    name: str
    status: LayerStatus
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """One named step with its start and end on the monotonic clock, in nanoseconds."""

    name: str
    started_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one sandbox; None means that no bound was asked for."""

    # As the container drivers: enough for builds, small enough to stop a fork bomb.
    pids: int = 2048
    memory_bytes: int | None = None
    cpu_millis: int | None = None
    # Each private tmpfs (/tmp, /var, /run, /dev/shm); pages are also charged to memory_bytes.
    scratch_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class ExposedPath:
    """A host directory or file shown read-only at `path`; `source` where that is a link."""

    path: str
    source: str = ""

    @property
    def real(self) -> str:
        return self.source or self.path


def _absolute(path: str, what: str) -> None:
    parts = path.split("/")
    if not path.startswith("/") or "\0" in path or ".." in parts or "." in parts:
        raise ValueError(f"{what} must be an absolute path without `.` or `..`: {path!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """Everything that decides how one sandbox is isolated. Holds no secret."""

    id: str
    name: str
    hostname: str
    workspace_dir: str
    host_uid: int
    host_gid: int
    read_only: tuple[str, ...] = ()
    read_write: tuple[str, ...] = ()
    include_workdir: bool = True
    landlock: LandlockMode = LandlockMode.BEST_EFFORT
    exposed: tuple[ExposedPath, ...] = ()
    masks: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or self.id in {".", ".."}:
            raise ValueError("sandbox id must be 1-128 characters of A-Z a-z 0-9 . _ -")
        if not _HOSTNAME.fullmatch(self.hostname):
            raise ValueError("hostname must be one DNS label")
        if not (0 < self.host_uid < 2**32 - 1 and 0 < self.host_gid < 2**32 - 1):
            raise ValueError("host uid and gid must be 1..4294967294: root is never the agent")
        _absolute(self.workspace_dir, "workspace directory")
        for path in (*self.read_only, *self.read_write, *self.masks):
            _absolute(path, "policy path")
        for exposed in self.exposed:
            _absolute(exposed.path, "exposed path")
            _absolute(exposed.real, "exposed source")
