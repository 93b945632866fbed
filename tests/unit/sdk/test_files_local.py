"""A sandbox that lies about its files: nothing outside of the target is ever touched."""

import os
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.sdk.errors import SandboxError
from openshell.sdk.files.comparing import compare, ignored_by_git
from openshell.sdk.files.local import LocalTree
from openshell.sdk.files.trees import Entry, Kind, is_contained, is_plain_name, local_entries

OUTSIDE = b"kept"


def file(*path, content=b"", **more):
    return Entry(tuple(path), Kind.FILE, size=len(content), **more)


def write(tree, entry, content=b"new"):
    with tree.open_part(entry, "stamp") as part:
        os.write(part.descriptor, content)
        part.commit(entry)


@pytest.fixture
def world(tmp_path):
    (tmp_path / "outside").write_bytes(OUTSIDE)
    (tmp_path / "outer").mkdir()
    with LocalTree(str(tmp_path / "target")) as tree:
        yield tmp_path, tree
    assert (tmp_path / "outside").read_bytes() == OUTSIDE
    assert os.listdir(tmp_path / "outer") == []


def test_a_file_appears_whole(world):
    path, tree = world
    write(tree, file(b"a", b"b", mode=0o4755, mtime=12))
    found = (path / "target/a/b").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o755, 12)
    assert os.listdir(path / "target/a") == ["b"]


@pytest.mark.parametrize(
    "name", [b"..", b".", b"", b"a/b", b"../outside", b"/etc/passwd", b"a\0b", b"x" * 256]
)
@pytest.mark.parametrize("place", ["file", "directory", "link", "above", "remove"])
def test_names_that_are_none(world, name, place):
    _, tree = world
    with pytest.raises(SandboxError, match="a name that is none"):
        match place:
            case "file":
                write(tree, file(name))
            case "directory":
                tree.make_directory(Entry((name,), Kind.DIRECTORY))
            case "link":
                tree.make_link(Entry((name,), Kind.LINK, target=b"x"))
            case "above":
                write(tree, file(name, b"f"))
            case "remove":
                tree.remove(Entry((name,), Kind.FILE))


@pytest.mark.parametrize(
    ("directory", "target", "contained"),
    [
        ((), b"a", True),
        ((), b"./a/./b", True),
        ((b"d",), b"../a", True),
        ((b"d", b"e"), b"../../a", True),
        ((), b"..", False),
        ((b"d",), b"../..", False),
        ((b"d",), b"../../x", False),
        ((), b"/etc/passwd", False),
        ((), b"a/../../x", False),
        ((), b"a/..", False),
        ((b"d",), b"e/../../..", False),
        ((), b"", False),
        ((), b"a\0", False),
    ],
)
def test_links_that_stay_inside(directory, target, contained):
    assert is_contained(directory, target) is contained


def test_a_link_that_leads_out_is_not_made(world):
    path, tree = world
    assert not tree.make_link(Entry((b"l",), Kind.LINK, target=b"../outside"))
    assert tree.make_link(Entry((b"l",), Kind.LINK, target=b"inner"))
    assert tree.make_link(Entry((b"l",), Kind.LINK, target=b"other"))
    assert os.readlink(path / "target/l") == "other"


def test_no_link_on_the_way_is_followed(world):
    path, tree = world
    (path / "target/d").symlink_to("../outer")
    for attempt in (
        lambda: write(tree, file(b"d", b"f")),
        lambda: tree.make_directory(Entry((b"d", b"e"), Kind.DIRECTORY)),
        lambda: tree.make_directory(Entry((b"d",), Kind.DIRECTORY)),
        lambda: tree.make_link(Entry((b"d", b"l"), Kind.LINK, target=b"x")),
        lambda: tree.remove(file(b"d", b"f")),
    ):
        with pytest.raises(SandboxError, match="move it away"):
            attempt()


def test_a_link_in_place_of_a_file_is_replaced_not_written(world):
    path, tree = world
    (path / "target/f").symlink_to("../outside")
    write(tree, file(b"f"))
    assert not (path / "target/f").is_symlink()


@pytest.mark.parametrize("trap", ["link", "fifo", "directory"])
def test_a_part_file_that_somebody_prepared(world, trap):
    path, tree = world
    part = path / "target/.openshell-part-stamp"
    match trap:
        case "link":
            part.symlink_to("../outside")
        case "fifo":
            os.mkfifo(part)
        case "directory":
            part.mkdir()
    with pytest.raises((OSError, SandboxError)):
        write(tree, file(b"f"))


def test_a_directory_is_not_replaced_by_a_file_nor_the_other_way(world):
    path, tree = world
    (path / "target/d/e").mkdir(parents=True)
    with pytest.raises(SandboxError, match="is a directory here"):
        write(tree, file(b"d"))
    (path / "target/f").touch()
    with pytest.raises(SandboxError, match="something else here"):
        tree.make_directory(Entry((b"f", b"g"), Kind.DIRECTORY))
    with pytest.raises(SandboxError, match="a link there and something else here"):
        tree.make_link(Entry((b"f",), Kind.LINK, target=b"x"))


