"""From stored log lines to decisions that a policy can be asked about again.

Reads the JSON form of the proxy's events (OCSF Network and HTTP Activity) as the gateway keeps it in
a line's fields. Only what the policy decided is replayed; refusals that stand on something else (an
address, a credential, a malformed request) are counted by what they stood on. A line that cannot
be read is counted too: nothing is left out silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from openshell._proto import openshell_pb2
from openshell.policy.replay import DecisionKind, RecordedDecision
from openshell.policy.trial import Outcome

__all__ = ["DecisionReader", "decision_of"]

_FIELD: Final = "ocsf"
_NETWORK: Final = 4001
_HTTP: Final = 4002
# What proxies show of a path; one of this length was longer.
_SHOWN_PATH: Final = 256
# Deciders whose answer is the policy's: of connections, and of requests by what they speak.
_WEBSOCKET: Final = "l7-websocket"
_POLICY_ENGINES: Final = frozenset({"opa", "l7", "l7-graphql", "l7-jsonrpc", "l7-mcp", _WEBSOCKET})
_NO_HANDSHAKE: Final = "websocket_required"
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
        "unregistered_query",
        "graphql_rejected",
        "rpc_rejected",
        "rpc_response",
        _NO_HANDSHAKE,
    }
)


@dataclass(frozen=True, slots=True)
class _Client:
    """One client's end of a connection; ports are used again, by other programs too."""

    address: str
    port: int
    binary: str | None


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
    src_endpoint: _End = msgspec.field(default_factory=_End)
    dst_endpoint: _End = msgspec.field(default_factory=_End)
    firewall_rule: _Firewall = msgspec.field(default_factory=_Firewall)
    http_request: _Request = msgspec.field(default_factory=_Request)
    unmapped: _Unmapped = msgspec.field(default_factory=_Unmapped)


_DECODER: Final = msgspec.json.Decoder(_Event)


class DecisionReader:
    """Reads the lines of a log piece by piece, and counts what cannot be replayed by why."""

    def __init__(self) -> None:
        self._skipped: Counter[str] = Counter()

    @property
    def skipped(self) -> Mapping[str, int]:
        return dict(sorted(self._skipped.items()))

    def read(self, lines: Iterable[openshell_pb2.SandboxLogLine]) -> Iterator[RecordedDecision]:
        """Decisions in the order of the lines; lines that are no events are passed over.

        Only connections tell the parents of a program. A request has those of the connection it
        came on, where that is among the same lines.
        """
        opened: dict[_Client, tuple[str, ...]] = {}
        for line in lines:
            document = line.fields.get(_FIELD)
            if document is None:
                if line.level == "OCSF":
                    self._skipped["event kept without its JSON form"] += 1
                continue
            event = _decoded(document)
            found = "unreadable event" if event is None else _decision(event)
            if event is None or not isinstance(found, RecordedDecision):
                if found:
                    self._skipped[str(found)] += 1
                continue
            client = _Client(event.src_endpoint.ip, event.src_endpoint.port, found.binary)
            if found.kind is DecisionKind.CONNECTION and found.ancestors:
                opened[client] = found.ancestors
            elif found.ancestors is None and client in opened:
                found = replace(found, ancestors=opened[client])
            yield found


def decision_of(document: str | bytes) -> RecordedDecision | str:
    """The decision of one event; else why it cannot be replayed, "" if it is no decision at all."""
    event = _decoded(document)
    return "unreadable event" if event is None else _decision(event)


def _decoded(document: str | bytes) -> _Event | None:
    try:
        return _DECODER.decode(document)
    except msgspec.MsgspecError:
        return None


def _decision(event: _Event) -> RecordedDecision | str:
    outcome = _outcome(event)
    if event.class_uid not in (_NETWORK, _HTTP) or outcome is None:
        return ""
    if event.class_uid == _NETWORK and event.firewall_rule.type == _WEBSOCKET:
        # A word on what becomes of a connection whose handshake has an event of its own.
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
        is_upgrade=_is_upgrade(event),
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


def _is_upgrade(event: _Event) -> bool | None:
    """Whoever judged a request at a websocket endpoint saw whether it was a handshake."""
    if event.firewall_rule.type != _WEBSOCKET:
        return None
    return event.unmapped.reason_code != _NO_HANDSHAKE


def _ancestors(event: _Event, outcome: Outcome) -> tuple[str, ...] | None:
    """Refusals tell the parents whenever there are any; other events need not."""
    if event.unmapped.ancestors is None and outcome is Outcome.DENIED:
        return ()
    return event.unmapped.ancestors
