"""The machine form: one event as one compact JSON object, OCSF 1.8.0.

`EventContext` carries what is the same for every event of a sandbox; the supervisor makes one and
keeps it. Absent values are omitted, every enumeration is a pair of number and label.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import msgspec

from openshell.ocsf.events import (
    Action,
    ApiEvent,
    BaseEvent,
    ConfigEvent,
    Disposition,
    Event,
    FindingEvent,
    HostPort,
    HttpEvent,
    LifecycleEvent,
    NetworkEvent,
    ProcessEvent,
    ProcessRef,
    Refusal,
    Severity,
    SshEvent,
    Status,
)

__all__ = ["EventContext", "to_json"]

OCSF_VERSION: Final = "1.8.0"
# Where a proxied connection is seen when the event says nothing else.
_DEFAULT_PROXY: Final = {"ip": "127.0.0.1", "port": 3128}
_SECURITY: Final = "security"
_CONTROL: Final = "control"
_PLAIN: Final = "plain"
_MODEL: Final = "model"
_PROFILES: Final[Mapping[str, tuple[str, ...]]] = {
    _SECURITY: ("security_control", "network_proxy", "container", "host"),
    _CONTROL: ("security_control", "container", "host"),
    _PLAIN: ("container", "host"),
    _MODEL: ("container", "host", "ai_operation"),
}
_HTTP_METHODS: Final = {
    "CONNECT": (1, "Connect"),
    "DELETE": (2, "Delete"),
    "GET": (3, "Get"),
    "HEAD": (4, "Head"),
    "OPTIONS": (5, "Options"),
    "POST": (6, "Post"),
    "PUT": (7, "Put"),
    "TRACE": (8, "Trace"),
    "PATCH": (9, "Patch"),
}


_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class EventContext:
    """Where events come from: product, machine and sandbox."""

    product_version: str = "0"
    hostname: str = "localhost"
    sandbox_id: str = ""
    sandbox_name: str = ""
    image: str = ""
    # What does not change from event to event, written once.
    _metadata: Mapping[str, msgspec.Raw] = field(init=False, repr=False, compare=False)
    _device: msgspec.Raw = field(init=False, repr=False, compare=False)
    _container: msgspec.Raw = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Write the parts that every event repeats."""
        container: dict[str, Any] = {"name": self.sandbox_name, "uid": self.sandbox_id}
        if self.image:
            container["image"] = {"name": self.image}
        device = {"hostname": self.hostname, "os": {"name": "Linux"}}
        metadata = {name: _raw(self._metadata_of(profiles)) for name, profiles in _PROFILES.items()}
        object.__setattr__(self, "_metadata", metadata)
        object.__setattr__(self, "_device", _raw(device))
        object.__setattr__(self, "_container", _raw(container))

    def _metadata_of(self, profiles: tuple[str, ...]) -> dict[str, Any]:
        product = {
            "name": "OpenShell Sandbox Supervisor",
            "vendor_name": "OpenShell",
            "version": self.product_version,
        }
        return {
            "version": OCSF_VERSION,
            "product": product,
            "profiles": profiles,
            "uid": self.sandbox_id,
        }


