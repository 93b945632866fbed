"""Commands inside a sandbox through the real command line: codes, streams, terminals, many at once."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from openshell.sdk.client import SandboxClient
from openshell.sdk.refs import ExecChunk, ExecResult, SandboxRef
from support.private_gateway import (
    OPENSHELL,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.terminal import Terminal
from support.traces import Traces, tree

BIG = 50 * 1024 * 1024
# Every line differs, so a lost or swapped block shows.
NUMBERS = "seq 1 7000000 | head -c 52428800"


@pytest.fixture(scope="module")
def sandbox(client: SandboxClient) -> Iterator[SandboxRef]:
    with ready_sandbox(client) as ref:
        yield ref


CODES = {
    "success": ("true", 0),
    "failure": ("exit 1", 1),
    "largest": ("exit 255", 255),
    "ended by a signal": ("kill -TERM $$", 143),
    "killed": ("kill -KILL $$", 137),
    "a shell's command not found": ("/no/such/program", 127),
    "not executable": ("/etc/passwd", 126),
}


@pytest.mark.parametrize(("script", "code"), CODES.values(), ids=CODES)
def test_exec_answers_the_commands_code(
    gateway: PrivateGateway, sandbox: SandboxRef, script: str, code: int
) -> None:
    ran = gateway.cli("sandbox", "exec", "--name", sandbox.name, "--", "sh", "-c", script)
    assert ran.returncode == code, ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize(
    ("command", "code"),
    [("true", 0), ("false", 1), ("sh -c 'exit 7'", 7), ("sh -c 'kill -9 $$'", 137)],
)
def test_create_answers_the_commands_code(
    gateway: PrivateGateway, client: SandboxClient, command: str, code: int
) -> None:
    before = {ref.id for ref in client.list(workspace="default")}
    ran = gateway.cli("sandbox", "create", "--no-keep", "--", *shlex.split(command))
    assert ran.returncode == code, ran.stderr
    assert ran.stderr == ""
    wait_until(lambda: {ref.id for ref in client.list(workspace="default")} == before)


def test_streams_are_apart_and_in_order(gateway: PrivateGateway, sandbox: SandboxRef) -> None:
    ran = gateway.cli(
        "sandbox", "exec", "--name", sandbox.name, "--", "sh", "-c",
        "for i in 1 2 3; do echo out $i; echo err $i >&2; done",
    )  # fmt: skip
    assert ran.stdout == "out 1\nout 2\nout 3\n"
    assert ran.stderr == "err 1\nerr 2\nerr 3\n"


def test_stdin_is_streamed_both_ways(gateway: PrivateGateway, sandbox: SandboxRef) -> None:
    """Each line is answered before the next is sent, so nothing waits for the end of input."""
    with subprocess.Popen(
        [OPENSHELL, "sandbox", "exec", "--name", sandbox.name, "--", "cat"],
        env=gateway.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(5):
            line = f"line {number}\n".encode()
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == line
        process.stdin.close()
        assert process.wait(10) == 0


def test_input_of_many_megabytes_arrives_whole(
    gateway: PrivateGateway, sandbox: SandboxRef
) -> None:
    data = os.urandom(1024 * 1024) * 8
    ran = subprocess.run(
        [OPENSHELL, "sandbox", "exec", "--name", sandbox.name, "--", "sha256sum"],
        env=gateway.environ,
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_a_command_that_does_not_read_is_not_waited_for(
    gateway: PrivateGateway, sandbox: SandboxRef
) -> None:
    ran = subprocess.run(
        [OPENSHELL, "sandbox", "exec", "--name", sandbox.name, "--", "true"],
        env=gateway.environ,
        input=bytes(4 * 1024 * 1024),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_fifty_megabytes_arrive_in_order(gateway: PrivateGateway, sandbox: SandboxRef) -> None:
    expected = subprocess.run(["sh", "-c", NUMBERS], capture_output=True, check=True).stdout
    assert len(expected) == BIG
    ran = subprocess.run(
        [OPENSHELL, "sandbox", "exec", "--name", sandbox.name, "--", "sh", "-c", NUMBERS],
        env=gateway.environ,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert hashlib.sha256(ran.stdout).digest() == hashlib.sha256(expected).digest()


def test_a_slow_reader_slows_the_command_down(client: SandboxClient, sandbox: SandboxRef) -> None:
    """What nobody reads yet is not kept in memory: the writer inside waits."""
    script = (
        "i=0; while [ $i -lt 400 ]; do head -c 262144 /dev/zero; i=$((i+1)); echo $i > step; done"
    )

    def steps() -> int:
        return int(client.exec(sandbox.id, ["cat", "step"]).stdout or 0)

    stream = client.exec_stream(sandbox.id, ["sh", "-c", script], timeout_seconds=60)
    first = next(stream)
    assert isinstance(first, ExecChunk)
    seen = [-1]

    def stands_still() -> bool:
        seen.append(steps())
        return 0 < seen[-1] == seen[-2]

    wait_until(stands_still, pause=0.15)
    assert seen[-1] < 200, "it waits long before its end"
    received = len(first.data)
    for item in stream:
        if isinstance(item, ExecResult):
            assert item.exit_code == 0
        elif item.stream == "stdout":
            received += len(item.data)
    assert (received, steps()) == (400 * 262144, 400)


def test_a_command_that_takes_too_long_ends_with_124(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef
) -> None:
    ran = gateway.cli(
        "sandbox", "exec", "--name", sandbox.name, "--timeout", "1", "--",
        "sh", "-c", "sleep 987 & echo started; wait",
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (124, "started\n")
    wait_until(lambda: "sleep 987" not in processes_inside(client, sandbox))


def processes_inside(client: SandboxClient, sandbox: SandboxRef) -> str:
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null"
    return client.exec(sandbox.id, ["sh", "-c", script]).stdout


def test_a_caller_that_hangs_up_ends_its_command(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef
) -> None:
    with subprocess.Popen(
        [OPENSHELL, "sandbox", "exec", "--name", sandbox.name, "--", "sleep", "986"],
        env=gateway.environ,
        stdin=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: "sleep 986" in processes_inside(client, sandbox))
        process.kill()
    wait_until(lambda: "sleep 986" not in processes_inside(client, sandbox))


def test_a_terminal_has_its_size_and_follows_it(
    gateway: PrivateGateway, sandbox: SandboxRef
) -> None:
    argv = [OPENSHELL, "sandbox", "exec", "--name", sandbox.name, "--", "sh"]
    with Terminal(argv, gateway.environ, cols=101, rows=33) as terminal:
        terminal.type(b"test -t 0 && test -t 1 && stty size && echo O''K\r")
        terminal.read_until(b"33 101\r\nOK")
        terminal.resize(77, 22)
        terminal.type(b"until test \"$(stty size)\" = '22 77'; do :; done; echo N''EW\r")
        terminal.read_until(b"NEW")
        terminal.type(b"exit 9\r")
        assert terminal.finish() == 9


def test_ctrl_c_reaches_the_command_not_the_client(
    gateway: PrivateGateway, sandbox: SandboxRef
) -> None:
    argv = [OPENSHELL, "sandbox", "exec", "--name", sandbox.name, "--", "sh"]
    with Terminal(argv, gateway.environ) as terminal:
        # Said by the command itself, so that the shell has handed it the terminal.
        terminal.type(b"sh -c 'echo ready; exec sleep 985'; echo after $?\r")
        terminal.read_until(b"ready\r\n")
        terminal.type(b"\x03")
        terminal.type(b"echo alive $?\r")
        terminal.read_until(b"alive 130")
        terminal.type(b"\x04")
        terminal.finish()


def test_connect_shows_what_was_said_and_detaches_without_ending_it(
    gateway: PrivateGateway, client: SandboxClient
) -> None:
    spec = sandbox_spec(command=("sh", "-c", "echo first words; exec cat"))
    spec.tty = True
    with ready_sandbox(client, spec) as ref:
        argv = [OPENSHELL, "sandbox", "connect", ref.name]
        with Terminal(argv, gateway.environ) as terminal:
            terminal.read_until(b"first words")
            terminal.type(b"hello\r")
            terminal.read_until(b"hello\r\nhello")
            terminal.process.send_signal(signal.SIGTERM)
            terminal.finish()
        with Terminal(argv, gateway.environ) as terminal:
            terminal.read_until(b"hello\r\nhello")
            terminal.type(b"\x04")
            assert terminal.finish() == 0


def test_an_interrupted_create_without_keep_leaves_nothing(
    gateway: PrivateGateway, client: SandboxClient
) -> None:
    before = {ref.id for ref in client.list(workspace="default")}
    with subprocess.Popen(
        [OPENSHELL, "sandbox", "create", "--no-keep", "--", "sh", "-c", "echo up; sleep 984"],
        env=gateway.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "up\n":
            assert process.poll() is None
        (made,) = {ref.id for ref in client.list(workspace="default")} - before
        traces = Traces.of(gateway.state, made)
        assert traces.left(), "the probe sees a sandbox that is there"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said.strip()) == (130, "Error: interrupted")
    wait_until(lambda: {ref.id for ref in client.list(workspace="default")} == before)
    wait_until(lambda: not traces.left())


def test_a_kept_sandbox_survives_its_client(gateway: PrivateGateway, client: SandboxClient) -> None:
    with subprocess.Popen(
        [OPENSHELL, "sandbox", "create", "--name", "kept", "--", "sleep", "983"],
        env=gateway.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"Created sandbox: kept\n"
        client.wait_ready("kept", workspace="default")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    try:
        ref = client.get("kept", workspace="default")
        assert "sleep 983" in processes_inside(client, ref)
    finally:
        client.delete("kept", workspace="default")
        client.wait_deleted("kept", workspace="default")


def test_a_hundred_commands_at_once(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef
) -> None:
    """Each gets its own input, output and code, and nothing of them stays."""
    before = len(tree(os.getpid()))
    script = 'read -r line; echo "$line out"; echo "$line err" >&2; exit $((line % 100))'

    def run(number: int) -> ExecResult:
        return client.exec(
            sandbox.id, ["sh", "-c", script], stdin=f"{number}\n".encode(), timeout_seconds=60
        )

    started = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        results = list(pool.map(run, range(100)))
    assert time.monotonic() - started < 30
    assert [(result.exit_code, result.stdout, result.stderr) for result in results] == [
        (number, f"{number} out\n", f"{number} err\n") for number in range(100)
    ]
    # What earlier tests had started may end meanwhile; nothing may come.
    assert len(tree(os.getpid())) <= before
    wait_until(lambda: processes_inside(client, sandbox).count("read -r line") == 0)


def test_the_end_of_input_reaches_an_attached_command(gateway: PrivateGateway) -> None:
    create = ("sandbox", "create", "--no-keep", "--")
    assert gateway.cli(*create, "cat", stdin="", timeout=30).returncode == 0
    big = "x" * 300_000
    done = gateway.cli(*create, "sh", "-c", "sleep 0.3; cat", stdin=big, timeout=30)
    assert done.returncode == 0
    assert done.stdout.endswith(big)
