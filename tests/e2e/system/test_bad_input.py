"""Whatever is wrong ends in one sentence that says what to do, the documented code, and nothing left.

Sandboxes and state are compared before and after, so nothing half-written goes unseen.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openshell._proto import openshell_pb2
from openshell.sdk.client import SandboxClient
from openshell.sdk.refs import SandboxRef
from support.private_gateway import (
    FILESYSTEM,
    OPENSHELL,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.traces import Traces, process_1_of, processes_naming, supervisor_pid

HERE = Path(__file__).parent


def one_sentence(stderr: str, *words: str) -> None:
    """A single error, no traceback, with the words that matter."""
    assert stderr.count("Error:") == 1, stderr
    assert "Traceback" not in stderr
    assert "internal error" not in stderr
    flat = " ".join(stderr.split())
    for word in words:
        assert word in flat, flat


def state_of(gateway: PrivateGateway) -> tuple[str, list[str]]:
    """What exists, as the gateway tells it and as the disk has it."""
    listed = gateway.cli("sandbox", "list", "--ids").stdout
    local = gateway.state / "local"
    return listed, sorted(os.listdir(local / "sandboxes") + os.listdir(local / "trash"))


@pytest.fixture(scope="module")
def sandbox(client: SandboxClient) -> Iterator[SandboxRef]:
    with ready_sandbox(client) as ref:
        yield ref


@pytest.fixture(scope="module")
def nothing(gateway: PrivateGateway, sandbox: SandboxRef) -> Iterator[tuple[str, list[str]]]:
    """The state before the tables; looked at again when they are through."""
    before = state_of(gateway)
    yield before
    assert state_of(gateway) == before


# -- what a command line can get wrong

USAGE = {
    "unknown flag": ("sandbox create --frobnicate", "No such option '--frobnicate'"),
    "unknown command": ("sandbox creat", "Did you mean 'create'"),
    "unknown group": ("sandbx list", "Did you mean 'sandbox'"),
    "missing value": ("sandbox create --policy", "requires an argument"),
    "missing argument": ("sandbox exec", "COMMAND"),
    "no number": ("sandbox list --limit many", "not a valid integer"),
    "number out of range": ("sandbox list --limit 0", "not in the range"),
    "unknown format": ("sandbox list -o xml", "is not one of"),
    "contradiction": ("sandbox create --no-keep --detach -- true", "--detach"),
    "names and all": ("sandbox delete --all x", "give sandbox names, or --all"),
}


@pytest.mark.parametrize(("line", "words"), USAGE.values(), ids=USAGE)
def test_a_wrong_command_line(
    gateway: PrivateGateway, nothing: object, line: str, words: str
) -> None:
    ran = gateway.cli(*shlex.split(line))
    assert (ran.returncode, ran.stdout) == (2, "")
    one_sentence(ran.stderr, words)


# -- what a policy can get wrong


def endpoint(text: str) -> str:
    return (
        f"{FILESYSTEM}network_policies:\n  r:\n    endpoints:\n      - {text}\n"
        "    binaries: [{path: /usr/bin/curl}]\n"
    )


RULES = "".join(
    f"  r{n}:\n    endpoints: [{{host: h{n}.example, port: 443}}]\n"
    "    binaries: [{path: /usr/bin/curl}]\n"
    for n in range(5000)
)
POLICIES = {
    "unknown key": ("frob: 1\n" + FILESYSTEM, "p.yaml:1:1", "unknown key 'frob'"),
    "unknown key of an endpoint": (
        endpoint("{host: a.example, port: 443, prot: rest}"), "p.yaml:9:38", "unknown key 'prot'",
    ),
    "malformed": ("version: [1\n", "p.yaml:2:1", "expected"),
    "a tab": ("version: 1\nprocess:\n\trun_as_user: x\n", "p.yaml:3:1", "tab"),
    "empty": ("", "empty"),
    "text": ("hello", "expected a mapping"),
    "a list": ("[1, 2]", "expected a mapping"),
    "not UTF-8": (b"\xff\xfe\x00\x01", "not UTF-8"),
    "zero bytes": (bytes(1000), "p.yaml"),
    "two documents": ("version: 1\n---\nversion: 1\n", "p.yaml"),
    "a key twice": (FILESYSTEM * 2, "duplicate key"),
    "an object of Python": ('version: !!python/object/apply:os.system ["true"]\n', "tags"),
    "an anchor": ("version: &a 1\n", "anchors"),
    "text for a port": (endpoint("{host: a.example, port: x}"), "integer", "got text"),
    "a number for a host": (endpoint("{host: 1.5, port: 1}"), "host"),
    "a port too large": (endpoint("{host: a.example, port: 70000}"), "65535"),
    "a port of 5,000 digits": (endpoint(f"{{host: a.example, port: {'9' * 5000}}}"), "p.yaml"),
    "a relative path": ("version: 1\nfilesystem_policy: {read_only: [usr]}\n", "absolute"),
    "not built yet": (endpoint("{host: a.example, port: 443, protocol: sql}"), "sql"),
    "unknown word": (endpoint("{host: a.example, port: 443, enforcement: maybe}"), "enforce or audit"),
    "nested too deep": ("[" * 100_000, "nesting"),
    "20 megabytes": ("#" * 20_000_000, "larger than 524288 bytes"),
    "5,000 rules": (f"{FILESYSTEM}network_policies:\n{RULES}", "larger than"),
}  # fmt: skip


@pytest.mark.parametrize("row", POLICIES.values(), ids=POLICIES)
def test_a_wrong_policy(
    gateway: PrivateGateway, nothing: object, tmp_path: Path, row: tuple[str | bytes, ...]
) -> None:
    content, *words = row
    path = tmp_path / "p.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    ran = gateway.cli("sandbox", "create", "--policy", str(path), "--", "true")
    assert (ran.returncode, ran.stdout) == (1, "")
    one_sentence(ran.stderr, *map(str, words))
    assert len(ran.stderr) < 2000


def test_a_policy_that_cannot_be_read(
    gateway: PrivateGateway, nothing: object, tmp_path: Path
) -> None:
    closed = tmp_path / "closed.yaml"
    closed.write_text(FILESYSTEM)
    closed.chmod(0)
    rows = {str(tmp_path / "missing"): "No such file", str(tmp_path): "Is a directory"}
    if os.geteuid():
        rows[str(closed)] = "Permission denied"
    for path, words in rows.items():
        ran = gateway.cli("sandbox", "create", "--policy", path, "--", "true")
        assert (ran.returncode, ran.stdout) == (1, "")
        one_sentence(ran.stderr, words, "failed to read sandbox policy")


def test_a_wrong_policy_for_a_running_sandbox_changes_nothing(
    gateway: PrivateGateway, sandbox: SandboxRef, tmp_path: Path
) -> None:
    path = tmp_path / "p.yaml"
    before = gateway.cli("policy", "get", sandbox.name, "--full").stdout
    for content, words in (
        ("frob: 1\n", "unknown key"),
        (FILESYSTEM.replace("/tmp", "/opt"), "filesystem"),
    ):
        path.write_text(content)
        ran = gateway.cli("policy", "set", sandbox.name, "--policy", str(path))
        assert (ran.returncode, ran.stdout) == (1, "")
        one_sentence(ran.stderr, words)
    assert gateway.cli("policy", "get", sandbox.name, "--full").stdout == before


# -- what the values of options can get wrong

VALUES = {
    "name": ("sandbox create --name 'Not A Name' -- true", "a-z"),
    "long name": (f"sandbox create --name {'n' * 10_000} -- true", "1 to 19 characters"),
    "label": ("sandbox create --label 'a b=c' -- true", "labels"),
    "variable without value": ("sandbox create --env A -- true", "KEY=VALUE"),
    "variable name": ("sandbox create --env 1A=x -- true", "not a variable name"),
    "reserved variable": ("sandbox create --env OPENSHELL_X=1 -- true", "OPENSHELL_"),
    "huge variable": (f"sandbox create --env A={'x' * 100_000} -- true", "longer than 8192"),
    "300 variables": (
        "sandbox create " + " ".join(f"--env A{n}=1" for n in range(300)) + " -- true", "at most",
    ),
    "huge argument": (f"sandbox create -- echo {'x' * 120_000}", "longer than"),
    "huge command": ("sandbox create -- " + " ".join(["x" * 100_000] * 15), "larger than"),
    "memory": ("sandbox create --memory lots -- true", "512Mi"),
    "little memory": ("sandbox create --memory 1 -- true", "at least 16Mi"),
    "absurd memory": ("sandbox create --memory 99999999Ei -- true", "at most"),
    "absurd cpu": ("sandbox create --cpu 99999999999999999999 -- true", "at most"),
    "no cpu": ("sandbox create --cpu 0 -- true", "at least"),
    "image": ("sandbox create --from ubuntu -- true", "local driver", "ubuntu"),
    "missing directory": ("sandbox create --host-path /no/such -- true", "no such directory"),
    "the whole machine": ("sandbox create --host-path / -- true", "cannot be made visible"),
    "driver option": (
        """sandbox create --driver-config-json '{"local": {"frob": 1}}' -- true""", "frob",
    ),
    "driver options that are no JSON": ("sandbox create --driver-config-json { -- true", "JSON"),
    "unknown provider": ("sandbox create --provider nope -- true", "provider 'nope' not found"),
    "unset credential": (
        "provider create --name p --type generic --credential NOT_SET_ANYWHERE", "is not set",
    ),
    "credential name": (
        "provider create --name p --type generic --credential 1x=2", "variable name",
    ),
    "huge credential": (
        f"provider create --name p --type generic --credential A={'x' * 100_000}", "8192 bytes",
    ),
    "selector": ("sandbox list --selector 'a b c'", "key=value"),
    "time span": ("logs nope --since yesterday", "30s, 5m, 2h or 1d"),
    "unknown workspace": ("--workspace nope sandbox list", "workspace 'nope' not found"),
    "unknown gateway": ("--gateway nope sandbox list", "Unknown gateway 'nope'"),
    "no endpoint": ("--gateway-endpoint nonsense sandbox list", "https://host:port"),
}  # fmt: skip


@pytest.mark.parametrize("row", VALUES.values(), ids=VALUES)
def test_a_wrong_value(gateway: PrivateGateway, nothing: object, row: tuple[str, ...]) -> None:
    line, *words = row
    ran = gateway.cli(*shlex.split(line))
    assert (ran.returncode, ran.stdout) == (1, "")
    one_sentence(ran.stderr, *words)
    assert len(ran.stderr) < 1000


UNKNOWN = [
    "sandbox get nope",
    "sandbox exec --name nope -- true",
    "sandbox connect nope",
    "sandbox stop nope",
    "sandbox start nope",
    "sandbox provider attach nope p",
    "sandbox provider detach nope p",
    "policy get nope",
    "policy list nope",
    "policy set nope --policy POLICY",
    "logs nope",
    "logs -f nope",
]


@pytest.mark.parametrize("line", UNKNOWN)
def test_an_unknown_sandbox(
    gateway: PrivateGateway, nothing: object, tmp_path: Path, line: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FILESYSTEM)
    ran = gateway.cli(*shlex.split(line.replace("POLICY", str(path))))
    assert (ran.returncode, ran.stdout) == (1, "")
    one_sentence(ran.stderr, "not found", "nope")


def test_deleting_an_unknown_sandbox_is_no_failure(gateway: PrivateGateway) -> None:
    ran = gateway.cli("sandbox", "delete", "nope")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "Sandbox nope not found\n", "")


# -- commands that are not there

COMMANDS = {
    "not found": ("/no/such", 127, "/no/such: No such file or directory"),
    "not found on the path": ("no-such-program", 127, "no-such-program"),
    "not executable": ("/etc/hostname", 126, "Permission denied"),
    "a directory": ("/usr", 126, "Permission denied"),
}


@pytest.mark.parametrize(("program", "code", "words"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_that_cannot_be_run(
    gateway: PrivateGateway, sandbox: SandboxRef, program: str, code: int, words: str
) -> None:
    before = state_of(gateway)
    ran = gateway.cli("sandbox", "create", "--no-keep", "--", program)
    assert ran.returncode == code, ran.stderr
    one_sentence(ran.stderr, words)
    wait_until(lambda: state_of(gateway) == before)
    ran = gateway.cli("sandbox", "exec", "--name", sandbox.name, "--", program)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_working_directory_that_is_not_there(
    gateway: PrivateGateway, sandbox: SandboxRef
) -> None:
    ran = gateway.cli(
        "sandbox", "exec", "--name", sandbox.name, "--workdir", "/no/such", "--", "true"
    )
    assert ran.returncode in {1, 126, 127}, ran.returncode
    assert "/no/such" in ran.stderr
    assert "Traceback" not in ran.stderr


# -- a gateway that is not there


@pytest.mark.parametrize("line", ["sandbox list", "sandbox get x", "logs x", "sandbox connect x"])
def test_no_gateway_was_ever_started(tmp_path: Path, line: str) -> None:
    private = PrivateGateway()
    try:
        ran = private.cli(*shlex.split(line))
        assert (ran.returncode, ran.stdout) == (1, "")
        one_sentence(ran.stderr, "No active gateway", "openshell gateway start")
        assert not private.state.exists(), "looking starts and writes nothing"
    finally:
        private.remove()


@pytest.mark.parametrize("base", ["missing parent", "file", "closed"])
def test_a_state_directory_that_cannot_be_written(tmp_path: Path, base: str) -> None:
    match base:
        case "missing parent":
            state = "/proc/openshell-test"
        case "file":
            (tmp_path / "file").write_text("")
            state = str(tmp_path / "file")
        case _:
            if os.geteuid() == 0:
                pytest.skip("root may write everywhere; runs as an ordinary user")
            (tmp_path / "closed").mkdir(mode=0o500)
            state = str(tmp_path / "closed")
    private = PrivateGateway()
    try:
        for line in ("gateway start", "sandbox create -- true"):
            ran = private.cli(*shlex.split(line), environ={"XDG_STATE_HOME": state})
            assert (ran.returncode, ran.stdout) == (1, "")
            one_sentence(ran.stderr, "cannot write the state directory", "XDG_STATE_HOME")
        assert not processes_naming(str(private.directory))
    finally:
        private.remove()


def test_a_second_gateway_on_the_same_state_is_refused(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef
) -> None:
    before = gateway.embedded.record()
    ran = subprocess.run(
        [sys.executable, "-m", "openshell.gateway", "--embedded"],
        env=gateway.environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 1
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    assert "in use" in ran.stderr or "another" in ran.stderr, ran.stderr
    assert gateway.embedded.record() == before, "the first one's record stays"
    assert client.exec(sandbox.id, ["echo", "works"]).stdout == "works\n"


# -- a gateway or a sandbox that dies in the middle


class Call:
    """One running command line, with what it says."""

    def __init__(self, gateway: PrivateGateway, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [OPENSHELL, *arguments],
            env=gateway.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_said(self, word: str) -> None:
        assert self.process.stdout is not None
        said: list[str] = []
        timer = threading.Timer(20, self.process.kill)
        timer.start()
        try:
            while line := self.process.stdout.readline():
                said.append(line)
                if word in line:
                    return
        finally:
            timer.cancel()
        raise AssertionError(f"never said {word!r}: {said}")

    def end(self) -> tuple[int, str]:
        _, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stderr


SCRIPT = "echo up; exec sleep 900"


def test_a_gateway_killed_in_the_middle_of_calls() -> None:
    """Every call in flight ends with a sentence; the next gateway finds what runs."""
    with PrivateGateway() as gateway, gateway.client() as client:
        spec = sandbox_spec(command=("sh", "-c", SCRIPT))
        ref = client.create(workspace="default", spec=spec, name="box")
        client.wait_ready("box", workspace="default")
        calls = [
            Call(gateway, "sandbox", "exec", "--name", "box", "--", "sh", "-c", SCRIPT),
            Call(gateway, "sandbox", "connect", "box"),
            Call(gateway, "sandbox", "create", "--name", "made", "--", "sh", "-c", SCRIPT),
            Call(gateway, "logs", "-f", "box"),
        ]
        for call, word in zip(calls, ("up", "up", "up", "CONFIG:LOADED"), strict=True):
            call.wait_said(word)
        running = gateway.embedded.record()
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        for call in calls:
            code, said = call.end()
            assert code == 1, said
            one_sentence(said, "gateway", "openshell")
        ran = gateway.cli("sandbox", "list")
        assert (ran.returncode, ran.stdout) == (1, "")
        one_sentence(ran.stderr, "cannot reach the gateway", "openshell gateway start")

        assert gateway.cli("gateway", "start").returncode == 0
        with gateway.client() as again:
            for name in ("box", "made"):
                again.wait_ready(name, workspace="default", timeout_seconds=20)
            inside = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 900' | wc -l"

            def one_process() -> bool:
                return again.exec(ref.id, ["sh", "-c", inside]).stdout.strip() == "2"

            # The main process and the probe's own text; the orphaned exec is gone.
            wait_until(one_process)


@pytest.mark.parametrize("victim", ["process 1", "supervisor"])
def test_a_sandbox_killed_in_the_middle_of_calls(
    gateway: PrivateGateway, client: SandboxClient, victim: str
) -> None:
    spec = sandbox_spec(command=("sh", "-c", SCRIPT))
    with ready_sandbox(client, spec) as sandbox:
        traces = Traces.of(gateway.state, sandbox.id)
        calls = [
            Call(gateway, "sandbox", "exec", "--name", sandbox.name, "--", "sh", "-c", SCRIPT),
            Call(gateway, "sandbox", "connect", sandbox.name),
        ]
        for call in calls:
            call.wait_said("up")
        find = process_1_of if victim == "process 1" else supervisor_pid
        os.kill(find(gateway.state, sandbox.id), signal.SIGKILL)
        for call in calls:
            code, said = call.end()
            assert code in {1, 137}, said
            if code == 1:
                one_sentence(said, "sandbox")

        def failed() -> bool:
            record = client.describe(sandbox.name, workspace="default")
            return record.status.phase == openshell_pb2.SANDBOX_PHASE_ERROR

        wait_until(failed)
        ran = gateway.cli("sandbox", "exec", "--name", sandbox.name, "--", "true")
        assert (ran.returncode, ran.stdout) == (1, "")
        one_sentence(ran.stderr, "not ready")
        wait_until(lambda: not {"processes", "mounts"} & set(traces.left()))
    assert not traces.left()


def test_a_full_disk() -> None:
    """On a small file system of its own, mounted where only the scenario sees it."""
    ran = subprocess.run(
        [sys.executable, str(HERE / "full_disk.py")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if ran.returncode == 77:
        pytest.skip(f"no private mount namespace can be made here: {ran.stdout.strip()}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
