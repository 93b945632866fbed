"""The zygote as a process: launching, telling exits, ending, being found and replaced."""

import asyncio
import os
import signal
import socket
import sys

import msgspec
import pytest

from openshell.drivers.base import DriverError
from openshell.drivers.local import processes, zygote_client
from openshell.drivers.local import zygote_protocol as protocol
from openshell.drivers.local.paths import StatePaths
from openshell.drivers.local.state import start_ticks
from openshell.drivers.local.zygote_client import ZygoteClient

MODULE = "integration.driver.small_zygote"
TESTS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Bench:
    def __init__(self, root, idle=""):
        self.paths = StatePaths(str(root))
        self.exits = []
        self.pidfds = []
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": TESTS}
        if idle:
            environment["TZ"] = f"idle-{idle}"
        self.environment = environment
        self.client = self.connect()

    def connect(self):
        return ZygoteClient(self.paths, sys.executable, self.exits.append, self.environment, MODULE)

    def sandbox(self, name, code=None):
        root = self.paths.sandbox(name).root
        os.makedirs(root)
        if code is not None:
            with open(f"{root}/code", "w") as file:
                file.write(str(code))
        return name

    async def launch(self, name):
        pid, ticks, pidfd = await self.client.launch(name)
        self.pidfds.append(pidfd)
        return pid, ticks, pidfd

    async def zygote_pid(self):
        reply, _ = await self.client._ask(protocol.Ping())
        return reply.pid

    async def end(self):
        for pidfd in self.pidfds:
            processes.send(pidfd, signal.SIGKILL)
            os.close(pidfd)
        await self.client.shutdown()


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    await made.end()


async def test_a_supervisor_is_forked_named_and_its_exit_told(bench):
    bench.sandbox("lives")
    bench.sandbox("ends", code=7)
    pid, ticks, pidfd = await bench.launch("lives")
    assert start_ticks(pid) == ticks
    assert not processes.has_ended(pidfd)
    assert [(r.sandbox_id, r.pid) for r in await bench.client.running()] == [("lives", pid)]
    ended, _, ended_fd = await bench.launch("ends")
    assert await processes.wait_ended((ended_fd,), 5)
    processes.send(pidfd, signal.SIGKILL)
    async with asyncio.timeout(5):
        while len(bench.exits) < 2:
            await asyncio.sleep(0.01)
    assert {(e.sandbox_id, e.pid, e.code) for e in bench.exits} == {
        ("ends", ended, 7),
        ("lives", pid, 137),
    }


async def test_a_supervisor_has_nothing_of_the_zygote(bench):
    bench.sandbox("lives")
    pid, _, _ = await bench.launch("lives")
    await asyncio.sleep(0.1)
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [link for link in links if link.startswith("socket:") or "lock" in link], links
    assert os.getsid(pid) == pid
    with open(f"/proc/{pid}/environ", "rb") as file:
        names = {part.split(b"=")[0] for part in file.read().split(b"\0") if part}
    assert names <= {b"PATH", b"PYTHONPATH", b"TZ", b"GRPC_ENABLE_FORK_SUPPORT"}


@pytest.mark.parametrize("name", ["no-such", "../x", ""])
async def test_a_launch_that_cannot_be_is_answered(bench, name):
    with pytest.raises(DriverError):
        await bench.client.launch(name)
    assert await bench.client.running() == ()


async def test_nonsense_is_answered_and_harms_nobody(bench):
    await bench.client.connect()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(bench.paths.zygote_socket)
        raw.settimeout(5)
        for data in (
            b"x",
            b"{}",
            b'{"type":"launch"}',
            b'{"type":"ping","more":1}',
            b"\xff" * 9000,
        ):
            raw.send(data)
            assert isinstance(protocol.decode_reply(raw.recv(9000)), protocol.Failed)
    assert await bench.client.running() == ()


async def test_it_outlives_its_gateway_and_is_found_again(bench):
    bench.sandbox("lives")
    await bench.launch("lives")
    first = await bench.zygote_pid()
    bench.client.close()
    bench.client = bench.connect()
    assert await bench.zygote_pid() == first
    assert [r.sandbox_id for r in await bench.client.running()] == ["lives"]


async def test_one_of_other_code_is_replaced_and_its_children_live(bench, monkeypatch):
    bench.sandbox("lives")
    _, _, pidfd = await bench.launch("lives")
    first = await bench.zygote_pid()
    bench.client.close()
    bench.client = bench.connect()
    real = protocol.build_fingerprint
    calls = []

    def other(executable):
        calls.append(1)
        return "other" if len(calls) == 1 else real(executable)

    monkeypatch.setattr(zygote_client.protocol, "build_fingerprint", other)
    with pytest.raises(DriverError, match="not reachable"):
        # The new one has the same code as the old one, so it is no good either: said, not looped.
        await bench.client.connect()
    assert await bench.zygote_pid() != first
    assert not processes.has_ended(pidfd)


