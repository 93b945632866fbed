"""Sessions and relays on the supervisors' socket: who may do what, pushes, claims."""

import asyncio

import grpc
import pytest

from integration.gateway.harness import code_of, user_channel
from openshell._proto import openshell_pb2 as pb
from openshell._proto import openshell_pb2_grpc as pb_grpc
from openshell.gateway import relay as relay_module

Code = grpc.StatusCode


def opening():
    return pb.RelayOpen(tcp=pb.TcpRelayTarget(host="127.0.0.1", port=1))


async def test_the_socket_serves_supervisors_only(gw):
    sandbox = await gw.create()
    stub = pb_grpc.OpenShellStub(gw.supervisor_channel(sandbox.metadata.id))
    token = gw.driver.sandboxes[sandbox.metadata.id][0].token
    metadata = (("authorization", f"Bearer {token}"),)
    assert await code_of(stub.ListSandboxes(pb.ListSandboxesRequest(), metadata=metadata)) is (
        Code.PERMISSION_DENIED
    )
    assert await code_of(stub.ListSandboxes(pb.ListSandboxesRequest())) is Code.PERMISSION_DENIED
    assert await code_of(stub.ConnectSupervisor().read()) is Code.UNAUTHENTICATED
    bad = (("authorization", "Bearer x.y.z"),)
    assert await code_of(stub.ConnectSupervisor(metadata=bad).read()) is Code.UNAUTHENTICATED
    # The probe works: the same call is answered on the users' door.
    assert (await gw.api.ListSandboxes(pb.ListSandboxesRequest())).sandboxes


async def test_a_user_is_no_supervisor(gw):
    assert await code_of(gw.api.ConnectSupervisor().read()) is Code.PERMISSION_DENIED


async def test_tls_needs_a_certificate(gw):
    authority = (gw.settings.tls_dir / "ca.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    async with grpc.aio.secure_channel(f"127.0.0.1:{gw.gateway.port}", credentials) as channel:
        call = pb_grpc.OpenShellStub(channel).Health(pb.HealthRequest(), timeout=2)
        assert await code_of(call) in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}
    async with user_channel(gw.settings, gw.gateway) as channel:
        await pb_grpc.OpenShellStub(channel).Health(pb.HealthRequest(), timeout=2)


async def test_messages_have_a_limit(gw):
    big = pb.CreateSandboxRequest(spec=pb.SandboxSpec(command=["x" * 1_200_000]))
    assert await code_of(gw.api.CreateSandbox(big)) in {
        Code.RESOURCE_EXHAUSTED,
        Code.OUT_OF_RANGE,
    }


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (pb.SupervisorMessage(heartbeat=pb.SupervisorHeartbeat()), Code.INVALID_ARGUMENT),
        (pb.SupervisorMessage(hello=pb.SupervisorHello()), Code.INVALID_ARGUMENT),
        (
            pb.SupervisorMessage(hello=pb.SupervisorHello(sandbox_id="other")),
            Code.PERMISSION_DENIED,
        ),
        (None, Code.INVALID_ARGUMENT),
    ],
    ids=["no hello", "no id", "another's id", "nothing"],
)
async def test_hello_refused(gw, first, code):
    _, supervisor = await gw.ready()
    call = supervisor.stub.ConnectSupervisor(metadata=supervisor.metadata)
    if first is None:
        await call.done_writing()
    else:
        await call.write(first)
    assert await code_of(call.read()) is code


async def test_a_change_of_configuration_is_pushed(gw):
    sandbox, supervisor = await gw.ready()
    gw.gateway.bus.config_changed([sandbox.metadata.id], "policy")
    gw.gateway.bus.config_changed([sandbox.metadata.id], "providers")
    assert (await supervisor.next("config_changed")).reason == "policy,providers"


async def test_nothing_is_pushed_to_who_did_not_announce_it(gw):
    sandbox = await gw.create()
    plain = await gw.connect(sandbox.metadata.id, extensions=())
    gw.gateway.bus.config_changed([sandbox.metadata.id], "policy")
    asking = asyncio.ensure_future(gw.gateway.relays.open(sandbox.metadata.id, opening()))
    first = await plain.call.read()
    assert first.WhichOneof("payload") == "relay_open"
    asking.cancel()


