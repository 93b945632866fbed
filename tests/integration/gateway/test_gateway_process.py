"""The program itself: start, what it leaves for clients, signals, exit codes, refusals."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from openshell._proto import openshell_pb2 as pb
from openshell._proto import openshell_pb2_grpc as pb_grpc

SECONDS = 20


class Program:
    """Starts gateways on one private state directory and ends them."""

    def __init__(self, root: Path):
        self.root = root
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "XDG_STATE_HOME": str(root / "s"),
            "XDG_CONFIG_HOME": str(root / "c"),
        }
        self.state = root / "s/openshell"
        self.started = []

    def run(self, *arguments, **env):
        return subprocess.run(
            [sys.executable, "-m", "openshell.gateway", *arguments],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def start(self, *arguments):
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "openshell.gateway", *arguments, "--ready-fd", str(writer)],
            env=self.env,
            pass_fds=(writer,),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.started.append(process)
        os.close(writer)
        with os.fdopen(reader) as ready:
            line = ready.readline()
        assert line, process.communicate(timeout=SECONDS)[0].decode()
        return process, json.loads(line)

    def end(self, process, number=signal.SIGTERM):
        process.send_signal(number)
        output = process.communicate(timeout=SECONDS)[0].decode()
        return process.returncode, output

    def health(self, endpoint):
        directory = self.root / "c/openshell/gateways/openshell/mtls"
        credentials = grpc.ssl_channel_credentials(
            root_certificates=(directory / "ca.crt").read_bytes(),
            private_key=(directory / "tls.key").read_bytes(),
            certificate_chain=(directory / "tls.crt").read_bytes(),
        )
        with grpc.secure_channel(endpoint.removeprefix("https://"), credentials) as channel:
            return pb_grpc.OpenShellStub(channel).Health(pb.HealthRequest(), timeout=SECONDS)


@pytest.fixture
def program(tmp_path):
    made = Program(tmp_path)
    yield made
    for process in made.started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_embedded_start_serves_registers_and_ends(program):
    process, line = program.start("--embedded")
    assert line["pid"] == process.pid
    assert program.health(line["endpoint"]).status == pb.SERVICE_STATUS_HEALTHY
    record = json.loads((program.state / "gateway/run.json").read_text())
    assert (record["pid"], record["endpoint"]) == (process.pid, line["endpoint"])
    config = program.root / "c/openshell"
    registered = json.loads((config / "gateways/openshell/metadata.json").read_text())
    assert registered["gateway_endpoint"] == line["endpoint"]
    assert (config / "active_gateway").read_text() == "openshell\n"
    for path in (program.state / "gateway/openshell.db", program.state / "local/gateway.sock"):
        if path.exists():
            assert path.stat().st_mode & 0o777 == 0o600
    code, output = program.end(process)
    assert code == 0, output
    assert "Traceback" not in output


def test_the_port_is_kept_and_a_second_gateway_refused(program):
    first, line = program.start("--embedded")
    refused = program.run("--embedded")
    assert refused.returncode == 1
    assert f"another gateway (pid {first.pid})" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert json.loads((program.state / "gateway/run.json").read_text())["pid"] == first.pid
    assert program.health(line["endpoint"])
    assert program.end(first, signal.SIGKILL)[0] == -signal.SIGKILL
    second, again = program.start("--embedded")
    assert again["endpoint"] == line["endpoint"]
    assert program.end(second, signal.SIGINT)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--no-such-flag"], 2, "--no-such-flag"),
        (["--oidc-issuer", "x"], 1, "--oidc-issuer is not supported yet"),
        (["--config", "/nonexistent"], 1, "/nonexistent"),
        ([], 1, "generate-certs"),
        (["generate-certs"], 2, "--output-dir"),
        (["--embedded", "--db-url", "sqlite:/proc/none/db"], 1, "/proc/none"),
    ],
)
def test_refused_with_one_sentence(program, arguments, code, says):
    result = program.run(*arguments)
    assert result.returncode == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_damaged_database_is_one_sentence(program):
    path = program.state / "gateway/openshell.db"
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(b"no database" * 1000)
    result = program.run("--embedded")
    assert result.returncode == 1
    assert "not an SQLite database" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_newer_database_is_one_sentence(program):
    path = program.state / "gateway/openshell.db"
    path.parent.mkdir(parents=True, mode=0o700)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    result = program.run("--embedded")
    assert result.returncode == 1
    assert "schema 999" in result.stderr


def test_generate_certs_then_serve(program):
    made = program.run("generate-certs", "--output-dir", str(program.state / "tls"))
    assert made.returncode == 0, made.stderr
    taken = program.start("--port", "0")
    assert program.health(taken[1]["endpoint"])
    port = taken[1]["endpoint"].rpartition(":")[2]
    busy = program.run("--port", port)
    assert busy.returncode == 1
    assert "Address already in use" in busy.stderr
    assert program.end(taken[0])[0] == 0


def test_a_crash_leaves_no_core_file(program):
    """It would hold the keys of the gateway and whatever value is open."""
    process, _line = program.start("--embedded")
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    (core,) = (line.split()[-3:-1] for line in limits if line.startswith("Max core file size"))
    assert core == ["0", "0"]


def test_a_name_in_the_log_is_no_line_of_its_own():
    """Names of providers may hold anything; who reads the log must not take them for the gateway's words."""
    script = (
        "import logging; from openshell.gateway.main import _configure_logging;"
        "_configure_logging('info');"
        "logging.warning('provider %s is left out', 'a\\n2026-01-01 INFO all is well\\x1b[31m\\r\\u202e');"
        "logging.info('after')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    first, second, third = done.stdout.splitlines()
    assert first.endswith("WARNING root: provider a")
    assert second == r"  2026-01-01 INFO all is well\x1b[31m\x0d\x202e is left out"
    assert third.endswith("INFO root: after")


def test_version(program):
    assert program.run("--version").stdout.startswith("openshell-gateway ")
