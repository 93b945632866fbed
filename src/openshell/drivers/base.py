"""What every compute driver offers the gateway: one interface and the values it speaks in.

A driver creates, stops, starts and deletes the compute of a sandbox and reports what it observes of
it. It decides nothing about phases that clients see: it reports conditions, the gateway composes.
It knows ids, argv and paths; policies and configuration pass through it as opaque bytes.

Guarantees that each driver gives, and that the conformance tests check:

- `create` refuses a known id or name with ALREADY_EXISTS and is not idempotent; what fails after it
  returned is reported as a Ready condition that is False with a reason that is not transient.
- `stop` and `start` are idempotent; `stop` returns only when nothing runs any more, `start` does not
  wait for the supervisor's session. Both answer NOT_FOUND for an unknown id.
- `delete` returns when nothing is left, True when there was something; absent is False, not an error.
- `watch` first gives one status for every known sandbox, then what changes; duplicates are harmless.
  `Deleted` is only ever sent for a sandbox that is gone with its state.
- Nothing secret is written into an error, an event or a repr.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable

__all__ = [
    "Capabilities",
    "ComputeDriver",
    "Condition",
    "Deleted",
    "DriverError",
    "DriverErrorCode",
    "DriverEvent",
    "DriverSandbox",
    "KeepsWorkspaces",
    "Phase",
    "PlatformEvent",
    "Resources",
    "SandboxStatus",
    "SnapshotFacts",
    "WorkspaceSource",
]


class DriverErrorCode(StrEnum):
    """What the caller can do about it; the gateway maps each to one status."""

    ALREADY_EXISTS = "already_exists"
    NOT_FOUND = "not_found"
    INVALID_ARGUMENT = "invalid_argument"
    FAILED_PRECONDITION = "failed_precondition"
    INTERNAL = "internal"


class DriverError(Exception):
    """A driver call that could not be done: a code and one sentence that says what to do."""

    def __init__(self, code: DriverErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the gateway has to know about a driver, asked once at its start."""

    driver_name: str
    driver_version: str
    default_image: str
    # True: the gateway starts and stops the compute of its sandboxes with itself. False: sandboxes
    # live on by themselves and are found again.
    gateway_manages_lifecycle: bool


@dataclass(frozen=True, slots=True)
class Resources:
    """Kubernetes quantity strings, empty where nothing was asked; gpu is the number asked for."""

    cpu_request: str = ""
    cpu_limit: str = ""
    memory_request: str = ""
    memory_limit: str = ""
    gpu: int = 0


@dataclass(frozen=True, slots=True)
class WorkspaceSource:
    """What a new sandbox's workspace is a copy of: another's, or a snapshot of it."""

    sandbox_id: str
    snapshot_id: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What a snapshot came to."""

    data_bytes: int
    entries: int
    # Sockets and devices, which are not kept.
    skipped: int
    # "reflink" or "copy".
    method: str
    # Nothing ran while it was made.
    consistent: bool


@dataclass(frozen=True, slots=True)
class DriverSandbox:
    """Everything a driver gets to know about a sandbox that it is to create."""

    id: str
    name: str
    workspace: str
    # The main process; empty: none, the sandbox waits for exec.
    command: Sequence[str] = ()
    tty: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    # The template's parts that belong to other drivers; a driver refuses what it does not know.
    agent_socket: str = ""
    platform_config: Mapping[str, Any] = field(default_factory=dict)
    # This driver's own section of template.driver_config.
    driver_config: Mapping[str, Any] = field(default_factory=dict)
    log_level: str = ""
    # Bearer token of the supervisor. Never in argv, environment, log or error.
    token: str = field(default="", repr=False)
    # Serialized openshell.sandbox.v1.GetSandboxConfigResponse: opaque here; the supervisor takes the
    # static sections from it, which it needs before it can talk.
    initial_config: bytes = field(default=b"", repr=False)
    # Where the supervisor finds its gateway, for example "unix:/run/user/1000/openshell/gateway.sock".
    endpoint: str = ""
    # None: the workspace starts empty. Only for drivers that keep workspaces.
    workspace_from: WorkspaceSource | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One observation in the words of the contract."""

    type: str
    # "True", "False" or "Unknown".
    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """One named step of creation: rootfs, namespaces, isolation, supervisor, ready."""

    name: str
    started_at_ms: int
    # Zero while it runs.
    ended_at_ms: int = 0
    error_code: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What a driver sees of one sandbox, whole each time."""

    id: str
    name: str
    workspace: str
    conditions: tuple[Condition, ...]
    # Names this run of the compute; changes with every start.
    instance_id: str = ""
    deleting: bool = False
    # Steps of creation as far as the driver knows them.
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True, slots=True)
class Deleted:
    """A sandbox is gone, with its state."""

    id: str


@dataclass(frozen=True, slots=True)
class PlatformEvent:
    """Something that happened to a sandbox's compute, for people."""

    id: str
    timestamp_ms: int
    source: str
    # "Normal" or "Warning".
    type: str
    reason: str
    message: str
    # Progress keys of the contract, `openshell.progress.*`.
    metadata: Mapping[str, str] = field(default_factory=dict)


DriverEvent: TypeAlias = SandboxStatus | Deleted | PlatformEvent


class ComputeDriver(Protocol):
    """The interface; see the module's docstring for what each call promises."""

    async def open(self) -> None:
        """Take what this driver needs and find the sandboxes that exist; once, before any call."""

    async def close(self) -> None:
        """Let go of everything and leave the sandboxes running."""

    def capabilities(self) -> Capabilities: ...

    async def validate_create(self, sandbox: DriverSandbox) -> None:
        """Check all that needs no side effect: the only INVALID_ARGUMENT that a client sees."""

    async def create(self, sandbox: DriverSandbox) -> None: ...

    async def start(
        self, sandbox_id: str, *, token: str | None = None, initial_config: bytes | None = None
    ) -> None:
        """Start a stopped sandbox from retained state; what is given replaces what was kept."""

    async def stop(self, sandbox_id: str) -> None: ...

    async def delete(self, sandbox_id: str) -> bool: ...

    async def get(self, sandbox_id: str) -> SandboxStatus: ...

    async def list(self) -> tuple[SandboxStatus, ...]: ...

    def watch(self) -> AsyncIterator[DriverEvent]: ...


@runtime_checkable
class KeepsWorkspaces(Protocol):
    """What a driver offers that can hold processes and copy workspaces.

    Its `create` takes `workspace_from`. Every call answers NOT_FOUND for an unknown sandbox.
    """

    async def pause(self, sandbox_id: str) -> None:
        """Hold every process; idempotent. FAILED_PRECONDITION where this host cannot."""

    async def resume(self, sandbox_id: str) -> None:
        """Let them go on; idempotent."""

    async def take_snapshot(self, sandbox_id: str, snapshot_id: str) -> SnapshotFacts:
        """Copy the workspace: whole, or not there."""

    async def delete_snapshot(self, sandbox_id: str, snapshot_id: str) -> bool: ...

    async def snapshots(self, sandbox_id: str) -> tuple[str, ...]:
        """Ids of the snapshots that are there."""

    async def restore(self, sandbox_id: str, snapshot_id: str) -> None:
        """Put a snapshot back into a sandbox in which nothing runs."""