names = st.one_of(
    st.sampled_from([b"..", b".", b"", b"a", b"b", b"d", b"a/b", b"\0", b"..\\..", b"\xff"]),
    st.binary(max_size=4),
)


@given(
    entries=st.lists(
        st.builds(
            Entry,
            path=st.lists(names, max_size=3).map(tuple),
            kind=st.sampled_from(Kind),
            target=st.sampled_from([b"..", b"../..", b"a", b"/tmp", b"d/../..", b"../outer", b"."]),
        ),
        max_size=12,
    )
)
def test_whatever_a_sandbox_says(entries, tmp_path_factory):
    base = tmp_path_factory.mktemp("any")
    (base / "outside").write_bytes(OUTSIDE)
    (base / "outer").mkdir()
    with LocalTree(str(base / "target")) as tree:
        for entry in entries:
            try:
                match entry.kind:
                    case Kind.DIRECTORY:
                        tree.make_directory(entry)
                    case Kind.LINK if entry.path:
                        tree.make_link(entry)
                    case Kind.FILE if entry.path:
                        write(tree, entry)
            except (SandboxError, OSError):
                continue
    assert sorted(os.listdir(base)) == ["outer", "outside", "target"]
    assert (base / "outside").read_bytes() == OUTSIDE
    assert os.listdir(base / "outer") == []
    for directory, _, found in os.walk(base / "target"):
        for name in found:
            real = os.path.realpath(os.path.join(directory, name))
            assert real.startswith(str(base / "target"))


def test_plain_names():
    assert is_plain_name(b"..a")
    assert not is_plain_name(b"..")


# -- what is sent


@pytest.fixture
def work_tree(tmp_path):
    root = tmp_path / "repo"
    root.mkdir()
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": str(tmp_path)}
    subprocess.run(["git", "init", "-q", str(root)], check=True, env=environ)
    (root / ".gitignore").write_text("build/\n*.log\n")
    for name in ("a.py", "x.log", "build/out", "sub/b.py", "sub/deep/c.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def shown(entries):
    return [entry.shown for entry in entries if entry.kind is not Kind.DIRECTORY]


def test_gits_rules(work_tree):
    entries, filtered = local_entries(str(work_tree), git_ignore=True, environ=os.environ)
    assert filtered
    assert shown(entries) == [".gitignore", "a.py", "sub/b.py", "sub/deep/c.py"]
    below, _ = local_entries(str(work_tree / "sub"), git_ignore=True, environ=os.environ)
    assert shown(below) == ["b.py", "deep/c.py"]
    everything, filtered = local_entries(str(work_tree), git_ignore=False, environ=os.environ)
    assert not filtered
    assert {"x.log", "build/out"} <= set(shown(everything))
    # Nothing left: the caller sends everything and says so.
    ignored, filtered = local_entries(str(work_tree / "build"), git_ignore=True, environ=os.environ)
    assert (shown(ignored), filtered) == (["out"], False)


def test_git_variables_of_another_repository_do_not_matter(work_tree, tmp_path):
    environ = {**os.environ, "GIT_DIR": str(tmp_path / "nowhere"), "GIT_INDEX_FILE": "x"}
    entries, filtered = local_entries(str(work_tree), git_ignore=True, environ=environ)
    assert filtered
    assert "a.py" in shown(entries)


def test_a_work_tree_from_a_sandbox_runs_nothing(work_tree, tmp_path):
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    trap.chmod(0o755)
    with open(work_tree / ".git/config", "a") as config:
        config.write(f"[core]\n\tfsmonitor = {trap}\n\thooksPath = {tmp_path}\n")
    local_entries(str(work_tree), git_ignore=True, environ=os.environ)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SandboxError, match="neither file, directory nor link"):
        local_entries(str(tmp_path), git_ignore=False, environ={})


# -- what differs


def test_a_comparison(work_tree):
    old = [
        Entry((), Kind.DIRECTORY),
        Entry((b"same",), Kind.FILE, size=1, mtime=5),
        Entry((b"changed",), Kind.FILE, size=1, mtime=5),
        Entry((b"gone",), Kind.DIRECTORY),
        Entry((b"gone", b"f"), Kind.FILE),
        Entry((b"build",), Kind.DIRECTORY),
        Entry((b"build", b"out"), Kind.FILE),
        Entry((b".git", b"config"), Kind.FILE),
    ]
    new = [
        Entry((), Kind.DIRECTORY),
        Entry((b"same",), Kind.FILE, size=1, mtime=5),
        Entry((b"changed",), Kind.FILE, size=2, mtime=5),
        Entry((b".git",), Kind.DIRECTORY),
        Entry((b".git", b"hooks"), Kind.FILE),
    ]
    assert [e.shown for e in compare(new, old, delete=False).carried] == ["changed"]
    plan = compare(new, old, delete=True)
    plan.keep(ignored_by_git(str(work_tree), plan.removed, os.environ))
    # What is inside goes first, and what Git ignores stays.
    assert [e.shown for e in plan.removed] == ["gone/f", "gone"]
