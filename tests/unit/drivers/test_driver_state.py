"""Records, locks and paths of the local driver."""

import os
import subprocess
import sys

import msgspec
import pytest

from openshell.drivers.launch import Exposure, LaunchPlan, PlanError, decode_plan, encode_plan
from openshell.drivers.local.lock import StateLock
from openshell.drivers.local.paths import StateDirError, StatePaths, secure_directory, socket_path
from openshell.drivers.local.state import (
    ProcessRecord,
    boot_id,
    open_process,
    read_record,
    start_ticks,
    write_bytes,
    write_record,
)

PLAN = LaunchPlan(
    sandbox_id="id",
    name="n",
    workspace="default",
    instance_id="i",
    endpoint="unix:/x",
    command=("sh", "-c", "echo 'a\nb'"),
    environment={"A": "1"},
    exposure=Exposure(paths=("/home/u/.pyenv",)),
)


def test_a_plan_comes_back_equal():
    assert decode_plan(encode_plan(PLAN)) == PLAN


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "malformed", id="empty"),
        pytest.param(b"\xff\xfe", "malformed", id="no-text"),
        pytest.param(b"[]", "malformed", id="no-object"),
        pytest.param(b"{}", "malformed", id="fields-missing"),
        pytest.param(encode_plan(PLAN)[:-1] + b',"more":1}', "malformed", id="unknown-field"),
        pytest.param(
            encode_plan(msgspec.structs.replace(PLAN, version=99)), "version 99", id="other-version"
        ),
        pytest.param(b" " * (5 << 20), "more than", id="too-large"),
    ],
)
def test_a_plan_that_is_none_is_refused(data, says):
    with pytest.raises(PlanError, match=says):
        decode_plan(data)


def test_a_process_is_known_by_pid_start_and_boot():
    me = ProcessRecord(os.getpid(), start_ticks(os.getpid()), boot_id())
    fd = open_process(me, boot_id())
    assert fd is not None
    os.close(fd)
    assert open_process(me, "another boot") is None
    assert (
        open_process(msgspec.structs.replace(me, start_ticks=me.start_ticks + 1), boot_id()) is None
    )


def test_an_ended_process_is_not_opened():
    child = subprocess.Popen([sys.executable, "-c", ""])
    ticks = start_ticks(child.pid)
    child.wait()
    assert open_process(ProcessRecord(child.pid, ticks or 0, boot_id()), boot_id()) is None


def test_records_are_whole_or_missing(tmp_path):
    path = str(tmp_path / "record")
    assert read_record(path, ProcessRecord) is None
    record = ProcessRecord(7, 1234, boot_id(), "x")
    write_record(path, record, durable=True)
    assert read_record(path, ProcessRecord) == record
    assert os.stat(path).st_mode & 0o777 == 0o600
    (tmp_path / "record").write_bytes(b'{"pid": "no"}')
    assert read_record(path, ProcessRecord) is None
    assert os.listdir(tmp_path) == ["record"]


def test_a_failed_write_leaves_the_old_record(tmp_path):
    path = tmp_path / "file"
    write_bytes(str(path), b"old")
    with pytest.raises(TypeError):
        write_bytes(str(path), None)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_second_lock_is_refused_with_the_holder(tmp_path):
    path = str(tmp_path / "lock")
    first = StateLock(path)
    first.acquire()
    with pytest.raises(StateDirError, match=rf"pid {os.getpid()}.*openshell gateway stop"):
        StateLock(path).acquire()
    first.release()
    second = StateLock(path)
    second.acquire()
    second.release()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "a\n", "x" * 129, "ä"], ids=lambda name: repr(name)[:12]
)
def test_an_id_cannot_leave_the_directory(name):
    with pytest.raises(ValueError):
        StatePaths("/state").sandbox(name)


def test_a_long_state_path_gets_a_short_socket(tmp_path):
    short = socket_path("/state", "zygote.sock")
    assert short == "/state/zygote.sock"
    deep = str(tmp_path / ("d" * 100))
    long = socket_path(deep, "zygote.sock")
    assert len(long) < 108
    assert long == socket_path(deep, "zygote.sock")
    assert os.stat(os.path.dirname(long)).st_mode & 0o777 == 0o700
    os.rmdir(os.path.dirname(long))


def test_a_state_directory_is_closed_to_others(tmp_path):
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    secure_directory(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(StateDirError):
        secure_directory(str(tmp_path / "link"))
