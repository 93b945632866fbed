"""Sandboxes through the API: creation, readiness, exits, deletion, stop and start, restarts."""

import asyncio

import grpc
import pytest

from integration.gateway.harness import code_of, running
from openshell._proto import openshell_ext_pb2 as ext
from openshell._proto import openshell_pb2 as pb
from openshell.drivers.base import Condition, DriverError, DriverErrorCode
from openshell.gateway.records import Kind
from openshell.gateway.store.model import MatchResourceVersion, NewRow

Code = grpc.StatusCode
READY, ERROR = pb.SANDBOX_PHASE_READY, pb.SANDBOX_PHASE_ERROR
PROVISIONING, STOPPED = pb.SANDBOX_PHASE_PROVISIONING, pb.SANDBOX_PHASE_STOPPED


def reason(sandbox):
    return next(c.reason for c in sandbox.status.conditions if c.type == "Ready")


async def test_health_info_and_user(gw):
    health = await gw.api.Health(pb.HealthRequest())
    assert (health.status, health.version) == (pb.SERVICE_STATUS_HEALTHY, "9")
    info = await gw.api.GetGatewayInfo(pb.GetGatewayInfoRequest())
    assert info.compute_drivers[0].capabilities.driver_name == "fake"
    user = await gw.api.GetCurrentUser(pb.GetCurrentUserRequest())
    assert (user.subject, user.identity_provider) == ("openshell-client", "mtls")


async def test_what_is_not_built_says_its_name(gw):
    with pytest.raises(grpc.aio.AioRpcError, match="ExposeService") as caught:
        await gw.api.ExposeService(pb.ExposeServiceRequest())
    assert caught.value.code() is Code.UNIMPLEMENTED


async def test_create_becomes_ready_with_its_supervisor(gw):
    created = await gw.create(environment={"A": "b"}, command=[])
    view = gw.driver.sandboxes[created.metadata.id][0]
    assert created.status.phase == PROVISIONING
    assert created.metadata.resource_version == 1
    assert (list(created.spec.command), created.spec.tty) == (["/bin/bash", "-l"], True)
    assert (view.image, view.environment) == ("fake/image:1", {"A": "b"})
    assert view.token
    assert view.initial_config
    assert view.token not in str(created)
    supervisor = await gw.connect(created.metadata.id)
    assert supervisor.accepted.heartbeat_interval_secs == 5
    assert (await gw.get()).status.phase == PROVISIONING
    await supervisor.report_ready()
    sandbox = await gw.wait_phase("one", READY)
    assert sandbox.status.main_process_instance_id == "i1"
    assert sandbox.status.creation_phases[0].name == "ready"
    assert sandbox.status.enforcement.layers[0].name == "landlock"


async def test_a_peer_that_reports_nothing_is_ready_when_connected(gw):
    created = await gw.create()
    await gw.connect(created.metadata.id, extensions=())
    await gw.wait_phase("one", READY)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.CreateSandboxRequest(name="two"), Code.INVALID_ARGUMENT),
        (pb.CreateSandboxRequest(name="a" * 20, spec=pb.SandboxSpec()), Code.INVALID_ARGUMENT),
        (pb.CreateSandboxRequest(name="one", spec=pb.SandboxSpec()), Code.ALREADY_EXISTS),
        (
            pb.CreateSandboxRequest(workspace="nowhere", spec=pb.SandboxSpec()),
            Code.NOT_FOUND,
        ),
        (
            pb.CreateSandboxRequest(name="two", spec=pb.SandboxSpec(providers=["none"])),
            Code.FAILED_PRECONDITION,
        ),
    ],
    ids=["no spec", "long name", "taken", "workspace", "provider"],
)
async def test_create_refused(gw, request_, code):
    await gw.create()
    assert await code_of(gw.api.CreateSandbox(request_)) is code
    listed = await gw.api.ListSandboxes(pb.ListSandboxesRequest())
    assert [s.metadata.name for s in listed.sandboxes] == ["one"]
    assert len(gw.driver.sandboxes) == 1


