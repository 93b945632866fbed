"""A real gateway over real TLS and a real Unix socket, a fake driver, a scripted supervisor."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import grpc
import grpc.aio

from openshell._proto import openshell_ext_pb2 as ext
from openshell._proto import openshell_ext_pb2_grpc as ext_grpc
from openshell._proto import openshell_pb2 as pb
from openshell._proto import openshell_pb2_grpc as pb_grpc
from openshell.drivers.base import (
    Capabilities,
    Condition,
    Deleted,
    DriverError,
    DriverErrorCode,
    SandboxStatus,
)
from openshell.gateway.app import Gateway, World
from openshell.gateway.config import load_settings

EXTENSIONS = ("config-changed", "sandbox-report", "exec", "attach")


class FakeDriver:
    """Keeps sandboxes in a dictionary that outlives a gateway; reports what a test says."""

    name = "fake"

    def __init__(self, state=None):
        self.sandboxes = {} if state is None else state
        self.calls = []
        self.fail = {}
        self.events = asyncio.Queue()

    def _call(self, name, sandbox_id):
        self.calls.append((name, sandbox_id))
        error = self.fail.pop(name, None)
        if error is not None:
            raise error

    async def open(self):
        pass

    async def close(self):
        pass

    def capabilities(self):
        return Capabilities(self.name, "1", "fake/image:1", gateway_manages_lifecycle=False)

    async def validate_create(self, sandbox):
        self._call("validate", sandbox.id)

    async def create(self, sandbox):
        self._call("create", sandbox.id)
        self.sandboxes[sandbox.id] = [sandbox, (Condition("Ready", "True", "BackendReady"),)]
        self.events.put_nowait(self._status(sandbox.id))

    async def start(self, sandbox_id, *, token=None, initial_config=None):
        self._call("start", sandbox_id)
        self.report(sandbox_id, Condition("Ready", "True", "BackendReady"))

    async def stop(self, sandbox_id):
        self._call("stop", sandbox_id)
        self.report(sandbox_id, Condition("Suspended", "True", "Stopped"))

    async def delete(self, sandbox_id):
        self._call("delete", sandbox_id)
        existed = self.sandboxes.pop(sandbox_id, None) is not None
        if existed:
            self.events.put_nowait(Deleted(sandbox_id))
        return existed

    async def get(self, sandbox_id):
        if sandbox_id not in self.sandboxes:
            raise DriverError(DriverErrorCode.NOT_FOUND, "no such sandbox")
        return self._status(sandbox_id)

    async def list(self):
        return tuple(self._status(sandbox_id) for sandbox_id in self.sandboxes)

    async def watch(self):
        for status in await self.list():
            yield status
        while True:
            yield await self.events.get()

    def report(self, sandbox_id, *conditions):
        self.sandboxes[sandbox_id][1] = conditions
        self.events.put_nowait(self._status(sandbox_id))

    def _status(self, sandbox_id):
        sandbox, conditions = self.sandboxes[sandbox_id]
        return SandboxStatus(sandbox_id, sandbox.name, sandbox.workspace, conditions)


@dataclass
class Running:
    gateway: Gateway
    driver: FakeDriver
    settings: object
    channel: grpc.aio.Channel
    stack: contextlib.AsyncExitStack
    api: pb_grpc.OpenShellStub = field(init=False)
    ext: ext_grpc.SandboxesStub = field(init=False)

    def __post_init__(self):
        self.api = pb_grpc.OpenShellStub(self.channel)
        self.ext = ext_grpc.SandboxesStub(self.channel)

    async def create(self, name="one", **spec):
        spec.setdefault("command", ["sleep", "9"])
        request = pb.CreateSandboxRequest(name=name, spec=pb.SandboxSpec(**spec))
        return (await self.api.CreateSandbox(request)).sandbox

    async def get(self, name="one"):
        return (await self.api.GetSandbox(pb.GetSandboxRequest(name=name))).sandbox

    def supervisor_channel(self, sandbox_id):
        channel = grpc.aio.insecure_channel(self.driver.sandboxes[sandbox_id][0].endpoint)
        self.stack.push_async_callback(channel.close)
        return channel

    async def connect(self, sandbox_id, **options):
        """A supervisor with an accepted session."""
        token = self.driver.sandboxes[sandbox_id][0].token
        supervisor = Supervisor(self.supervisor_channel(sandbox_id), sandbox_id, token, **options)
        await supervisor.connect()
        self.stack.push_async_callback(supervisor.close)
        return supervisor

    async def ready(self, name="one", **options):
        """A sandbox and the supervisor that made it ready."""
        sandbox = await self.create(name)
        supervisor = await self.connect(sandbox.metadata.id, **options)
        await supervisor.report_ready()
        await self.wait_phase(name, pb.SANDBOX_PHASE_READY)
        return sandbox, supervisor

    async def wait_phase(self, name, phase):
        sandbox = await self.get(name)
        watch = self.api.WatchSandbox(
            pb.WatchSandboxRequest(id=sandbox.metadata.id, follow_status=True)
        )
        async with asyncio.timeout(5):
            async for event in watch:
                if event.sandbox.status.phase == phase:
                    watch.cancel()
                    return event.sandbox
        raise AssertionError("the watch ended")


class Supervisor:
    """Says what a test tells it to; relays are answered by `serve`."""

    def __init__(self, channel, sandbox_id, token, *, instance="i1", extensions=EXTENSIONS):
        self.stub = pb_grpc.OpenShellStub(channel)
        self.sandbox_id = sandbox_id
        self.instance = instance
        self.extensions = extensions
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.call = None
        self.accepted = None
        self.tasks = []

    async def connect(self):
        self.call = self.stub.ConnectSupervisor(metadata=self.metadata)
        await self.call.write(
            pb.SupervisorMessage(
                hello=pb.SupervisorHello(
                    sandbox_id=self.sandbox_id,
                    instance_id=self.instance,
                    extensions=self.extensions,
                )
            )
        )
        first = await self.call.read()
        assert first.WhichOneof("payload") == "session_accepted"
        self.accepted = first.session_accepted

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.call is not None:
            self.call.cancel()

    async def send(self, **payload):
        await self.call.write(pb.SupervisorMessage(**payload))

    async def report_ready(self):
        await self.send(
            report=ext.SandboxReport(
                phases=[ext.CreationPhase(name="ready", started_at_ms=1, ended_at_ms=2)],
                enforcement=ext.EnforcementReport(
                    layers=[ext.EnforcementReport.Layer(name="landlock", status="enforced")]
                ),
            )
        )

    async def next(self, kind):
        """The next message of this kind; heartbeats are passed over."""
        async with asyncio.timeout(5):
            while True:
                message = await self.call.read()
                assert message is not grpc.aio.EOF, "the session ended"
                if message.WhichOneof("payload") == kind:
                    return getattr(message, kind)

    async def ended(self):
        """Reads to the end of the session; its status."""
        async with asyncio.timeout(5):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            return await self.call.code()

    async def claim(self, channel_id):
        relay = self.stub.RelayStream(metadata=self.metadata)
        await relay.write(pb.RelayFrame(init=pb.RelayInit(channel_id=channel_id)))
        return Relay(relay)

    def serve(self, behaviour):
        """Answers relay opens by `await behaviour(open, relay)`."""

        async def loop():
            while True:
                opening = await self.next("relay_open")
                relay = await self.claim(opening.channel_id)
                self.tasks.append(asyncio.ensure_future(behaviour(opening, relay)))

        self.tasks.append(asyncio.ensure_future(loop()))


class Relay:
    """The supervisor's end of a relay, in process frames."""

    def __init__(self, call):
        self.call = call

    async def send(self, **frame):
        await self.call.write(pb.RelayFrame(data=ext.ProcessFrame(**frame).SerializeToString()))

    async def exit(self, code, **more):
        await self.send(exit=ext.ExitRecord(code=code, **more))
        await self.call.done_writing()

    async def next(self):
        """The next frame; None at the end, however it came."""
        try:
            frame = await self.call.read()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            if self.call.cancelled() or self.call.done():
                return None
            raise
        if frame is grpc.aio.EOF:
            return None
        return ext.ProcessFrame.FromString(frame.data)