def _raw(value: Mapping[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(_ENCODER.encode(value))


def to_json(event: Event, context: EventContext = EventContext()) -> bytes:
    """Write one event as one JSON object without a line break."""
    document = _document(event, context)
    try:
        return _ENCODER.encode(document)
    except UnicodeEncodeError:
        # The path of a program may be bytes that are no text; the agent chooses it, and its event must not
        # be the one that is never written.
        return _ENCODER.encode(_with_text(document))


def _with_text(value: Any) -> Any:
    """The same with halves of surrogate pairs, which UTF-8 cannot hold, written as escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_with_text(key): _with_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text(item) for item in value]
    return value


def _document(event: Event, context: EventContext) -> dict[str, Any]:
    class_uid, class_name, category_uid, category, activity_id, activity, profiles = _class(event)
    doc: dict[str, Any] = {
        "class_uid": class_uid,
        "class_name": class_name,
        "category_uid": category_uid,
        "category_name": category,
        "activity_id": activity_id,
        "activity_name": activity,
        "type_uid": class_uid * 100 + activity_id,
        "type_name": f"{class_name}: {activity}",
        "time": event.time_ms,
        **_SEVERITIES[event.severity],
    }
    if event.status is not None:
        doc.update(_STATUSES[event.status])
    _put(doc, "message", event.message)
    _put(doc, "status_detail", event.detail)
    doc["metadata"] = context._metadata[profiles]
    doc["device"] = context._device
    doc["container"] = context._container
    doc.update(_own_fields(event, context))
    refusal = getattr(event, "refusal", None)
    if event.unmapped or refusal is not None:
        unmapped = dict(event.unmapped or {})
        if isinstance(refusal, Refusal):
            unmapped.update(_refusal(refusal))
        _put(doc, "unmapped", unmapped)
    return doc


def _class(event: Event) -> tuple[int, str, int, str, int, str, str]:
    match event:
        case NetworkEvent():
            return (
                4001,
                "Network Activity",
                4,
                "Network Activity",
                *_of(event.activity),
                _SECURITY,
            )
        case HttpEvent():
            number, label = _HTTP_METHODS.get(event.method.upper(), (99, "Other"))
            return (4002, "HTTP Activity", 4, "Network Activity", number, label, _SECURITY)
        case SshEvent():
            return (4007, "SSH Activity", 4, "Network Activity", *_of(event.activity), _CONTROL)
        case ProcessEvent():
            return (1007, "Process Activity", 1, "System Activity", *_of(event.activity), _CONTROL)
        case FindingEvent():
            return (2004, "Detection Finding", 2, "Findings", 1, "Create", _CONTROL)
        case ConfigEvent():
            return (5019, "Device Config State Change", 5, "Discovery", 1, "Log", _CONTROL)
        case LifecycleEvent():
            name = "Application Lifecycle"
            return (6002, name, 6, "Application Activity", *_of(event.activity), _PLAIN)
        case ApiEvent():
            profiles = _MODEL if event.model else _PLAIN
            return (6003, "API Activity", 6, "Application Activity", 99, "Other", profiles)
        case BaseEvent():
            return (0, "Base Event", 0, "Uncategorized", 99, "Other", _PLAIN)


def _own_fields(event: Event, context: EventContext) -> dict[str, Any]:
    match event:
        case NetworkEvent() | HttpEvent():
            return _traffic(event)
        case SshEvent():
            own: dict[str, Any] = {**_verdict(event)}
            _put(own, "src_endpoint", _end(event.src))
            _put(own, "dst_endpoint", _end(event.dst))
            _put(own, "auth_type", event.auth)
            return own
        case ProcessEvent():
            own = {"process": _process(event.process), **_verdict(event)}
            if event.command_line:
                own["process"]["cmd_line"] = event.command_line
            _put(own, "actor", {"process": _process(event.actor)} if event.actor else None)
            if event.launch:
                own["launch_type_id"] = event.launch.value
                own["launch_type"] = event.launch.name.capitalize()
            if event.exit_code is not None:
                own["exit_code"] = event.exit_code
            return own
        case FindingEvent():
            return _finding(event)
        case ConfigEvent():
            number = 99 if event.enabled is None else 2 if event.enabled else 1
            return {"state_id": number, "state": event.state}
        case LifecycleEvent():
            return {"app": {"name": event.app, "version": context.product_version}}
        case ApiEvent():
            own = {"api": {"operation": event.operation}, **_verdict(event)}
            _put(own, "actor", {"process": _process(event.process)} if event.process else None)
            _put(own, "ai_model", {"name": event.model, "ai_provider": event.provider})
            own["duration"] = event.latency_ms
            return own
        case BaseEvent():
            return {}


def _traffic(event: NetworkEvent | HttpEvent) -> dict[str, Any]:
    own = _verdict(event)
    _put(own, "src_endpoint", _end(event.src))
    own["proxy_endpoint"] = _DEFAULT_PROXY
    if event.process:
        own["actor"] = {"process": _process(event.process)}
    if event.policy or event.engine:
        own["firewall_rule"] = {"name": event.policy or "-", "type": event.engine or "-"}
    own["is_src_dst_assignment_known"] = True
    if isinstance(event, NetworkEvent):
        _put(own, "dst_endpoint", _end(event.dst))
        own["connection_info"] = {"protocol_name": event.protocol or "tcp"}
        _put(own, "observation_point_id", event.observation_point)
        return own
    own["dst_endpoint"] = _endpoint(event.host, event.port)
    own["observation_point_id"] = 2
    own["http_request"] = {
        "http_method": event.method,
        "url": {
            "scheme": event.scheme,
            "hostname": event.host,
            "path": event.path,
            "port": event.port,
        },
    }
    _put(own, "http_response", {"code": event.code} if event.code else None)
    return own


def _finding(event: FindingEvent) -> dict[str, Any]:
    info: dict[str, Any] = {"uid": event.uid, "title": event.title}
    _put(info, "desc", event.description)
    own: dict[str, Any] = {"finding_info": info, "is_alert": event.is_alert, **_verdict(event)}
    _put(own, "evidences", [{"data": dict(event.evidence)}] if event.evidence else None)
    _put(own, "remediation", {"desc": event.remediation} if event.remediation else None)
    if event.confidence:
        levels = {"low": 1, "medium": 2, "high": 3}
        own["confidence_id"] = levels.get(event.confidence.lower(), 99)
        own["confidence"] = event.confidence.capitalize()
    return own


def _verdict(
    event: NetworkEvent | HttpEvent | SshEvent | ProcessEvent | FindingEvent | ApiEvent,
) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if event.action is not None:
        own.update(_ACTIONS[event.action])
    if event.disposition is not None:
        own.update(_DISPOSITIONS[event.disposition])
    return own


def _refusal(refusal: Refusal) -> dict[str, Any]:
    own: dict[str, Any] = {"reason_code": refusal.code, "generation": refusal.generation}
    _put(own, "stage", refusal.stage)
    _put(own, "nearest_rule", refusal.nearest_rule)
    _put(own, "suggestion", refusal.suggestion)
    _put(own, "ancestors", list(refusal.ancestors))
    return own


def _of(activity: IntEnum) -> tuple[int, str]:
    return activity.value, activity.name.replace("_", " ").title()


def _pairs(name: str, members: type[IntEnum]) -> tuple[Mapping[str, Any], ...]:
    """Number and label of every member, by number: looking up an enumeration member is slow."""
    table: list[Mapping[str, Any]] = [{}] * (max(members) + 1)
    for member in members:
        number, label = _of(member)
        table[number] = {f"{name}_id": number, name: label}
    return tuple(table)


_SEVERITIES: Final = _pairs("severity", Severity)
_STATUSES: Final = _pairs("status", Status)
_ACTIONS: Final = _pairs("action", Action)
_DISPOSITIONS: Final = _pairs("disposition", Disposition)


def _end(end: HostPort | None) -> dict[str, Any] | None:
    return None if end is None else _endpoint(end.host, end.port)


def _endpoint(host: str, port: int) -> dict[str, Any]:
    is_address = ":" in host or host.replace(".", "").isdigit()
    return {"ip" if is_address else "domain": host, "port": port}


def _process(process: ProcessRef) -> dict[str, Any]:
    return {"name": process.name, "pid": process.pid}


def _put(doc: dict[str, Any], key: str, value: object) -> None:
    if value:
        doc[key] = value
