"""Parts of the system are killed without warning; the next start finds what lives and clears the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from openshell._proto import openshell_pb2
from openshell.sdk.client import SandboxClient
from support.private_gateway import (
    OPENSHELL,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.traces import (
    Traces,
    children,
    is_alive,
    process_1_of,
    processes_naming,
    supervisor_pid,
    zygote_pid,
)
from support.upstream import ALIAS, Upstream

ADOPTION_SECONDS = 5
MAIN = "echo $$ > main.pid; exec sleep 900"


def kill_gateway(gateway: PrivateGateway) -> int:
    running = gateway.embedded.record()
    assert running is not None
    assert gateway.embedded.is_running()
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: not gateway.embedded.is_running())
    return running.pid


@pytest.fixture
def alive(gateway: PrivateGateway) -> Iterator[SandboxClient]:
    """A client of a gateway that runs, whatever the test before did to it."""
    gateway.embedded.start()
    with gateway.client() as client:
        yield client
    gateway.embedded.start()


def test_a_killed_gateways_sandboxes_are_adopted(
    gateway: PrivateGateway, alive: SandboxClient
) -> None:
    spec = sandbox_spec(command=("sh", "-c", MAIN))
    with ready_sandbox(alive, spec, "kept") as ref:
        before = alive.exec(ref.id, ["sh", "-c", "cat main.pid; cat /proc/1/stat"]).stdout
        supervisor = supervisor_pid(gateway.state, ref.id)
        kill_gateway(gateway)
        assert is_alive(supervisor), "a sandbox needs no gateway to run"

        started = time.monotonic()
        gateway.embedded.start()
        with gateway.client() as again:
            again.wait_ready("kept", workspace="default", timeout_seconds=ADOPTION_SECONDS)
            script = "cat main.pid; cat /proc/1/stat; kill -0 $(cat main.pid) && echo runs"
            after = again.exec(ref.id, ["sh", "-c", script]).stdout
        assert time.monotonic() - started < ADOPTION_SECONDS + 3
        assert after.splitlines()[0] == before.splitlines()[0]
        assert after.splitlines()[-1] == "runs"
        assert supervisor_pid(gateway.state, ref.id) == supervisor


def test_a_policy_is_enforced_and_logged_while_there_is_no_gateway(
    gateway: PrivateGateway, alive: SandboxClient, upstream: Upstream
) -> None:
    network = (
        "network_policies:\n  up:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {upstream.port}, protocol: rest, enforcement: enforce,\n"
        "         rules: [{allow: {method: GET, path: /allowed/**}}]}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )
    program = (
        "import time, os, urllib.request as u\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "for path in ('allowed/1', 'other'):\n"
        "    try: print(u.urlopen(os.environ['URL'] + path).status, flush=True)\n"
        "    except OSError as error: print(error, flush=True)\n"
        "open('done', 'w').close()\n"
        "time.sleep(900)\n"
    )
    spec = sandbox_spec(network=network, command=(PYTHON, "-c", program))
    spec.environment["URL"] = f"http://{ALIAS}:{upstream.port}/"
    with ready_sandbox(alive, spec, "alone") as ref:
        workspace = gateway.state / "local/sandboxes" / ref.id / "workspace"
        kill_gateway(gateway)
        (workspace / "go").touch()
        wait_until(lambda: (workspace / "done").exists())
        assert upstream.paths == ["/allowed/1"]
        gateway.embedded.start()

        def told() -> bool:
            lines = gateway.cli("logs", "alone").stdout.splitlines()
            return any("ALLOWED" in x and "/allowed/1" in x for x in lines) and any(
                "DENIED" in x and "/other" in x for x in lines
            )

        wait_until(told, seconds=15)


def test_what_died_while_there_was_no_gateway_is_found_dead(
    gateway: PrivateGateway, alive: SandboxClient
) -> None:
    made = [
        alive.create(workspace="default", spec=sandbox_spec(), name=f"dead{number}")
        for number in range(2)
    ]
    ended = alive.create(
        workspace="default", spec=sandbox_spec(command=("sh", "-c", "read x; exit 5")), name="dead2"
    )
    for ref in (*made, ended):
        alive.wait_ready(ref.name, workspace="default")
    traces = [Traces.of(gateway.state, ref.id) for ref in (*made, ended)]
    supervisors = {supervisor_pid(gateway.state, ref.id) for ref in (*made, ended)}
    kill_gateway(gateway)
    os.kill(supervisor_pid(gateway.state, made[0].id), signal.SIGKILL)
    os.kill(process_1_of(gateway.state, made[1].id), signal.SIGKILL)
    mains = children(process_1_of(gateway.state, ended.id))
    for pid in mains:
        os.kill(pid, signal.SIGKILL)
    # A supervisor whose sandbox ended waits for a gateway, to tell it how; process 1 stays with it.
    inside = {*traces[0].pids, *traces[1].pids, *mains} - supervisors
    wait_until(lambda: not any(is_alive(pid) for pid in inside))
    gateway.embedded.start()
    with gateway.client() as again:

        def phases() -> set[int]:
            return {again.describe(f"dead{n}", workspace="default").status.phase for n in range(3)}

        wait_until(lambda: phases() == {openshell_pb2.SANDBOX_PHASE_ERROR})
        # The output of a main process waits a while for its client; with its code it is fetched.
        assert gateway.cli("sandbox", "connect", "dead2").returncode == 137
        wait_until(lambda: not any("processes" in item.left() for item in traces))
        ran = gateway.cli("sandbox", "exec", "--name", "dead0", "--", "true")
        assert ran.returncode == 1
        assert "not ready" in ran.stderr
        for number in range(3):
            again.delete(f"dead{number}", workspace="default")
            again.wait_deleted(f"dead{number}", workspace="default")
    assert not any(item.left() for item in traces)


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.08, 0.15])
def test_a_gateway_killed_while_creating(
    gateway: PrivateGateway, alive: SandboxClient, delay: float
) -> None:
    """Wherever it is cut: afterwards the sandbox is whole or there is none of it."""
    name = f"cut{int(delay * 1000)}"
    with subprocess.Popen(
        [OPENSHELL, "sandbox", "create", "--name", name, "--detach", "--", "sleep", "900"],
        env=gateway.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as create:
        # Its record is the first durable trace of it; from there on in steps.
        time.sleep(0.12 + delay)
        kill_gateway(gateway)
        _, said = create.communicate(timeout=30)
    assert create.returncode in {0, 1}
    assert "Traceback" not in said
    gateway.embedded.start()
    with gateway.client() as again:

        def settled() -> bool:
            phases = {item.status.phase for item in again.describe_all(workspace="default")}
            return phases <= {openshell_pb2.SANDBOX_PHASE_READY, openshell_pb2.SANDBOX_PHASE_ERROR}

        wait_until(settled, seconds=20)
        local = gateway.state / "local/sandboxes"
        known = {item.metadata.id: item for item in again.describe_all(workspace="default")}
        wait_until(lambda: set(os.listdir(local)) <= set(known))
        for record in known.values():
            if record.status.phase == openshell_pb2.SANDBOX_PHASE_READY:
                answer = again.exec(record.metadata.id, ["echo", "whole"])
                assert answer.stdout == "whole\n"
            again.delete(record.metadata.name, workspace="default")
            again.wait_deleted(record.metadata.name, workspace="default")
        with ready_sandbox(again, name=name):
            pass
    assert os.listdir(local) == []
    assert not supervisors(gateway)


def supervisors(gateway: PrivateGateway) -> list[int]:
    """Processes of this gateway beside itself and its zygote."""
    running = gateway.embedded.record()
    assert running is not None
    mine = {running.pid, zygote_pid(gateway.state)}
    return [pid for pid in processes_naming(str(gateway.state)) if pid not in mine]


def test_a_killed_zygote_is_replaced(gateway: PrivateGateway, alive: SandboxClient) -> None:
    with ready_sandbox(alive, name="older") as older:
        before = zygote_pid(gateway.state)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: not is_alive(before))
        assert alive.exec(older.id, ["echo", "works"]).stdout == "works\n"
        with ready_sandbox(alive, name="newer") as newer:
            assert alive.exec(newer.id, ["echo", "works"]).stdout == "works\n"
            assert alive.exec(older.id, ["echo", "works"]).stdout == "works\n"
        traces = Traces.of(gateway.state, older.id)
    assert not traces.left()


def test_gateway_and_zygote_killed_together(gateway: PrivateGateway, alive: SandboxClient) -> None:
    with ready_sandbox(alive, name="both") as ref:
        os.kill(zygote_pid(gateway.state), signal.SIGKILL)
        kill_gateway(gateway)
        gateway.embedded.start()
        with gateway.client() as again:
            again.wait_ready("both", workspace="default", timeout_seconds=20)
            assert again.exec(ref.id, ["echo", "works"]).stdout == "works\n"


def test_stop_and_start_keep_the_workspace(gateway: PrivateGateway, alive: SandboxClient) -> None:
    with ready_sandbox(alive, name="again") as ref:
        alive.exec(ref.id, ["sh", "-c", "echo kept > file"])
        assert gateway.cli("gateway", "stop").returncode == 0
        assert not gateway.embedded.is_running()
        assert not processes_naming(f"{gateway.state}/local"), "stop ends the sandboxes as well"
        gateway.embedded.start()
        assert gateway.cli("sandbox", "start", "again").returncode == 0
        with gateway.client() as client:
            assert client.exec(ref.id, ["cat", "file"]).stdout == "kept\n"


def test_stop_right_after_a_start_ends_what_was_just_adopted() -> None:
    """The sandboxes' sessions come back while they are being stopped."""
    with PrivateGateway() as gateway:
        with gateway.client() as client:
            made = [client.create(workspace="default", spec=sandbox_spec()) for _ in range(3)]
            for ref in made:
                client.wait_ready(ref.name, workspace="default")
        traces = [Traces.of(gateway.state, ref.id) for ref in made]
        kill_gateway(gateway)
        gateway.embedded.start()
        assert gateway.embedded.stop(keep_sandboxes=False)
        alive = {pid for item in traces for pid in item.pids if is_alive(pid)}
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        assert not alive
        assert "not stopped" not in gateway.log


