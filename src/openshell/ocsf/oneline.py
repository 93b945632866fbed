"""The shorthand: one event as exactly one line for people and for `grep`.

Called by the log sinks of the supervisor. The line carries no timestamp of its own: log lines have
theirs. Whatever text an event holds, the result has no line break and no control character in it:
an agent that chooses host names, paths and program names must not be able to write lines of its own
into the log.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from openshell.ocsf.events import (
    Action,
    ApiEvent,
    BaseEvent,
    ConfigEvent,
    Event,
    FindingEvent,
    HostPort,
    HttpEvent,
    LifecycleEvent,
    NetActivity,
    NetworkEvent,
    ProcessEvent,
    ProcessRef,
    Severity,
    SshEvent,
)

__all__ = ["to_line"]

# The contract's cuts: a reason may explain, a message or title is a headline.
_REASON_BYTES: Final = 256
_MESSAGE_BYTES: Final = 120
_BASE_EVENT_CONTEXT: Final = 3

_TAGS: Final = {
    Severity.INFORMATIONAL: "INFO",
    Severity.LOW: "LOW",
    Severity.MEDIUM: "MED",
    Severity.HIGH: "HIGH",
    Severity.CRITICAL: "CRIT",
    Severity.FATAL: "FATAL",
}
# Names of an enumeration member go through a descriptor; a table is several times quicker.
_ACTIONS: Final = {action: " " + action.name for action in Action}
_NET_LABELS: Final = {activity: activity.name for activity in NetActivity}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_CONFIG_KEYS: Final = {
    "auto": "auto",
    "source": "source",
    "prover_delta": "prover_delta",
    "resolved_from": "resolved_from",
    "policy_version": "version",
    "policy_hash": "hash",
}


def to_line(event: Event) -> str:
    """Write the event in shorthand, without a timestamp."""
    return _WRITERS[type(event)](event)


def _network(event: NetworkEvent) -> str:
    parts = [f"NET:{_NET_LABELS[event.activity]} [{_tag(event.severity)}]", _action(event.action)]
    between = _between(event.process, event.dst, event.protocol)
    policy = _policy(event.policy, event.engine)
    parts += [between, policy]
    if event.action is Action.DENIED:
        parts.append(_reason(event.detail or event.message))
    nothing_else = not (event.action or between or policy)
    if event.message and (nothing_else or event.detail == "transparent_tcp_allowed"):
        parts.append(f" [msg:{_cut(event.message, _MESSAGE_BYTES)}]")
    return "".join(parts)


def _http(event: HttpEvent) -> str:
    method = _plain(event.method.upper()) or "UNKNOWN"
    actor = f"{_process(event.process)} -> " if event.process else ""
    context = _pairs(event.unmapped)
    if event.action is Action.DENIED:
        reason = event.detail or event.message
        if reason:
            context.append(f"reason:{_cut(reason, _REASON_BYTES)}")
    return "".join(
        (
            f"HTTP:{method} [{_tag(event.severity)}]",
            _action(event.action),
            f" {actor}{method} {_url(event)}",
            _policy(event.policy, event.engine),
            f" [{' '.join(context)}]" if context else "",
            f" [msg:{_cut(event.message, _MESSAGE_BYTES)}]"
            if event.engine == "l7-mcp" and event.message and event.action is not Action.DENIED
            else "",
        )
    )


def _ssh(event: SshEvent) -> str:
    peer = f" {_host_port(event.src)}" if event.src else ""
    auth = f" [auth:{_context(event.auth)}]" if event.auth else ""
    return (
        f"SSH:{_NET_LABELS[event.activity]} [{_tag(event.severity)}]"
        f"{_action(event.action)}{peer}{auth}"
    )


def _proc(event: ProcessEvent) -> str:
    ended = f" [exit:{event.exit_code}]" if event.exit_code is not None else ""
    command = f" [cmd:{_plain(event.command_line)}]" if event.command_line else ""
    return (
        f"PROC:{event.activity.name.replace('_', ' ')} [{_tag(event.severity)}] "
        f"{_process(event.process)}{ended}{command}"
    )


def _finding(event: FindingEvent) -> str:
    label = event.disposition.name if event.disposition else "CREATE"
    context = [f"type:{_context(event.uid)}", *_pairs(event.unmapped)]
    if event.confidence:
        context.append(f"confidence:{_context(event.confidence)}")
    title = _quoted(_cut(event.title, _MESSAGE_BYTES))
    return f'FINDING:{label} [{_tag(event.severity)}] "{title}" [{" ".join(context)}]'


def _config(event: ConfigEvent) -> str:
    extra = event.unmapped or {}
    context = [
        f"{label}:{_context(value)}"
        for key, label in _CONFIG_KEYS.items()
        if isinstance(value := extra.get(key), str)
    ]
    tail = f" [{' '.join(context)}]" if context else ""
    state = _context(event.state.upper())
    return f"CONFIG:{state} [{_tag(event.severity)}] {_plain(event.message)}{tail}"


def _lifecycle(event: LifecycleEvent) -> str:
    status = f" {event.status.name.lower()}" if event.status else ""
    return (
        f"LIFECYCLE:{event.activity.name} [{_tag(event.severity)}] "
        f"{_plain(event.app).lower()}{status}"
    )


def _api(event: ApiEvent) -> str:
    status = event.status.name.capitalize() if event.status else "Unknown"
    return (
        f"API:INFERENCE [{_tag(event.severity)}] {status} {_plain(event.model)} "
        f"via {_plain(event.provider)} {event.latency_ms}ms [{_context(event.operation)}]"
    )


def _base(event: BaseEvent) -> str:
    context = _pairs(event.unmapped)[:_BASE_EVENT_CONTEXT]
    tail = f" [{' '.join(context)}]" if context else ""
    return f"EVENT [{_tag(event.severity)}] {_plain(event.message)}{tail}"


_WRITERS: Final[Mapping[type, Callable[[Any], str]]] = {
    NetworkEvent: _network,
    HttpEvent: _http,
    SshEvent: _ssh,
    ProcessEvent: _proc,
    FindingEvent: _finding,
    ConfigEvent: _config,
    LifecycleEvent: _lifecycle,
    ApiEvent: _api,
    BaseEvent: _base,
}


def _tag(severity: Severity) -> str:
    return _TAGS.get(severity, "INFO")


def _action(action: Action | None) -> str:
    return _ACTIONS[action] if action else ""


def _process(process: ProcessRef) -> str:
    return f"{_plain(process.name)}({process.pid})"


def _host_port(end: HostPort) -> str:
    return f"{_host(end.host)}:{end.port}"


def _host(host: str) -> str:
    return f"[{_plain(host)}]" if ":" in host else _plain(host)


def _between(process: ProcessRef | None, dst: HostPort | None, protocol: str) -> str:
    suffix = f"/{_plain(protocol)}" if protocol else ""
    if process and dst:
        return f" {_process(process)} -> {_host_port(dst)}{suffix}"
    if process:
        return f" {_process(process)}"
    return f" {_host_port(dst)}{suffix}" if dst else ""


def _url(event: HttpEvent) -> str:
    port = "" if event.port in (0, _DEFAULT_PORTS.get(event.scheme)) else f":{event.port}"
    return f"{event.scheme}://{_host(event.host)}{port}{_plain(event.path)}"


def _policy(policy: str, engine: str) -> str:
    if not policy and not engine:
        return ""
    return f" [policy:{_context(policy or '-')} engine:{_context(engine or '-')}]"


def _reason(text: str) -> str:
    return f" [reason:{_cut(text, _REASON_BYTES)}]" if text else ""


def _pairs(values: Mapping[str, str | int | bool] | None) -> list[str]:
    if not values:
        return []
    return [f"{_context(key)}:{_context(_scalar(values[key]))}" for key in sorted(values)]


def _scalar(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cut(text: str, limit: int) -> str:
    clean = _plain(text)
    if len(clean) <= limit // 4:
        return clean
    raw = clean.encode("utf-8", "replace")
    if len(raw) <= limit:
        return clean
    return raw[:limit].decode("utf-8", "ignore") + "..."


def _plain(text: str) -> str:
    """Keep text on its line: breaks become spaces, other unprintable characters are spelt out."""
    if text.isprintable():
        return text
    text = text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    return "".join(char if char.isprintable() else f"\\u{{{ord(char):x}}}" for char in text)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


_CONTEXT_ESCAPES: Final = {"\\": "\\\\", "[": "\\[", "]": "\\]"}


def _context(text: str) -> str:
    """Escape text that stands as one word inside brackets."""
    if text.isidentifier():
        return text
    return "".join(
        _CONTEXT_ESCAPES.get(char)
        or (char if char.isprintable() and not char.isspace() else f"\\u{{{ord(char):x}}}")
        for char in text
    )
