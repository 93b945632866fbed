"""One client connection of the proxy: what is known of it and what runs on it at this moment.

The pipeline's coroutine owns it; the sweeper looks at its deadline and a reload has it judged again.
Both only end things (`abort`); the coroutine notices by its stream. `Services` is what all
connections of one sandbox share.
"""

import asyncio
import datetime as dt
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from openshell.egress.admission import (
    Admission,
    Admitted,
    DestinationRefused,
    NotAdmitted,
    is_guarded,
)
from openshell.egress.ca import SandboxCA
from openshell.egress.denials import Denials
from openshell.egress.events import Actor, EventLog
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.http1 import FieldMemory
from openshell.egress.http2.shares import Shares
from openshell.egress.identity import Identity, IdentityUnknown, Peers
from openshell.egress.inference.metering import Meter, Unmetered
from openshell.egress.judging import Judged, may_stay
from openshell.egress.limits import Limits
from openshell.egress.middleware import WorkQueue
from openshell.egress.relay import Relay
from openshell.egress.staged import must_be_seen
from openshell.egress.stream import SILENT, Stream
from openshell.egress.upstream import Upstreams
from openshell.egress.websocket.messages import AssemblyBudget
from openshell.ocsf import HostPort, ProcessRef
from openshell.policy.decide import RequestDenied

__all__ = ["ClientConnection", "RawAs", "Services"]


class RawAs(Enum):
    """Why bytes are copied unseen, which says what must stay true of the policy meanwhile."""

    # Captured, and nobody has looked: only a plain TCP endpoint allows that.
    TCP = "tcp"
    # The policy wants no look at what is inside.
    OPAQUE = "opaque"
    # A tunnel that turned out to speak nothing we know.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Services:
    """What the connections of one sandbox share."""

    holder: GenerationHolder
    admission: Admission
    upstreams: Upstreams
    ca: SandboxCA | None
    log: EventLog
    denials: Denials
    limits: Limits
    clock: Callable[[], float]
    now_ms: Callable[[], int]
    large_bodies: asyncio.Semaphore
    # Held by the one request whose content is being read.
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    assemblies: AssemblyBudget = field(default_factory=AssemblyBudget)
    stages: WorkQueue = field(default_factory=WorkQueue)
    shares: Shares = field(default_factory=Shares)
    meter: Meter = field(default_factory=Unmetered)

    def server_context(self, host: str, *, h2: bool = False) -> ssl.SSLContext | None:
        if self.ca is None:
            return None
        now = dt.datetime.fromtimestamp(self.now_ms() / 1000, dt.UTC)
        return self.ca.server_context(host, now, h2=h2)


class OpenWebSocket(Protocol):
    """What a reload sees of a WebSocket."""

    def policy_changed(self) -> None:
        """End it: the policy that is now in force does not allow it."""


class OpenSession(Protocol):
    """What a reload and the sweeper see of a connection that carries many requests at a time."""

    def sweep(self, now: float) -> None:
        """End what has taken too long."""

    def reevaluate(self, generation: Generation) -> None:
        """Judge its requests again; the connection itself stays."""

    def policy_changed(self) -> None:
        """End it: the policy that is now in force does not allow it."""


