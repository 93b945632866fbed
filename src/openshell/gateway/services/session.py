"""RPCs of supervisors about their run: the session, relay streams, the main process's exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from openshell._proto import openshell_pb2
from openshell.gateway.auth.principal import require_sandbox
from openshell.gateway.compute import Compute
from openshell.gateway.errors import failed_precondition, invalid_argument
from openshell.gateway.limits import check_required
from openshell.gateway.records import Kind
from openshell.gateway.relay import Relays
from openshell.gateway.sessions import (
    EXT_REPORT,
    EXTENSIONS,
    HEARTBEAT_SECONDS,
    Session,
    SessionClosed,
    Sessions,
)
from openshell.gateway.store import Store, StoreError
from openshell.gateway.tasks import Tasks

__all__ = ["SessionService"]

EXTENSIONS_MAX = 64
"""Names in a hello: a handful exist."""
INSTANCE_ID_MAX = 128
"""A UUID is usual."""

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs
_log = logging.getLogger(__name__)


class SessionService:
    """What a supervisor calls, apart from configuration and logs."""

    def __init__(
        self,
        store: Store,
        compute: Compute,
        sessions: Sessions,
        relays: Relays,
        tasks: Tasks,
        *,
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._compute = compute
        self._sessions = sessions
        self._relays = relays
        self._tasks = tasks
        self._new_id = new_id

    async def sandbox_exists(self, sandbox_id: str) -> bool:
        """For the interceptor; a connected session spares the question."""
        if self._sessions.get(sandbox_id) is not None:
            return True
        row = await self._store.look_up(lambda tx: tx.get_by_id(Kind.SANDBOX, sandbox_id))
        return row is not None

    async def ConnectSupervisor(self, _requests: Any, context: Any) -> None:  # noqa: N802
        """One session, from hello to its end. Reads and writes the stream directly."""
        session = await self._accept(context)
        previous = self._sessions.register(session)
        if previous is not None:
            previous.close("superseded by a newer session")
        _log.info("sandbox %s: session %s connected", session.sandbox_id, session.session_id)
        try:
            await session.send(_accepted(session))
            if previous is not None:
                await self._relays.resend(session)
            await self._compute.session_connected(session)
            await self._serve(session, context)
        except SessionClosed:
            pass
        finally:
            reason = session.closed.result() if session.closed.done() else "the stream ended"
            if self._sessions.unregister(session):
                self._relays.fail_sandbox(session.sandbox_id, "the supervisor's session ended")
                self._tasks.spawn("session lost", self._lost(session))
            _log.info("sandbox %s: session ended: %s", session.sandbox_id, reason)

    async def _accept(self, context: Any) -> Session:
        first = await context.read()
        if first is _EOF or first.WhichOneof("payload") != "hello":
            raise invalid_argument("the first message of a session must be hello")
        hello = first.hello
        check_required("hello.sandbox_id", hello.sandbox_id)
        if len(hello.extensions) > EXTENSIONS_MAX or len(hello.instance_id) > INSTANCE_ID_MAX:
            raise invalid_argument("hello is larger than any supervisor's")
        # The same sandbox as the caller's, which exists: the interceptor has asked.
        require_sandbox(hello.sandbox_id)
        return Session(
            hello.sandbox_id,
            hello.instance_id,
            self._new_id(),
            frozenset(hello.extensions) & frozenset(EXTENSIONS),
            context.write,
        )

    async def _serve(self, session: Session, context: Any) -> None:
        reader = self._tasks.spawn("session reader", self._read(session, context))
        try:
            ends: list[asyncio.Future[Any]] = [reader, session.closed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                # A broken stream is an end like any other.
                reader.exception()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    async def _read(self, session: Session, context: Any) -> None:
        while (message := await context.read()) is not _EOF:
            self._sessions.renew(session)
            match message.WhichOneof("payload"):
                case "relay_open_result":
                    self._relays.refused(session.sandbox_id, message.relay_open_result)
                case "report" if EXT_REPORT in session.extensions:
                    await self._report(session, message.report)
                case _:
                    # Heartbeats have done their work above; the rest is informational.
                    pass

    async def _report(self, session: Session, report: Any) -> None:
        if not self._sessions.is_current(session):
            return
        try:
            await self._compute.reported(session, report)
        except StoreError as error:
            # The supervisor sends the whole picture again at its next change.
            _log.warning("sandbox %s: a report was not stored: %s", session.sandbox_id, error)

    async def _lost(self, session: Session) -> None:
        try:
            await self._compute.session_lost(session)
        except StoreError as error:
            _log.warning(
                "sandbox %s: the end of its session was not stored: %s", session.sandbox_id, error
            )

    async def RelayStream(self, _requests: Any, context: Any) -> None:  # noqa: N802
        """Gives this stream to whoever asked for the channel and waits until they are done."""
        first = await context.read()
        if first is _EOF or first.WhichOneof("payload") != "init" or not first.init.channel_id:
            raise invalid_argument("the first frame of a relay must be init with a channel_id")
        principal = require_sandbox()
        relay = self._relays.claim(first.init.channel_id, principal.sandbox_id, context)
        try:
            cut = await asyncio.shield(relay.ended)
        finally:
            relay.abort("the supervisor's stream ended")
        if cut is not None:
            await context.abort(grpc.StatusCode.CANCELLED, cut)

    async def ReportMainProcessExit(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ReportMainProcessExitRequest, _context: Any
    ) -> openshell_pb2.ReportMainProcessExitResponse:
        check_required("sandbox_id", request.sandbox_id)
        check_required("instance_id", request.instance_id)
        require_sandbox(request.sandbox_id)
        try:
            await self._compute.main_exited(
                request.sandbox_id, request.instance_id, request.exit_code
            )
        except StoreError as error:
            raise failed_precondition(f"the exit could not be stored: {error}") from error
        return openshell_pb2.ReportMainProcessExitResponse()


def _accepted(session: Session) -> openshell_pb2.GatewayMessage:
    return openshell_pb2.GatewayMessage(
        session_accepted=openshell_pb2.SessionAccepted(
            session_id=session.session_id,
            heartbeat_interval_secs=HEARTBEAT_SECONDS,
            extensions=EXTENSIONS,
        )
    )
