"""Removing what an agent may leave behind."""

import os
import socket

import pytest

from openshell.drivers.local.removal import remove_tree


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


@pytest.mark.parametrize(
    "build",
    [_plain, _without_permissions, _deep, _odd_names, _odd_files],
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


def test_absent_is_fine(tmp_path):
    remove_tree(str(tmp_path / "never"))