@pytest.mark.parametrize(
    ("call", "code", "then"),
    [
        ("validate", DriverErrorCode.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
        ("validate", DriverErrorCode.FAILED_PRECONDITION, Code.FAILED_PRECONDITION),
        ("create", DriverErrorCode.FAILED_PRECONDITION, Code.FAILED_PRECONDITION),
        ("create", DriverErrorCode.ALREADY_EXISTS, Code.ALREADY_EXISTS),
        ("create", DriverErrorCode.INTERNAL, Code.INTERNAL),
    ],
)
async def test_a_refusal_of_the_driver_leaves_no_record(gw, call, code, then):
    gw.driver.fail[call] = DriverError(code, "because")
    with pytest.raises(grpc.aio.AioRpcError, match="because") as caught:
        await gw.create()
    assert caught.value.code() is then
    assert not (await gw.api.ListSandboxes(pb.ListSandboxesRequest())).sandboxes
    await gw.create()


async def test_names_are_generated(gw):
    made = await gw.create(name="")
    assert 0 < len(made.metadata.name) <= 19


async def test_list_by_label_and_page(gw):
    for name in ("a", "b", "c"):
        await gw.api.CreateSandbox(
            pb.CreateSandboxRequest(
                name=name, labels={"n": name, "x": "1"}, spec=pb.SandboxSpec(command=["true"])
            )
        )

    async def names(**query):
        listed = await gw.api.ListSandboxes(pb.ListSandboxesRequest(**query))
        return [sandbox.metadata.name for sandbox in listed.sandboxes]

    assert await names(label_selector="x=1") == ["a", "b", "c"]
    assert await names(label_selector="x=1, n=b,") == ["b"]
    assert await names(limit=1, offset=2) == ["c"]
    for bad in ("x", "=1", "a..b/c=1"):
        assert (
            await code_of(gw.api.ListSandboxes(pb.ListSandboxesRequest(label_selector=bad)))
            is Code.INVALID_ARGUMENT
        )


async def test_lost_session_shows_and_a_new_one_heals(gw):
    sandbox, supervisor = await gw.ready()
    supervisor.call.cancel()
    lost = await gw.wait_phase("one", PROVISIONING)
    assert reason(lost) in {"DependenciesNotReady", "SupervisorNotConnected"}
    await gw.connect(sandbox.metadata.id)
    # The same run: it was ready before, and its phases are on the record.
    await gw.wait_phase("one", READY)


async def test_a_newer_session_supersedes(gw):
    sandbox, first = await gw.ready()
    second = await gw.connect(sandbox.metadata.id)
    assert await first.ended() is Code.OK
    assert (await gw.get()).status.phase == READY
    assert gw.gateway.sessions.get(sandbox.metadata.id).session_id == second.accepted.session_id


async def test_silence_ends_the_lease_and_a_heartbeat_renews_it(tmp_path):
    async with running(tmp_path, lease_seconds=0.2) as gw:
        _, supervisor = await gw.ready()
        lapsed = await gw.wait_phase("one", PROVISIONING)
        assert reason(lapsed) == "SupervisorNotConnected"
        await supervisor.send(heartbeat=pb.SupervisorHeartbeat())
        await gw.wait_phase("one", READY)


@pytest.mark.parametrize("code", [0, 7])
async def test_exit_of_the_main_process(gw, code):
    sandbox, supervisor = await gw.ready()
    report = pb.ReportMainProcessExitRequest(
        sandbox_id=sandbox.metadata.id, instance_id="i1", exit_code=code
    )
    await supervisor.stub.ReportMainProcessExit(report, metadata=supervisor.metadata)
    ended = await gw.wait_phase("one", ERROR)
    assert (ended.status.exit_code, reason(ended)) == (code, "MainProcessExited")
    report.exit_code = 99
    await supervisor.stub.ReportMainProcessExit(report, metadata=supervisor.metadata)
    assert (await gw.get()).status.exit_code == code


async def test_failed_set_up_keeps_its_reason(gw):
    created = await gw.create()
    supervisor = await gw.connect(created.metadata.id)
    failed = ext.CreationPhase(
        name="isolation", started_at_ms=1, ended_at_ms=2, error_code="x", error_message="do this"
    )
    await supervisor.send(report=ext.SandboxReport(phases=[failed]))
    sandbox = await gw.wait_phase("one", ERROR)
    assert sandbox.status.creation_phases[0].error_message == "do this"
    gw.driver.report(created.metadata.id, Condition("Ready", "True"))
    await supervisor.report_ready()
    await supervisor.send(heartbeat=pb.SupervisorHeartbeat())
    await asyncio.sleep(0.05)
    assert (await gw.get()).status.phase == ERROR


async def test_delete_leaves_nothing(gw):
    sandbox, supervisor = await gw.ready()
    deleted = await gw.api.DeleteSandbox(pb.DeleteSandboxRequest(name="one"))
    assert deleted.deleted
    assert await supervisor.ended() is Code.OK
    assert gw.driver.sandboxes == {}
    assert await code_of(gw.api.GetSandbox(pb.GetSandboxRequest(name="one"))) is Code.NOT_FOUND
    again = gw.api.DeleteSandbox(pb.DeleteSandboxRequest(name="one"))
    assert await code_of(again) is Code.NOT_FOUND
    # Its token outlives it and opens nothing.
    call = supervisor.stub.ConnectSupervisor(metadata=supervisor.metadata)
    assert await code_of(call.read()) is Code.NOT_FOUND

    def rows(tx):
        return [tx.all(kind, scope=sandbox.metadata.id) for kind in ("sandbox_policy",)]

    assert await gw.gateway._store.read(rows) == [[]]


async def test_delete_when_the_compute_was_gone_already(gw):
    created = await gw.create()
    gw.driver.sandboxes.pop(created.metadata.id)
    deleted = await gw.api.DeleteSandbox(pb.DeleteSandboxRequest(name="one"))
    assert not deleted.deleted
    assert not (await gw.api.ListSandboxes(pb.ListSandboxesRequest())).sandboxes


async def test_a_failed_delete_shows_what_is_there(gw):
    await gw.ready()
    gw.driver.fail["delete"] = DriverError(DriverErrorCode.INTERNAL, "busy mount")
    with pytest.raises(grpc.aio.AioRpcError, match="busy mount") as caught:
        await gw.api.DeleteSandbox(pb.DeleteSandboxRequest(name="one"))
    assert caught.value.code() is Code.INTERNAL
    assert (await gw.get()).status.phase != pb.SANDBOX_PHASE_DELETING
    assert (await gw.api.DeleteSandbox(pb.DeleteSandboxRequest(name="one"))).deleted


async def test_two_deletes_at_once(gw):
    await gw.create()
    request = pb.DeleteSandboxRequest(name="one")
    both = await asyncio.gather(
        gw.api.DeleteSandbox(request), gw.api.DeleteSandbox(request), return_exceptions=True
    )
    assert sum(call == "delete" for call, _ in gw.driver.calls) == 1
    for answer in both:
        assert getattr(answer, "deleted", True)


async def test_stop_and_start(gw):
    sandbox, supervisor = await gw.ready()
    stopped = (await gw.api.StopSandbox(pb.StopSandboxRequest(name="one"))).sandbox
    assert (stopped.status.phase, reason(stopped)) == (STOPPED, "Stopped")
    assert await supervisor.ended() is Code.OK
    again = (await gw.api.StopSandbox(pb.StopSandboxRequest(name="one"))).sandbox
    assert again.status.phase == STOPPED
    started = (await gw.api.StartSandbox(pb.StartSandboxRequest(name="one"))).sandbox
    assert started.status.phase == pb.SANDBOX_PHASE_STARTING
    assert await code_of(gw.api.StopSandbox(pb.StopSandboxRequest(name="one"))) is (
        Code.FAILED_PRECONDITION
    )
    second = await gw.connect(sandbox.metadata.id, instance="i2")
    assert (await gw.get()).status.phase == pb.SANDBOX_PHASE_STARTING
    await second.report_ready()
    ready = await gw.wait_phase("one", READY)
    assert ready.status.main_process_instance_id == "i2"


async def test_a_restarted_gateway_finds_its_sandboxes(tmp_path):
    async with running(tmp_path) as gw:
        sandbox, _ = await gw.ready()
        state = gw.driver.sandboxes
    async with running(tmp_path, state=state) as gw:
        found = await gw.get()
        assert found.status.phase == PROVISIONING
        assert reason(found) == "SupervisorNotConnected"
        waiting = asyncio.ensure_future(gw.wait_phase("one", READY))
        await asyncio.sleep(0.02)
        await gw.connect(sandbox.metadata.id)
        await waiting


async def test_a_restarted_gateway_finishes_a_deletion(tmp_path):
    async with running(tmp_path) as gw:
        sandbox = await gw.create()
        state = gw.driver.sandboxes

        def deleting(record, _now):
            record.status.phase = pb.SANDBOX_PHASE_DELETING
            return True

        await gw.gateway._lifecycle._compute.update(sandbox.metadata.id, deleting)
    async with running(tmp_path, state=state) as gw:
        async with asyncio.timeout(5):
            while state:
                await asyncio.sleep(0.01)
            while (await gw.api.ListSandboxes(pb.ListSandboxesRequest())).sandboxes:
                await asyncio.sleep(0.01)


async def test_a_restarted_gateway_removes_a_record_that_never_reached_the_driver(tmp_path):
    """What ran before stays for the usual time: its driver may have it again."""
    async with running(tmp_path) as gw:
        await gw.create("half")
        await gw.ready("ran")
    async with running(tmp_path, state={}) as gw:
        async with asyncio.timeout(5):
            while (
                len(listed := (await gw.api.ListSandboxes(pb.ListSandboxesRequest())).sandboxes) > 1
            ):
                await asyncio.sleep(0.01)
        assert [sandbox.metadata.name for sandbox in listed] == ["ran"]
        assert (await gw.create("half")).metadata.name == "half"


async def test_what_is_being_created_while_a_gateway_recovers_stays(tmp_path):
    async with running(tmp_path) as gw:
        sandbox = await gw.create("new")
        await gw.gateway._lifecycle.recover()
        assert (await gw.get("new")).metadata.id == sandbox.metadata.id


@pytest.mark.parametrize("own", [True, False], ids=["own user", "stranger"])
async def test_files_of_the_host_are_for_the_gateways_own_user(gw, monkeypatch, own):
    gw.driver.name = "local"
    gw.gateway._lifecycle._driver_name = "local"
    if not own:
        monkeypatch.setattr("openshell.gateway.app.uid_of_peer", lambda *_: None)

    def request(name, **config):
        template = pb.SandboxTemplate()
        template.driver_config.update({"local": config, "docker": {"x": 1}})
        spec = pb.SandboxSpec(command=["true"], template=template)
        return pb.CreateSandboxRequest(name=name, spec=spec)

    made = await gw.api.CreateSandbox(request("one", tool_dirs=["/home/me/bin"]))
    view = gw.driver.sandboxes[made.sandbox.metadata.id][0]
    assert view.driver_config == ({"tool_dirs": ["/home/me/bin"]} if own else {})
    call = gw.api.CreateSandbox(request("two", host_paths=["/home/me"]))
    if own:
        await call
    else:
        assert await code_of(call) is Code.FAILED_PRECONDITION


async def test_a_damaged_sandbox_is_deleted_and_in_nobodys_way(gw):
    broken = await gw.create("broken")
    await gw.create("whole")
    store = gw.gateway._store

    def damage(tx):
        row = tx.get_by_id(Kind.SANDBOX, broken.metadata.id)
        spoiled = NewRow(
            id=row.id,
            kind=row.kind,
            workspace=row.workspace,
            name=row.name,
            scope=row.scope,
            payload=b"\xff\xff",
            labels=row.labels,
            created_at_ms=row.created_at_ms,
        )
        tx.put(spoiled, MatchResourceVersion(row.resource_version))

    await store.write(damage)
    assert await gw.gateway.stop_sandboxes() == []
    assert (await gw.api.DeleteSandbox(pb.DeleteSandboxRequest(name="broken"))).deleted
    assert broken.metadata.id not in gw.driver.sandboxes
    assert await code_of(gw.api.GetSandbox(pb.GetSandboxRequest(name="broken"))) is Code.NOT_FOUND
    assert (await gw.get("whole")).metadata.name == "whole"


async def test_a_name_that_nobody_chose_is_chosen_again(gw, monkeypatch):
    words = iter(["calm", "fox", "calm", "fox", "calm", "elk"])
    monkeypatch.setattr(
        "openshell.gateway.services.sandboxes.generate_name",
        lambda _choose: f"{next(words)}-{next(words)}",
    )
    nameless = pb.CreateSandboxRequest(spec=pb.SandboxSpec(command=["x"]))
    made = [(await gw.api.CreateSandbox(nameless)).sandbox.metadata.name for _ in range(2)]
    assert made == ["calm-fox", "calm-elk"]
    taken = pb.CreateSandboxRequest(name="calm-elk", spec=pb.SandboxSpec(command=["x"]))
    assert await code_of(gw.api.CreateSandbox(taken)) is Code.ALREADY_EXISTS
