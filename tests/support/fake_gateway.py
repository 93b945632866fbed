"""A gateway reduced to what a supervisor talks to, scripted by a test: no store, no users.

Serves the sandbox-class calls on a Unix socket and shows what arrived. For tests of supervisor and
local driver without the real gateway.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from openshell._proto import (
    openshell_ext_pb2,
    openshell_pb2,
    openshell_pb2_grpc,
    sandbox_pb2,
)

TOKEN = "a.sandbox.token"


class FakeGateway(openshell_pb2_grpc.OpenShellServicer):
    """One gateway for any number of sandboxes."""

    def __init__(self, socket_path: str) -> None:
        self.endpoint = f"unix:{socket_path}"
        self.config = sandbox_pb2.GetSandboxConfigResponse(
            version=1,
            policy_hash="h1",
            config_revision=1,
            policy_source=sandbox_pb2.POLICY_SOURCE_SANDBOX,
            provider_env_revision=1,
        )
        self.environment = openshell_pb2.GetSandboxProviderEnvironmentResponse(
            provider_env_revision=1
        )
        self.hellos: asyncio.Queue[openshell_pb2.SupervisorHello] = asyncio.Queue()
        self.reports: asyncio.Queue[openshell_ext_pb2.SandboxReport] = asyncio.Queue()
        self.policy_reports: asyncio.Queue[openshell_pb2.ReportPolicyStatusRequest] = (
            asyncio.Queue()
        )
        self.exits: asyncio.Queue[openshell_pb2.ReportMainProcessExitRequest] = asyncio.Queue()
        self.lines: list[openshell_pb2.SandboxLogLine] = []
        self.results: dict[str, openshell_pb2.RelayOpenResult] = {}
        self.heartbeats = 0
        self._sessions: dict[str, Any] = {}
        self._ready: dict[str, asyncio.Event] = {}
        self._relays: dict[str, asyncio.Future[Any]] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._writing = asyncio.Lock()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        openshell_pb2_grpc.add_OpenShellServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.endpoint)
        await self._server.start()

    async def stop(self) -> None:
        for ended in self._ended.values():
            ended.set()
        if self._server is not None:
            await self._server.stop(0)

    # -- what a test asks

    async def ready(self, sandbox_id: str, timeout: float = 20) -> None:
        """Until the main process runs."""
        async with asyncio.timeout(timeout):
            await self._ready.setdefault(sandbox_id, asyncio.Event()).wait()

    async def push(self, sandbox_id: str, reason: str = "policy") -> None:
        await self._send(
            sandbox_id,
            openshell_pb2.GatewayMessage(
                config_changed=openshell_ext_pb2.ConfigChanged(reason=reason)
            ),
        )

    async def relay(self, sandbox_id: str, **target: Any) -> FakeRelay:
        """Open a relay and wait for the supervisor's stream."""
        channel_id = str(uuid.uuid4())
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._relays[channel_id] = future
        self._ended[channel_id] = asyncio.Event()
        await self._send(
            sandbox_id,
            openshell_pb2.GatewayMessage(
                relay_open=openshell_pb2.RelayOpen(channel_id=channel_id, **target)
            ),
        )
        async with asyncio.timeout(10):
            return FakeRelay(await future, self._ended[channel_id])

    async def run(self, sandbox_id: str, *argv: str, stdin: bytes = b"", **more: Any) -> Ran:
        """Run a command to its end."""
        target = openshell_ext_pb2.ExecTarget(
            exec_id=str(uuid.uuid4()), argv=argv, has_stdin=bool(stdin), **more
        )
        relay = await self.relay(sandbox_id, exec=target)
        if stdin:
            await relay.send(stdin=stdin)
            await relay.send(stdin_eof=True)
        return await relay.collect()

    async def _send(self, sandbox_id: str, message: openshell_pb2.GatewayMessage) -> None:
        async with self._writing:
            await self._sessions[sandbox_id].write(message)

    # -- what a supervisor calls

    def _check(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get("authorization")
        assert given == f"Bearer {TOKEN}", "a call without its token"

    async def ConnectSupervisor(self, request_iterator: Any, context: Any) -> None:
        self._check(context)
        hello = (await context.read()).hello
        await context.write(
            openshell_pb2.GatewayMessage(
                session_accepted=openshell_pb2.SessionAccepted(
                    session_id=str(uuid.uuid4()),
                    heartbeat_interval_secs=5,
                    extensions=["config-changed", "sandbox-report", "exec", "attach"],
                )
            )
        )
        self._sessions[hello.sandbox_id] = context
        self.hellos.put_nowait(hello)
        while (message := await context.read()) is not grpc.aio.EOF:
            match message.WhichOneof("payload"):
                case "report":
                    self.reports.put_nowait(message.report)
                    if any(p.name == "ready" and p.ended_at_ms for p in message.report.phases):
                        self._ready.setdefault(hello.sandbox_id, asyncio.Event()).set()
                case "relay_open_result":
                    self.results[message.relay_open_result.channel_id] = message.relay_open_result
                    future = self._relays.get(message.relay_open_result.channel_id)
                    if message.relay_open_result.error and future is not None:
                        future.set_exception(RuntimeError(message.relay_open_result.error))
                case "heartbeat":
                    self.heartbeats += 1

    async def RelayStream(self, request_iterator: Any, context: Any) -> None:
        self._check(context)
        channel_id = (await context.read()).init.channel_id
        self._relays[channel_id].set_result(context)
        await self._ended[channel_id].wait()

    async def GetSandboxConfig(self, request: Any, context: Any) -> Any:
        self._check(context)
        return self.config

    async def GetSandboxProviderEnvironment(self, request: Any, context: Any) -> Any:
        self._check(context)
        return self.environment

    async def ReportPolicyStatus(self, request: Any, context: Any) -> Any:
        self.policy_reports.put_nowait(request)
        return openshell_pb2.ReportPolicyStatusResponse()

    async def ReportMainProcessExit(self, request: Any, context: Any) -> Any:
        self.exits.put_nowait(request)
        return openshell_pb2.ReportMainProcessExitResponse()

    async def PushSandboxLogs(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:
        async for batch in request_iterator:
            self.lines.extend(batch.logs)
        return openshell_pb2.PushSandboxLogsResponse()


class Ran:
    """What a command left."""

    def __init__(self) -> None:
        self.pid = 0
        self.stdout = b""
        self.stderr = b""
        self.exit: openshell_ext_pb2.ExitRecord | None = None

    @property
    def code(self) -> int:
        assert self.exit is not None, "the stream ended without an exit"
        return self.exit.code


class FakeRelay:
    """The gateway's end of one relay."""

    def __init__(self, context: Any, ended: asyncio.Event) -> None:
        self._context = context
        self._ended = ended

    async def send(self, **frame: Any) -> None:
        data = openshell_ext_pb2.ProcessFrame(**frame).SerializeToString()
        await self._context.write(openshell_pb2.RelayFrame(data=data))

    async def next(self) -> openshell_ext_pb2.ProcessFrame | None:
        async with asyncio.timeout(15):
            message = await self._context.read()
        if message is grpc.aio.EOF:
            return None
        return openshell_ext_pb2.ProcessFrame.FromString(message.data)

    async def collect(self) -> Ran:
        """Everything to the exit."""
        ran = Ran()
        while (frame := await self.next()) is not None:
            match frame.WhichOneof("frame"):
                case "started":
                    ran.pid = frame.started.pid
                case "stdout":
                    ran.stdout += frame.stdout
                case "stderr":
                    ran.stderr += frame.stderr
                case "exit":
                    ran.exit = frame.exit
                    break
        self.close()
        return ran

    def close(self) -> None:
        """End our direction with OK."""
        self._ended.set()
