"""Two gateway processes on one database: one truth, each its own sandboxes, notices between them."""

import asyncio
import signal
import time

import grpc
import grpc.aio
import pytest

from integration.gateway.harness import Supervisor, code_of
from openshell._proto import datamodel_pb2
from openshell._proto import openshell_ext_pb2 as ext
from openshell._proto import openshell_ext_pb2_grpc as ext_grpc
from openshell._proto import openshell_pb2 as pb
from openshell._proto import openshell_pb2_grpc as pb_grpc
from support.gateways import Gateways


@pytest.fixture(params=["sqlite", "postgres"])
def gateways(request, tmp_path):
    if request.param == "postgres":
        url = request.getfixturevalue("database_url")
    else:
        url = f"sqlite:{tmp_path}/shared.db"
    with Gateways(tmp_path, url) as made:
        yield made


class Users:
    """The API of each gateway, as its user."""

    def __init__(self, started):
        self.channels = [gateway.channel() for gateway in started]
        self.apis = [pb_grpc.OpenShellStub(channel) for channel in self.channels]
        self.exts = [ext_grpc.SandboxesStub(channel) for channel in self.channels]

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for channel in self.channels:
            await channel.close()


async def create(api, name):
    request = pb.CreateSandboxRequest(name=name, spec=pb.SandboxSpec(command=["sleep", "9"]))
    return (await api.CreateSandbox(request)).sandbox


async def get(api, name):
    return (await api.GetSandbox(pb.GetSandboxRequest(name=name))).sandbox


async def supervise(gateway, sandbox_id):
    """A connected supervisor and its channel."""
    handed = gateway.handed(sandbox_id)
    channel = grpc.aio.insecure_channel(handed["endpoint"])
    supervisor = Supervisor(channel, sandbox_id, handed["token"])
    await supervisor.connect()
    return supervisor, channel


async def until(check, seconds=5.0):
    """Waits for `await check()` to be true; how long it took."""
    began = time.monotonic()
    while not await check():
        assert time.monotonic() - began < seconds, "not in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def provider(name):
    return pb.CreateProviderRequest(
        provider=datamodel_pb2.Provider(
            metadata=datamodel_pb2.ObjectMeta(name=name),
            type="custom",
            credentials={"TOKEN": "s3cret-value"},
        )
    )


async def test_one_truth(gateways):
    a, b = gateways.start(2)
    async with Users([a, b]) as users:
        one, two = users.apis
        await one.CreateProvider(provider("p"))
        seen = (await two.GetProvider(pb.GetProviderRequest(name="p"))).provider
        assert seen.metadata.name == "p"
        assert await code_of(two.CreateProvider(provider("p"))) == grpc.StatusCode.ALREADY_EXISTS
        await create(one, "box")
        request = pb.CreateSandboxRequest(name="box", spec=pb.SandboxSpec(command=["true"]))
        assert await code_of(two.CreateSandbox(request)) == grpc.StatusCode.ALREADY_EXISTS
        # Whoever lost left nothing with its driver.
        assert (len(a.sandboxes()), len(b.sandboxes())) == (1, 0)


async def test_a_change_at_one_reaches_a_session_at_the_other(gateways):
    a, b = gateways.start(2)
    async with Users([a, b]) as users:
        one, two = users.apis
        await one.CreateProvider(provider("p"))
        sandbox = await create(one, "box")
        supervisor, channel = await supervise(a, sandbox.metadata.id)
        await supervisor.report_ready()

        async def ready_at(api):
            return (await get(api, "box")).status.phase == pb.SANDBOX_PHASE_READY

        await until(lambda: ready_at(one))
        # It is not B's session, but B shows what A has stored.
        await until(lambda: ready_at(two))
        watch = two.WatchSandbox(pb.WatchSandboxRequest(id=sandbox.metadata.id, follow_status=True))
        assert (await watch.read()).sandbox.status.phase == pb.SANDBOX_PHASE_READY
        attach = pb.AttachSandboxProviderRequest(sandbox_name="box", provider_name="p")
        began = time.monotonic()
        await two.AttachSandboxProvider(attach)
        changed = await supervisor.next("config_changed")
        assert time.monotonic() - began < 1
        assert "providers" in changed.reason
        assert list((await watch.read()).sandbox.spec.providers) == ["p"]
        # The other way: what A stores of its session wakes a watcher at B.
        await supervisor.close()
        async with asyncio.timeout(5):
            while (await watch.read()).sandbox.status.phase == pb.SANDBOX_PHASE_READY:
                pass
        watch.cancel()
        await channel.close()


async def test_compute_is_touched_by_its_own_gateway_only(gateways):
    a, b = gateways.start(2)
    async with Users([a, b]) as users:
        one, two = users.apis
        sandbox = await create(one, "box")
        refused = [
            two.DeleteSandbox(pb.DeleteSandboxRequest(name="box")),
            two.StopSandbox(pb.StopSandboxRequest(name="box")),
            two.StartSandbox(pb.StartSandboxRequest(name="box")),
            _first(two.ExecSandbox(pb.ExecSandboxRequest(sandbox_id=sandbox.metadata.id, command=["x"]))),
            _first(users.exts[1].Attach(iter([ext.AttachRequest(start=ext.AttachStart(name="box"))]))),
        ]  # fmt: skip
        for call in refused:
            async with asyncio.timeout(2):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert "hosted by another gateway" in caught.value.details()
        assert a.sandboxes() == {sandbox.metadata.id}
        # The one that hosts it does as it is told.
        assert (await one.DeleteSandbox(pb.DeleteSandboxRequest(name="box"))).deleted
        assert await code_of(get(two, "box")) == grpc.StatusCode.NOT_FOUND


async def _first(call):
    await call.read()


async def test_starts_stops_and_crashes_leave_the_others_sandboxes(gateways):
    a, b = gateways.start(2)
    async with Users([a, b]) as users:
        mine = await create(users.apis[0], "mine")
        other = await create(users.apis[1], "other")
    assert b.stop(signal.SIGKILL) == -signal.SIGKILL
    b.begin()
    b.wait()
    async with Users([a, b]) as users:
        one, two = users.apis
        for name in ("mine", "other"):
            assert (await get(two, name)).metadata.name == name
            assert (await get(one, name)).status.phase != pb.SANDBOX_PHASE_ERROR
        # A restarted gateway has its own back.
        assert await code_of(one.DeleteSandbox(pb.DeleteSandboxRequest(name="other"))) == (
            grpc.StatusCode.FAILED_PRECONDITION
        )
        assert b.stop(signal.SIGUSR1) == 0
        shown = await get(one, "mine")
        assert shown.status.phase not in (pb.SANDBOX_PHASE_STOPPED, pb.SANDBOX_PHASE_STOPPING)
        assert (await get(one, "other")).status.phase == pb.SANDBOX_PHASE_STOPPED
    assert (a.sandboxes(), b.sandboxes()) == ({mine.metadata.id}, {other.metadata.id})


async def test_many_starts_at_once_on_an_empty_database(gateways):
    started = gateways.start(4)
    async with Users(started) as users:
        for index, api in enumerate(users.apis):
            await create(api, f"box{index}")
        for api in users.apis:
            listed = await api.ListSandboxes(pb.ListSandboxesRequest())
            assert len(listed.sandboxes) == 4
    for gateway in started:
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
