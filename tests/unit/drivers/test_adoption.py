"""What a directory says after a restart."""

import os

import msgspec
import pytest

from openshell.drivers.launch import LaunchPlan, encode_plan
from openshell.drivers.local.adoption import Verdict, judge
from openshell.drivers.local.paths import SandboxPaths
from openshell.drivers.local.state import (
    FailureRecord,
    ProcessRecord,
    boot_id,
    start_ticks,
    write_record,
)

PLAN = LaunchPlan("box", "n", "w", "i", "unix:/x")
WHOLE = encode_plan(PLAN)


@pytest.fixture
def paths(tmp_path):
    root = tmp_path / "box"
    root.mkdir()
    return SandboxPaths(str(root))


def write_plan(paths, data=WHOLE):
    with open(paths.plan, "wb") as file:
        file.write(data)


def test_without_a_plan_it_was_never_finished(paths):
    assert judge("box", paths, boot_id()).verdict is Verdict.UNFINISHED
    os.rmdir(paths.root)
    with open(paths.root, "w"):
        pass
    assert judge("box", paths, boot_id()).verdict is Verdict.UNFINISHED


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", encode_plan(msgspec.structs.replace(PLAN, version=2)), encode_plan(PLAN)[:-3]],
    ids=["empty", "no-fields", "newer", "cut"],
)
def test_a_plan_of_someone_else_is_left_alone(paths, data):
    write_plan(paths, data)
    assert judge("box", paths, boot_id()).verdict is Verdict.UNREADABLE


def test_a_directory_under_another_name_is_left_alone(paths):
    write_plan(paths)
    assert judge("other", paths, boot_id()).verdict is Verdict.UNREADABLE


def test_running_gone_unclear(paths):
    write_plan(paths)
    assert judge("box", paths, boot_id()).verdict is Verdict.UNCLEAR
    me = ProcessRecord(os.getpid(), start_ticks(os.getpid()), boot_id())
    write_record(paths.process, me)
    running = judge("box", paths, boot_id())
    assert (running.verdict, running.pid) == (Verdict.RUNNING, os.getpid())
    os.close(running.pidfd)
    assert judge("box", paths, "another boot").verdict is Verdict.GONE
    stale = msgspec.structs.replace(me, start_ticks=1)
    write_record(paths.process, stale)
    assert judge("box", paths, boot_id()).verdict is Verdict.GONE


def test_a_stopped_or_failed_one_is_clear_without_a_process(paths):
    write_plan(paths)
    write_record(paths.failure, FailureRecord("X", "why"))
    found = judge("box", paths, boot_id())
    assert (found.verdict, found.failure.message) == (Verdict.GONE, "why")
    os.unlink(paths.failure)
    with open(paths.stopped, "w"):
        pass
    assert judge("box", paths, boot_id()).stopped