def test_stop_does_not_leave_a_supervisor_that_holds_output_for_a_client() -> None:
    with PrivateGateway() as gateway:
        with gateway.client() as client:
            spec = sandbox_spec(command=("sh", "-c", "echo said; exit 3"))
            ref = client.create(workspace="default", spec=spec, name="ended")

            def code() -> int:
                return client.describe("ended", workspace="default").status.exit_code

            wait_until(lambda: code() == 3)
            traces = Traces.of(gateway.state, ref.id)
            assert any(is_alive(pid) for pid in traces.pids), "it waits for somebody to connect"
        assert gateway.embedded.stop(keep_sandboxes=False)
        assert not any(is_alive(pid) for pid in traces.pids)
        gateway.embedded.start()
        with gateway.client() as again:
            status = again.describe("ended", workspace="default").status
            assert (status.phase, status.exit_code) == (openshell_pb2.SANDBOX_PHASE_ERROR, 3)


def test_two_commands_without_a_gateway_start_one() -> None:
    private = PrivateGateway()
    try:
        commands = [
            subprocess.Popen(
                [OPENSHELL, "sandbox", "create", "--name", f"box{number}", "--", "echo", "hi"],
                env=private.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(3)
        ]
        said = [command.communicate(timeout=60) for command in commands]
        assert [command.returncode for command in commands] == [0, 0, 0], said
        assert all(out.endswith("hi\n") for out, _ in said)
        names = private.cli("sandbox", "list", "--names").stdout.split()
        assert sorted(names) == ["box0", "box1", "box2"]
        assert private.log.count("serving") <= 1
        gateways = [
            pid
            for pid in processes_naming("openshell.gateway")
            if pid in processes_naming(str(private.directory))
            and b"openshell.gateway" in _command_line(pid)
        ]
        assert len(gateways) == 1
    finally:
        private.embedded.stop(keep_sandboxes=False)
        private.remove()
    wait_until(lambda: not processes_naming(str(private.directory)))


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_a_gateway_that_was_killed_leaves_no_stale_record(
    gateway: PrivateGateway, alive: SandboxClient
) -> None:
    """Its pid may be another program's by now: `status` and `stop` must not believe the file."""
    del alive
    kill_gateway(gateway)
    status = gateway.cli("status")
    assert "Traceback" not in status.stderr
    stopped = gateway.cli("gateway", "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert "not running" in stopped.stderr
    record = gateway.state / "gateway/run.json"
    forged = {**json.loads(record.read_text()), "pid": os.getpid()}
    record.write_text(json.dumps(forged))
    assert "not running" in gateway.cli("gateway", "stop").stderr
    assert gateway.cli("gateway", "start").returncode == 0