class ClientConnection:
    """An accepted connection."""

    __slots__ = (
        "_services",
        "_unsent",
        "_unsent_since",
        "actor",
        "admitted",
        "deadline",
        "field_memory",
        "identity",
        "is_captured",
        "judged",
        "peers",
        "progress",
        "raw_as",
        "relay",
        "session",
        "stream",
        "upstream_due",
        "websocket",
    )

    def __init__(
        self, services: Services, stream: Stream, peers: Peers, *, is_captured: bool
    ) -> None:
        self._services = services
        self.stream = stream
        self.peers = peers
        self.is_captured = is_captured
        self.identity: Identity | IdentityUnknown | None = None
        self.actor = Actor(HostPort(*peers.client))
        # When the sweeper ends this connection; None while something else bounds it.
        self.deadline: float | None = None
        # The last time a running exchange moved, for clients that have ended their direction.
        self.progress = 0.0
        # When the upstream must have moved; None while nobody waits for it.
        self.upstream_due: float | None = None
        # What the client has not taken at the last sweep, and since when it takes nothing.
        self._unsent = 0
        self._unsent_since = 0.0
        # What a reload judges again: an open connection, a running exchange, a raw copy.
        self.admitted: Admitted | None = None
        self.judged: Judged | None = None
        self.relay: Relay | None = None
        self.websocket: OpenWebSocket | None = None
        self.session: OpenSession | None = None
        # Set as soon as the connection is to be copied, also while its upstream is being dialled.
        self.raw_as: RawAs | None = None
        self.field_memory = FieldMemory()

    def within(self, seconds: float) -> None:
        self.deadline = self._services.clock() + seconds

    def upstream_within(self, seconds: float) -> None:
        self.upstream_due = self._services.clock() + seconds

    async def identify(self) -> Identity | IdentityUnknown | None:
        """Name the program behind the connection, for decisions and events."""
        identity = await self._services.admission.identify(self.peers)
        self.identity = identity
        if isinstance(identity, Identity):
            process = ProcessRef(identity.binary, identity.pid)
            self.actor = Actor(self.actor.src, process, identity.ancestors)
        return identity

    def sweep(self, now: float) -> None:
        """End what has taken too long."""
        unsent = self.stream.unsent
        if unsent != self._unsent:
            # A slow reader is alive, also one that has ended its own direction.
            self._unsent, self._unsent_since = unsent, now
            self.progress = now
        if self.deadline is not None and now > self.deadline:
            self.deadline = None
            self._cut("timed out")
        elif unsent and now > self._unsent_since + self._services.limits.stalled_reader_seconds:
            self.stream.abort("the client does not read")
        elif (
            self.judged is not None
            and self.stream.at_eof
            and now > self.progress + self._services.limits.half_closed_seconds
        ):
            self.stream.abort("the client has gone")
        elif self.upstream_due is not None and now > self.upstream_due and not unsent:
            self.upstream_due = None
            if self.stream.partner is not None:
                self.stream.partner.abort(SILENT)
        elif self.session is not None:
            self.session.sweep(now)

    def reevaluate(self, generation: Generation) -> None:
        """Judge what is running under a new generation; end only what it does not allow."""
        admitted = self.admitted
        if admitted is None:
            return
        admission = self._services.admission
        verdict: Admitted | NotAdmitted | RequestDenied | None
        if self.judged is not None:
            verdict = may_stay(admission, generation, self.judged)
        else:
            verdict = admission.readmit(admitted, generation)
            if isinstance(verdict, Admitted):
                self.admitted = verdict
                if self.session is not None:
                    self.session.reevaluate(generation)
                if self._may_stay_raw(verdict, generation):
                    return
        if verdict is None:
            return
        # Ended once; whoever is still busy with it finds it admitted no more.
        self.admitted = None
        request = admitted.request
        self._services.log.connection_closed(
            self.actor,
            HostPort(request.host, request.port),
            admitted.decision.matched_policy,
            f"the policy changed: {_reason(verdict)}",
        )
        if self.relay is not None:
            self.relay.close("the policy changed")
        elif self.websocket is not None:
            self.websocket.policy_changed()
        elif self.session is not None:
            self.session.policy_changed()
        else:
            self._cut("the policy changed")

    def _cut(self, reason: str) -> None:
        """Drop the client; one that is in the middle of a response must not take it for whole."""
        if self.judged is None:
            self.stream.abort(reason)
        else:
            self.stream.reset(reason)

    def _may_stay_raw(self, admitted: Admitted, generation: Generation) -> bool:
        """Say whether a raw copy is still what the policy wants; other connections always may."""
        if self.raw_as is None:
            return True
        decision = admitted.decision
        if is_guarded(decision) or must_be_seen(generation, admitted):
            return False
        match self.raw_as:
            case RawAs.TCP:
                return decision.is_tcp
            case RawAs.OPAQUE:
                return decision.is_opaque
            case RawAs.UNKNOWN:
                return not decision.l7_configs


def _reason(verdict: Admitted | NotAdmitted | RequestDenied) -> str:
    match verdict:
        case Admitted():
            return "this connection would be inspected now"
        case DestinationRefused():
            return verdict.refused.reason
        case _:
            return verdict.reason
