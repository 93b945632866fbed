"""Recorded decisions put to a candidate policy: what would have gone another way.

Events do not hold everything a decision was made from: queries and bodies are never recorded. Where
the answer hangs on them (`heads`) the decision is listed as open, with what is missing.
Other gaps are stated beside a change.

Pure; reading the events is the caller's (`openshell.sdk.replay`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from openshell.policy.advice import place
from openshell.policy.decide import ConnectionRequest, L7Request
from openshell.policy.heads import HeadPolicy, HeadTrial, Unseen
from openshell.policy.model import JsonValue, SandboxPolicy
from openshell.policy.trial import Outcome, Trial

__all__ = ["DecisionKind", "RecordedDecision", "ReplayChange", "ReplayReport", "replay"]

QUERY_DOUBT = "the answer depends on the query, which is not recorded"
BODY_DOUBT = "the answer depends on what the body asked for, which is not recorded"
UPGRADE_DOUBT = "only WebSocket handshakes pass, and whether this was one is not recorded"
ANCESTOR_DOUBT = "parent programs were not recorded; a rule that names one would still allow it"
CUT_DOUBT = "the path was recorded cut"
_UNSEEN: Final[Mapping[Unseen, str]] = MappingProxyType(
    {
        Unseen.QUERY: QUERY_DOUBT,
        Unseen.BODY: BODY_DOUBT,
        Unseen.UPGRADE: UPGRADE_DOUBT,
    }
)


class DecisionKind(StrEnum):
    CONNECTION = "connection"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One final decision of the proxy, as far as its event tells."""

    time_ms: int
    kind: DecisionKind
    outcome: Outcome
    host: str
    port: int
    # None where the program was not known: identity was switched off.
    binary: str | None
    # None where the event does not tell.
    ancestors: tuple[str, ...] | None = None
    scheme: str = ""
    method: str = ""
    path: str = ""
    is_path_cut: bool = False
    # Whether it was a WebSocket handshake; None where the event does not tell.
    is_upgrade: bool | None = None
    policy: str = ""
    reason_code: str = ""

    @property
    def request_line(self) -> str:
        if self.kind is DecisionKind.CONNECTION:
            return f"CONNECT {place(self.host, self.port)}"
        return f"{self.method} {self.scheme}://{place(self.host, self.port)}{self.path}"


@dataclass(frozen=True, slots=True)
class ReplayChange:
    """Decisions of one program and place that would change alike."""

    host: str
    port: int
    binary: str | None
    kind: DecisionKind
    before: Outcome
    # None: it cannot be told from what was recorded.
    after: Outcome | None
    count: int
    example: RecordedDecision
    # Of the example: what the candidate says against it.
    reason_code: str = ""
    reason: str = ""
    suggestion: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplayReport:
    total: int
    unchanged: int
    changes: tuple[ReplayChange, ...]
    # Decisions whose answer is open.
    undecided: tuple[ReplayChange, ...]

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "total": self.total,
            "unchanged": self.unchanged,
            "changes": tuple(_change_json(change) for change in self.changes),
            "undecided": tuple(_change_json(change) for change in self.undecided),
        }


def replay(decisions: Iterable[RecordedDecision], candidate: SandboxPolicy) -> ReplayReport:
    """Takes decisions one by one and keeps their groups, each with its first one as the example.

    Changes are ordered: refusals first, then by count.
    """
    policy = HeadPolicy(candidate, knows_query=False)
    groups: dict[object, ReplayChange] = {}
    total = unchanged = 0
    for decision in decisions:
        total += 1
        change = _judge(policy, decision)
        if change is None:
            unchanged += 1
            continue
        key = (
            change.host,
            change.port,
            change.binary,
            change.kind,
            change.before,
            change.after,
            change.doubts,
        )
        known = groups.get(key)
        groups[key] = change if known is None else replace(known, count=known.count + 1)
    ordered = sorted(groups.values(), key=_rank)
    return ReplayReport(
        total=total,
        unchanged=unchanged,
        changes=tuple(change for change in ordered if change.after is not None),
        undecided=tuple(change for change in ordered if change.after is None),
    )


def _rank(change: ReplayChange) -> tuple[object, ...]:
    refused = change.after is not Outcome.DENIED
    return (refused, -change.count, change.host, change.port, change.binary or "", change.kind)


def _judge(policy: HeadPolicy, decision: RecordedDecision) -> ReplayChange | None:
    tried = _try(policy, decision)
    if tried.unseen is not None:
        return _change(decision, None, tried.trial, (_UNSEEN[tried.unseen],))
    if tried.outcome is decision.outcome:
        return None
    return _change(decision, tried.outcome, tried.trial, tuple(_doubts(decision, tried.trial)))


def _try(policy: HeadPolicy, decision: RecordedDecision) -> HeadTrial:
    connection = ConnectionRequest(
        decision.host,
        decision.port,
        decision.binary,
        ancestors=decision.ancestors or (),
        # Without identity every program was taken for a match.
        relaxed=decision.binary is None,
    )
    request = None
    if decision.kind is DecisionKind.REQUEST:
        request = L7Request(decision.method, decision.path)
    return policy.ask(
        connection,
        request,
        encrypted=decision.scheme == "https",
        upgrade=decision.is_upgrade,
    )


def _doubts(decision: RecordedDecision, trial: Trial) -> Iterator[str]:
    refusal = trial.refusal
    if (
        decision.ancestors is None
        and refusal is not None
        and refusal.reason_code == "binary_not_allowed"
    ):
        yield ANCESTOR_DOUBT
    if decision.is_path_cut and trial.request is not None:
        yield CUT_DOUBT


def _change(
    decision: RecordedDecision, after: Outcome | None, trial: Trial, doubts: tuple[str, ...]
) -> ReplayChange:
    refusal = trial.refusal
    return ReplayChange(
        host=decision.host,
        port=decision.port,
        binary=decision.binary,
        kind=decision.kind,
        before=decision.outcome,
        after=after,
        count=1,
        example=decision,
        reason_code=refusal.reason_code if refusal else "",
        reason=refusal.reason if refusal else "",
        suggestion=refusal.suggestion if refusal else "",
        doubts=doubts,
    )


def _change_json(change: ReplayChange) -> JsonValue:
    return {
        "host": change.host,
        "port": change.port,
        "binary": change.binary,
        "kind": change.kind.value,
        "before": change.before.value,
        "after": change.after.value if change.after else None,
        "count": change.count,
        "example": {
            "time_ms": change.example.time_ms,
            "request": change.example.request_line,
            "policy": change.example.policy,
        },
        "reason_code": change.reason_code,
        "reason": change.reason,
        "suggestion": change.suggestion,
        "doubts": change.doubts,
    }
