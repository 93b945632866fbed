"""Removing what an agent may leave behind."""

import os
import socket
import subprocess
import tracemalloc

import pytest

from openshell.drivers.local.removal import RemovalError, remove_tree


def _plain(root):
    (root / "a").mkdir()
    (root / "a/file").write_text("x")


def _without_permissions(root):
    (root / "closed/inner").mkdir(parents=True)
    (root / "closed/inner/file").write_text("x")
    (root / "closed/inner").chmod(0)
    (root / "closed").chmod(0)


def _deep(root):
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)


def _odd_names(root):
    for name in (b"\xff\xfe", b"-rf", b".removing-1", b"a\nb", b" "):
        os.mkdir(os.fsencode(root) + b"/" + name)
        with open(os.fsencode(root) + b"/" + name + b"/file", "wb"):
            pass


def _odd_files(root):
    os.mkfifo(root / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "socket"))
    listener.close()
    (root / "broken").symlink_to("/nowhere")
    (root / "loop").symlink_to("loop")
    (root / "read-only").write_text("x")
    (root / "read-only").chmod(0)


def _wide_and_nested(root):
    for outer in range(20):
        for inner in range(20):
            (root / f"{outer}/{inner}").mkdir(parents=True)
            (root / f"{outer}/{inner}/.removing-{inner}").mkdir()
            (root / f"{outer}/{inner}/file").write_text("x")


@pytest.mark.parametrize(
    "build",
    [_plain, _wide_and_nested, _without_permissions, _deep, _odd_names, _odd_files],
    ids=lambda build: build.__name__[1:],
)
def test_nothing_is_left(tmp_path, build):
    root = tmp_path / "tree"
    root.mkdir()
    build(root)
    remove_tree(str(root))
    assert os.listdir(tmp_path) == []


def test_a_link_is_removed_and_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    root = tmp_path / "tree"
    root.mkdir()
    (root / "link").symlink_to(outside)
    remove_tree(str(root))
    assert (outside / "precious").read_text() == "x"
    assert not root.exists()


def test_a_link_in_place_of_the_tree_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (tmp_path / "tree").symlink_to(outside)
    with pytest.raises(Exception, match="cannot remove"):
        remove_tree(str(tmp_path / "tree"))
    assert (outside / "precious").exists()


def test_a_million_names_would_cost_no_memory(tmp_path):
    root = tmp_path / "tree"
    (root / "many").mkdir(parents=True)
    fd = os.open(root / "many", os.O_RDONLY)
    for number in range(5_000):
        os.mknod(f"{number:0>100}", 0o600, dir_fd=fd)
    os.close(fd)
    tracemalloc.start()
    try:
        remove_tree(str(root))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert os.listdir(tmp_path) == []
    assert most < 200_000, "a list of these names takes four times that"


def test_a_hard_link_takes_its_name_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / "tree").mkdir()
    os.link(tmp_path / "precious", tmp_path / "tree/link")
    remove_tree(str(tmp_path / "tree"))
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a directory")
@pytest.mark.parametrize("where", ["mounted", "sub/mounted"], ids=["on top", "below"])
def test_a_directory_of_the_same_file_system_that_is_mounted_inside_is_left_alone(tmp_path, where):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    point = tmp_path / "tree" / where
    point.mkdir(parents=True)
    subprocess.run(["mount", "--bind", tmp_path / "precious", point], check=True)
    try:
        with pytest.raises(RemovalError, match="mounted"):
            remove_tree(str(tmp_path / "tree"))
        assert (tmp_path / "precious/file").read_text() == "x"
    finally:
        subprocess.run(["umount", point], check=True)
    remove_tree(str(tmp_path / "tree"))
    assert sorted(os.listdir(tmp_path)) == ["precious"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: an ordinary user sets no such flag")
def test_immutable_files_and_directories_are_removed(tmp_path):
    (tmp_path / "tree/closed").mkdir(parents=True)
    (tmp_path / "tree/closed/file").write_text("x")
    for path, flag in (("tree/closed/file", "+i"), ("tree/closed", "+a")):
        set_ = subprocess.run(["chattr", flag, tmp_path / path], check=False, capture_output=True)
        if set_.returncode:
            pytest.skip(f"this file system has no such flags: {set_.stderr!r}")
    with pytest.raises(PermissionError):
        os.unlink(tmp_path / "tree/closed/file")
    remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def test_absent_is_fine(tmp_path):
    remove_tree(str(tmp_path / "never"))
