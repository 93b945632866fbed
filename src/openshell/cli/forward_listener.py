"""A local port whose connections end inside a sandbox, until the sandbox is no longer there.

Used by every `openshell forward` command; background forwards are the same in a process of their own.
A gateway that is away is waited for: the port stays, connections made meanwhile are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from openshell._proto import openshell_pb2
from openshell.cli.failures import CliError
from openshell.cli.output import note
from openshell.sdk.registry import Registry, Target
from openshell.sdk.tunnels import Port, Tunnels

__all__ = ["Address", "bind", "parse_address", "serve"]

CHECK_SECONDS = 2.0
"""Between two looks at the sandbox; the contract's."""
DEFAULT_BIND = "127.0.0.1"
PORT_MAX = 65_535

_OVER = frozenset(
    {
        openshell_pb2.SANDBOX_PHASE_ERROR,
        openshell_pb2.SANDBOX_PHASE_DELETING,
        openshell_pb2.SANDBOX_PHASE_STOPPING,
        openshell_pb2.SANDBOX_PHASE_STOPPED,
    }
)
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_ENDING = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, lowest: int = 1) -> Address:
    """Reads `[ADDR:]PORT`; an IPv6 address needs its brackets.

    Raises:
        CliError: not of that form.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or DEFAULT_BIND
    if not port.isascii() or not port.isdigit() or not lowest <= int(port) <= PORT_MAX:
        raise CliError(f"'{text}' is not [ADDRESS:]PORT with a port from {lowest} to {PORT_MAX}")
    return Address(host, int(port))


def bind(address: Address) -> socket.socket:
    """A listening socket.

    Raises:
        CliError: the port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CliError(
                f"port {address.port} of {address.host} is in use by another program\n"
                "Choose another local port: openshell forward service NAME "
                f"--target-port {address.port} --local 0"
            ) from error
        raise CliError(f"cannot listen on {address}: {error.strerror}") from error
    return listener


class _Listener:
    def __init__(
        self, tunnels: Tunnels, sandbox: openshell_pb2.Sandbox, port: Port, service_id: str
    ) -> None:
        self._tunnels = tunnels
        self._sandbox = sandbox
        self._port = port
        self._service_id = service_id
        self._away = False
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._tunnels.carry(
                self._sandbox.metadata.id, self._port, reader, writer, service_id=self._service_id
            )
        except grpc.RpcError as error:
            # For the program here it is a reset, for the person a sentence.
            _reset(writer)
            sentence = error.details() or error.code().name
            if error.code() in _ENDING:
                self.end(sentence)
            else:
                note(f"Connection refused: {sentence}")
        except OSError:
            _reset(writer)
        finally:
            writer.close()

    async def watch(self) -> None:
        """Ends the listener when the sandbox has ended, is another one, or is gone."""
        metadata = self._sandbox.metadata
        while not self.ended.done():
            await asyncio.sleep(CHECK_SECONDS)
            try:
                found = await self._tunnels.describe(metadata.name, workspace=metadata.workspace)
            except grpc.RpcError as error:
                if error.code() not in _AWAY:
                    self.end(error.details() or error.code().name)
                elif not self._away:
                    self._away = True
                    note("The gateway does not answer; the port stays until it does.")
                continue
            if self._away:
                self._away = False
                note("The gateway answers again.")
            if found.metadata.id != metadata.id:
                self.end(f"sandbox '{metadata.name}' was deleted")
            elif found.status.phase in _OVER:
                phase = openshell_pb2.SandboxPhase.Name(found.status.phase)
                self.end(
                    f"sandbox '{metadata.name}' is "
                    f"{phase.removeprefix('SANDBOX_PHASE_').lower()}: the forward has ended"
                )

    def end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)


def _reset(writer: asyncio.StreamWriter) -> None:
    """What was cut must not look like an end: lingering for no time at all makes it a reset."""
    opened = writer.get_extra_info("socket")
    if opened is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _serve(
    known: Registry,
    target: Target,
    sandbox: openshell_pb2.Sandbox,
    listening: socket.socket,
    port: Port,
    ready: Callable[[], None],
) -> str | None:
    service_id = f"service-forward:{sandbox.metadata.name}:{port.host}:{port.port}"
    async with Tunnels.from_target(known, target) as tunnels:
        listener = _Listener(tunnels, sandbox, port, service_id)
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopped.set)
        server = await asyncio.start_server(listener.connected, sock=listening)
        watching = asyncio.ensure_future(listener.watch())
        stopping = asyncio.ensure_future(stopped.wait())
        try:
            ready()
            ends: list[asyncio.Future[Any]] = [listener.ended, stopping, watching]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return listener.ended.result() if listener.ended.done() else None
        finally:
            server.close()
            for task in (watching, stopping):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(watching, stopping, return_exceptions=True)


def serve(
    known: Registry,
    target: Target,
    sandbox: openshell_pb2.Sandbox,
    listening: socket.socket,
    port: Port,
    ready: Callable[[], None],
) -> None:
    """Serves until a signal (returns) or until the sandbox is over.

    Args:
        known: The user's gateways.
        target: The one to ask.
        sandbox: As it is now.
        listening: Where connections come in.
        port: Where they go inside.
        ready: Called as soon as connections are taken.

    Raises:
        CliError: the sandbox is over.
    """
    with listening:
        reason = asyncio.run(_serve(known, target, sandbox, listening, port, ready))
    if reason is not None:
        raise CliError(reason)
