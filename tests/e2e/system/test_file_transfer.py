"""Files to a sandbox and back by the command line, and what a sandbox may not do to them."""

import os
import stat
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from openshell._proto import openshell_pb2 as pb
from openshell.sdk.files.client import FilesClient


@pytest.fixture(scope="module")
def box(client):
    name = f"files-{uuid.uuid4().hex[:6]}"
    client.create(workspace="default", name=name, spec=pb.SandboxSpec(command=["sleep", "1000"]))
    yield client.wait_ready(name, workspace="default", timeout_seconds=30)
    client.delete(name, workspace="default")


@pytest.fixture
def inside(client, box):
    def run(command):
        ran = client.exec(box.id, ["sh", "-c", command])
        assert ran.exit_code == 0, ran.stderr
        return ran.stdout

    run("rm -rf /sandbox/* /sandbox/.[!.]* /tmp/there")
    return run


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "src"
    (root / "sub/deep").mkdir(parents=True)
    (root / "a b.txt").write_text("first")
    (root / "-dash").write_text("dash")
    (root / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "run.sh").chmod(0o750)
    (root / "sub/deep/empty").touch()
    (root / "sub/link").symlink_to("../run.sh")
    (root / "dangling").symlink_to("nowhere")
    os.utime(root / "a b.txt", (1_000_000_000, 1_000_000_000))
    return root


def contents(root):
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            value = os.readlink(path) if os.path.islink(path) else Path(path).read_bytes()
            found[os.path.relpath(path, root)] = value
    return found


def test_there_and_back(gateway, box, inside, tree, tmp_path):
    sent = gateway.cli("sandbox", "upload", box.name, str(tree))
    assert sent.returncode == 0, sent.stderr
    assert sent.stderr.endswith("Upload complete: 4 files, 28 B\n")
    assert inside("cat '/sandbox/src/a b.txt'; stat -c '%a %Y' '/sandbox/src/a b.txt'") == (
        "first644 1000000000\n"
    )
    assert inside("/sandbox/src/sub/link; readlink /sandbox/src/dangling") == "ran\nnowhere\n"
    back = gateway.cli("sandbox", "download", box.name, "src", str(tmp_path / "back"))
    assert back.returncode == 0, back.stderr
    assert contents(tmp_path / "back") == contents(tree)
    assert stat.S_IMODE((tmp_path / "back/run.sh").stat().st_mode) == 0o750
    assert (tmp_path / "back/a b.txt").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize(
    ("dest", "lands"),
    [
        ((), "/sandbox/run.sh"),
        (("x",), "/sandbox/x"),
        (("d/e/",), "/sandbox/d/e/run.sh"),
        (("d/e/y",), "/sandbox/d/e/y"),
        (("/tmp/there/z",), "/tmp/there/z"),
    ],
    ids=str,
)
def test_where_a_file_lands(gateway, box, inside, tree, dest, lands):
    ran = gateway.cli("sandbox", "upload", box.name, str(tree / "run.sh"), *dest)
    assert ran.returncode == 0, ran.stderr
    assert inside(f"{lands}") == "ran\n"


def test_one_file_back(gateway, box, inside, tmp_path):
    inside("printf one > one; printf two > -two; mkdir d; ln -s ../one d/link")
    for source, dest, lands in (
        ("one", str(tmp_path), "one"),
        ("one", str(tmp_path / "new"), "new"),
        ("./-two", f"{tmp_path}/made/", "made/-two"),
        ("-two", str(tmp_path / "x"), "x"),
        ("/sandbox/d/link", str(tmp_path / "y"), "y"),
    ):
        ran = gateway.cli("sandbox", "download", box.name, "--", source, dest)
        assert ran.returncode == 0, ran.stderr
        assert (tmp_path / lands).read_text() in ("one", "two")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/etc/passwd", "outside"),
        ("../etc/passwd", "outside"),
        ("out", "outside"),
        ("far/passwd", "outside"),
        ("/", "outside"),
        ("", "below"),
        ("missing", "no such file"),
        ("pipe", "neither file"),
    ],
)
def test_what_is_not_fetched(gateway, box, inside, tmp_path, source, says):
    inside("ln -s /etc/passwd out; ln -s /etc far; mkfifo pipe")
    ran = gateway.cli("sandbox", "download", box.name, source, str(tmp_path / "x"))
    assert ran.returncode == 1
    assert says in ran.stderr
    assert not (tmp_path / "x").exists()


def test_a_tree_with_ways_out(gateway, box, inside, tmp_path):
    (tmp_path / "out").mkdir()
    target = tmp_path / "target"
    inside(
        "mkdir -p d/e; ln -s ../../out d/up; ln -s /etc d/abs; ln -s e/../../../out d/round;"
        "ln -s e d/fine; echo x > d/e/f; mkfifo d/pipe"
    )
    ran = gateway.cli("sandbox", "download", box.name, "d", str(target))
    assert ran.returncode == 0, ran.stderr
    assert sorted(os.listdir(target)) == ["e", "fine"]
    for name in ("up", "abs", "round"):
        assert f"the link {name} leads out of the target" in ran.stderr
    # And what is here may lead out as well: it is not followed either.
    (target / "e/f").unlink()
    (target / "e").rmdir()
    (target / "e").symlink_to(tmp_path / "out")
    again = gateway.cli("sandbox", "download", box.name, "d", str(target))
    assert again.returncode == 1
    assert "move it away" in again.stderr
    assert os.listdir(tmp_path / "out") == []