async def test_a_killed_one_is_started_again(bench):
    await bench.client.connect()
    first = await bench.zygote_pid()
    os.kill(first, signal.SIGKILL)
    bench.sandbox("lives")
    async with asyncio.timeout(10):
        while True:
            try:
                await bench.launch("lives")
                break
            except DriverError:
                continue
    assert await bench.zygote_pid() != first


async def test_it_ends_when_idle(tmp_path):
    bench = Bench(tmp_path, idle="0.2")
    pidfd = os.pidfd_open(await bench.zygote_pid())
    assert not await processes.wait_ended((pidfd,), 0.5), "a connection keeps it"
    bench.client.close()
    assert await processes.wait_ended((pidfd,), 5)
    os.close(pidfd)
    assert not os.path.exists(bench.paths.zygote_socket)


async def test_it_ends_when_its_socket_is_gone(bench):
    pidfd = os.pidfd_open(await bench.zygote_pid())
    os.unlink(bench.paths.zygote_socket)
    assert await processes.wait_ended((pidfd,), 10)
    os.close(pidfd)


def test_messages_come_back_equal():
    for message in (protocol.Ping(), protocol.Launch("x"), protocol.ListSupervisors()):
        assert protocol.decode_request(protocol.encode(message)) == message
    with pytest.raises(msgspec.DecodeError):
        protocol.decode_request(protocol.encode(protocol.Pong(1, "x")))


LOADED = """
import os, sys, threading
before = set(os.listdir("/proc/self/fd"))
from openshell.supervisor.main import prepare
prepare()
assert len(os.listdir("/proc/self/task")) == 1, "threads"
assert threading.active_count() == 1
left = [os.readlink(f"/proc/self/fd/{fd}") for fd in set(os.listdir("/proc/self/fd")) - before
        if os.path.exists(f"/proc/self/fd/{fd}")]
assert not left, left
import asyncio
try:
    asyncio.get_running_loop()
except RuntimeError:
    pass
print("clean")
"""


async def test_what_it_loads_makes_no_thread_and_opens_nothing():
    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOADED, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await ran.communicate()
    assert out == b"clean\n"


async def test_a_first_process_whose_supervisor_died_is_reaped(bench):
    """In a container nobody else may do it, and a zombie keeps its namespaces."""
    bench.sandbox("forks")
    with open(f"{bench.paths.sandbox('forks').root}/fork", "w"):
        pass
    _, _, pidfd = await bench.launch("forks")
    async with asyncio.timeout(5):
        while not os.path.exists(f"{bench.paths.sandbox('forks').root}/child"):
            await asyncio.sleep(0.01)
    with open(f"{bench.paths.sandbox('forks').root}/child") as file:
        child = int(file.read())
    processes.send(pidfd, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    async with asyncio.timeout(5):
        while os.path.exists(f"/proc/{child}"):
            await asyncio.sleep(0.01)


HOSTILE = {
    "not utf-8": b'{"type":"launch","sandbox_id":"\xff\xfe"}',
    "nested": b"[" * 100_000,
    "oversized": b'{"type":"launch","sandbox_id":"' + b"a" * 150_000 + b'"}',
    "another type": b'{"type":"launch","sandbox_id":7}',
    "more": b'{"type":"ping","sandbox_id":"x"}',
    "an id that leaves": b'{"type":"launch","sandbox_id":"../../etc"}',
    "an id with a zero": b'{"type":"launch","sandbox_id":"a\\u0000b"}',
    "a reply": b'{"type":"launched","pid":1,"start_ticks":1}',
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_request_is_an_answer(bench, data):
    before = await bench.zygote_pid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        raw.connect(bench.paths.zygote_socket)
        raw.settimeout(5)
        # With descriptors, which nobody asked for.
        socket.send_fds(raw, [data], [0, 1, 2])
        reply = await asyncio.to_thread(raw.recv, 65536)
        assert isinstance(protocol.decode_reply(reply), protocol.Failed), reply
    assert await bench.zygote_pid() == before
    assert await bench.client.running() == ()
    links = [os.readlink(f"/proc/{before}/fd/{fd}") for fd in os.listdir(f"/proc/{before}/fd")]
    assert len(links) < 12, links


async def test_many_connections_shut_nobody_out_who_is_in(bench):
    before = await bench.zygote_pid()
    held = []
    try:
        for _ in range(60):
            raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            held.append(raw)
            raw.settimeout(0.2)
            try:
                raw.connect(bench.paths.zygote_socket)
                raw.send(b'{"type":"list"}')
            except OSError:
                continue
        assert await bench.zygote_pid() == before
    finally:
        for raw in held:
            raw.close()
    bench.sandbox("lives")
    pid, _, _ = await bench.launch("lives")
    assert [r.pid for r in await bench.client.running()] == [pid]


def test_the_code_has_one_name_however_the_interpreter_was_called():
    direct = protocol.build_fingerprint("/usr/bin/python3")
    assert protocol.build_fingerprint("/usr/lib/../bin/python3") == direct
    assert protocol.build_fingerprint("/usr/bin/python4") != direct
