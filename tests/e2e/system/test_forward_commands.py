"""`openshell forward` with a real server inside: in front, in the background, and how it ends."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
import uuid

import grpc
import pytest

from openshell._proto import openshell_pb2 as pb

SERVER = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/usr/share", "{}"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def make_box(client, port):
    made = []

    def make():
        name = f"fw-{uuid.uuid4().hex[:6]}"
        spec = pb.SandboxSpec(command=[word.format(port) for word in SERVER])
        client.create(workspace="default", name=name, spec=spec)
        made.append(name)
        ref = client.wait_ready(name, workspace="default", timeout_seconds=30)
        look = ["sh", "-c", f"until grep -q 0100007F:{port:04X} /proc/net/tcp; do sleep 0.05; done"]
        assert client.exec(ref.id, look, timeout_seconds=20).exit_code == 0
        return name

    yield make
    for name in made:
        with contextlib.suppress(grpc.RpcError):
            client.delete(name, workspace="default")


@pytest.fixture(scope="module")
def box(make_box):
    return make_box()


def fetch(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return answer.status


def refuses(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_in_the_background(gateway, box, port):
    started = gateway.cli("forward", "start", str(port), box, "-d")
    assert started.returncode == 0, started.stderr
    assert started.stdout == f"Access at: http://127.0.0.1:{port}/\n"
    assert f"openshell forward stop {port} {box}" in started.stderr
    assert fetch(port) == 200

    again = gateway.cli("forward", "start", str(port), box, "-d")
    assert again.returncode == 1
    assert f"forwarded to sandbox '{box}' already" in again.stderr
    header, line = gateway.cli("forward", "list").stdout.splitlines()
    assert header.split() == ["SANDBOX", "BIND", "PORT", "PID", "STATUS"]
    assert line.split()[:3] == [box, "127.0.0.1", str(port)]
    assert line.split()[-1] == "running"

    stopped = gateway.cli("forward", "stop", str(port))
    assert stopped.stdout == f"Stopped forward of port {port} to sandbox {box}\n"
    assert refuses(port)
    nothing = gateway.cli("forward", "stop", str(port))
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert gateway.cli("forward", "list").stderr == "No active forwards.\n"


def test_a_reused_pid_is_never_signalled(gateway, box, port):
    started = gateway.cli("forward", "start", str(port), box, "-d")
    assert started.returncode == 0, started.stderr
    [path] = (gateway.config / "forwards").iterdir()
    pid = int(path.read_text().split("\t")[0])
    os.kill(pid, signal.SIGKILL)
    while not refuses(port):
        time.sleep(0.02)
    # As if the number had gone to another program meanwhile.
    with subprocess.Popen(["sleep", "60"]) as bystander:
        path.write_text(path.read_text().replace(str(pid), str(bystander.pid), 1))
        assert "dead" in gateway.cli("forward", "list").stdout
        assert gateway.cli("forward", "stop", str(port)).stdout == ""
        assert bystander.poll() is None
        bystander.kill()
    assert not path.exists()


def test_to_another_port(gateway, box, port):
    local = free_port()
    command = ["forward", "service", box, "--target-port", str(port), "--local", str(local)]
    with gateway.running(*command) as process:
        assert process.stdout.readline().startswith(f"Forwarding 127.0.0.1:{local} to")
        assert [fetch(local) for _ in range(5)] == [200] * 5
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert refuses(local)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["start", "0"], 1, "[ADDRESS:]PORT"),
        (["start", "70000"], 1, "[ADDRESS:]PORT"),
        (["start", "x"], 1, "[ADDRESS:]PORT"),
        (["start", "192.0.2.1:8080", "{box}"], 1, "cannot listen on 192.0.2.1:8080"),
        (["start", "8080", "nobody"], 1, "not found"),
        (["start", "8080", "nobody", "-d"], 1, "not found"),
        (["service", "{box}"], 2, "--target-port"),
        (["service", "{box}", "--target-port", "0"], 2, "0"),
        (["stop", "0"], 2, "0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_words(gateway, box, arguments, code, says):
    ran = gateway.cli("forward", *(word.format(box=box) for word in arguments))
    assert ran.returncode == code
    assert says in ran.stderr


def test_a_port_that_is_taken(gateway, box, port):
    with socket.socket() as other:
        # Connections of earlier tests may linger at the port.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        for more in ([], ["-d"]):
            ran = gateway.cli("forward", "start", str(port), box, *more)
            assert ran.returncode == 1
            assert f"port {port} of 127.0.0.1 is in use by another program" in ran.stderr
    assert gateway.cli("forward", "list").stderr == "No active forwards.\n"


@pytest.mark.parametrize("end", ["stop", "delete"])
def test_it_ends_with_its_sandbox(gateway, make_box, port, end):
    name = make_box()
    assert gateway.cli("forward", "start", str(port), name, "-d").returncode == 0
    assert fetch(port) == 200
    ended = gateway.cli("sandbox", end, name)
    assert f"Stopped forward of port {port} to sandbox {name}" in ended.stderr
    assert refuses(port)


def test_it_says_why_it_ended(gateway, client, make_box, port):
    name = make_box()
    with gateway.running("forward", "start", str(port), name) as process:
        assert process.stdout.readline()
        client.stop(name, workspace="default")
        assert process.wait(10) == 1
        assert f"sandbox '{name}' is stop" in process.stderr.read()


def test_nobody_listens_inside(gateway, box):
    local, inside = free_port(), free_port()
    command = ["forward", "service", box, "--target-port", str(inside), "--local", str(local)]
    with gateway.running(*command) as process:
        assert process.stdout.readline()
        with (
            socket.create_connection(("127.0.0.1", local)) as connection,
            pytest.raises(ConnectionResetError),
        ):
            connection.recv(1)
        # The server may come up later: the forward stays.
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        assert "Connection refused" in process.stderr.read()
