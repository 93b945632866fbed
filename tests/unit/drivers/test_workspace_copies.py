"""Copies of a workspace: whatever an agent left there, inside the copy and nowhere else."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from openshell.drivers.local import copying
from openshell.drivers.local.copying import CopyError, copy_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


def test_files_directories_modes_and_times_come_along(source: Path, tmp_path: Path) -> None:
    (source / "a").mkdir(mode=0o750)
    (source / "a" / "file").write_bytes(b"x" * 100_000)
    os.chmod(source / "a" / "file", 0o640)
    os.utime(source / "a", ns=(1, 2))
    copied = copy_tree(str(source), str(tmp_path / "copy"), 0)
    assert (tmp_path / "copy/a/file").read_bytes() == b"x" * 100_000
    assert stat.S_IMODE(os.stat(tmp_path / "copy/a/file").st_mode) == 0o640
    assert os.stat(tmp_path / "copy/a").st_mtime_ns == 2
    assert copied.entries == 2
    assert copied.data_bytes == 100_000


def test_links_to_anywhere_stay_links(source: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("outside")
    (source / "file").symlink_to(secret)
    (source / "directory").symlink_to("/etc")
    (source / "dangling").symlink_to("/nowhere")
    copy_tree(str(source), str(tmp_path / "copy"), 0)
    assert os.readlink(tmp_path / "copy/file") == str(secret)
    assert os.readlink(tmp_path / "copy/directory") == "/etc"
    assert os.path.islink(tmp_path / "copy/dangling")


def test_a_workspace_that_is_a_link_is_refused(source: Path, tmp_path: Path) -> None:
    trick = tmp_path / "trick"
    trick.symlink_to(source)
    with pytest.raises(OSError, match="directory"):
        copy_tree(str(trick), str(tmp_path / "copy"), 0)


def test_hard_links_stay_one_file(source: Path, tmp_path: Path) -> None:
    (source / "one").write_text("same")
    (source / "below").mkdir()
    os.link(source / "one", source / "below/two")
    copy_tree(str(source), str(tmp_path / "copy"), 0)
    one, two = os.stat(tmp_path / "copy/one"), os.stat(tmp_path / "copy/below/two")
    assert one.st_ino == two.st_ino
    assert one.st_ino != os.stat(source / "one").st_ino


def test_holes_stay_holes(source: Path, tmp_path: Path) -> None:
    with open(source / "sparse", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 30)
        file.write(b"data")
    copied = copy_tree(str(source), str(tmp_path / "copy"), 0)
    found = os.stat(tmp_path / "copy/sparse")
    assert found.st_size == 1 << 40
    assert found.st_blocks * 512 < 1 << 20
    assert copied.data_bytes < 1 << 20


def test_fifos_are_made_and_sockets_are_left_out(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        descriptor = os.open(source, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
        copied = copy_tree(str(source), str(tmp_path / "copy"), 0)
    assert stat.S_ISFIFO(os.stat(tmp_path / "copy/fifo").st_mode)
    assert not os.path.lexists(tmp_path / "copy/socket")
    assert copied.skipped == 1


def test_what_its_owner_may_not_read_is_copied_and_stays_so(source: Path, tmp_path: Path) -> None:
    (source / "closed").mkdir()
    (source / "closed/file").write_text("x")
    os.chmod(source / "closed/file", 0)
    os.chmod(source / "closed", 0)
    copy_tree(str(source), str(tmp_path / "copy"), 0)
    for root in (source, tmp_path / "copy"):
        assert stat.S_IMODE(os.stat(root / "closed").st_mode) == 0
        os.chmod(root / "closed", 0o700)
        assert stat.S_IMODE(os.stat(root / "closed/file").st_mode) == 0


def test_set_user_id_does_not_come_along(source: Path, tmp_path: Path) -> None:
    (source / "tool").write_text("x")
    os.chmod(source / "tool", 0o6755)
    copy_tree(str(source), str(tmp_path / "copy"), 0)
    assert stat.S_IMODE(os.stat(tmp_path / "copy/tool").st_mode) == 0o755


def test_names_that_are_no_text_come_along(source: Path, tmp_path: Path) -> None:
    descriptor = os.open(os.fsencode(source) + b"/\xff\n", os.O_CREAT | os.O_WRONLY)
    os.close(descriptor)
    copy_tree(str(source), str(tmp_path / "copy"), 0)
    assert os.listdir(os.fsencode(tmp_path / "copy")) == [b"\xff\n"]


def test_user_attributes_come_along(source: Path, tmp_path: Path) -> None:
    (source / "file").write_text("x")
    try:
        os.setxattr(source / "file", "user.note", b"kept")
    except OSError:
        pytest.skip("this file system has no user attributes")
    copy_tree(str(source), str(tmp_path / "copy"), 0)
    assert os.getxattr(tmp_path / "copy/file", "user.note") == b"kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_everything_belongs_to_the_new_owner(source: Path, tmp_path: Path) -> None:
    (source / "directory").mkdir()
    (source / "directory/file").write_text("x")
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "fifo")
    copy_tree(str(source), str(tmp_path / "copy"), 54321)
    for name in ("", "directory", "directory/file", "link", "fifo"):
        found = os.lstat(tmp_path / "copy" / name)
        assert (found.st_uid, found.st_gid) == (54321, 54321)
    assert os.stat("/etc/passwd").st_uid == 0


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [("MAX_BYTES", "GiB"), ("MAX_ENTRIES", "files"), ("MAX_DEPTH", "deeper")],
    ids=["bytes", "entries", "depth"],
)
def test_limits_refuse_by_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, sentence: str
) -> None:
    (source / "a/b/c").mkdir(parents=True)
    (source / "file").write_bytes(b"x" * 100)
    copy_tree(str(source), str(tmp_path / "first"), 0)
    monkeypatch.setattr(copying, limit, 2)
    with pytest.raises(CopyError, match=sentence):
        copy_tree(str(source), str(tmp_path / "copy"), 0)
