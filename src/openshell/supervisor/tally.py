"""Counts decisions: what was refused to whom, and how much went on. Pure.

Reads the events that decisions leave; holds little however much an agent does. Denials are kept by
destination and program, activity as bare numbers without hosts or paths. `summaries` sends what is
counted, `proposing` makes proposals of denials.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from openshell import ocsf
from openshell._proto import openshell_pb2

__all__ = ["MAX_DENIALS", "MAX_PATH", "Decision", "Denied", "Tally", "summary_of"]

# The contract's number.
_MAX_SAMPLES: Final = 20
# Destinations and programs between two flushes; what comes on top is counted in the activity alone.
MAX_DENIALS: Final = 64
# Characters that are sent of a method, a path and a reason, and of all parents of a program: with the
# numbers above half of what the gateway takes in one message.
_MAX_METHOD: Final = 32
MAX_PATH: Final = 256
_MAX_REASON: Final = 512
_MAX_PARENTS: Final = 4096
_GROUPS: Final = frozenset(
    {"connect_policy", "forward_policy", "l7_policy", "l7_parse_rejection", "ssrf", "bypass",
     "policy_stale"}
)  # fmt: skip

Decision: TypeAlias = ocsf.NetworkEvent | ocsf.HttpEvent
# As a tuple it is looked at in half the time, and it is for every request.
_DECISIONS: Final = (ocsf.HttpEvent, ocsf.NetworkEvent)


@dataclass(slots=True)
class Denied:
    """What was refused to one program at one place."""

    host: str
    port: int
    binary: str
    first: Decision
    last_ms: int = 0
    count: int = 0
    # Distinct reasons, kinds of refusals and requests.
    codes: set[str] = field(default_factory=set)
    stages: set[str] = field(default_factory=set)
    engines: set[str] = field(default_factory=set)
    samples: Counter[tuple[str, str]] = field(default_factory=Counter)


class Tally:
    """Counts decisions. Pure."""

    def __init__(self) -> None:
        self._denied: dict[tuple[str, int, str], Denied] = {}
        self._decided = 0
        self._groups: Counter[str] = Counter()

    def add(self, event: ocsf.Event) -> None:
        """Count an event that is a decision."""
        if not isinstance(event, _DECISIONS) or event.action is None:
            return
        self._decided += 1
        if event.action is not ocsf.Action.DENIED:
            return
        refusal = event.refusal
        group = refusal.group if refusal is not None else ""
        self._groups[group if group in _GROUPS else "unknown"] += 1
        if refusal is not None and refusal.stage:
            self._deny(event, refusal)

    def _deny(self, event: Decision, refusal: ocsf.Refusal) -> None:
        host, port = _place(event)
        if not host:
            return
        binary = event.process.name if event.process is not None else "-"
        denied = self._denied.get((host, port, binary))
        if denied is None:
            if len(self._denied) >= MAX_DENIALS:
                return
            denied = Denied(host, port, binary, event)
            self._denied[host, port, binary] = denied
        denied.count += 1
        denied.last_ms = max(denied.last_ms, event.time_ms)
        denied.codes.add(refusal.code)
        denied.stages.add(refusal.stage)
        denied.engines.add(event.engine)
        if isinstance(event, ocsf.HttpEvent):
            sample = (event.method[:_MAX_METHOD], event.path[:MAX_PATH])
            if sample in denied.samples or len(denied.samples) < _MAX_SAMPLES:
                denied.samples[sample] += 1

    @property
    def is_empty(self) -> bool:
        return not self._decided

    def take_denials(self) -> list[Denied]:
        """What was refused since the last time."""
        denied, self._denied = self._denied, {}
        return list(denied.values())

    def take_activity(self) -> openshell_pb2.NetworkActivitySummary | None:
        """What went on since the last time, or None when nothing did."""
        if not self._decided:
            return None
        decided, groups = self._decided, self._groups
        self._decided, self._groups = 0, Counter()
        return openshell_pb2.NetworkActivitySummary(
            network_activity_count=decided,
            denied_action_count=groups.total(),
            denials_by_group=[
                openshell_pb2.DenialGroupCount(deny_group=name, denied_count=groups[name])
                for name in sorted(groups)
            ],
        )


def _place(event: Decision) -> tuple[str, int]:
    if isinstance(event, ocsf.HttpEvent):
        return event.host, event.port
    return (event.dst.host, event.dst.port) if event.dst is not None else ("", 0)


def summary_of(denied: Denied, sandbox_id: str) -> openshell_pb2.DenialSummary:
    event = denied.first
    refusal = event.refusal
    parents = refusal.ancestors if refusal is not None else ()
    return openshell_pb2.DenialSummary(
        sandbox_id=sandbox_id,
        host=denied.host,
        port=denied.port,
        binary=denied.binary,
        ancestors=parents if sum(map(len, parents)) <= _MAX_PARENTS else (),
        deny_reason=event.detail[:_MAX_REASON],
        first_seen_ms=event.time_ms,
        last_seen_ms=denied.last_ms,
        count=denied.count,
        total_count=denied.count,
        denial_stage=refusal.stage if refusal is not None else "",
        l7_request_samples=[
            openshell_pb2.L7RequestSample(method=method, path=path, count=count)
            for (method, path), count in denied.samples.items()
        ],
        l7_inspection_active=isinstance(event, ocsf.HttpEvent),
    )
