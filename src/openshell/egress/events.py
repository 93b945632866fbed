"""The data plane's events: one for every final decision, built from the decision's own values.

Severity and labels follow the tables of the contract (`proxy.md` 19, `supervisor.md` 19): allowed is
Informational, denied Medium, refusals about credentials and TLS High, broken connections Low. Paths
arrive here canonical, redacted and without query. The sink must not block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from openshell.egress.credentials import find_marker
from openshell.ocsf import (
    Action,
    ApiEvent,
    Disposition,
    Event,
    FindingEvent,
    HostPort,
    HttpEvent,
    NetActivity,
    NetworkEvent,
    ProcessRef,
    Refusal,
    Severity,
    Status,
)
from openshell.policy.decide import EndpointConfig

if TYPE_CHECKING:
    from openshell.egress.middleware import Noticed

__all__ = ["Actor", "EventLog", "Sink", "Where", "l7_engine", "l7_labels", "shown_method"]

Sink: TypeAlias = Callable[[Event], None]

_ALLOWED: Final = (Action.ALLOWED, Disposition.ALLOWED)
_DENIED: Final = (Action.DENIED, Disposition.BLOCKED)


# No registered method is that long.
_SHORTEST_MARKER: Final = 22

# Engine and name of the decision, by the protocol of the endpoint that governs the request.
_L7: Final = ("l7", "L7_REQUEST")
_L7_LABELS: Final = {
    "graphql": ("l7-graphql", "GRAPHQL_L7_REQUEST"),
    "json-rpc": ("l7-jsonrpc", "JSONRPC_L7_REQUEST"),
    "mcp": ("l7-mcp", "JSONRPC_L7_REQUEST"),
    "websocket": ("l7-websocket", "WEBSOCKET_L7_REQUEST"),
}

# Characters of the paths of a program's parents; an event that is cut could not be read.
_MAX_PARENTS: Final = 4096

_NOBODY: Final = ProcessRef("-")
# As long as the reason of a refusal.
_SHOWN_FINDING: Final = 256
_SEVERITIES: Final = {
    "info": Severity.INFORMATIONAL,
    "informational": Severity.INFORMATIONAL,
    "low": Severity.LOW,
    "medium": Severity.MEDIUM,
    "high": Severity.HIGH,
    "critical": Severity.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the client's end of the connection and the program behind it, once known."""

    src: HostPort
    process: ProcessRef = _NOBODY
    ancestors: tuple[str, ...] = ()


class Where(msgspec.Struct, frozen=True):
    """A request as events show it."""

    method: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def place(self) -> HostPort:
        return HostPort(self.host, self.port)


def shown_method(method: str) -> str:
    """A method as events show it: it is free text, in which an agent can write a placeholder."""
    return "-" if len(method) >= _SHORTEST_MARKER and find_marker(method.encode()) else method


def l7_labels(config: EndpointConfig | None) -> tuple[str, str]:
    """The engine that decided about a request, and what its decision is called."""
    return _L7_LABELS.get(config.protocol if config else "", _L7)


def l7_engine(protocol: str) -> str:
    return _L7_LABELS.get(protocol, _L7)[0]


