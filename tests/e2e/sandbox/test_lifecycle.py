"""From create to nothing left: phases, stop and start, deaths, adoption."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from e2e.sandbox.leftovers import (
    groups_of,
    holders_of,
    is_alive,
    mounts_under,
    namespaces_of,
    pids,
    processes_of,
    ticks_now,
)
from openshell._proto import sandbox_pb2
from openshell.drivers.base import DriverError, DriverErrorCode, PlatformEvent, SandboxStatus
from openshell.drivers.local import LocalDriver, processes


async def test_events_come_in_order_and_phases_are_told(world):
    seen = []

    async def watch():
        async for event in world.driver.watch():
            if isinstance(event, SandboxStatus):
                seen.append(event.conditions[0].reason)
            elif isinstance(event, PlatformEvent):
                seen.append(event.reason)

    task = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await world.create("sleep", "100")
    await asyncio.sleep(0)
    assert seen == ["Scheduled", "BackendReady", "Started"]
    task.cancel()
    report = await world.gateway.reports.get()
    assert [phase.name for phase in report.phases] == [
        "namespaces",
        "rootfs",
        "isolation",
        "supervisor",
        "ready",
    ]
    assert all(0 < phase.started_at_ms <= phase.ended_at_ms for phase in report.phases)
    layers = {layer.name: layer.status for layer in report.enforcement.layers}
    for name in ("namespaces", "network", "filesystem", "landlock", "seccomp", "privileges"):
        assert layers[name] == "enforced", name


async def test_nothing_is_left_after_delete(world):
    box = await world.create("sh", "-c", "sleep 1000 & setsid sleep 1000 & sleep 1000")
    mess = "mkdir -p a/b; touch a/b/f; chmod 0 a/b a; mkfifo p; ln -s / l; touch -- '-rf'"
    assert (await world.gateway.run(box, "sh", "-c", mess)).code == 0
    supervisor, init = pids(world, box)
    assert is_alive(supervisor)
    assert is_alive(init)
    seen = await world.gateway.run(box, "sh", "-c", "readlink /proc/self/ns/*")
    inside = set(seen.stdout.decode().split()) - namespaces_of(os.getpid())
    assert len(inside) >= 7
    assert holders_of(inside, ticks_now()), "the probe sees who is in them"

    deleted_at = ticks_now()
    assert await world.driver.delete(box)

    assert not is_alive(supervisor)
    assert not is_alive(init)
    assert processes_of(world.state, box) == []
    assert groups_of(box) == []
    assert mounts_under(world.state) == []
    assert holders_of(inside, deleted_at) == []
    assert os.listdir(f"{world.state}/sandboxes") == []
    assert os.listdir(f"{world.state}/trash") == []
    assert await world.driver.delete(box) is False
    with pytest.raises(DriverError) as caught:
        await world.driver.get(box)
    assert caught.value.code is DriverErrorCode.NOT_FOUND


async def test_a_second_sandbox_of_the_name_or_id_is_refused(world):
    box = await world.create(name="one")
    for change in ({"name": "one"}, {"id": box}):
        with pytest.raises(DriverError, match="sandbox already exists") as caught:
            await world.create(ready=False, **change)
        assert caught.value.code is DriverErrorCode.ALREADY_EXISTS


async def test_stop_and_start_keep_the_workspace(world):
    box = await world.create("sleep", "1000")
    await world.gateway.run(box, "sh", "-c", "echo kept > /sandbox/file; echo gone > /tmp/file")
    first = pids(world, box)
    hello = world.gateway.hellos.get_nowait()
    for _ in range(2):
        await world.driver.stop(box)
        assert not any(map(is_alive, first))
        reasons = {c.reason for c in (await world.driver.get(box)).conditions}
        assert reasons == {"Stopped", "ContainerStopped"}
    world.gateway._ready.clear()
    for _ in range(2):
        await world.driver.start(box)
    await world.ready(box)
    assert world.gateway.hellos.get_nowait().instance_id != hello.instance_id
    assert (await world.gateway.run(box, "cat", "/sandbox/file")).stdout == b"kept\n"
    assert (await world.gateway.run(box, "cat", "/tmp/file")).code == 1


async def test_a_main_process_gets_its_term_at_stop(world):
    box = await world.create(
        "sh", "-c", "trap 'echo bye > /sandbox/bye; exit 0' TERM; while :; do sleep 0.05; done"
    )
    await asyncio.sleep(0.1)
    await world.driver.stop(box)
    with open(f"{world.paths(box).workspace}/bye") as file:
        assert file.read() == "bye\n"


@pytest.mark.parametrize("which", ["supervisor", "init"])
async def test_a_death_takes_everything_along_and_is_reported(world, which):
    box = await world.create("sleep", "1000")
    supervisor, init = pids(world, box)
    os.kill({"supervisor": supervisor, "init": init}[which], signal.SIGKILL)
    status = await world.until(box, "ContainerExited")
    assert status.conditions[0].status == "False"
    async with asyncio.timeout(5):
        while is_alive(init) or is_alive(supervisor):
            await asyncio.sleep(0.01)
    if which == "supervisor":
        assert "signal 9" in status.conditions[0].message
    else:
        assert (await world.gateway.exits.get()).exit_code == 137
    assert await world.driver.delete(box)
    assert groups_of(box) == []


async def test_a_finished_main_process_is_not_run_again(world):
    box = await world.create("sh", "-c", "exit 5", ready=False)
    report = await world.gateway.exits.get()
    assert report.exit_code == 5
    os.kill(pids(world, box)[0], signal.SIGTERM)
    status = await world.until(box, "ContainerExited")
    assert "exit code 5" in status.conditions[0].message
    with pytest.raises(DriverError, match="not run again") as caught:
        await world.driver.start(box)
    assert caught.value.code is DriverErrorCode.FAILED_PRECONDITION


async def test_an_end_by_itself_leaves_no_control_group(world):
    box = await world.create("sh", "-c", "exit 0", ready=False)
    await world.gateway.exits.get()
    os.kill(pids(world, box)[0], signal.SIGTERM)
    await world.until(box, "ContainerExited")
    async with asyncio.timeout(10):
        while processes.find_cgroups(box):
            await asyncio.sleep(0.02)


async def test_a_start_that_fails_says_why(world):
    world.gateway.config.policy.version = 1
    world.gateway.config.policy.process.run_as_user = "nobody"
    box = await world.create("sleep", "100", ready=False)
    status = await world.until(box, "ContainerStartFailed")
    assert "run_as_user" in status.conditions[0].message or "nobody" in status.conditions[0].message
    assert status.phases[-1].error_code
    assert await world.driver.delete(box)


async def test_a_new_driver_finds_running_and_dead_sandboxes(world):
    running = await world.create("sleep", "1000")
    dead = await world.create("sleep", "1000")
    stopped = await world.create("sleep", "1000")
    await world.driver.stop(stopped)
    await world.driver.close()
    pidfd = os.pidfd_open(pids(world, dead)[0])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert await processes.wait_ended((pidfd,), 5)
    os.close(pidfd)
    os.mkdir(f"{world.state}/sandboxes/half-written")

    world.driver = LocalDriver(world.state, world.gateway.endpoint)
    await world.driver.open()
    reasons = {s.id: s.conditions[-1].reason for s in await world.driver.list()}
    assert reasons == {
        running: "BackendReady",
        dead: "ContainerExited",
        stopped: "ContainerStopped",
    }
    assert (await world.gateway.run(running, "echo", "still here")).stdout == b"still here\n"
    for box in (running, dead, stopped):
        assert await world.driver.delete(box)
    assert os.listdir(f"{world.state}/sandboxes") == []


KILLED = """
import asyncio, os, signal, sys
from openshell.drivers.base import DriverSandbox
from openshell.drivers.local import LocalDriver, processes
state, endpoint, token = sys.argv[1:4]
async def main():
    driver = LocalDriver(state, endpoint)
    await driver.open()
    await driver.create(DriverSandbox(id="orphan", name="o", workspace="w", token=token,
                                      command=("sleep", "1000")))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_sandboxes_outlive_a_killed_gateway(world):
    await world.driver.close()
    argv = [sys.executable, "-c", KILLED, world.state, world.gateway.endpoint, "a.sandbox.token"]
    killed = await asyncio.to_thread(subprocess.run, argv, timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    world.driver = LocalDriver(world.state, world.gateway.endpoint)
    await world.driver.open()
    await world.ready("orphan")
    assert (await world.driver.get("orphan")).conditions[0].reason == "BackendReady"
    assert (await world.gateway.run("orphan", "true")).code == 0
    assert await world.driver.delete("orphan")


async def test_a_second_gateway_is_refused(world):
    with pytest.raises(DriverError, match="openshell gateway stop"):
        await LocalDriver(world.state, world.gateway.endpoint).open()


async def test_sandboxes_outlive_their_zygote(world):
    first = await world.create("sleep", "1000")
    await world.driver._zygote.shutdown()
    assert (await world.gateway.run(first, "true")).code == 0
    second = await world.create("sleep", "1000")
    assert (await world.gateway.run(second, "true")).code == 0
    assert await world.driver.delete(first)


async def test_a_full_disk_leaves_nothing(world, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openshell.drivers.local.directory.write_record", full)
    with pytest.raises(DriverError, match="No space left"):
        await world.create("true", ready=False)
    assert os.listdir(f"{world.state}/sandboxes") == []
    assert await world.driver.list() == ()


async def test_a_full_disk_does_not_keep_a_sandbox_running(world, monkeypatch):
    box = await world.create("sleep", "infinity")
    processes_before = pids(world, box)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("openshell.drivers.local.driver.write_bytes", full)
        with pytest.raises(DriverError, match="No space left"):
            await world.driver.stop(box)
    assert not any(is_alive(pid) for pid in processes_before)


async def test_two_sandboxes_do_not_see_each_other(world):
    one = await world.create("sleep", "1000")
    two = await world.create("sleep", "1000")
    await world.gateway.run(one, "sh", "-c", "echo secret > /tmp/x; echo secret > /sandbox/x")
    ran = await world.gateway.run(two, "sh", "-c", "cat /tmp/x /sandbox/x; pgrep -c sleep")
    assert b"secret" not in ran.stdout
    assert ran.stdout.strip() == b"1"
    assert sandbox_pb2 is not None
