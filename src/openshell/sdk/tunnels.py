"""`Tunnels`: connections from here to a port, or to the SSH server, inside a sandbox.

Asynchronous, because what uses it carries many connections at once. Each has an SSH session of its own
at the gateway, made before and revoked after, so that no token outlives what it was for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc

from openshell._proto import openshell_pb2, openshell_pb2_grpc
from openshell.sdk.channel import TlsConfig, channel_arguments, open_async_channel
from openshell.sdk.registry import Registry, Target

__all__ = ["Port", "Ssh", "Tunnels"]

CHUNK_BYTES = 65_536
"""Read here at a time, and so the largest frame."""

Port = openshell_pb2.TcpRelayTarget
"""A port inside: `Port(host="127.0.0.1", port=8000)`; the host must be loopback."""
Ssh = openshell_pb2.SshRelayTarget
"""The sandbox's SSH server."""


class Tunnels:
    """Opens connections into sandboxes; made in a running loop.

    Args:
        endpoint: `host:port` of the gateway.
        tls: Certificates; None means no encryption.
        timeout: Deadline of each unary call in seconds.

    Raises:
        SandboxError: a certificate file cannot be read.
    """

    def __init__(
        self, endpoint: str, tls: TlsConfig | None = None, *, timeout: float = 30.0
    ) -> None:
        self._channel = open_async_channel(endpoint, tls)
        self._stub = openshell_pb2_grpc.OpenShellStub(self._channel)
        self._timeout = timeout

    @classmethod
    def from_target(cls, registry: Registry, target: Target) -> Self:
        """Connects to a resolved gateway, as `SandboxClient.from_target` does."""
        address, tls = channel_arguments(registry, target)
        return cls(address, tls=tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def describe(self, name: str, *, workspace: str) -> openshell_pb2.Sandbox:
        """The sandbox as the gateway shows it.

        Raises:
            grpc.RpcError: it is not there, or the gateway is not.
        """
        request = openshell_pb2.GetSandboxRequest(name=name, workspace=workspace)
        answer = await self._stub.GetSandbox(request, timeout=self._timeout)
        return answer.sandbox

    async def carry(
        self,
        sandbox_id: str,
        target: Port | Ssh,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        service_id: str,
        token: str | None = None,
    ) -> None:
        """Carries bytes between a local stream and the sandbox until both sides have ended.

        Args:
            sandbox_id: Id, not name.
            target: Where to inside.
            reader: Its end ends our half only; what the sandbox still sends is written.
            writer: Gets an end where the sandbox's half ends. Not closed here.
            service_id: What the gateway calls this connection in its log.
            token: Of an SSH session that exists; default: one for this connection alone.

        Raises:
            grpc.RpcError: refused, or cut on the way.
            OSError: the local side broke.
        """
        async with self._session(sandbox_id, token) as bearer:
            init = openshell_pb2.TcpForwardInit(
                sandbox_id=sandbox_id,
                service_id=service_id,
                authorization_token=bearer,
                half_close=True,
            )
            if isinstance(target, Port):
                init.tcp.CopyFrom(target)
            else:
                init.ssh.CopyFrom(target)
            call: Any = self._stub.ForwardTcp()  # type: ignore[call-arg]  # the stubs want an iterator
            await call.write(openshell_pb2.TcpForwardFrame(init=init))
            inward = asyncio.ensure_future(_inward(call, reader))
            try:
                await _outward(call, writer)
            finally:
                inward.cancel()
                await asyncio.gather(inward, return_exceptions=True)
                call.cancel()

    @contextlib.asynccontextmanager
    async def _session(self, sandbox_id: str, given: str | None) -> AsyncIterator[str]:
        if given is not None:
            yield given
            return
        request = openshell_pb2.CreateSshSessionRequest(sandbox_id=sandbox_id)
        made = await self._stub.CreateSshSession(request, timeout=self._timeout)
        try:
            yield made.token
        finally:
            revoke = openshell_pb2.RevokeSshSessionRequest(token=made.token)
            # A gateway that is gone cannot be told; the token expires there by itself.
            with contextlib.suppress(grpc.RpcError):
                await self._stub.RevokeSshSession(revoke, timeout=self._timeout)


async def _inward(call: Any, reader: asyncio.StreamReader) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            await call.write(openshell_pb2.TcpForwardFrame(data=data))
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        # The other direction reads the same end, with its reason.
        return
    except OSError:
        # A reset here is a reset there, not an end that looks like all was said.
        call.cancel()


async def _outward(call: Any, writer: asyncio.StreamWriter) -> None:
    # Raises what the call ended with.
    async for frame in call:
        if frame.WhichOneof("payload") == "data":
            writer.write(frame.data)
            await writer.drain()
        elif frame.end and writer.can_write_eof():
            writer.write_eof()
