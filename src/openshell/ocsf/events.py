"""What happened, as typed frozen values: one small class per OCSF class that we emit.

The values are flat and cheap to build, because the proxy makes one for every request. Their two
written forms live elsewhere: `oneline` for people and `jsonl` for machines. What is the same for
every event of a process (product, host, sandbox) is no part of an event; it is the `EventContext`
of the JSON form. No clock is read here: `time_ms` is an argument.

Text in an event is free of secrets, placeholders and query strings: whoever builds the event
redacts. Line breaks and control characters may be present; the writers neutralise them.
"""

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import TypeAlias

import msgspec

__all__ = [
    "Action",
    "ApiEvent",
    "BaseEvent",
    "ConfigEvent",
    "Disposition",
    "Event",
    "FindingEvent",
    "HostPort",
    "HttpEvent",
    "LaunchType",
    "LifecycleActivity",
    "LifecycleEvent",
    "NetActivity",
    "NetworkEvent",
    "ProcActivity",
    "ProcessEvent",
    "ProcessRef",
    "Refusal",
    "Severity",
    "SshEvent",
    "Status",
]


class Severity(IntEnum):
    """How much an operator should care; the tables of the contract decide, not the moment."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5
    FATAL = 6


class Status(IntEnum):
    SUCCESS = 1
    FAILURE = 2


class Action(IntEnum):
    ALLOWED = 1
    DENIED = 2
    OBSERVED = 3
    MODIFIED = 4


class Disposition(IntEnum):
    ALLOWED = 1
    BLOCKED = 2
    DETECTED = 15
    LOGGED = 17
    REJECTED = 25
    ERROR = 27


class NetActivity(IntEnum):
    UNKNOWN = 0
    OPEN = 1
    CLOSE = 2
    RESET = 3
    FAIL = 4
    REFUSE = 5
    TRAFFIC = 6
    LISTEN = 7
    OTHER = 99


class ProcActivity(IntEnum):
    LAUNCH = 1
    TERMINATE = 2
    OPEN = 3
    INJECT = 4
    SET_USER_ID = 5


class LifecycleActivity(IntEnum):
    INSTALL = 1
    REMOVE = 2
    START = 3
    STOP = 4
    RESTART = 5
    ENABLE = 6
    DISABLE = 7
    UPDATE = 8


class LaunchType(Enum):
    SPAWN = 1
    FORK = 2
    EXEC = 3


class HostPort(msgspec.Struct, frozen=True, gc=False):
    """One end of a connection as it was named: a host name or an address."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as in URLs, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ProcessRef(msgspec.Struct, frozen=True, gc=False):
    """A process by its executable's path (or `-` when unknown) and its id."""

    name: str
    pid: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """Why a decision went against the client, the same facts as in its response body.

    `stage` and `group` are the labels of the denial and activity summaries; an empty stage means
    that the refusal is no ground for a proposal.
    """

    code: str
    stage: str = ""
    group: str = "unknown"
    nearest_rule: str = ""
    suggestion: str = ""
    ancestors: tuple[str, ...] = ()
    generation: int = 0


class NetworkEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Network Activity (4001): connections, tunnels, listeners."""

    time_ms: int
    activity: NetActivity
    severity: Severity = Severity.INFORMATIONAL
    action: Action | None = None
    disposition: Disposition | None = None
    status: Status | None = None
    src: HostPort | None = None
    dst: HostPort | None = None
    process: ProcessRef | None = None
    protocol: str = ""
    policy: str = ""
    engine: str = ""
    observation_point: int | None = None
    message: str = ""
    detail: str = ""
    refusal: Refusal | None = None
    unmapped: Mapping[str, str | int | bool | tuple[str, ...]] | None = None


class HttpEvent(msgspec.Struct, frozen=True, kw_only=True):
    """HTTP Activity (4002): one decided request. `path` is canonical, redacted, without query."""

    time_ms: int
    method: str
    severity: Severity = Severity.INFORMATIONAL
    action: Action | None = None
    disposition: Disposition | None = None
    status: Status | None = None
    scheme: str = "http"
    host: str = ""
    port: int = 0
    path: str = "/"
    code: int | None = None
    src: HostPort | None = None
    process: ProcessRef | None = None
    policy: str = ""
    engine: str = ""
    message: str = ""
    detail: str = ""
    refusal: Refusal | None = None
    unmapped: Mapping[str, str | int | bool] | None = None


class SshEvent(msgspec.Struct, frozen=True, kw_only=True):
    """SSH Activity (4007)."""

    time_ms: int
    activity: NetActivity
    severity: Severity = Severity.INFORMATIONAL
    action: Action | None = None
    disposition: Disposition | None = None
    status: Status | None = None
    src: HostPort | None = None
    dst: HostPort | None = None
    auth: str = ""
    message: str = ""
    detail: str = ""
    unmapped: Mapping[str, str | int | bool] | None = None


class ProcessEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Process Activity (1007): start and end of the agent's processes."""

    time_ms: int
    activity: ProcActivity
    process: ProcessRef = ProcessRef("unknown", 0)
    severity: Severity = Severity.INFORMATIONAL
    action: Action | None = None
    disposition: Disposition | None = None
    status: Status | None = None
    actor: ProcessRef | None = None
    launch: LaunchType | None = None
    exit_code: int | None = None
    command_line: str = ""
    message: str = ""
    detail: str = ""
    unmapped: Mapping[str, str | int | bool] | None = None


class FindingEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Detection Finding (2004): something an operator should look at."""

    time_ms: int
    uid: str
    title: str
    description: str = ""
    severity: Severity = Severity.MEDIUM
    action: Action | None = None
    disposition: Disposition | None = None
    status: Status | None = None
    confidence: str = ""
    remediation: str = ""
    is_alert: bool = True
    evidence: Mapping[str, str | int | bool] | None = None
    message: str = ""
    detail: str = ""
    unmapped: Mapping[str, str | int | bool] | None = None


class ConfigEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Device Config State Change (5019): policy, certificates, namespaces. `state` is a label."""

    time_ms: int
    state: str
    message: str
    severity: Severity = Severity.INFORMATIONAL
    enabled: bool | None = None
    status: Status | None = None
    detail: str = ""
    unmapped: Mapping[str, str | int | bool] | None = None


class LifecycleEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Application Lifecycle (6002)."""

    time_ms: int
    activity: LifecycleActivity
    app: str
    severity: Severity = Severity.INFORMATIONAL
    status: Status | None = None
    message: str = ""
    detail: str = ""
    unmapped: Mapping[str, str | int | bool] | None = None


class ApiEvent(msgspec.Struct, frozen=True, kw_only=True):
    """API Activity (6003): a call to a model through the inference route."""

    time_ms: int
    operation: str
    model: str
    provider: str
    latency_ms: int
    severity: Severity = Severity.INFORMATIONAL
    action: Action | None = None
    disposition: Disposition | None = None
    status: Status | None = None
    process: ProcessRef | None = None
    message: str = ""
    detail: str = ""
    unmapped: Mapping[str, str | int | bool] | None = None


class BaseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Base Event (0): what fits no other class."""

    time_ms: int
    message: str
    severity: Severity = Severity.INFORMATIONAL
    status: Status | None = None
    detail: str = ""
    unmapped: Mapping[str, str | int | bool] | None = None


Event: TypeAlias = (
    NetworkEvent
    | HttpEvent
    | SshEvent
    | ProcessEvent
    | FindingEvent
    | ConfigEvent
    | LifecycleEvent
    | ApiEvent
    | BaseEvent
)
