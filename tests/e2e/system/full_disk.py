"""The disk fills up under a running gateway; run as a program by `test_bad_input`.

It makes a mount namespace of its own, so that a file system of a few megabytes can stand where the
state goes and vanishes with the process. Exits 77 where that is not permitted.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.private_gateway import PrivateGateway, wait_until
from support.traces import processes_naming

_NEWNS, _NEWUSER = 0x20000, 0x10000000
_REC, _PRIVATE = 0x4000, 0x40000
SIZE = "12m"
ASK = (
    "import urllib.request as r\n"
    "try: r.urlopen('http://nobody.example/', timeout=5)\n"
    "except Exception: print('refused')"
)


def unshare(libc: ctypes.CDLL) -> None:
    """A private mount namespace; an ordinary user needs a user namespace around it."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_NEWNS if uid == 0 else _NEWNS | _NEWUSER):
        print(f"unshare: {os.strerror(ctypes.get_errno())}")
        sys.exit(77)
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    libc.mount(b"none", b"/", None, _REC | _PRIVATE, None)


def mount_small(libc: ctypes.CDLL, path: str) -> None:
    options = f"size={SIZE},mode=700".encode()
    if libc.mount(b"small", path.encode(), b"tmpfs", 0, options):
        print(f"mount: {os.strerror(ctypes.get_errno())}")
        sys.exit(77)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                assert error.strerror == "No space left on device", error


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    unshare(libc)
    directory = tempfile.mkdtemp(prefix="os-full-")
    try:
        mount_small(libc, directory)
        os.environ["TMPDIR"] = tempfile.tempdir = directory
        scenario(Path(directory))
    finally:
        libc.umount2(directory.encode(), 2)
        os.rmdir(directory)


def whole_lines(local: Path) -> int:
    """How many events are in the file; each is whole."""
    files = local.glob("sandboxes/*/events/*.log")
    return len([json.loads(line) for file in files for line in file.read_text().splitlines()])


def scenario(directory: Path) -> None:
    with PrivateGateway() as gateway:
        assert gateway.cli("sandbox", "create", "--no-keep", "--", "true").returncode == 0
        made = gateway.cli("sandbox", "create", "--name", "before", "--detach", "--", "sleep", "99")
        assert made.returncode == 0, made.stderr
        switch = ("settings", "set", "before", "--key", "ocsf_json_enabled", "--value", "true")
        assert gateway.cli(*switch).returncode == 0
        refused = ("sandbox", "exec", "-n", "before", "--", "python3", "-c", ASK)
        assert gateway.cli(*refused).stdout == "refused\n"
        local = gateway.state / "local"
        wait_until(lambda: whole_lines(local) > 0)
        before = sorted(os.listdir(local / "sandboxes"))
        filler = directory / "filler"
        fill(filler)

        for line in (
            ("sandbox", "create", "--name", "during", "--", "true"),
            ("provider", "create", "--name", "p", "--type", "generic", "--credential", "A=b"),
        ):
            ran = gateway.cli(*line)
            print(line, ran.returncode, ran.stdout, ran.stderr)
            assert (ran.returncode, ran.stdout) == (1, ""), ran
            assert ran.stderr.count("Error:") == 1, ran.stderr
            assert "Traceback" not in ran.stderr, ran.stderr
            assert "space" in ran.stderr or "full" in ran.stderr, ran.stderr
        assert gateway.cli("sandbox", "list", "--names").stdout == "before\n"
        assert gateway.cli("provider", "list", "--names").stdout == ""
        assert sorted(os.listdir(local / "sandboxes")) == before
        ran = gateway.cli("sandbox", "exec", "--name", "before", "--", "echo", "still here")
        assert (ran.returncode, ran.stdout) == (0, "still here\n"), ran
        # The file of events costs its lines and nobody's time; no half line is left.
        for _ in range(3):
            began = time.monotonic()
            assert gateway.cli(*refused).stdout == "refused\n"
            assert time.monotonic() - began < 10
        whole_lines(local)
        running = processes_naming(str(gateway.directory))
        assert running, "the probe sees processes that are there"

        filler.unlink()
        lost = "not in the file of events (No space left"
        wait_until(lambda: lost in gateway.cli("logs", "before").stdout, 40)
        count = whole_lines(local)
        assert gateway.cli(*refused).stdout == "refused\n"
        wait_until(lambda: whole_lines(local) > count)
        ran = gateway.cli("sandbox", "create", "--name", "after", "--", "echo", "works")
        assert ran.returncode == 0, ran
        assert ran.stdout.endswith("works\n"), ran
        assert gateway.cli("sandbox", "delete", "before", "after").returncode == 0
        wait_until(lambda: not os.listdir(local / "sandboxes"))
    wait_until(lambda: not processes_naming(str(gateway.directory)))


if __name__ == "__main__":
    main()