def test_what_is_here_already(gateway, box, inside, tmp_path):
    inside("mkdir d; echo new > d/f; echo new > g")
    (tmp_path / "file").touch()
    for source in ("d", "g"):
        ran = gateway.cli("sandbox", "download", box.name, source, f"{tmp_path}/file/x")
        assert ran.returncode == 1
        assert "is not a directory" in " ".join(ran.stderr.split())
    assert gateway.cli("sandbox", "download", box.name, "d", f"{tmp_path}/file").returncode == 1
    (tmp_path / "y/g").mkdir(parents=True)
    refused = gateway.cli("sandbox", "download", box.name, "g", f"{tmp_path}/y")
    assert refused.returncode == 1
    assert "is a directory here" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["upload", "{box}", "/no/such"], "/no/such: no such file"),
        (["upload", "nobody", "/etc/hostname"], "not found"),
        (["upload", "{box}", "/etc/hostname", "/etc/x"], "permission denied"),
        (["upload", "{box}", "/dev/null"], "neither file"),
        (["download", "nobody", "x"], "not found"),
        (["sync", "{box}", "/no/such"], "not a directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_words(gateway, box, arguments, says):
    ran = gateway.cli("sandbox", *(word.format(box=box.name) for word in arguments))
    assert ran.returncode == 1
    assert says in ran.stderr


def test_gits_rules(gateway, box, inside, tmp_path):
    root = tmp_path / "repo"
    root.mkdir()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_text("*.log\n")
    (root / "x.log").write_text("log")
    (root / "a.py").write_text("code")
    assert gateway.cli("sandbox", "upload", box.name, str(root)).returncode == 0
    assert inside("ls -A repo") == ".gitignore\na.py\n"
    assert gateway.cli("sandbox", "upload", box.name, str(root), "--no-git-ignore").returncode == 0
    assert inside("ls -A repo") == ".git\n.gitignore\na.py\nx.log\n"
    (root / "only").mkdir()
    (root / "only/y.log").write_text("log")
    ran = gateway.cli("sandbox", "upload", box.name, str(root / "only"))
    assert "Git ignores everything here" in ran.stderr
    assert inside("cat only/y.log") == "log"


def test_sync_both_ways(gateway, box, inside, tree, tmp_path):
    def sync(*words):
        ran = gateway.cli("sandbox", "sync", box.name, *words)
        assert ran.returncode == 0, ran.stderr
        return sorted(ran.stdout.splitlines()), ran.stderr

    planned, _ = sync(str(tree), "work", "--dry-run")
    assert len(planned) == 6
    assert inside("ls") == ""
    sent, _ = sync(str(tree), "work")
    assert [line.replace("sent", "would send") for line in sent] == planned
    assert sync(str(tree), "work") == ([], "Nothing differs.\n")
    inside("echo more >> work/run.sh; rm work/-dash; echo made > work/sub/made")
    pulled, _ = sync(str(tree), "work", "--pull", "--delete")
    assert pulled == ["fetched run.sh", "fetched sub/made", "removed -dash"]
    assert (tree / "sub/made").read_text() == "made\n"
    (tree / "sub/made").unlink()
    assert sync(str(tree), "work", "--delete") == (["removed sub/made"], "")
    assert sync(str(tree), "work", "--pull") == ([], "Nothing differs.\n")


def test_sparse_and_large(client, box, inside, tmp_path):
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.truncate(3 << 30)
        for offset in (0, 1 << 30, (3 << 30) - 5):
            file.seek(offset)
            file.write(b"data!")
    files = FilesClient(client)
    files.upload(box.name, str(big), workspace="default")
    size, blocks = map(int, inside("stat -c '%s %b' big").split())
    assert size == 3 << 30
    assert blocks * 512 < 16 << 20
    files.download(box.name, "big", str(tmp_path / "back"), workspace="default")
    found = (tmp_path / "back").stat()
    assert found.st_size == 3 << 30
    assert found.st_blocks * 512 < 16 << 20
    with open(tmp_path / "back", "rb") as file:
        for offset in (0, 1 << 30, (3 << 30) - 5):
            file.seek(offset)
            assert file.read(5) == b"data!"


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_connection_that_breaks(gateway, client, box, inside, tmp_path, way):
    data = os.urandom(48 << 20)
    (tmp_path / "data").write_bytes(data)
    files = FilesClient(client)
    if way == "down":
        files.upload(box.name, str(tmp_path / "data"), workspace="default")
    broken = threading.Event()

    def cut(progress):
        # In the middle every connection ends, and the sandbox is away for a moment.
        if progress.bytes_done > len(data) // 2 and not broken.is_set():
            broken.set()
            gateway.restart()

    if way == "up":
        result = files.upload(box.name, str(tmp_path / "data"), workspace="default", report=cut)
    else:
        result = files.download(
            box.name, "data", str(tmp_path / "back"), workspace="default", report=cut
        )
        assert (tmp_path / "back").read_bytes() == data
    assert broken.is_set()
    assert (result.files, result.bytes) == (1, len(data))
    if way == "up":
        files.download(box.name, "data", str(tmp_path / "back"), workspace="default")
        assert (tmp_path / "back").read_bytes() == data
        assert inside("ls -A") == "data\n"
