"""The egress proxy of one sandbox: listeners in, the pipeline behind them, everything ended together.

`EgressProxy` is the room's front door. The supervisor gives it sockets that were made inside the
sandbox's network namespace and the parts that know the host; it accepts, serves, sweeps what takes
too long, has live connections judged again on every new generation, and answers names. It reads no
configuration and makes no decision.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from openshell.egress.admission import Admission
from openshell.egress.ca import SandboxCA
from openshell.egress.capture import CaptureAdapter
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.corporate import CorporateProxy, CorporateTunnels
from openshell.egress.denials import Denials
from openshell.egress.destination import HostFacts
from openshell.egress.dns_server import DnsRefusal, DnsServer, SyntheticTable
from openshell.egress.events import EventLog, Sink
from openshell.egress.explicit import ExplicitProxy
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.holding import LARGE_BODIES
from openshell.egress.identity import PeerIdentifier, Peers
from openshell.egress.inference.door import inference_local
from openshell.egress.inference.metering import Meter, Unmetered
from openshell.egress.limits import Limits
from openshell.egress.listener import AcceptLoop
from openshell.egress.local_names import LocalName, LocalNames
from openshell.egress.pipeline import Pipeline
from openshell.egress.resolve import NameResolver
from openshell.egress.stream import open_stream
from openshell.egress.upstream import Upstreams
from openshell.ocsf import Severity

__all__ = ["EgressProxy", "Listeners"]

# How often overdue connections are looked for; deadlines are that coarse.
_SWEEP_SECONDS: Final = 0.5
# A refused name is reported once in this time, for as many names at once.
_NAME_REPORT_SECONDS: Final = 60.0
_NAMES_REPORTED: Final = 1024


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Listeners:
    """Sockets made inside the sandbox's network namespace; the proxy owns them from now on."""

    proxy: Sequence[socket.socket] = ()
    capture: Sequence[socket.socket] = ()
    dns_udp: Sequence[socket.socket] = ()
    dns_tcp: Sequence[socket.socket] = ()