class EventLog:
    """Builds events and hands them to the sink."""

    def __init__(self, sink: Sink, now_ms: Callable[[], int]) -> None:
        self._sink = sink
        self._now_ms = now_ms

    def connection_allowed(
        self,
        actor: Actor,
        dst: HostPort,
        policy: str,
        message: str,
        *,
        engine: str = "opa",
        detail: str = "",
    ) -> None:
        """Record with the program's parents: a rule may name one of them, and requests are many."""
        self._sink(
            NetworkEvent(
                time_ms=self._now_ms(),
                activity=NetActivity.OPEN,
                action=_ALLOWED[0],
                disposition=_ALLOWED[1],
                status=Status.SUCCESS,
                src=actor.src,
                dst=dst,
                process=actor.process,
                policy=policy,
                engine=engine,
                message=message,
                detail=detail,
                unmapped=_parents(actor),
            )
        )

    def connection_denied(
        self,
        actor: Actor,
        dst: HostPort | None,
        *,
        engine: str,
        reason: str,
        refusal: Refusal,
        policy: str = "-",
        severity: Severity = Severity.MEDIUM,
        activity: NetActivity = NetActivity.OPEN,
        message: str = "",
    ) -> None:
        self._sink(
            NetworkEvent(
                time_ms=self._now_ms(),
                activity=activity,
                severity=severity,
                action=_DENIED[0],
                disposition=_DENIED[1],
                status=Status.FAILURE,
                src=actor.src,
                dst=dst,
                process=actor.process,
                policy=policy,
                engine=engine,
                message=message,
                detail=reason,
                refusal=refusal,
            )
        )

    def connection_failed(
        self, actor: Actor, dst: HostPort | None, message: str, code: str = ""
    ) -> None:
        """Record a failure that nobody decided: dialling, TLS, a relay cut short."""
        self._sink(
            NetworkEvent(
                time_ms=self._now_ms(),
                activity=NetActivity.FAIL,
                severity=Severity.LOW,
                disposition=Disposition.ERROR,
                status=Status.FAILURE,
                src=actor.src,
                dst=dst,
                process=actor.process,
                message=message,
                unmapped={"error": message} | ({"reason_code": code} if code else {}),
            )
        )

    def connection_closed(self, actor: Actor, dst: HostPort, policy: str, message: str) -> None:
        """Record that a live connection was ended because a new generation does not allow it."""
        self._sink(
            NetworkEvent(
                time_ms=self._now_ms(),
                activity=NetActivity.CLOSE,
                severity=Severity.MEDIUM,
                action=_DENIED[0],
                disposition=_DENIED[1],
                src=actor.src,
                dst=dst,
                process=actor.process,
                policy=policy,
                engine="opa",
                detail=message,
                refusal=Refusal("closed_by_reload", group="policy_stale"),
            )
        )

    def name_refused(self, host: str, reason: str) -> None:
        """Record that the resolver stub gave no address."""
        self._sink(
            NetworkEvent(
                time_ms=self._now_ms(),
                activity=NetActivity.REFUSE,
                severity=Severity.MEDIUM,
                action=_DENIED[0],
                disposition=_DENIED[1],
                dst=HostPort(host, 53),
                protocol="dns",
                policy="-",
                engine="dns",
                detail=reason,
                refusal=Refusal(reason, group="bypass"),
            )
        )

    def listener(self, message: str, severity: Severity) -> None:
        self._sink(
            NetworkEvent(
                time_ms=self._now_ms(),
                activity=NetActivity.LISTEN,
                severity=severity,
                message=message,
            )
        )

    def request_allowed(
        self,
        actor: Actor,
        where: Where,
        policy: str,
        *,
        engine: str,
        message: str,
        detail: str = "",
    ) -> None:
        self._sink(
            HttpEvent(
                time_ms=self._now_ms(),
                method=shown_method(where.method),
                action=_ALLOWED[0],
                disposition=_ALLOWED[1],
                scheme=where.scheme,
                host=where.host,
                port=where.port,
                path=where.path,
                src=actor.src,
                process=actor.process,
                policy=policy,
                engine=engine,
                message=message,
                detail=detail,
            )
        )

    def request_denied(
        self,
        actor: Actor,
        where: Where,
        policy: str,
        *,
        engine: str,
        reason: str,
        refusal: Refusal,
        code: int | None = None,
        severity: Severity = Severity.MEDIUM,
        message: str = "",
    ) -> None:
        self._sink(
            HttpEvent(
                time_ms=self._now_ms(),
                method=shown_method(where.method),
                severity=severity,
                action=_DENIED[0],
                disposition=_DENIED[1],
                status=Status.FAILURE,
                scheme=where.scheme,
                host=where.host,
                port=where.port,
                path=where.path,
                code=code,
                src=actor.src,
                process=actor.process,
                policy=policy or "-",
                engine=engine,
                message=message,
                detail=reason,
                refusal=refusal,
            )
        )

    def model_called(
        self,
        actor: Actor,
        *,
        operation: str,
        model: str,
        provider: str,
        latency_ms: int,
        failure: str,
        tokens_in: int | None,
        tokens_out: int | None,
    ) -> None:
        """Record a request to a model, whatever came of it; without `failure` it was answered."""
        tokens = {"tokens_in": tokens_in, "tokens_out": tokens_out}
        self._sink(
            ApiEvent(
                time_ms=self._now_ms(),
                operation=operation,
                model=model,
                provider=provider,
                latency_ms=latency_ms,
                severity=Severity.LOW if failure else Severity.INFORMATIONAL,
                status=Status.FAILURE if failure else Status.SUCCESS,
                process=actor.process,
                detail=failure,
                unmapped={name: count for name, count in tokens.items() if count is not None},
            )
        )

    def stage_noticed(self, actor: Actor, where: Where, stage: str, noticed: "Noticed") -> None:
        """Record what a stage of middleware noticed, cut and without what a terminal would obey."""
        severity = _SEVERITIES.get(noticed.severity.lower(), Severity.MEDIUM)
        self._sink(
            FindingEvent(
                time_ms=self._now_ms(),
                uid=_shown(noticed.kind),
                title=_shown(noticed.label or noticed.kind),
                description=f"middleware {stage}: {noticed.count} in {_request(where)}",
                severity=severity,
                confidence=_shown(noticed.confidence),
                evidence=_evidence(actor, where, stage),
            )
        )

    def stage_skipped(self, actor: Actor, where: Where, stage: str, code: str) -> None:
        """Record that a stage which fails open failed, and what passed without it."""
        self._sink(
            FindingEvent(
                time_ms=self._now_ms(),
                uid="openshell.middleware.stage_skipped",
                title="Middleware stage skipped",
                description=f"middleware {stage} failed ({code}) for {_request(where)}",
                severity=Severity.MEDIUM,
                evidence=_evidence(actor, where, stage),
            )
        )

    def unseen(self, actor: Actor, dst: HostPort, uid: str) -> None:
        """Record that something passed which middleware that fails open did not see."""
        self._sink(
            FindingEvent(
                time_ms=self._now_ms(),
                uid=uid,
                title="Middleware did not see traffic",
                description=f"traffic to {dst} passed without the middleware of the policy",
                severity=Severity.MEDIUM,
                evidence={"process": actor.process.name},
            )
        )

    def finding(self, uid: str, title: str, description: str) -> None:
        """Record what an operator should look at; the decision itself has an event of its own."""
        self._sink(
            FindingEvent(
                time_ms=self._now_ms(),
                uid=uid,
                title=title,
                description=description,
                severity=Severity.HIGH,
                action=_DENIED[0],
                disposition=_DENIED[1],
            )
        )


def _request(where: Where) -> str:
    return f"{shown_method(where.method)} {where.place}{where.path}"


def _evidence(actor: Actor, where: Where, stage: str) -> dict[str, str | int | bool]:
    return {
        "middleware": stage,
        "host": where.host,
        "port": where.port,
        "process": actor.process.name,
    }


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:_SHOWN_FINDING])


def _parents(actor: Actor) -> dict[str, tuple[str, ...]] | None:
    """What refusals tell of the parents, too, unless it is too long for a line of the log."""
    if not actor.ancestors or sum(map(len, actor.ancestors)) > _MAX_PARENTS:
        return None
    return {"ancestors": actor.ancestors}
