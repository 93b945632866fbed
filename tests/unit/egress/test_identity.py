"""Owners of real sockets of real processes; this test plays init."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from e2e.isolation.unprivileged import run_unprivileged
from openshell.egress.identity import Identity, IdentityResolver, IdentityUnknown, Peers

PYTHON = os.path.realpath(sys.executable)

CONNECT = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.set_inheritable(True)
"""


@pytest.fixture
def diag():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:
        yield netlink


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def server(request):
    family = socket.AF_INET if request.param == "127.0.0.1" else socket.AF_INET6
    with socket.socket(family) as listener:
        if request.param == "::ffff:127.0.0.1":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((request.param, 0))
        listener.listen()
        yield listener


@pytest.fixture
def v4_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def start(script, server, *arguments, executable=sys.executable):
    host, port = server.getsockname()[:2]
    return subprocess.Popen(
        [executable, "-c", textwrap.dedent(script), host, str(port), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def stop(process):
    process.kill()
    process.communicate()


def peers(accepted):
    return Peers(accepted.getpeername()[:2], accepted.getsockname()[:2])


async def test_the_owner_is_named(diag, server):
    process = start(CONNECT + "time.sleep(60)", server)
    try:
        accepted, _ = server.accept()
        with accepted:
            found = await IdentityResolver(diag, os.getpid()).resolve(peers(accepted))
    finally:
        stop(process)
    assert isinstance(found, Identity)
    assert (found.binary, found.pid, found.ancestors) == (PYTHON, process.pid, ())


async def test_ancestors_stop_below_init(diag, v4_server):
    script = """
    import subprocess, sys
    code = "import socket, sys, time; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
    subprocess.run(["/bin/sh", "-c", '"$0" -c "$1" "$2"; true', sys.executable,
                    code + "time.sleep(60)", sys.argv[2]])
    """
    process = start(script, v4_server)
    try:
        accepted, _ = v4_server.accept()
        with accepted:
            found = await IdentityResolver(diag, os.getpid()).resolve(peers(accepted))
    finally:
        kill_tree(process)
    assert isinstance(found, Identity)
    assert found.ancestors == (os.path.realpath("/bin/sh"), PYTHON)


def kill_tree(process):
    """Kill from the top, so that nobody starts anything new."""
    below = [process.pid]
    for pid in below:
        below += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    stop(process)


async def test_a_process_outside_the_sandbox_is_nobody(diag, v4_server):
    process = start("import time; print(flush=True); time.sleep(60)", v4_server)
    process.stdout.readline()
    with socket.create_connection(v4_server.getsockname()):
        accepted, _ = v4_server.accept()
        with accepted:
            outside = await IdentityResolver(diag, process.pid).resolve(peers(accepted))
    stop(process)
    assert isinstance(outside, IdentityUnknown)
    assert "no process" in outside.reason


SHARED = {
    "forked twin": ("import os\nos.fork()\ntime.sleep(60)", False),
    "child runs another program": (
        "import subprocess\nsubprocess.Popen(['/bin/sleep', '60'], close_fds=False)\ntime.sleep(60)",
        True,
    ),
}


@pytest.mark.parametrize(("script", "ambiguous"), SHARED.values(), ids=SHARED.keys())
async def test_a_shared_socket(diag, v4_server, script, ambiguous):
    process = start(
        CONNECT + script.replace("time.sleep", "print(flush=True); time.sleep"), v4_server
    )
    try:
        accepted, _ = v4_server.accept()
        process.stdout.readline()
        with accepted:
            found = await IdentityResolver(diag, os.getpid()).resolve(peers(accepted))
    finally:
        kill_tree(process)
    if ambiguous:
        assert isinstance(found, IdentityUnknown)
        assert "ambiguous shared socket ownership" in found.reason
    else:
        assert isinstance(found, Identity)
        assert found.pid == process.pid


HIDDEN = """
import asyncio, os, socket, subprocess, sys
from openshell.egress.identity import IdentityResolver, Peers
child = '''
import ctypes, socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
ctypes.CDLL(None).prctl(4, 0)
print(flush=True)
time.sleep(60)
'''
with socket.create_server(("127.0.0.1", 0)) as server:
    port = str(server.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-c", child, port], stdout=subprocess.PIPE)
    accepted, _ = server.accept()
    process.stdout.readline()
    try:
        os.listdir(f"/proc/{process.pid}/fd")
    except PermissionError:
        print("closed")
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    peers = Peers(accepted.getpeername(), accepted.getsockname())
    found = asyncio.run(IdentityResolver(diag, os.getpid()).resolve(peers))
    process.kill()
    print(found.reason)
"""


def test_a_process_that_hides_its_descriptors_entirely_is_nobody():
    # Without a user namespace of its own the process can close `fdinfo` to us as well.
    done = run_unprivileged([sys.executable, "-c", HIDDEN])
    first, reason = done.stdout.splitlines()
    assert first == "closed", done.stderr
    assert "processes that hide their descriptors: 1" in reason


async def test_the_second_try_reads_fdinfo(diag, v4_server, monkeypatch):
    real = os.listdir

    def closed(path):
        if str(path).endswith("/fd"):
            raise PermissionError(13, "closed")
        return real(path)

    process = start(CONNECT + "time.sleep(60)", v4_server)
    try:
        accepted, _ = v4_server.accept()
        monkeypatch.setattr(os, "listdir", closed)
        with accepted:
            found = await IdentityResolver(diag, os.getpid()).resolve(peers(accepted))
    finally:
        monkeypatch.undo()
        stop(process)
    assert isinstance(found, Identity)


async def test_a_replaced_program_stays_refused(diag, v4_server, tmp_path):
    program = tmp_path / "tool"
    resolver = IdentityResolver(diag, os.getpid())

    async def run():
        process = start(CONNECT + "time.sleep(60)", v4_server, executable=str(program))
        try:
            accepted, _ = v4_server.accept()
            with accepted:
                return await resolver.resolve(peers(accepted))
        finally:
            stop(process)

    original = Path(PYTHON).read_bytes()
    program.write_bytes(original)
    program.chmod(0o755)
    os.environ["PYTHONHOME"] = sys.base_prefix
    try:
        first = await run()
        program.write_bytes(original + b"x")
        changed = await run()
        program.write_bytes(original)
        restored = await run()
    finally:
        del os.environ["PYTHONHOME"]
    assert isinstance(first, Identity)
    assert isinstance(changed, IdentityUnknown)
    assert "binary integrity check failed" in changed.reason
    assert isinstance(restored, Identity)


@pytest.mark.parametrize(
    ("name", "is_known"), [(b"caf\xc3\xa9", True), (b"caf\xe9", False)], ids=["utf-8", "latin-1"]
)
async def test_a_program_whose_path_is_no_text_is_nobody(
    diag, v4_server, tmp_path, monkeypatch, name, is_known
):
    """Its events could not be written, nor could any policy name it."""
    program = os.fsencode(tmp_path) + b"/" + name
    shutil.copy(PYTHON, program)
    monkeypatch.setenv("PYTHONHOME", sys.base_prefix)
    process = start(CONNECT + "time.sleep(60)", v4_server, executable=program)
    try:
        accepted, _ = v4_server.accept()
        with accepted:
            found = await IdentityResolver(diag, os.getpid()).resolve(peers(accepted))
    finally:
        stop(process)
    assert isinstance(found, Identity) is is_known
    if isinstance(found, IdentityUnknown):
        assert "not UTF-8" in found.reason


async def test_an_unknown_connection_is_refused(diag):
    found = await IdentityResolver(diag, os.getpid()).resolve(
        Peers(("127.0.0.1", 1), ("127.0.0.1", 2))
    )
    assert isinstance(found, IdentityUnknown)


async def test_a_crowd_of_siblings_hides_nobody(diag, v4_server):
    # More numbers than one page of the kernel's list of children holds.
    crowd = """
import os, signal, socket, sys
os.setsid()
for _ in range(1200):
    if os.fork() == 0:
        signal.pause()
if os.fork() == 0:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    signal.pause()
signal.pause()
"""
    process = start(crowd, v4_server)
    try:
        accepted, _ = v4_server.accept()
        with accepted:
            found = await IdentityResolver(diag, os.getpid()).resolve(peers(accepted))
            assert isinstance(found, Identity), found
            assert found.pid != process.pid
            assert found.ancestors == (PYTHON,)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        stop(process)
