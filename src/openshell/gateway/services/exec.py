"""Exec RPCs: a process in a sandbox, its streams carried over a relay of process frames.

The supervisor runs the process, enforces the timeout and keeps the exit record; here frames are
turned into events, one await per frame and nothing in between. Ending the relay without having
taken the exit makes the supervisor end the whole process tree.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc.aio

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.gateway.errors import invalid_argument, unavailable
from openshell.gateway.limits import check_exec
from openshell.gateway.relay import Relay, RelayBroken, Relays
from openshell.gateway.services.readiness import Readiness
from openshell.gateway.sessions import EXT_EXEC
from openshell.gateway.tasks import Tasks

__all__ = ["CHUNK_BYTES", "ExecService", "chunks"]

CHUNK_BYTES = 65_536
"""Input per frame; the extension's limit."""
TIMEOUT_GRACE_SECONDS = 5.0
"""A supervisor ends what timed out by itself; this long after that we stop waiting for it."""
TIMED_OUT = 124
"""Exit code of a command whose time ran out, as from timeout(1)."""
DEFAULT_SIZE = (80, 24)
"""Columns and rows of a terminal whose size nobody gave."""

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs
_log = logging.getLogger(__name__)

Frame = openshell_ext_pb2.ProcessFrame


def chunks(data: bytes) -> list[bytes]:
    """Input as the pieces that frames may carry."""
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]


class ExecService:
    """ExecSandbox and ExecSandboxInteractive."""

    def __init__(
        self,
        relays: Relays,
        readiness: Readiness,
        tasks: Tasks,
        *,
        new_id: Callable[[], str],
    ) -> None:
        self._relays = relays
        self._readiness = readiness
        self._tasks = tasks
        self._new_id = new_id

    async def ExecSandbox(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ExecSandboxRequest, context: Any
    ) -> None:
        check_exec(request)
        relay = await self._open(request, has_stdin=bool(request.stdin), size=(0, 0))
        feed = self._feed(relay, request.stdin) if request.stdin else None
        await self._carry(relay, context, request.timeout_seconds, feed)

    async def ExecSandboxInteractive(self, _requests: Any, context: Any) -> None:  # noqa: N802
        first = await context.read()
        if first is _EOF or first.WhichOneof("payload") != "start":
            raise invalid_argument("the first message of an interactive exec must be start")
        start = first.start
        check_exec(start)
        size = (start.cols or DEFAULT_SIZE[0], start.rows or DEFAULT_SIZE[1])
        relay = await self._open(start, has_stdin=True, size=size)
        feed = self._feed_from(relay, context, tty=start.tty)
        await self._carry(relay, context, start.timeout_seconds, feed)

    async def _open(
        self, request: openshell_pb2.ExecSandboxRequest, *, has_stdin: bool, size: tuple[int, int]
    ) -> Relay:
        await self._readiness.require(request.sandbox_id)
        target = openshell_ext_pb2.ExecTarget(
            exec_id=self._new_id(),
            argv=request.command,
            environment=request.environment,
            workdir=request.workdir,
            tty=request.tty,
            cols=size[0],
            rows=size[1],
            timeout_seconds=request.timeout_seconds,
            has_stdin=has_stdin,
        )
        opening = openshell_pb2.RelayOpen(exec=target)
        return await self._relays.open(request.sandbox_id, opening, extension=EXT_EXEC)

    async def _feed(self, relay: Relay, data: bytes) -> None:
        for chunk in chunks(data):
            await relay.write(Frame(stdin=chunk).SerializeToString())
        await relay.write(Frame(stdin_eof=True).SerializeToString())

    async def _feed_from(self, relay: Relay, context: Any, *, tty: bool) -> None:
        while (message := await context.read()) is not _EOF:
            match message.WhichOneof("payload"):
                case "stdin":
                    for chunk in chunks(message.stdin):
                        await relay.write(Frame(stdin=chunk).SerializeToString())
                case "resize" if tty:
                    resize = openshell_ext_pb2.Resize(
                        cols=message.resize.cols, rows=message.resize.rows
                    )
                    await relay.write(Frame(resize=resize).SerializeToString())
                case _:
                    # A later start, or a resize without a terminal: ignored by contract.
                    pass
        await relay.write(Frame(stdin_eof=True).SerializeToString())

    async def _carry(self, relay: Relay, context: Any, timeout_seconds: int, feed: Any) -> None:
        """Output until the exit; input beside it, in a task of its own only if there is any."""
        feeder = self._tasks.spawn("exec input", _quiet(feed)) if feed is not None else None
        deadline = timeout_seconds + TIMEOUT_GRACE_SECONDS if timeout_seconds else None
        try:
            try:
                async with asyncio.timeout(deadline):
                    await _output(relay, context)
            except TimeoutError:
                relay.abort("the command's time ran out")
                await context.write(_exit(TIMED_OUT))
            except RelayBroken as error:
                raise _lost() from error
            relay.close()
        except BaseException:
            relay.abort("the caller is gone")
            raise
        finally:
            if feeder is not None:
                feeder.cancel()


async def _quiet(feed: Any) -> None:
    """Input that nobody takes any more is no failure: the exit says what happened."""
    try:
        await feed
    except RelayBroken:
        _log.debug("a process ended before it took all of its input")


async def _output(relay: Relay, context: Any) -> None:
    started = False
    while (data := await relay.read()) is not None:
        frame = Frame.FromString(data)
        match frame.WhichOneof("frame"):
            case "stdout":
                event = openshell_pb2.ExecSandboxEvent(
                    stdout=openshell_pb2.ExecSandboxStdout(data=frame.stdout)
                )
                await context.write(event)
            case "stderr":
                await context.write(_stderr(frame.stderr))
            case "started":
                started = True
            case "exit":
                await _finish(frame.exit, context, started=started)
                return
    raise _lost()


async def _finish(record: openshell_ext_pb2.ExitRecord, context: Any, *, started: bool) -> None:
    if record.timed_out:
        await context.write(_exit(TIMED_OUT))
        return
    if record.error_code and (started or record.code <= 0):
        # Its end could not be learnt; an exit code would be an invention.
        raise unavailable(f"the command's end is unknown: {record.error_message}")
    if record.error_code:
        await context.write(_stderr(f"{record.error_message}\n".encode()))
    await context.write(_exit(record.code))


def _stderr(data: bytes) -> openshell_pb2.ExecSandboxEvent:
    return openshell_pb2.ExecSandboxEvent(stderr=openshell_pb2.ExecSandboxStderr(data=data))


def _exit(code: int) -> openshell_pb2.ExecSandboxEvent:
    return openshell_pb2.ExecSandboxEvent(exit=openshell_pb2.ExecSandboxExit(exit_code=code))


def _lost() -> Exception:
    return unavailable("the connection to the sandbox ended before the command did")
