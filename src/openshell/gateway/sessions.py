"""Live supervisor sessions: who is connected, whether its lease holds, what to push to it.

In memory only and per process. A session is ready once its sandbox is set up: at once for a peer
that reports no phases, else when it reports that its main process runs. The lease is renewed by
heartbeats; a lapsed one makes the sandbox show as not ready and nothing more. What a session means
for the stored phase is `compute.py`; the RPC itself is `services/session.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.gateway.events import CONFIG, SANDBOX, Bus
from openshell.gateway.tasks import Tasks

__all__ = [
    "EXTENSIONS",
    "EXT_ATTACH",
    "EXT_CONFIG_CHANGED",
    "EXT_EXEC",
    "EXT_HALF_CLOSE",
    "EXT_REPORT",
    "GATEWAY_HEARTBEAT_SECONDS",
    "HEARTBEAT_SECONDS",
    "LEASE_SECONDS",
    "Session",
    "SessionClosed",
    "Sessions",
]

HEARTBEAT_SECONDS = 5
"""What supervisors are told: a third of the lease, so that two lost ones are no outage."""
LEASE_SECONDS = 15.0
"""Silence after which a sandbox no longer shows as ready."""
GATEWAY_HEARTBEAT_SECONDS = 15.0
"""Our own heartbeats; dead peers are found by HTTP/2 keepalive, these keep middleboxes awake."""

EXT_CONFIG_CHANGED = "config-changed"
EXT_REPORT = "sandbox-report"
EXT_EXEC = "exec"
EXT_ATTACH = "attach"
EXT_HALF_CLOSE = "half-close"
EXTENSIONS = (EXT_CONFIG_CHANGED, EXT_REPORT, EXT_EXEC, EXT_ATTACH, EXT_HALF_CLOSE)

_log = logging.getLogger(__name__)

Send = Callable[[openshell_pb2.GatewayMessage], Awaitable[None]]


class SessionClosed(Exception):
    """The session ended; nothing more can be sent on it."""


class Session:
    """One supervisor's stream. Sends are serialised; everything else runs on the event loop."""

    def __init__(
        self,
        sandbox_id: str,
        instance_id: str,
        session_id: str,
        extensions: frozenset[str],
        send: Send,
    ) -> None:
        self.sandbox_id = sandbox_id
        self.instance_id = instance_id
        self.session_id = session_id
        self.extensions = extensions
        self.ready = False
        self.lapsed = False
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._send = send
        self._lock = asyncio.Lock()
        self._pending_push: str | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed.done() else "lapsed" if self.lapsed else "live"
        return f"Session({self.session_id}, sandbox={self.sandbox_id}, {state}, ready={self.ready})"

    def close(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)

    async def send(self, message: openshell_pb2.GatewayMessage) -> None:
        """One message at a time, in order. Raises `SessionClosed`."""
        async with self._lock:
            if self.closed.done():
                raise SessionClosed
            try:
                await self._send(message)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # grpc tells a dead stream by several types, none of them documented.
                self.close("the stream broke")
                raise SessionClosed from error

    def take_push(self) -> str | None:
        reason, self._pending_push = self._pending_push, None
        return reason

    def add_push(self, reason: str) -> bool:
        """True when nobody is about to push yet; reasons gather into one message."""
        first = self._pending_push is None
        reasons = [] if self._pending_push is None else self._pending_push.split(",")
        if reason not in reasons:
            reasons.append(reason)
        self._pending_push = ",".join(reasons)
        return first