@contextlib.asynccontextmanager
async def running(tmp_path, *, state=None, arguments=("--embedded",), lease_seconds=None):
    settings = load_settings(
        arguments,
        {
            "HOME": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path / "s"),
            "XDG_CONFIG_HOME": str(tmp_path / "c"),
        },
    )
    driver = FakeDriver(state)
    gateway = Gateway(
        settings, World(environ={}, version="9", make_driver=lambda *_a, **_k: driver)
    )
    if lease_seconds is not None:
        gateway.sessions._lease_seconds = lease_seconds
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(gateway.close)
        await gateway.open(0)
        channel = user_channel(settings, gateway)
        stack.push_async_callback(channel.close)
        yield Running(gateway, driver, settings, channel, stack)


def user_channel(settings, gateway):
    tls = settings.tls_dir
    credentials = grpc.ssl_channel_credentials(
        root_certificates=(tls / "ca.crt").read_bytes(),
        private_key=(tls / "client/tls.key").read_bytes(),
        certificate_chain=(tls / "client/tls.crt").read_bytes(),
    )
    return grpc.aio.secure_channel(f"127.0.0.1:{gateway.port}", credentials)


async def code_of(call):
    """The status of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    raise AssertionError("the call succeeded")


async def stream_of(call):
    """Everything a server stream gave, and its status."""
    events = []
    try:
        while (event := await call.read()) is not grpc.aio.EOF:
            events.append(event)
    except grpc.aio.AioRpcError as error:
        return events, error.code()
    return events, await call.code()