async def test_a_relay_is_claimed_once_and_by_its_owner(gw):
    sandbox, owner = await gw.ready()
    _, other = await gw.ready("two")
    asking = asyncio.ensure_future(gw.gateway.relays.open(sandbox.metadata.id, opening()))
    channel_id = (await owner.next("relay_open")).channel_id
    stolen = await other.claim(channel_id)
    assert await code_of(stolen.call.read()) is Code.PERMISSION_DENIED
    mine = await owner.claim(channel_id)
    relay = await asking
    await mine.call.write(pb.RelayFrame(data=b"up"))
    assert await relay.read() == b"up"
    await relay.write(b"down")
    assert (await mine.call.read()).data == b"down"
    again = await owner.claim(channel_id)
    assert await code_of(again.call.read()) is Code.NOT_FOUND
    await mine.call.done_writing()
    assert await relay.read() is None
    relay.close()
    assert await mine.call.read() is grpc.aio.EOF
    assert await mine.call.code() is Code.OK


@pytest.mark.parametrize("frame", [pb.RelayFrame(data=b"x"), pb.RelayFrame(init=pb.RelayInit())])
async def test_a_relay_begins_with_init(gw, frame):
    _, supervisor = await gw.ready()
    call = supervisor.stub.RelayStream(metadata=supervisor.metadata)
    await call.write(frame)
    assert await code_of(call.read()) is Code.INVALID_ARGUMENT


async def test_an_aborted_relay_tells_the_supervisor(gw):
    sandbox, supervisor = await gw.ready()
    asking = asyncio.ensure_future(gw.gateway.relays.open(sandbox.metadata.id, opening()))
    mine = await supervisor.claim((await supervisor.next("relay_open")).channel_id)
    (await asking).abort("no need")
    assert await code_of(mine.call.read()) is Code.CANCELLED


async def test_a_refusal_of_the_supervisor_reaches_who_asked(gw):
    sandbox, supervisor = await gw.ready()
    asking = asyncio.ensure_future(gw.gateway.relays.open(sandbox.metadata.id, opening()))
    channel_id = (await supervisor.next("relay_open")).channel_id
    await supervisor.send(
        relay_open_result=pb.RelayOpenResult(channel_id=channel_id, error="nobody listens")
    )
    with pytest.raises(Exception, match="nobody listens"):
        await asking


async def test_a_newer_session_gets_the_unclaimed_relays(gw):
    sandbox, first = await gw.ready()
    asking = asyncio.ensure_future(gw.gateway.relays.open(sandbox.metadata.id, opening()))
    channel_id = (await first.next("relay_open")).channel_id
    second = await gw.connect(sandbox.metadata.id)
    assert (await second.next("relay_open")).channel_id == channel_id
    mine = await second.claim(channel_id)
    relay = await asking
    await mine.call.write(pb.RelayFrame(data=b"x"))
    assert await relay.read() == b"x"
    relay.close()


async def test_who_asks_waits_for_a_session(gw):
    sandbox = await gw.create()
    asking = asyncio.ensure_future(gw.gateway.relays.open(sandbox.metadata.id, opening()))
    await asyncio.sleep(0.02)
    supervisor = await gw.connect(sandbox.metadata.id)
    await supervisor.claim((await supervisor.next("relay_open")).channel_id)
    (await asking).close()


async def test_nobody_comes(gw):
    sandbox = await gw.create()
    with pytest.raises(Exception, match="not connected"):
        await gw.gateway.relays.open(sandbox.metadata.id, opening(), wait_seconds=0.01)


async def test_who_asks_while_many_are_unclaimed_waits_for_a_turn(gw, monkeypatch):
    monkeypatch.setattr(relay_module, "UNCLAIMED_PER_SANDBOX_MAX", 1)
    sandbox, supervisor = await gw.ready()
    relays = gw.gateway.relays
    asking = [asyncio.ensure_future(relays.open(sandbox.metadata.id, opening())) for _ in range(3)]
    for _ in asking:
        await supervisor.claim((await supervisor.next("relay_open")).channel_id)
    for relay in await asyncio.gather(*asking):
        relay.close()


async def test_unclaimed_relays_are_limited_and_expire(gw, monkeypatch):
    monkeypatch.setattr(relay_module, "UNCLAIMED_PER_SANDBOX_MAX", 2)
    monkeypatch.setattr(relay_module, "TURNS_PER_SANDBOX_MAX", 2)
    monkeypatch.setattr(relay_module, "CLAIM_SECONDS", 0.1)
    sandbox, supervisor = await gw.ready()
    relays = gw.gateway.relays
    asking = [asyncio.ensure_future(relays.open(sandbox.metadata.id, opening())) for _ in range(2)]
    channel_id = (await supervisor.next("relay_open")).channel_id
    with pytest.raises(Exception, match="too many relays"):
        await relays.open(sandbox.metadata.id, opening())
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert all("timed out" in str(result) for result in results)
    late = await supervisor.claim(channel_id)
    assert await code_of(late.call.read()) is Code.DEADLINE_EXCEEDED
