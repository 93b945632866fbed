"""The supervisor and process 1 as processes of the host: rights, memory, what they still can do."""

import asyncio
import contextlib
import os
import re
import resource

import pytest

from e2e.isolation.unprivileged import is_root
from e2e.sandbox.leftovers import pids
from openshell._proto import openshell_ext_pb2
from openshell.drivers.launch import decode_plan
from openshell.supervisor.hardening import KEPT_CAPABILITIES
from support.fake_gateway import TOKEN

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status_of(directory):
    with open(f"{directory}/status", encoding="utf-8") as file:
        pairs = (line.split(":", 1) for line in file)
        return {name: value.strip() for name, value in pairs}


def parent_of(pid):
    return int(status_of(f"/proc/{pid}")["PPid"])


async def test_every_thread_of_the_supervisor_has_given_its_rights_up(world):
    box = await world.create("sleep", "100")
    supervisor, _ = pids(world, box)
    # The probe works: its parent has not.
    zygote = status_of(f"/proc/{parent_of(supervisor)}")
    assert (zygote["Seccomp"], zygote["NoNewPrivs"]) == ("0", "0")
    if is_root():
        assert int(zygote["CapEff"], 16) & ~KEPT_CAPABILITIES
    threads = os.listdir(f"/proc/{supervisor}/task")
    assert len(threads) > 1
    for thread in threads:
        status = status_of(f"/proc/{supervisor}/task/{thread}")
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        sets = {name: int(status[name], 16) for name in SETS}
        if is_root():
            kept = KEPT_CAPABILITIES
            assert sets == dict.fromkeys(SETS, 0) | {"CapPrm": kept, "CapEff": kept}
        else:
            assert all(sets[name] == 0 for name in SETS if name != "CapBnd")
    report = await world.gateway.reports.get()
    layers = {layer.name: layer.status for layer in report.enforcement.layers}
    assert layers["supervisor_privileges"] == layers["supervisor_seccomp"] == "enforced"


def memory_of(pid):
    """Every readable page of a process, region by region."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        regions = [re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line) for line in maps]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for region in regions:
            if region is None:
                continue
            start, end = (int(number, 16) for number in region.groups())
            with contextlib.suppress(OSError, OverflowError, ValueError):
                memory.seek(start)
                yield memory.read(end - start)


@pytest.mark.root
@pytest.mark.skipif(not is_root(), reason="needs root: an ordinary user may not read that memory")
async def test_no_secret_is_in_the_memory_of_process_1(world):
    secret = "value-" + os.urandom(8).hex()
    environment = world.gateway.environment
    environment.environment["API_KEY"] = secret
    environment.static_credential_bindings["API_KEY"].credential_identity = "p/API_KEY"
    environment.static_credential_bindings["API_KEY"].endpoints.add(host="example.com", port=443)
    box = await world.create("sleep", "100")
    assert (await world.gateway.run(box, "sh", "-c", "echo $API_KEY")).stdout
    supervisor, init = pids(world, box)
    found = {}
    for name, pid in (("supervisor", supervisor), ("init", init)):
        found[name] = [False, False, False]
        for region in memory_of(pid):
            for index, text in enumerate((TOKEN, secret, "openshell-init")):
                found[name][index] |= text.encode() in region
    # The probe works: both can be read, and the secrets are where they belong.
    assert found["supervisor"][:2] == [True, True]
    assert found["init"] == [False, False, True]


@pytest.mark.skipif(is_root(), reason="root may read everything")
async def test_the_supervisor_cannot_be_read_by_others_of_its_user(world):
    box = await world.create("sleep", "100")
    supervisor, _ = pids(world, box)
    with open(f"/proc/{parent_of(supervisor)}/environ", "rb") as file:
        assert file.read()
    for name in ("environ", "mem", "maps"):
        with pytest.raises(PermissionError):
            open(f"/proc/{supervisor}/{name}", "rb").close()


async def test_programs_that_only_their_owner_may_read_are_still_named(world):
    """What is left of the rights is enough to look at the sandbox's own processes."""
    box = await world.create()
    code = "import socket; socket.create_connection(('198.51.100.7', 80), 3).recv(1)"
    script = (
        "umask 077; cp $(readlink -f $(command -v python3)) /tmp/mine && "
        f'PYTHONHOME=/usr /tmp/mine -I -S -c "{code}"; stat -c %a /tmp/mine'
    )
    ran = await world.gateway.run(box, "sh", "-c", script, environment={"PATH": "/usr/bin:/bin"})
    assert ran.stdout == b"700\n", ran.stderr
    async with asyncio.timeout(5):
        while not any("198.51.100.7" in line.message for line in world.gateway.lines):
            await asyncio.sleep(0.02)
    line = next(line for line in world.gateway.lines if "198.51.100.7" in line.message)
    assert "DENIED /tmp/mine(" in line.message, "named, not merely found unreadable"


async def test_what_an_agent_makes_is_nobodys_on_the_host(world):
    box = await world.create()
    script = "cp /bin/sh x && chmod 4755 x && stat -c '%U %a' x && ./x -c 'id -u'"
    ran = await world.gateway.run(box, "sh", "-c", script)
    assert ran.stdout == b"sandbox 4755\n1000\n", ran.stderr
    found = os.stat(f"{world.paths(box).workspace}/x")
    assert found.st_mode & 0o4000, "the probe works"
    with open(world.paths(box).plan, "rb") as file:
        host_id = decode_plan(file.read()).host_id
    assert found.st_uid == (os.geteuid() or host_id) != 0


async def test_a_workspace_that_became_a_link_is_not_followed(world):
    box = await world.create("sleep", "100")
    await world.driver.stop(box)
    workspace = world.paths(box).workspace
    os.rename(workspace, f"{workspace}.old")
    os.symlink(world.directory, workspace)
    await world.driver.start(box)
    status = await world.until(box, "ContainerStartFailed")
    assert "not a directory" in status.conditions[0].message.lower()
    os.unlink(workspace)
    os.rename(f"{workspace}.old", workspace)
    world.gateway._ready.clear()
    await world.driver.start(box)
    await world.ready(box)


CROWD = """
import resource, socket, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4000), hard))
held = []
for _ in range(1300):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("10.200.0.1", 3128))
    held.append(s)
time.sleep(0.5)
print("held", flush=True)
time.sleep(60)
"""


async def test_an_agent_does_not_use_up_the_supervisors_descriptors(world):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"this machine allows {hard} descriptors")
    # The next zygote begins as most machines have it.
    await world.driver._zygote.shutdown()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        box = await world.create()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limit = await world.gateway.run(box, "sh", "-c", "ulimit -n")
    assert limit.stdout == b"1024\n", "programs inside keep theirs"
    target = openshell_ext_pb2.ExecTarget(
        exec_id="crowd", argv=["/usr/bin/python3", "-I", "-S", "-c", CROWD]
    )
    relay = await world.gateway.relay(box, exec=target)
    while (frame := await relay.next()).WhichOneof("frame") != "stdout":
        assert frame.WhichOneof("frame") == "started", frame
    if is_root():
        assert len(os.listdir(f"/proc/{pids(world, box)[0]}/fdinfo")) > 1024, "the probe works"
    assert (await world.gateway.run(box, "echo", "served")).stdout == b"served\n"
    relay.close()
