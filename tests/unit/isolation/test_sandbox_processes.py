"""Killing by a description: the process that was looked at, or nothing."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from openshell.supervisor.isolation.processes import (
    PROGRAM_MARK,
    SandboxProcess,
    descendants,
    host_pid,
    kill,
    kill_program,
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def described(pid: int) -> SandboxProcess:
    return next(process for process in descendants(os.getpid()) if process.pid == pid)


@pytest.mark.parametrize("change", [{"started": -1}, {"inner_pid": 1}], ids=["age", "number"])
def test_a_pid_that_names_another_process_by_now_is_left_alone(
    sleeper: subprocess.Popen[bytes], change: dict[str, Any]
) -> None:
    looked_at = described(sleeper.pid)
    kill(dataclasses.replace(looked_at, **change))
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.05)
    kill(looked_at)
    assert sleeper.wait(5) == -signal.SIGKILL


def test_one_that_is_gone_is_fine(sleeper: subprocess.Popen[bytes]) -> None:
    looked_at = described(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    kill(looked_at)
    assert host_pid(os.getpid(), looked_at.inner_pid) is None


def test_a_mark_that_only_begins_alike_is_another_programs() -> None:
    """1 is not 12."""
    env = {"PATH": os.environ["PATH"]}
    with (
        subprocess.Popen(["sleep", "61"], env={**env, PROGRAM_MARK: "1"}) as leader,
        subprocess.Popen(["sleep", "62"], env={**env, PROGRAM_MARK: "1"}) as marked,
        subprocess.Popen(["sleep", "63"], env={**env, PROGRAM_MARK: "12"}) as other,
    ):
        try:
            assert kill_program(os.getpid(), leader.pid, 1)
            assert (leader.wait(5), marked.wait(5)) == (-9, -9)
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.05)
        finally:
            other.kill()


CROWD = """
import os, signal, sys
for _ in range(1500):
    if not os.fork():
        signal.pause()
print("up", flush=True)
sys.stdin.read()
os.killpg(0, signal.SIGKILL)
"""


def test_a_crowd_hides_nobody() -> None:
    """Lists of children longer than a page are read to their end."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", CROWD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        found = descendants(parent.pid)
        parent.stdin.close()
        assert len(found) == 1500
