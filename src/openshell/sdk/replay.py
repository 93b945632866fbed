"""From stored log lines to decisions that a policy can be asked about again.

Reads the JSON form of the proxy's events (OCSF Network and HTTP Activity) as the gateway keeps it in
a line's fields. Only what the policy decided is replayed; refusals that stand on something else (an
address, a credential, a malformed request) are counted by what they stood on. A line that cannot
be read is counted too: nothing is left out silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from openshell._proto import openshell_pb2
from openshell.policy.replay import DecisionKind, RecordedDecision
from openshell.policy.trial import Outcome

__all__ = ["Recorded", "decision_of", "recorded_decisions"]

_FIELD: Final = "ocsf"
_NETWORK: Final = 4001
_HTTP: Final = 4002
# What proxies show of a path; one of this length was longer.
_SHOWN_PATH: Final = 256
# Deciders whose answer is the policy's.
_POLICY_ENGINES: Final = frozenset({"opa", "l7"})
# Refusals that a policy alone stands behind.
_POLICY_CODES: Final = frozenset(
    {
        "no_policy",
        "endpoint_not_allowed",
        "binary_not_allowed",
        "quarantine",
        "deny_rule",
        "no_allow",
        "no_route",
        "encoded_slash",
        "unsupported_protocol",
        "evaluation_error",
    }
)


class _Process(msgspec.Struct):
    name: str = "-"


class _Actor(msgspec.Struct):
    process: _Process = msgspec.field(default_factory=_Process)


class _End(msgspec.Struct):
    port: int = 0
    domain: str = ""
    ip: str = ""


class _Firewall(msgspec.Struct):
    name: str = ""
    type: str = ""


class _Url(msgspec.Struct):
    scheme: str = "http"
    path: str = "/"


class _Request(msgspec.Struct):
    http_method: str = ""
    url: _Url = msgspec.field(default_factory=_Url)


class _Unmapped(msgspec.Struct):
    reason_code: str = ""
    ancestors: tuple[str, ...] | None = None


class _Event(msgspec.Struct):
    """The members of an event that a decision is read from; all others are passed over."""

    class_uid: int = 0
    time: int = 0
    action: str = ""
    status_detail: str = ""
    actor: _Actor = msgspec.field(default_factory=_Actor)
    dst_endpoint: _End = msgspec.field(default_factory=_End)
    firewall_rule: _Firewall = msgspec.field(default_factory=_Firewall)
    http_request: _Request = msgspec.field(default_factory=_Request)
    unmapped: _Unmapped = msgspec.field(default_factory=_Unmapped)


@dataclass(frozen=True, slots=True)
class Recorded:
    decisions: tuple[RecordedDecision, ...]
    # Events that could not be replayed, counted by why.
    skipped: Mapping[str, int]


_DECODER: Final = msgspec.json.Decoder(_Event)


def recorded_decisions(lines: Iterable[openshell_pb2.SandboxLogLine]) -> Recorded:
    """Decisions in the order of the lines; lines that are no events are passed over."""
    decisions: list[RecordedDecision] = []
    skipped: Counter[str] = Counter()
    for line in lines:
        document = line.fields.get(_FIELD)
        if document is None:
            if line.level == "OCSF":
                skipped["event kept without its JSON form"] += 1
            continue
        found = decision_of(document)
        if isinstance(found, RecordedDecision):
            decisions.append(found)
        elif found:
            skipped[found] += 1
    return Recorded(tuple(decisions), dict(sorted(skipped.items())))


def decision_of(document: str | bytes) -> RecordedDecision | str:
    """The decision of one event; else why it cannot be replayed, "" if it is no decision at all."""
    try:
        event = _DECODER.decode(document)
    except msgspec.MsgspecError:
        return "unreadable event"
    outcome = _outcome(event)
    if event.class_uid not in (_NETWORK, _HTTP) or outcome is None:
        return ""
    reason = _not_by_policy(event, outcome)
    if reason:
        return reason
    host = event.dst_endpoint.domain or event.dst_endpoint.ip
    name = event.actor.process.name
    common: dict[str, Any] = {
        "time_ms": event.time,
        "outcome": outcome,
        "host": host,
        "port": event.dst_endpoint.port,
        "binary": name if name.startswith("/") else None,
        "ancestors": _ancestors(event, outcome),
        "policy": "" if event.firewall_rule.name == "-" else event.firewall_rule.name,
        "reason_code": event.unmapped.reason_code,
    }
    if event.class_uid == _NETWORK:
        return RecordedDecision(kind=DecisionKind.CONNECTION, **common)
    path = event.http_request.url.path
    return RecordedDecision(
        kind=DecisionKind.REQUEST,
        scheme=event.http_request.url.scheme,
        method=event.http_request.http_method,
        path=path,
        is_path_cut=len(path) >= _SHOWN_PATH,
        **common,
    )


def _outcome(event: _Event) -> Outcome | None:
    match event.action:
        case "Denied":
            return Outcome.DENIED
        case "Allowed":
            # A request that went out although something stood against it carries the reason.
            audited = event.class_uid == _HTTP and event.status_detail
            return Outcome.AUDITED if audited else Outcome.ALLOWED
    return None


def _not_by_policy(event: _Event, outcome: Outcome) -> str:
    engine = event.firewall_rule.type
    if not event.dst_endpoint.port or not (event.dst_endpoint.domain or event.dst_endpoint.ip):
        return "destination not recorded"
    if engine not in _POLICY_ENGINES:
        return f"decided by {engine or 'nobody'}, not by the policy"
    if outcome is Outcome.DENIED and event.unmapped.reason_code not in _POLICY_CODES:
        return f"denied as {event.unmapped.reason_code or 'unknown'}, not by the policy"
    return ""


def _ancestors(event: _Event, outcome: Outcome) -> tuple[str, ...] | None:
    """Refusals tell the parents whenever there are any; other events need not."""
    if event.unmapped.ancestors is None and outcome is Outcome.DENIED:
        return ()
    return event.unmapped.ancestors
