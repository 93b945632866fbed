"""The supervisor at work: wires its parts together, in the order that keeps the promises.

Session and configuration are fetched side by side, while process 1 still builds the inside; the
proxy serves before anything of the agent runs; the main process starts when process 1 has shut
itself in, the session was accepted and a configuration is in force; its end is reported until the
gateway knows it. Losing the gateway changes nothing for the workload. When this ends, process 1
and everything inside ends with it. Called once, by `main`.
"""

import asyncio
import contextlib
import datetime as dt
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from openshell import ocsf
from openshell._proto import openshell_pb2
from openshell.drivers.launch import LaunchPlan
from openshell.egress.ca import SandboxCA
from openshell.egress.credentials import CredentialSet
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.policy_local import policy_local
from openshell.egress.token_grants import TokenCache
from openshell.policy.compile import quarantine
from openshell.supervisor.advisor import Advisor
from openshell.supervisor.bearer import Token
from openshell.supervisor.config_source import ConfigSource
from openshell.supervisor.ending import end_programs
from openshell.supervisor.environment import search_path
from openshell.supervisor.event_file import SETTING as EVENT_FILE
from openshell.supervisor.event_file import EventFile, RotatingFile
from openshell.supervisor.execs import Execs, ProgramContext
from openshell.supervisor.gateway_client import GatewayClient
from openshell.supervisor.isolation.launch import (
    SETUP_TIMEOUT_S,
    IsolatedSandbox,
    StartingSandbox,
)
from openshell.supervisor.isolation.model import TRUST_DIRECTORY, Layer
from openshell.supervisor.logs import Logs
from openshell.supervisor.mainproc import MainProcess
from openshell.supervisor.metering import InferenceMeter
from openshell.supervisor.middleware_messages import SandboxFacts
from openshell.supervisor.middleware_registry import MiddlewareRegistry
from openshell.supervisor.network import Egress, TrustRoots
from openshell.supervisor.output import Exit
from openshell.supervisor.phases import Phases
from openshell.supervisor.picture import picture_of
from openshell.supervisor.process import ProcessHost, SandboxGone
from openshell.supervisor.recent_denials import RecentDenials
from openshell.supervisor.relays import Relays
from openshell.supervisor.renewal import renew_token
from openshell.supervisor.reporter import PolicyReporter, report_exit
from openshell.supervisor.session import Session
from openshell.supervisor.ssh.server import SshServer
from openshell.supervisor.summaries import Summaries
from openshell.supervisor.svid import source_from
from openshell.supervisor.tasks import Tasks
from openshell.supervisor.token_events import recorded
from openshell.supervisor.token_issuer import TokenIssuer
from openshell.supervisor.version import version

__all__ = ["Supervisor"]

# After the main process ended: how long its output waits for a client that has not come yet.
_LINGER_SECONDS = 30.0
# The same when the whole sandbox was killed: only for clients that are attached already.
_GONE_SECONDS = 0.5
# After the last client got everything, for its stream to close in order.
_LEAVE_SECONDS = 0.1
# For the last log lines and the exit report of a sandbox that is being stopped.
_FLUSH_SECONDS = 1.0
_STOP_REPORT_SECONDS = 2.0
_UNKNOWN_EXIT = 255
# A start takes a tenth of this; one that hangs has something to say.
_LATER_SECONDS = 0.5
# Relays that may wait for process 1: the gateway's bound on those that nobody has taken up.
_MAX_EARLY_RELAYS = 32


@dataclass(frozen=True, slots=True)
class _Inside:
    """What exists only once process 1 has shut itself in."""

    sandbox: IsolatedSandbox
    host: ProcessHost
    main: MainProcess
    relays: Relays
    egress: Egress