class Sessions:
    """The registry: at most one session per sandbox, the newest."""

    def __init__(self, bus: Bus, tasks: Tasks, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._bus = bus
        self._tasks = tasks
        self._lease_seconds = lease_seconds
        self._by_sandbox: dict[str, Session] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._deadlines: dict[str, float] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self.paused: set[str] = set()
        """Sandboxes of this host that are held: nothing new may be asked of them."""
        bus.listen(CONFIG, self._config_changed)

    def get(self, sandbox_id: str) -> Session | None:
        return self._by_sandbox.get(sandbox_id)

    def is_current(self, session: Session) -> bool:
        return self._by_sandbox.get(session.sandbox_id) is session

    def is_leased(self, sandbox_id: str) -> bool:
        """Whether its supervisor is connected and was heard of lately."""
        session = self._by_sandbox.get(sandbox_id)
        return session is not None and not session.lapsed

    def is_ready(self, sandbox_id: str) -> bool:
        """Whether a command can be run in it now."""
        session = self._by_sandbox.get(sandbox_id)
        return session is not None and session.ready and not session.lapsed

    def register(self, session: Session) -> Session | None:
        """Makes this the sandbox's session; the one it replaces, which the caller closes."""
        previous = self._by_sandbox.get(session.sandbox_id)
        self._by_sandbox[session.sandbox_id] = session
        self.renew(session)
        for waiter in self._waiters.pop(session.sandbox_id, ()):
            if not waiter.done():
                waiter.set_result(None)
        return previous

    def unregister(self, session: Session) -> bool:
        """True when it was the current one, so that its end means something."""
        session.close("ended")
        if not self.is_current(session):
            return False
        del self._by_sandbox[session.sandbox_id]
        self._deadlines.pop(session.sandbox_id, None)
        timer = self._timers.pop(session.sandbox_id, None)
        if timer is not None:
            timer.cancel()
        return True

    def mark_not_ready(self, sandbox_id: str) -> None:
        """No new command goes through it: the sandbox is being stopped or deleted."""
        session = self._by_sandbox.get(sandbox_id)
        if session is not None:
            session.ready = False

    def disconnect(self, sandbox_id: str, reason: str) -> None:
        """Ends a sandbox's session from our side: it is stopped or deleted."""
        session = self._by_sandbox.get(sandbox_id)
        if session is not None:
            session.ready = False
            session.close(reason)

    def renew(self, session: Session) -> None:
        """Something was heard of the supervisor."""
        if not self.is_current(session):
            return
        loop = asyncio.get_running_loop()
        self._deadlines[session.sandbox_id] = loop.time() + self._lease_seconds
        if session.lapsed:
            session.lapsed = False
            self._bus.publish(SANDBOX, session.sandbox_id)
        if session.sandbox_id not in self._timers:
            self._timers[session.sandbox_id] = loop.call_later(
                self._lease_seconds, self._check_lease, session.sandbox_id
            )

    def _check_lease(self, sandbox_id: str) -> None:
        del self._timers[sandbox_id]
        session = self._by_sandbox.get(sandbox_id)
        if session is None:
            return
        loop = asyncio.get_running_loop()
        remaining = self._deadlines[sandbox_id] - loop.time()
        if remaining > 0:
            self._timers[sandbox_id] = loop.call_later(remaining, self._check_lease, sandbox_id)
            return
        session.lapsed = True
        _log.warning("sandbox %s: its supervisor is silent, not ready", sandbox_id)
        self._bus.publish(SANDBOX, sandbox_id)

    async def wait(self, sandbox_id: str, seconds: float) -> Session | None:
        """The sandbox's session, waiting for one to connect; None after the time."""
        session = self._by_sandbox.get(sandbox_id)
        if session is not None:
            return session
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(sandbox_id, set())
        waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return None
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiters.pop(sandbox_id, None)
        return self._by_sandbox.get(sandbox_id)

    async def heartbeats(self, *, seconds: float = GATEWAY_HEARTBEAT_SECONDS) -> None:
        """Runs for ever: our heartbeat to every session."""
        message = openshell_pb2.GatewayMessage(heartbeat=openshell_pb2.GatewayHeartbeat())
        while True:
            await asyncio.sleep(seconds)
            for session in list(self._by_sandbox.values()):
                # Each by itself: a peer that does not read must not hold up the others.
                self._tasks.spawn("heartbeat", self._send_quietly(session, message))

    def abandon(self, reason: str) -> None:
        """The gateway ends: every session is closed, and none of their ends means anything."""
        sessions = list(self._by_sandbox.values())
        self._by_sandbox.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for session in sessions:
            session.close(reason)

    def _config_changed(self, sandbox_id: str, reason: object) -> None:
        session = self._by_sandbox.get(sandbox_id)
        if session is None or EXT_CONFIG_CHANGED not in session.extensions:
            return
        if session.add_push(str(reason)):
            self._tasks.spawn("config push", self._push(session))

    async def _push(self, session: Session) -> None:
        reason = session.take_push()
        if reason is None:
            return
        changed = openshell_ext_pb2.ConfigChanged(reason=reason)
        await self._send_quietly(session, openshell_pb2.GatewayMessage(config_changed=changed))

    async def _send_quietly(self, session: Session, message: openshell_pb2.GatewayMessage) -> None:
        try:
            await session.send(message)
        except SessionClosed:
            _log.debug("sandbox %s: its session ended before a message", session.sandbox_id)
