"""The client of process 1 against a scripted other end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest

from openshell.supervisor.isolation import wire
from openshell.supervisor.isolation.launch import IsolatedSandbox
from openshell.supervisor.process import ProcessHost, SandboxGone
from openshell.supervisor.streams import ByteReader, ByteWriter


class Init:
    """The other end: reads requests, says what the test wants."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    async def next(self) -> wire.Request | wire.Reply:
        async with asyncio.timeout(5):
            while True:
                try:
                    received = wire.receive(self.sock)
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                    continue
                assert received is not None
                for descriptor in received[1]:
                    os.close(descriptor)
                return received[0]

    def say(self, message: wire.Reply, *descriptors: int) -> None:
        wire.send(self.sock, message, descriptors)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[ProcessHost, Init]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sandbox = cast("IsolatedSandbox", SimpleNamespace(control=ours, init_pid=os.getpid()))
    host = ProcessHost(sandbox)
    with ours, theirs:
        yield host, Init(theirs)
        await host.close()


def start(host: ProcessHost) -> asyncio.Task[object]:
    return asyncio.ensure_future(host.spawn(["a"], {}, "/"))


async def test_answers_find_their_requests(pair: tuple[ProcessHost, Init]) -> None:
    host, init = pair
    tasks = [start(host) for _ in range(3)]
    requests = [await init.next() for _ in tasks]
    for request in reversed(requests):
        assert isinstance(request, wire.Spawn)
        init.say(wire.Spawned(request.id, 100 + request.id))
    processes = await asyncio.gather(*tasks)
    assert [p.pid for p in processes] == [101, 102, 103]  # type: ignore[attr-defined]
    for process in processes:
        process.close()  # type: ignore[attr-defined]


async def test_an_exit_that_overtakes_the_starter_is_not_lost(
    pair: tuple[ProcessHost, Init],
) -> None:
    host, init = pair
    task = asyncio.ensure_future(host.spawn(["a"], {}, "/"))
    request = await init.next()
    assert isinstance(request, wire.Spawn)
    init.say(wire.Spawned(request.id, 7))
    init.say(wire.Exited(7, 3, 0))
    process = await task
    assert (await process.wait()).exit_code == 3
    process.close()


async def test_a_program_that_cannot_start_comes_back_ended(
    pair: tuple[ProcessHost, Init],
) -> None:
    host, init = pair
    task = asyncio.ensure_future(host.spawn(["a"], {}, "/"))
    request = await init.next()
    assert isinstance(request, wire.Spawn)
    init.say(wire.Refused(request.id, "COMMAND_NOT_FOUND", 127, "a: command not found"))
    process = await task
    record = await process.wait()
    assert (record.exit_code, record.error_code) == (127, "COMMAND_NOT_FOUND")
    assert process.stdout is not None
    assert await process.stdout.read() == b""
    await process.signal(15)
    process.close()


async def test_a_program_nobody_waits_for_is_killed(pair: tuple[ProcessHost, Init]) -> None:
    host, init = pair
    task = start(host)
    request = await init.next()
    assert isinstance(request, wire.Spawn)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    init.say(wire.Spawned(request.id, 9))
    assert await init.next() == wire.Signal(9, signal.SIGKILL)
    init.say(wire.Exited(9, 137, 9))
    # The number comes again for another program, which must not inherit that end.
    second = asyncio.ensure_future(host.spawn(["b"], {}, "/"))
    request = await init.next()
    assert isinstance(request, wire.Spawn)
    init.say(wire.Spawned(request.id, 9))
    process = await second
    assert not process._exit.done()
    init.say(wire.Exited(9, 0, 0))
    assert (await process.wait()).exit_code == 0
    process.close()


async def test_the_end_of_process_1_ends_everything(pair: tuple[ProcessHost, Init]) -> None:
    host, init = pair
    running = asyncio.ensure_future(host.spawn(["a"], {}, "/"))
    request = await init.next()
    assert isinstance(request, wire.Spawn)
    init.say(wire.Spawned(request.id, 5))
    process = await running
    waiting = start(host)
    await init.next()
    init.sock.close()
    with pytest.raises(SandboxGone):
        await waiting
    assert (await process.wait()).error_code == "SANDBOX_GONE"
    await asyncio.wait_for(host.gone.wait(), 1)
    with pytest.raises(SandboxGone):
        await host.spawn(["a"], {}, "/")
    process.close()


async def test_no_descriptor_is_left(pair: tuple[ProcessHost, Init]) -> None:
    host, init = pair
    before = len(os.listdir("/proc/self/fd"))
    for pid in range(5):
        task = asyncio.ensure_future(host.spawn(["a"], {}, "/"))
        request = await init.next()
        assert isinstance(request, wire.Spawn)
        init.say(wire.Spawned(request.id, pid + 2))
        (await task).close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_streams_wait_and_close() -> None:
    reading, writing = os.pipe()
    reader, writer = ByteReader(reading), ByteWriter(writing)
    data = os.urandom(1 << 20)
    sending = asyncio.ensure_future(writer.write(data))
    received = b""
    while len(received) < len(data):
        received += await reader.read()
    await sending
    assert received == data
    waiting = asyncio.ensure_future(reader.read())
    await asyncio.sleep(0)
    reader.close()
    assert await waiting == b""
    with pytest.raises(BrokenPipeError):
        await writer.write(b"x")
    writer.close()
    writer.close()