class Supervisor:
    """One sandbox's supervisor; also what its session calls back."""

    def __init__(
        self,
        plan: LaunchPlan,
        starting: StartingSandbox,
        own_layers: tuple[Layer, ...],
        roots: TrustRoots,
        token: Token,
        phases: Phases,
        events: str,
    ) -> None:
        """`events` is the directory for the file of events."""
        self._plan = plan
        self._starting = starting
        self._roots = roots
        self._phases = phases
        # What holds us; beside it, once it is there, what holds the agent.
        self._layers = own_layers
        context = ocsf.EventContext(
            product_version=version(),
            hostname=socket.gethostname(),
            sandbox_id=plan.sandbox_id,
            sandbox_name=plan.name,
        )
        self._logs = Logs(plan.sandbox_id, context, level=plan.log_level or "info")
        self._tasks = Tasks(self._task_failed)
        self._client = GatewayClient(plan.endpoint, token)
        self._token = token
        self._holder = GenerationHolder(
            Generation(0, quarantine("no configuration was loaded yet", 0), CredentialSet())
        )
        self._reporter = PolicyReporter(self._client, plan.sandbox_id, self._logs)
        self._tokens = _token_cache(plan, roots, self._logs)
        self._middleware = MiddlewareRegistry(
            SandboxFacts(plan.sandbox_id, plan.name, lambda: self._config.workspace),
            lambda: self._config.wake("a middleware service is connected"),
        )
        self._config = ConfigSource(
            self._client,
            plan.sandbox_id,
            self._holder,
            self._reporter,
            self._logs,
            tokens=self._tokens,
            middleware=self._middleware,
        )
        self._event_file = EventFile(
            RotatingFile(events),
            context,
            is_on=lambda: self._config.is_on(EVENT_FILE),
            say=lambda message: self._logs.log("warn", "events", message),
        )
        self._summaries = Summaries(
            self._client,
            plan.sandbox_id,
            plan.name,
            lambda: self._config.workspace,
            say=lambda message: self._logs.log("warn", "summaries", message),
        )
        self._logs.add_sink(self._event_file.emit)
        self._logs.add_sink(self._summaries.emit)
        self._meter = InferenceMeter(self._client, self._asks_for_budget)
        self._session = Session(self._client, plan.sandbox_id, plan.instance_id, self)
        self._inside: _Inside | None = None
        # Asked for before there was an inside to serve them.
        self._early_relays: list[openshell_pb2.RelayOpen] = []
        self._accepted = asyncio.Event()
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()

    # -- life

    async def run(self) -> int:
        """Serve until the main process ended, a stop was asked for, or the sandbox died."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        start = self._tasks.start
        start(self._session.run(), "session")
        start(self._config.run(), "config")
        start(self._later(self._reporter.run), "policy reports")
        pushing = start(self._later(lambda: self._logs.push(self._client)), "log push")
        start(self._later(lambda: renew_token(self._client, self._token, self._logs)), "token")
        start(self._later(self._event_file.run), "event file")
        start(self._later(self._summaries.run), "summaries")
        start(self._later(self._meter.run), "inference meter")
        # Lets the connection to the gateway begin: it is made beside what follows.
        await asyncio.sleep(0)
        inside: _Inside | None = None
        try:
            ca = SandboxCA(dt.datetime.now(dt.UTC))
            inside = self._furnish(await self._shut_in(), ca)
            await inside.egress.start()
            self._open(inside)
            code = await self._serve(inside)
            self._started.set()
            summing = start(self._summaries.finish(), "last summaries")
            metering = start(self._meter.finish(), "last calls of models")
            # A task that has not begun would have its say too late.
            await asyncio.sleep(0)
            self._logs.finish()
            await asyncio.wait({pushing, summing, metering}, timeout=_FLUSH_SECONDS)
            return code
        finally:
            if inside is not None:
                await inside.egress.close()
            await self._tasks.close()
            await self._event_file.close()
            await self._tokens.close()
            await self._middleware.close()
            if inside is not None:
                await inside.host.close()
            await self._client.close()

    async def _later(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """What nobody waits for: once the sandbox is ready, or soon if it does not get there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LATER_SECONDS):
                await self._started.wait()
        await work()

    async def _shut_in(self) -> IsolatedSandbox:
        """Wait for process 1; raises IsolationError."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_reader(self._starting.fileno(), told.set)
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                await told.wait()
        except TimeoutError:
            # Said below, in the words of the step.
            pass
        finally:
            loop.remove_reader(self._starting.fileno())
        sandbox = self._starting.finish(timeout_s=0)
        self._phases.add_steps(sandbox.phases)
        self._phases.begin("supervisor")
        self._layers = (*sandbox.layers, *self._layers)
        return sandbox

    def _furnish(self, sandbox: IsolatedSandbox, ca: SandboxCA) -> _Inside:
        host = ProcessHost(sandbox)
        context = ProgramContext(
            host,
            self._holder,
            self._plan.environment,
            search_path(self._plan.exposure.search_path),
            TRUST_DIRECTORY,
        )
        main = MainProcess(context, self._tasks)
        relays = Relays(
            self._client,
            host,
            SshServer(context, main if self._plan.command else None, self._tasks, self._logs.log),
            Execs(context, self._tasks),
            main,
            self._tasks,
            self._logs,
            self._config.wait_loaded,
            has_main=bool(self._plan.command),
        )
        egress = self._egress(sandbox, ca)
        return _Inside(sandbox, host, main, relays, egress)

    def _egress(self, sandbox: IsolatedSandbox, ca: SandboxCA) -> Egress:
        refused = RecentDenials()
        desk = Advisor(self._client, self._plan.name, self._config, refused, self._logs.emit)
        return Egress(
            sandbox,
            self._holder,
            self._plan,
            self._roots,
            ca,
            self._logs,
            local=(policy_local(desk),),
            may_propose=desk.is_open,
            refused=refused,
            meter=self._meter,
        )

    def _asks_for_budget(self) -> bool:
        routes = self._holder.current.inference
        return routes is not None and routes.is_budgeted

    def _open(self, inside: _Inside) -> None:
        """Take up relays, those first that were asked for too early."""
        self._inside = inside
        early, self._early_relays = self._early_relays, []
        for relay in early:
            inside.relays.open(relay, self._session)

    async def _serve(self, inside: _Inside) -> int:
        ending = asyncio.ensure_future(self._stopping.wait())
        dying = asyncio.ensure_future(inside.host.gone.wait())
        try:
            running = self._tasks.start(self._start_main(inside.main), "main")
            await asyncio.wait({running, ending, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                running.cancel()
                return 0 if self._stopping.is_set() else _UNKNOWN_EXIT
            running.result()
            if not self._plan.command:
                await asyncio.wait({ending, dying}, return_when=asyncio.FIRST_COMPLETED)
                return 0 if self._stopping.is_set() else _UNKNOWN_EXIT
            finished = self._tasks.start(inside.main.wait(), "main exit")
            await asyncio.wait({finished, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not finished.done() and inside.main.execution is not None:
                # The driver's patience bounds this wait, not ours.
                await inside.main.execution.signal("TERM")
            return await self._ended(inside, await finished)
        finally:
            for waiter in (ending, dying):
                waiter.cancel()

    async def _start_main(self, main: MainProcess) -> None:
        """When the session stands and a configuration is in force."""
        await self._accepted.wait()
        self._phases.begin("ready")
        await self._config.wait_loaded()
        if self._plan.command:
            execution = await main.start(self._plan.command, tty=self._plan.tty)
            self._process_event(ocsf.ProcActivity.LAUNCH, execution.pid)
        self._phases.end()
        self._send_report()
        self._started.set()

    async def _ended(self, inside: _Inside, exit_: Exit) -> int:
        """Tell the gateway, let clients have the rest of the output, and end."""
        code = exit_.code if 0 <= exit_.code <= 255 else _UNKNOWN_EXIT
        pid = inside.main.execution.pid if inside.main.execution else 0
        self._process_event(ocsf.ProcActivity.TERMINATE, pid, exit_)
        # Its end is the sandbox's end: what it left running does not outlive it while clients
        # fetch the output.
        end_programs(inside.sandbox.init_pid)
        # Now, because clients may take their time.
        self._tasks.start(self._summaries.flush(), "summaries of a run")
        report = report_exit(self._client, self._plan.sandbox_id, self._plan.instance_id, code)
        if self._stopping.is_set():
            # Stopped on request: nobody waits for output, and the driver's patience is short.
            await asyncio.wait(
                {self._tasks.start(report, "exit report")}, timeout=_STOP_REPORT_SECONDS
            )
            return code
        await report
        patience = _GONE_SECONDS if inside.host.gone.is_set() else _LINGER_SECONDS
        leaving = self._tasks.start(inside.main.wait_delivered(patience), "last output")
        stopping = self._tasks.start(self._wait_stopping(), "stop")
        await asyncio.wait({leaving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(_LEAVE_SECONDS)
        return code

    async def _wait_stopping(self) -> None:
        await self._stopping.wait()

    # -- what the session calls

    def session_accepted(self, session_id: str) -> None:
        """Connected, for the first time or again."""
        if self._accepted.is_set():
            # What was missed while away.
            self._config.wake("")
        self._accepted.set()
        self._network_event(ocsf.NetActivity.OPEN, f"supervisor session {session_id} established")

    def session_lost(self, reason: str) -> None:
        """The workload does not notice."""
        self._network_event(ocsf.NetActivity.CLOSE, f"supervisor session ended: {reason}")

    def relay_opened(self, relay: openshell_pb2.RelayOpen) -> None:
        if self._inside is not None:
            self._inside.relays.open(relay, self._session)
        elif len(self._early_relays) < _MAX_EARLY_RELAYS:
            self._early_relays.append(relay)
        else:
            self._session.relay_result(relay.channel_id, "the sandbox is still starting")

    def relay_closed(self, channel_id: str) -> None:
        self._early_relays = [r for r in self._early_relays if r.channel_id != channel_id]
        if self._inside is not None:
            self._inside.relays.close(channel_id)

    def config_changed(self, reason: str) -> None:
        self._config.wake(reason)

    # -- small parts

    def _send_report(self) -> None:
        self._session.report(picture_of(self._phases.current(), self._layers, self._plan.exposure))

    def _process_event(
        self, activity: ocsf.ProcActivity, pid: int, exit_: Exit | None = None
    ) -> None:
        name = self._plan.command[0] if self._plan.command else "unknown"
        self._logs.emit(
            ocsf.ProcessEvent(
                time_ms=_now_ms(),
                activity=activity,
                process=ocsf.ProcessRef(name, pid),
                exit_code=exit_.code if exit_ else None,
                detail=exit_.error_message if exit_ else "",
            )
        )

    def _network_event(self, activity: ocsf.NetActivity, message: str) -> None:
        self._logs.emit(ocsf.NetworkEvent(time_ms=_now_ms(), activity=activity, message=message))

    def _task_failed(self, name: str, error: BaseException) -> None:
        """A bug or an end that its owner did not expect; never a value in the text."""
        if isinstance(error, SandboxGone):
            return
        self._logs.log("error", "supervisor", f"task '{name}' failed: {type(error).__name__}")


def _token_cache(plan: LaunchPlan, roots: TrustRoots, logs: Logs) -> TokenCache:
    """Tokens for grants; where our identity comes from is said by the plan."""
    source = source_from(plan.svid_source)
    issuer = TokenIssuer(source, lambda: roots.with_operator(plan.upstream_ca_bundle))
    return TokenCache(recorded(issuer.issue, logs.emit, _now_ms), time.monotonic)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
