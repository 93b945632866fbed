"""Summaries of what was refused and how much went on, for the gateway: counted here, sent every 10 s.

Reads the events that decisions leave; holds little however much an agent does. Denials are kept by
destination and program, activity as bare numbers without hosts or paths. Nothing is sent before the
sandbox's workspace is known. A gateway that is away costs the summaries that do not fit. Proposals are
made from denials elsewhere. Made by `runtime`; the sink of `Logs` feeds it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import grpc.aio

from openshell import ocsf
from openshell._proto import openshell_pb2
from openshell.supervisor.gateway_client import GatewayClient

__all__ = ["Summaries", "Tally"]

# The contract's numbers.
_FLUSH_SECONDS: Final = 10.0
_MAX_SAMPLES: Final = 20
# Destinations and programs between two flushes; what comes on top is counted in the activity alone.
_MAX_DENIALS: Final = 64
# Characters that are sent of a method, a path and a reason, and of all parents of a program: with the
# numbers above half of what the gateway takes in one message.
_MAX_METHOD: Final = 32
_MAX_PATH: Final = 256
_MAX_REASON: Final = 512
_MAX_PARENTS: Final = 4096
_CALL_SECONDS: Final = 10.0
_GROUPS: Final = frozenset(
    {"connect_policy", "forward_policy", "l7_policy", "l7_parse_rejection", "ssrf", "bypass",
     "policy_stale"}
)  # fmt: skip

_Decision: TypeAlias = ocsf.NetworkEvent | ocsf.HttpEvent
# As a tuple it is looked at in half the time, and it is for every request.
_DECISIONS: Final = (ocsf.HttpEvent, ocsf.NetworkEvent)


@dataclass(slots=True)
class _Denied:
    first: _Decision
    last_ms: int
    count: int = 0
    samples: Counter[tuple[str, str]] = field(default_factory=Counter)


class Tally:
    """Counts decisions. Pure."""

    def __init__(self) -> None:
        self._denied: dict[tuple[str, int, str], _Denied] = {}
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
            self._deny(event)

    def _deny(self, event: _Decision) -> None:
        host, port = _place(event)
        if not host:
            return
        binary = event.process.name if event.process is not None else "-"
        denied = self._denied.get((host, port, binary))
        if denied is None:
            if len(self._denied) >= _MAX_DENIALS:
                return
            denied = self._denied[host, port, binary] = _Denied(event, event.time_ms)
        denied.count += 1
        denied.last_ms = max(denied.last_ms, event.time_ms)
        if isinstance(event, ocsf.HttpEvent):
            sample = (event.method[:_MAX_METHOD], event.path[:_MAX_PATH])
            if sample in denied.samples or len(denied.samples) < _MAX_SAMPLES:
                denied.samples[sample] += 1

    def take_denials(self, sandbox_id: str) -> list[openshell_pb2.DenialSummary]:
        """What was refused since the last time."""
        denied, self._denied = self._denied, {}
        return [_summary(sandbox_id, key, value) for key, value in denied.items()]

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


class Summaries:
    """Sends what a tally holds."""

    def __init__(
        self,
        client: GatewayClient,
        sandbox_id: str,
        sandbox: str,
        workspace: Callable[[], str],
        *,
        seconds: float = _FLUSH_SECONDS,
    ) -> None:
        """`sandbox` is the name, `workspace` says the place once it is known."""
        self._client = client
        self._sandbox_id = sandbox_id
        self._sandbox = sandbox
        self._workspace = workspace
        self._seconds = seconds
        self._tally = Tally()
        self._arrived = asyncio.Event()

    def emit(self, event: ocsf.Event) -> None:
        """Count an event; never blocks."""
        self._tally.add(event)
        self._arrived.set()

    async def run(self) -> None:
        """Send every ten seconds in which something happened, until cancelled."""
        while True:
            # An idle sandbox wakes nobody.
            await self._arrived.wait()
            await asyncio.sleep(self._seconds)
            self._arrived.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what is there, if it is known where."""
        workspace = self._workspace()
        if not workspace:
            self._arrived.set()
            return
        denials = self._tally.take_denials(self._sandbox_id)
        if denials:
            await self._send(workspace, "mechanistic", summaries=denials)
        activity = self._tally.take_activity()
        if activity is not None:
            await self._send(workspace, "activity", network_activity_summaries=[activity])

    async def _send(
        self,
        workspace: str,
        mode: str,
        *,
        summaries: list[openshell_pb2.DenialSummary] | None = None,
        network_activity_summaries: list[openshell_pb2.NetworkActivitySummary] | None = None,
    ) -> None:
        request = openshell_pb2.SubmitPolicyAnalysisRequest(
            name=self._sandbox or self._sandbox_id,
            workspace=workspace,
            analysis_mode=mode,
            summaries=summaries,
            network_activity_summaries=network_activity_summaries,
        )
        try:
            await self._client.stub.SubmitPolicyAnalysis(
                request, metadata=self._client.metadata(), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError:
            # Each event has gone to the gateway by itself; a summary is a convenience.
            return


def _place(event: _Decision) -> tuple[str, int]:
    if isinstance(event, ocsf.HttpEvent):
        return event.host, event.port
    return (event.dst.host, event.dst.port) if event.dst is not None else ("", 0)


def _summary(
    sandbox_id: str, key: tuple[str, int, str], denied: _Denied
) -> openshell_pb2.DenialSummary:
    host, port, binary = key
    event = denied.first
    refusal = event.refusal
    parents = refusal.ancestors if refusal is not None else ()
    return openshell_pb2.DenialSummary(
        sandbox_id=sandbox_id,
        host=host,
        port=port,
        binary=binary,
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
