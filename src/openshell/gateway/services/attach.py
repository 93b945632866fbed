"""Attach: the caller's terminal at the main process of a sandbox, from creation to exit.

An extension of ours. Phases are told until the supervisor takes the relay; then its frames pass as
they are. What the main process wrote before is kept by the supervisor. Leaving detaches; it never
ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.gateway import status
from openshell.gateway.compute import Compute
from openshell.gateway.errors import (
    ApiError,
    failed_precondition,
    invalid_argument,
    not_found,
    unavailable,
)
from openshell.gateway.events import SANDBOX, Bus
from openshell.gateway.hosting import refuse_foreign
from openshell.gateway.limits import check_required
from openshell.gateway.phases import Phase
from openshell.gateway.records import Kind, load
from openshell.gateway.relay import Relay, RelayBroken, Relays
from openshell.gateway.services.exec import DEFAULT_SIZE, chunks
from openshell.gateway.services.readiness import paused_error
from openshell.gateway.sessions import EXT_ATTACH, Sessions
from openshell.gateway.store import Store, Tx
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace

__all__ = ["AttachService"]

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs
_log = logging.getLogger(__name__)

_INPUT = frozenset({"stdin_eof", "resize", "signal"})
_PHASE_NAME = openshell_pb2.SandboxPhase.Name
Frame = openshell_ext_pb2.ProcessFrame


class AttachService:
    """openshell.ext.v1.Sandboxes."""

    def __init__(
        self,
        store: Store,
        compute: Compute,
        sessions: Sessions,
        relays: Relays,
        bus: Bus,
        tasks: Tasks,
    ) -> None:
        self._store = store
        self._compute = compute
        self._sessions = sessions
        self._relays = relays
        self._bus = bus
        self._tasks = tasks

    async def Attach(self, _requests: Any, context: Any) -> None:  # noqa: N802
        first = await context.read()
        if first is _EOF or first.WhichOneof("request") != "start":
            raise invalid_argument("the first message of an attachment must be start")
        start = first.start
        check_required("start.name", start.name)
        sandbox_id = await self._find(start)
        with self._bus.subscribe([SANDBOX], sandbox_id) as changes:
            ended = await self._wait_for_main(sandbox_id, context, changes)
        if ended is not None:
            await context.write(_event(Frame(exit=ended)))
            return
        try:
            relay = await self._relays.open(
                sandbox_id, openshell_pb2.RelayOpen(attach=_target(start)), extension=EXT_ATTACH
            )
        except ApiError:
            # It may have ended between the two, supervisor and all; then the record knows how.
            sandbox = await self._read(sandbox_id)
            if not sandbox.status.HasField("exit_code"):
                raise
            await context.write(_event(Frame(exit=_recorded_exit(sandbox))))
            return
        await self._carry(relay, context)

    async def _find(self, start: openshell_ext_pb2.AttachStart) -> str:
        def read(tx: Tx) -> str:
            row = tx.get(Kind.SANDBOX, open_workspace(tx, start.workspace), start.name)
            if row is None:
                raise not_found(f"sandbox '{start.name}' not found")
            refuse_foreign(row, self._compute.host_id)
            return row.id

        return await self._store.read(read)

    async def _read(self, sandbox_id: str) -> openshell_pb2.Sandbox:
        row = await self._store.look_up(lambda tx: tx.get_by_id(Kind.SANDBOX, sandbox_id))
        if row is None:
            raise unavailable("the sandbox was deleted")
        return self._compute.show(load(row, openshell_pb2.Sandbox))

    async def _wait_for_main(
        self, sandbox_id: str, context: Any, changes: Any
    ) -> openshell_ext_pb2.ExitRecord | None:
        """Tells phases until there is a process to attach to; the exit if there will be none."""
        told: openshell_ext_pb2.AttachPhase | None = None
        while True:
            sandbox = await self._read(sandbox_id)
            phase = openshell_ext_pb2.AttachPhase(
                sandbox_id=sandbox_id,
                sandbox_phase=_PHASE_NAME(sandbox.status.phase),
                creation_phases=sandbox.status.creation_phases,
            )
            if phase != told:
                told = phase
                await context.write(openshell_ext_pb2.AttachEvent(phase=phase))
            connected = self._sessions.is_leased(sandbox_id)
            match status.phase_of(sandbox):
                case Phase.READY if sandbox_id in self._sessions.paused:
                    raise paused_error()
                case Phase.READY:
                    return None
                case Phase.ERROR if connected and sandbox.status.HasField("exit_code"):
                    # It is over already, but its supervisor still holds the output.
                    return None
                case Phase.ERROR:
                    return _recorded_exit(sandbox)
                case Phase.STOPPED | Phase.STOPPING | Phase.DELETING as ending:
                    raise failed_precondition(
                        f"sandbox is {ending.name}; there is no process to attach to"
                    )
                case _:
                    await changes.get()

    async def _carry(self, relay: Relay, context: Any) -> None:
        feeder = self._tasks.spawn("attach input", _feed(relay, context))
        try:
            while (data := await relay.read()) is not None:
                frame = Frame.FromString(data)
                kind = frame.WhichOneof("frame")
                if kind is not None and kind not in _INPUT and kind != "stdin":
                    await context.write(_event(frame))
                if kind == "exit":
                    relay.close()
                    return
            raise unavailable("the connection to the sandbox ended before the process did")
        except RelayBroken as error:
            raise unavailable(
                "the connection to the sandbox ended before the process did"
            ) from error
        finally:
            feeder.cancel()
            relay.abort("detached")


async def _feed(relay: Relay, context: Any) -> None:
    try:
        while (message := await context.read()) is not _EOF:
            if message.WhichOneof("request") != "frame":
                continue
            frame = message.frame
            kind = frame.WhichOneof("frame")
            if kind == "stdin":
                for chunk in chunks(frame.stdin):
                    await relay.write(Frame(stdin=chunk).SerializeToString())
            elif kind in _INPUT:
                await relay.write(frame.SerializeToString())
    except RelayBroken:
        _log.debug("the main process ended before it took all of its input")
    except asyncio.CancelledError:
        raise
    except Exception:
        # The caller's stream broke; its handler is being cancelled and says so.
        _log.debug("an attachment's input broke", exc_info=True)


def _target(start: openshell_ext_pb2.AttachStart) -> openshell_ext_pb2.AttachTarget:
    return openshell_ext_pb2.AttachTarget(
        stdin=start.stdin,
        tty=start.tty,
        cols=start.cols or DEFAULT_SIZE[0],
        rows=start.rows or DEFAULT_SIZE[1],
    )


def _event(frame: openshell_ext_pb2.ProcessFrame) -> openshell_ext_pb2.AttachEvent:
    return openshell_ext_pb2.AttachEvent(frame=frame)


def _recorded_exit(sandbox: openshell_pb2.Sandbox) -> openshell_ext_pb2.ExitRecord:
    """How a sandbox ended that has no supervisor any more."""
    if sandbox.status.HasField("exit_code"):
        return openshell_ext_pb2.ExitRecord(code=sandbox.status.exit_code)
    failed = status.setup_failure(sandbox.status.creation_phases)
    if failed is not None:
        code, message = failed.error_code, failed.error_message
    else:
        ready = next((c for c in sandbox.status.conditions if c.type == status.READY), None)
        code = ready.reason if ready is not None else "Error"
        message = ready.message if ready is not None else "the sandbox failed"
    return openshell_ext_pb2.ExitRecord(code=1, error_code=code, error_message=message)
