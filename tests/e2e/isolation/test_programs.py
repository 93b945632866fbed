"""Starting programs: identity, environment, terminals, exits, signals and the end of it all."""

from __future__ import annotations

import os
import signal
import time

import pytest

from e2e.isolation.sandboxes import MODES, Sandbox, running_sandbox


def test_a_program_sees_itself_restricted(sandbox: Sandbox) -> None:
    seen = sandbox.probe("status")
    status = seen["status"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (seen["uid"], seen["gid"]) == (1000, 1000)
    if sandbox.mode == "root":
        # An ordinary user cannot give his groups up; they are unmapped and reach nothing.
        assert seen["groups"] == []
    assert seen["core"] == [0, 0]
    assert seen["blocked"] == 0
    assert not seen["ignored"] & (1 << (signal.SIGINT - 1))
    assert seen["hostname"] == "sandbox-probe"
    assert seen["cwd"] == "/sandbox"
    # The listing's own descriptor is the fourth.
    assert seen["descriptors"] == ["0", "1", "2", "3"]


def test_streams_and_exit_code(sandbox: Sandbox) -> None:
    answer = sandbox.run("sh", "-c", "cat; echo error >&2; exit 7", stdin="given")
    assert (answer["stdout"], answer["stderr"], answer["exit_code"]) == ("given", "error\n", 7)


@pytest.mark.parametrize(
    ("argv", "code", "error"),
    [
        (["no-such-program"], 127, "COMMAND_NOT_FOUND"),
        (["/no/such/program"], 127, "COMMAND_NOT_FOUND"),
        (["./not-a-program"], 126, "COMMAND_NOT_EXECUTABLE"),
        (["/etc"], 126, "COMMAND_NOT_EXECUTABLE"),
        (["sh", "-c", "a\0b"], 126, "INVALID_ARGUMENT"),
    ],
    ids=["not found", "no path", "not executable", "directory", "nul"],
)
def test_what_cannot_start_says_so(
    sandbox: Sandbox, argv: list[str], code: int, error: str
) -> None:
    sandbox.run("sh", "-c", "echo x > not-a-program")
    answer = sandbox.run(*argv)
    assert (answer["exit_code"], answer["error_code"]) == (code, error)


def test_a_missing_working_directory_says_so(sandbox: Sandbox) -> None:
    answer = sandbox.run("true", cwd="/nowhere")
    assert (answer["exit_code"], answer["error_code"]) == (126, "WORKDIR_UNAVAILABLE")


def test_death_by_signal(sandbox: Sandbox) -> None:
    answer = sandbox.run("sh", "-c", "kill -TERM $$")
    assert (answer["exit_code"], answer["signal"]) == (143, signal.SIGTERM)


def test_a_terminal_is_the_programs_own(sandbox: Sandbox) -> None:
    answer = sandbox.run(
        "sh", "-c", "tty; stty size; test -t 2 && echo yes; echo x > /dev/tty", tty=[101, 33]
    )
    assert answer["stdout"].replace("\r\n", "\n") == "/dev/pts/0\n33 101\nyes\nx\n"


def test_large_environments_arrive(sandbox: Sandbox) -> None:
    env = {f"BIG{n}": "x" * 100_000 for n in range(3)}
    answer = sandbox.run("sh", "-c", "echo ${#BIG2}", env=env)
    assert answer["stdout"] == "100000\n"


def test_a_tree_is_killed_with_what_left_its_session_and_its_parents(sandbox: Sandbox) -> None:
    answer = sandbox.ask({"op": "write_tree"})
    assert answer["before"] == [f"sleep30{n}" for n in range(5)], "the probe sees them all"
    assert (answer["killed"], answer["exit_code"]) == (True, 137)
    assert answer["left"] == ["sleep304"], "another program's"


def test_orphans_are_reaped(sandbox: Sandbox) -> None:
    sandbox.run("sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.05 &) ; done")
    time.sleep(0.2)
    states = sandbox.run("sh", "-c", "grep -h '^State' /proc/[0-9]*/status")["stdout"]
    assert "zombie" not in states


def test_a_sandbox_can_be_frozen_where_groups_exist(sandbox: Sandbox) -> None:
    expected = sandbox.layers["cgroup.freeze"][0] == "enforced"
    assert sandbox.ask({"op": "freeze"}) == {"frozen": expected, "thawed": expected}
    assert sandbox.run("true")["exit_code"] == 0


def test_nothing_is_left_when_the_supervisor_is_killed(mode: str) -> None:
    with running_sandbox(mode) as victim:
        init = victim.greeting["init_pid"]
        if mode == "root":
            assert os.path.exists(f"/proc/{init}")
        victim.process.kill()
        victim.process.wait()
        deadline = time.monotonic() + 5
        while os.path.exists(f"/proc/{init}") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{init}") or _is_zombie(init)
        victim.remove_groups()


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def test_every_phase_is_timed_and_the_whole_is_quick(sandbox: Sandbox) -> None:
    phases = {name: end - start for name, start, end in sandbox.greeting["phases"]}
    for name in ("clone", "identity_maps", "init.network", "init.rootfs", "init.seccomp"):
        assert phases[name] >= 0
    started = min(start for _, start, _ in sandbox.greeting["phases"])
    ended = max(end for _, _, end in sandbox.greeting["phases"])
    # Ten milliseconds where nothing else runs; a shared machine gets thirty times that.
    assert ended - started < 300_000_000


def test_every_mandatory_layer_is_enforced(sandbox: Sandbox) -> None:
    for name in ("namespaces", "network", "filesystem", "privileges", "seccomp", "rlimits"):
        assert sandbox.layers[name][0] == "enforced", sandbox.layers[name]


def test_process_1_shows_nothing_of_the_supervisor(sandbox: Sandbox) -> None:
    line = sandbox.run("cat", "/proc/1/cmdline", "/proc/1/comm")["stdout"]
    assert line.replace("\0", "").split() == ["openshell-initopenshell-init"]


def test_a_terminal_is_resized_and_hung_up(sandbox: Sandbox) -> None:
    answer = sandbox.ask({"op": "terminal"})
    assert answer == {"first": "up\r\n", "size": "50 132\r\n", "exit_code": 0}
    assert os.path.exists(f"{sandbox.workspace}/hung-up")


def test_a_stopped_process_1_still_dies_with_its_supervisor(mode: str) -> None:
    """It cannot see the end of the socket: the kernel's death signal is the second string."""
    with running_sandbox(mode) as victim:
        init = victim.greeting["init_pid"]
        os.kill(init, signal.SIGSTOP)
        victim.process.kill()
        victim.process.wait()
        deadline = time.monotonic() + 5
        while os.path.exists(f"/proc/{init}") and time.monotonic() < deadline:
            time.sleep(0.01)
        alive = os.path.exists(f"/proc/{init}") and not _is_zombie(init)
        if alive:
            os.kill(init, signal.SIGKILL)
        victim.remove_groups()
        assert not alive


@pytest.mark.skipif("root" not in MODES, reason="needs root: looks into a process of dumpable 0")
def test_process_1_holds_no_descriptor_of_the_supervisor(sandbox: Sandbox) -> None:
    directory = f"/proc/{sandbox.greeting['init_pid']}/fd"
    links = [os.readlink(f"{directory}/{number}") for number in os.listdir(directory)]
    kinds = sorted(link.rpartition("/")[2].partition(":")[0] for link in links)
    # Its control socket, and the signals of its children.
    assert kinds == ["anon_inode", "null", "null", "null", "socket"]