class _RefusedNames:
    """Reports refused names, but not every time a client asks for one again."""

    def __init__(self, log: EventLog, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._reported: dict[str, float] = {}

    def report(self, refusal: DnsRefusal) -> None:
        now = self._clock()
        key = refusal.host or ""
        if now - self._reported.get(key, -_NAME_REPORT_SECONDS) < _NAME_REPORT_SECONDS:
            return
        self._reported.pop(key, None)
        if len(self._reported) >= _NAMES_REPORTED:
            oldest = next(iter(self._reported))
            if now - self._reported[oldest] < _NAME_REPORT_SECONDS:
                return
            del self._reported[oldest]
        self._reported[key] = now
        self._log.name_refused(refusal.host or "-", refusal.reason)


class EgressProxy:
    """Everything a sandbox sends goes through one of these."""

    def __init__(
        self,
        listeners: Listeners,
        holder: GenerationHolder,
        identifier: PeerIdentifier,
        *,
        resolver: NameResolver,
        ca: SandboxCA | None,
        upstream_tls: ssl.SSLContext,
        events: Sink,
        facts: HostFacts,
        sandbox: str,
        limits: Limits | None = None,
        relaxed_identity: bool = False,
        hostname: str = "",
        local: Sequence[LocalName] = (),
        corporate: CorporateProxy | None = None,
        may_propose: Callable[[], bool] = lambda: False,
        meter: Meter | None = None,
        now_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        """`sandbox` is the name in suggested commands, `hostname` the sandbox's own.

        `local` are the names that are served here, `may_propose` says whether refusals tell an agent
        that it can propose a change.
        """
        clock = asyncio.get_running_loop().time
        limits = limits or Limits()
        self._listeners = listeners
        self._log = EventLog(events, now_ms)
        self._upstreams = Upstreams(
            upstream_tls,
            clock=clock,
            dial_seconds=limits.dial_seconds,
            handshake_seconds=limits.handshake_seconds,
            corporate=None
            if corporate is None
            else CorporateTunnels(corporate, resolver.resolve, clock=clock),
        )
        self._services = Services(
            holder=holder,
            admission=Admission(holder, identifier, resolver, facts, relaxed=relaxed_identity),
            upstreams=self._upstreams,
            ca=ca,
            log=self._log,
            denials=Denials(sandbox, may_propose),
            limits=limits,
            clock=clock,
            now_ms=now_ms,
            large_bodies=asyncio.Semaphore(LARGE_BODIES),
            meter=meter or Unmetered(),
        )
        self._dns, self._explicit, self._capture = _doors(
            self._services, listeners, hostname, LocalNames(local)
        )
        self._connections: set[ClientConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Counted from the moment of accepting, before there is a connection object.
        self._open = 0
        self._room = asyncio.Event()
        self._room.set()
        self._busy = asyncio.Event()
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._connections)

    async def start(self) -> None:
        """Begin to accept. Until then the kernel keeps clients waiting."""
        self._unsubscribe = self._services.holder.subscribe(self._reload)
        await self._dns.start(tuple(self._listeners.dns_udp), tuple(self._listeners.dns_tcp))
        for sock in self._listeners.proxy:
            self._accept(sock, is_captured=False)
        for sock in self._listeners.capture:
            self._accept(sock, is_captured=True)
        self._spawn(self._sweep(), "sweep connections")
        self._log.listener("the egress proxy accepts connections", Severity.INFORMATIONAL)
        self._say_what_is_missing(self._services.holder.current)

    async def close(self) -> None:
        """End everything: listeners, connections, names."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._dns.close()
        self._upstreams.close()
        for sock in (*self._listeners.proxy, *self._listeners.capture):
            sock.close()

    def _accept(self, listener: socket.socket, *, is_captured: bool) -> None:
        def handle(accepted: socket.socket) -> None:
            self._open += 1
            self._busy.set()
            self._spawn(self._serve(accepted, is_captured=is_captured), "client connection")

        loop = AcceptLoop(listener, handle, self._has_room, self._log)
        self._spawn(loop.run(), "accept connections")

    async def _has_room(self) -> None:
        while self._open >= self._services.limits.max_connections:
            self._room.clear()
            await self._room.wait()

    async def _serve(self, accepted: socket.socket, *, is_captured: bool) -> None:
        try:
            await self._serve_one(accepted, is_captured=is_captured)
        finally:
            self._open -= 1
            self._room.set()

    async def _serve_one(self, accepted: socket.socket, *, is_captured: bool) -> None:
        try:
            peers = Peers(_address(accepted.getpeername()), _address(accepted.getsockname()))
            stream = await open_stream(accepted)
        except OSError:
            # The client has gone already.
            accepted.close()
            return
        connection = ClientConnection(self._services, stream, peers, is_captured=is_captured)
        self._connections.add(connection)
        try:
            if is_captured:
                await self._capture.serve(connection)
            else:
                await self._explicit.serve(connection)
        except asyncio.CancelledError:
            connection.stream.abort("the proxy ends")
            raise
        except ConnectionError:
            # Benign: the client or the upstream went away; what was decided has been recorded.
            pass
        except Exception as error:
            # A bug of ours. The client gets nothing more, and the operator must hear of it.
            self._log.connection_failed(
                connection.actor, None, f"internal error: {type(error).__name__}"
            )
            raise
        finally:
            # The connection counts and is swept until the client has taken its last bytes.
            try:
                await connection.stream.end()
            finally:
                connection.stream.abort("the proxy ends")
                self._connections.discard(connection)

    async def _sweep(self) -> None:
        while True:
            if not self._open and not len(self._upstreams._pool):
                # An idle sandbox wakes nobody.
                self._busy.clear()
                await self._busy.wait()
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._services.clock()
            for connection in tuple(self._connections):
                connection.sweep(now)
            self._upstreams.tidy()

    def _reload(self, generation: Generation) -> None:
        self._say_what_is_missing(generation)
        for connection in tuple(self._connections):
            connection.reevaluate(generation)
        self._upstreams.drop_older(generation.credentials.epoch)

    def _say_what_is_missing(self, generation: Generation) -> None:
        if generation.policy.has_tcp and not self._listeners.capture:
            self._log.listener(
                "protocol: tcp works through CONNECT only: this kernel captures no connections",
                Severity.MEDIUM,
            )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.listener(
                f"task '{task.get_name()}' failed: {type(error).__name__}", Severity.HIGH
            )
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a task of the egress proxy failed", "exception": error, "task": task}
            )


def _doors(
    services: Services, listeners: Listeners, hostname: str, local: LocalNames
) -> tuple[DnsServer, ExplicitProxy, CaptureAdapter]:
    """Make what answers clients; names and captured connections share one table."""
    names = SyntheticTable(services.clock)
    server = DnsServer(
        names,
        could_resolve=lambda host: host in local or services.admission.could_resolve(host),
        on_refused=_RefusedNames(services.log, services.clock).report,
        clock=services.clock,
        own_hostname=hostname,
    )
    pipeline = Pipeline(services, local)
    local.add(inference_local(pipeline))
    own = {str(sock.getsockname()[0]) for sock in (*listeners.proxy, *listeners.dns_udp)}
    capture = CaptureAdapter(
        pipeline,
        names=names,
        own_addresses=frozenset(own - {"0.0.0.0", "::"}),
    )
    return server, ExplicitProxy(pipeline), capture


def _address(name: tuple[Any, ...]) -> tuple[str, int]:
    """Take address and port of a socket name, without the zone of an IPv6 address."""
    return str(name[0]).partition("%")[0], int(name[1])
