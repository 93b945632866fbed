"""ForwardTcp: a client's connection to a port or to the SSH server inside a sandbox.

Everything is checked before the supervisor is asked; then bytes pass in both directions as they come,
each with HTTP/2's own back-pressure, and either side may end its half before the other. How many may
be open is counted here, in the process that carries them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc.aio

from openshell._proto import openshell_pb2
from openshell.gateway.errors import invalid_argument, resource_exhausted, unavailable
from openshell.gateway.limits import check_required
from openshell.gateway.relay import Relay, RelayBroken, Relays
from openshell.gateway.services.readiness import Readiness
from openshell.gateway.services.ssh_sessions import SshSessions
from openshell.gateway.tasks import Tasks

__all__ = ["ForwardService"]

CHUNK_BYTES = 65_536
"""The largest frame in either direction."""
PER_TOKEN_MAX = 3
"""Connections of one SSH session at a time."""
PER_SANDBOX_MAX = 20
"""Connections to one sandbox at a time."""
PORT_MAX = 65_535

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs


class ForwardService:
    """One RPC."""

    def __init__(
        self, relays: Relays, readiness: Readiness, sessions: SshSessions, tasks: Tasks
    ) -> None:
        self._relays = relays
        self._readiness = readiness
        self._sessions = sessions
        self._tasks = tasks
        self._open: Counter[str] = Counter()

    async def ForwardTcp(self, _requests: Any, context: Any) -> None:  # noqa: N802  as the RPC
        first = await context.read()
        if first is _EOF or first.WhichOneof("payload") != "init":
            raise invalid_argument("the first frame of a forward must be init")
        init = first.init
        target = _target(init)
        await self._readiness.require(init.sandbox_id)
        digest = await self._sessions.require(init.authorization_token, init.sandbox_id)
        with (
            self._counted(digest, PER_TOKEN_MAX, "this SSH session"),
            self._counted(init.sandbox_id, PER_SANDBOX_MAX, "this sandbox"),
        ):
            relay = await self._relays.open(init.sandbox_id, target)
            try:
                await self._carry(relay, context, half_close=init.half_close)
                relay.close()
            except RelayBroken as error:
                raise unavailable("the connection inside the sandbox was cut") from error
            finally:
                relay.abort("the caller is gone")

    @contextlib.contextmanager
    def _counted(self, key: str, limit: int, what: str) -> Iterator[None]:
        if self._open[key] >= limit:
            raise resource_exhausted(f"{limit} connections of {what} are open; close one first")
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    async def _carry(self, relay: Relay, context: Any, *, half_close: bool) -> None:
        inward = self._tasks.spawn("forward input", _inward(relay, context))
        try:
            while (data := await relay.read()) is not None:
                for start in range(0, len(data), CHUNK_BYTES):
                    frame = openshell_pb2.TcpForwardFrame(data=data[start : start + CHUNK_BYTES])
                    await context.write(frame)
            if relay.was_cut:
                raise RelayBroken
            if half_close:
                await context.write(openshell_pb2.TcpForwardFrame(end=True))
                await inward
        finally:
            inward.cancel()
            await asyncio.gather(inward, return_exceptions=True)


async def _inward(relay: Relay, context: Any) -> None:
    while (message := await context.read()) is not _EOF:
        # A later init is ignored, as is what a newer client may say.
        if message.WhichOneof("payload") == "data" and message.data:
            for start in range(0, len(message.data), CHUNK_BYTES):
                await relay.write(message.data[start : start + CHUNK_BYTES])
    await relay.write_end()


def _target(init: openshell_pb2.TcpForwardInit) -> openshell_pb2.RelayOpen:
    check_required("sandbox_id", init.sandbox_id)
    opening = openshell_pb2.RelayOpen(service_id=init.service_id)
    match init.WhichOneof("target"):
        case "ssh":
            opening.ssh.SetInParent()
        case "tcp":
            opening.tcp.CopyFrom(_loopback(init.tcp))
        case _:
            raise invalid_argument("a forward needs a target: ssh or tcp")
    return opening


def _loopback(target: openshell_pb2.TcpRelayTarget) -> openshell_pb2.TcpRelayTarget:
    if not 1 <= target.port <= PORT_MAX:
        raise invalid_argument(f"tcp.port must be 1 to {PORT_MAX}")
    host = target.host.strip()
    if host.lower() == "localhost":
        return openshell_pb2.TcpRelayTarget(host="localhost", port=target.port)
    try:
        is_loopback = ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise invalid_argument("tcp.host must be localhost or an address of loopback")
    return openshell_pb2.TcpRelayTarget(host=host, port=target.port)
