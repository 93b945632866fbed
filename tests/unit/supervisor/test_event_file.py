"""The file of events: whole lines, rotation, bounds, and a disk that says no."""

import asyncio
import datetime as dt
import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openshell import ocsf
from openshell.supervisor import event_file as module
from openshell.supervisor.event_file import EventFile, RotatingFile

DAY = "2026-01-02"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def event(message: str = "m") -> ocsf.BaseEvent:
    return ocsf.BaseEvent(time_ms=1, message=message)


def test_a_file_is_for_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        file = RotatingFile(str(tmp_path / "events"))
        assert file.write([b"1\n", b"2\n"], DAY) == 2
        file.close()
    finally:
        os.umask(old)
    path = tmp_path / "events" / f"openshell-ocsf.{DAY}.log"
    assert path.read_bytes() == b"1\n2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / f"openshell-ocsf.{DAY}.log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        RotatingFile(str(tmp_path)).write([b"1\n"], DAY)
    assert target.read_bytes() == b""


def test_a_full_file_is_set_aside_and_the_newest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "other.log").write_text("not ours")
    file = RotatingFile(str(tmp_path), max_bytes=8)
    for number in range(10):
        assert file.write([b"%d..\n" % number], DAY) == 1
        sizes = [path.stat().st_size for path in tmp_path.glob("openshell-*")]
        assert max(sizes) <= 8
        assert len(sizes) <= 3
    assert names(tmp_path) == [
        f"openshell-ocsf.{DAY}.3.log",
        f"openshell-ocsf.{DAY}.4.log",
        f"openshell-ocsf.{DAY}.log",
        "other.log",
    ]
    assert (tmp_path / f"openshell-ocsf.{DAY}.log").read_bytes() == b"8..\n9..\n"


def test_one_write_may_fill_several_files(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path), max_bytes=8)
    assert file.write([b"%d..\n" % number for number in range(5)], DAY) == 5
    assert (tmp_path / f"openshell-ocsf.{DAY}.1.log").read_bytes() == b"0..\n1..\n"
    assert (tmp_path / f"openshell-ocsf.{DAY}.log").read_bytes() == b"4..\n"


def test_each_day_has_its_file_and_the_oldest_day_goes(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path))
    for day in range(1, 6):
        file.write([b"x\n"], f"2026-01-{day:02}")
    assert names(tmp_path) == [f"openshell-ocsf.2026-01-{day:02}.log" for day in (3, 4, 5)]


def test_what_a_killed_supervisor_left_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / f"openshell-ocsf.{DAY}.log"
    path.write_bytes(b'{"whole":1}\n{"ha')
    RotatingFile(str(tmp_path)).write([b'{"new":1}\n'], DAY)
    assert path.read_bytes() == b'{"whole":1}\n{"ha\n{"new":1}\n'


def test_a_disk_that_fills_up_in_the_middle_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RotatingFile(str(tmp_path))
    file.write([b"first\n"], DAY)
    real, left = os.write, [3]

    def short(descriptor: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(descriptor, data[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="No space"):
        file.write([b"second\n"], DAY)
    monkeypatch.undo()
    path = tmp_path / f"openshell-ocsf.{DAY}.log"
    assert path.read_bytes() == b"first\n"
    assert file.write([b"third\n"], DAY) == 1
    assert path.read_bytes() == b"first\nthird\n"


class Slow(RotatingFile):
    """A disk that waits until it is let go, or refuses."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.go = threading.Event()
        self.error: OSError | None = None

    def write(self, lines: object, day: str) -> int:
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return super().write(lines, day)  # type: ignore[arg-type]  # passed through


def started(
    file: RotatingFile, said: list[str], is_on: Callable[[], bool] = lambda: True
) -> EventFile:
    return EventFile(
        file,
        ocsf.EventContext(sandbox_id="box"),
        is_on=is_on,
        say=said.append,
        now=lambda: dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    )


async def test_events_are_written_while_the_setting_is_on(tmp_path: Path) -> None:
    said: list[str] = []
    on = [False]
    events = started(RotatingFile(str(tmp_path / "e")), said, lambda: on[0])
    running = asyncio.create_task(events.run())
    events.emit(event("before"))
    on[0] = True
    events.emit(event("between\nlines"))
    on[0] = False
    events.emit(event("after"))
    await asyncio.sleep(0)
    running.cancel()
    await events.close()
    lines = (tmp_path / "e" / f"openshell-ocsf.{DAY}.log").read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["between\nlines"]
    assert json.loads(lines[0])["metadata"]["uid"] == "box"
    assert said == []


async def test_no_file_is_made_without_the_setting(tmp_path: Path) -> None:
    events = started(RotatingFile(str(tmp_path / "e")), [], lambda: False)
    events.emit(event())
    await events.close()
    assert not (tmp_path / "e").exists()


async def test_a_slow_disk_costs_events_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_SECONDS", 0)
    said: list[str] = []
    file = Slow(str(tmp_path))
    events = started(file, said)
    running = asyncio.create_task(events.run())
    events.emit(event())
    await asyncio.sleep(0.02)
    began = time.monotonic()
    for _ in range(5000):
        events.emit(event())
    assert time.monotonic() - began < 1
    file.go.set()
    while not said:
        await asyncio.sleep(0.01)
    running.cancel()
    await events.close()
    assert len(said) == 1
    assert said[0].startswith("904 events are not in the file of events (more came than could")
    lines = (tmp_path / f"openshell-ocsf.{DAY}.log").read_bytes().count(b"\n")
    assert lines == 5001 - 904


async def test_a_full_disk_is_counted_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_SECONDS", 0)
    said: list[str] = []
    file = Slow(str(tmp_path))
    file.error = OSError(errno.ENOSPC, "No space left on device")
    file.go.set()
    events = started(file, said)
    running = asyncio.create_task(events.run())
    for _ in range(3):
        events.emit(event())
        events.emit(event())
        await asyncio.sleep(0.03)
    file.error = None
    events.emit(event("again"))
    await asyncio.sleep(0.03)
    running.cancel()
    await events.close()
    assert said == [
        "2 events are not in the file of events (No space left on device): free space or look there"
    ]
    assert "again" in (tmp_path / f"openshell-ocsf.{DAY}.log").read_text()
