"""The session with the gateway: hello, heartbeats, what the gateway asks for, and coming back.

One stream at a time. Losing it is normal (a gateway restarts) and changes nothing for the workload;
the session comes back by itself, soon at first and later every half minute. Nothing is decided
here: what arrives goes to the handler, what is sent was asked for by it.

Both sides announce the extensions they understand; what the gateway did not announce is not sent.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import grpc.aio

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.supervisor.backoff import Backoff
from openshell.supervisor.gateway_client import END, GatewayClient, sentence_of

__all__ = ["EXTENSIONS", "Session", "SessionHandler"]

EXTENSIONS = ("config-changed", "sandbox-report", "exec", "attach", "half-close")

# A local gateway that restarts listens again within a second, and asking a Unix socket costs
# nothing: a few seconds at most. For gateways elsewhere the ceiling is the contract's.
FIRST_WAIT = 0.05
LONGEST_WAIT = 3.0
# The lease of Ready is renewed at this pace, whatever a gateway advertises beyond it.
_HEARTBEAT_SECONDS = 5.0
# Messages that may wait for the stream; results of relays and reports, a few bytes each.
_MAX_WAITING = 256
# A gateway that accepts a stream and then says nothing is not one.
_ACCEPT_SECONDS = 20.0


class SessionHandler(Protocol):
    """What the supervisor does about its session; no call may block."""

    def session_accepted(self, session_id: str) -> None: ...

    def session_lost(self, reason: str) -> None: ...

    def relay_opened(self, relay: openshell_pb2.RelayOpen) -> None: ...

    def relay_closed(self, channel_id: str) -> None: ...

    def config_changed(self, reason: str) -> None: ...


class _Rejected(Exception):
    """The gateway does not want this session."""


class Session:
    """Keeps one session up until it is cancelled."""

    def __init__(
        self,
        client: GatewayClient,
        sandbox_id: str,
        instance_id: str,
        handler: SessionHandler,
        *,
        sleep: Callable[[float], "asyncio.Future[None]"] | None = None,
    ) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._instance_id = instance_id
        self._handler = handler
        self._sleep = sleep or (lambda delay: asyncio.ensure_future(asyncio.sleep(delay)))
        self._backoff = Backoff(FIRST_WAIT, LONGEST_WAIT)
        self._outgoing: asyncio.Queue[openshell_pb2.SupervisorMessage] = asyncio.Queue(_MAX_WAITING)
        self._understood: frozenset[str] = frozenset()
        self._connected = False
        self._report: openshell_ext_pb2.SandboxReport | None = None

    def __repr__(self) -> str:
        return f"<Session {'connected' if self._connected else 'away'}>"

    async def run(self) -> None:
        """Connect, serve, come back; forever."""
        while True:
            reason = "the gateway ended the session"
            try:
                await self._once()
            except grpc.aio.AioRpcError as error:
                reason = sentence_of(error)
            except _Rejected as error:
                reason = f"rejected: {error}"
            except TimeoutError:
                reason = "the gateway did not answer the hello"
            finally:
                was_connected, self._connected = self._connected, False
                if was_connected:
                    self._handler.session_lost(reason)
            await self._sleep(self._backoff.next())

    def report(self, report: openshell_ext_pb2.SandboxReport) -> None:
        """Tell the gateway the current picture, now or when it is back."""
        self._report = report
        if self._connected and "sandbox-report" in self._understood:
            self._put(openshell_pb2.SupervisorMessage(report=report))

    def relay_result(self, channel_id: str, error: str = "") -> None:
        """Answer a relay_open."""
        self._put(
            openshell_pb2.SupervisorMessage(
                relay_open_result=openshell_pb2.RelayOpenResult(
                    channel_id=channel_id, success=not error, error=error
                )
            )
        )

    def _put(self, message: openshell_pb2.SupervisorMessage) -> None:
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            # The stream does not move: what waits is lost with it, and the gateway's own timeouts
            # end what it waited for.
            return

    async def _once(self) -> None:
        call = self._client.connect_supervisor()
        try:
            hello = openshell_pb2.SupervisorHello(
                sandbox_id=self._sandbox_id, instance_id=self._instance_id, extensions=EXTENSIONS
            )
            async with asyncio.timeout(_ACCEPT_SECONDS):
                await call.write(openshell_pb2.SupervisorMessage(hello=hello))
                first = await call.read()
            accepted = self._accept(first)
            self._handler.session_accepted(accepted.session_id)
            writer = asyncio.get_running_loop().create_task(
                self._write(call, accepted.heartbeat_interval_secs), name="session writer"
            )
            try:
                while (message := await call.read()) is not END:
                    self._dispatch(message)
            finally:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            await call.code()
        finally:
            call.cancel()

    def _accept(self, first: Any) -> openshell_pb2.SessionAccepted:
        if first is END:
            raise _Rejected("the stream ended before the session was accepted")
        kind = first.WhichOneof("payload")
        if kind == "session_rejected":
            raise _Rejected(first.session_rejected.reason[:300])
        if kind != "session_accepted":
            raise _Rejected("the first answer was something else")
        accepted: openshell_pb2.SessionAccepted = first.session_accepted
        while not self._outgoing.empty():
            # For a stream that is gone.
            self._outgoing.get_nowait()
        self._understood = frozenset(accepted.extensions)
        self._connected = True
        self._backoff.reset()
        if self._report is not None:
            self.report(self._report)
        return accepted

    async def _write(
        self,
        call: Any,
        advertised: int,
    ) -> None:
        """The only writer of the stream: what waits, and a heartbeat when its time has come."""
        interval = min(float(advertised) or _HEARTBEAT_SECONDS, _HEARTBEAT_SECONDS)
        loop = asyncio.get_running_loop()
        due = loop.time() + interval
        heartbeat = openshell_pb2.SupervisorMessage(heartbeat=openshell_pb2.SupervisorHeartbeat())
        try:
            while True:
                try:
                    async with asyncio.timeout_at(due):
                        message = await self._outgoing.get()
                except TimeoutError:
                    message = heartbeat
                    due = loop.time() + interval
                await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader sees the same end with its reason.
            return

    def _dispatch(self, message: openshell_pb2.GatewayMessage) -> None:
        match message.WhichOneof("payload"):
            case "relay_open":
                self._handler.relay_opened(message.relay_open)
            case "relay_close":
                self._handler.relay_closed(message.relay_close.channel_id)
            case "config_changed":
                self._handler.config_changed(message.config_changed.reason[:100])
            case _:
                # Heartbeats; and what a newer gateway may say to those who understand it.
                return
