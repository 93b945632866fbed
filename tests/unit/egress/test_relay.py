"""The opaque tunnel between real socket pairs."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
import uvloop

from openshell.egress import relay
from openshell.egress.relay import Relay, RelayEnd, RelayResult


class Tunnel:
    """A relay between two socket pairs; `agent` and `server` are the far ends."""

    def __init__(
        self,
        *,
        idle: float | None = None,
        half: float = 30.0,
        early: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        self.agent, client = socket.socketpair()
        upstream, self.server = socket.socketpair()
        for end in (self.agent, self.server):
            end.setblocking(False)
        self.relay = Relay(
            client,
            upstream,
            to_upstream=early[0],
            to_client=early[1],
            idle_seconds=idle,
            half_closed_seconds=half,
        )
        self.task = asyncio.create_task(self.relay.run())
        self.ours = (client, upstream)

    async def end(self) -> RelayResult:
        async with asyncio.timeout(10):
            result = await self.task
        assert all(sock.fileno() == -1 for sock in self.ours)
        self.agent.close()
        self.server.close()
        return result


async def receive(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    async with asyncio.timeout(10):
        while part := await loop.sock_recv(sock, 1 << 20):
            parts.append(part)
    return b"".join(parts)


async def test_large_transfers_both_ways_at_once_with_half_close() -> None:
    loop = asyncio.get_running_loop()
    tunnel = Tunnel(early=(b"first ", b"hello "))
    up, down = bytes(range(256)) * 20_000, b"download" * 400_000

    async def send(sock: socket.socket, data: bytes) -> None:
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    async with asyncio.TaskGroup() as group:
        group.create_task(send(tunnel.agent, up))
        group.create_task(send(tunnel.server, down))
        at_server = group.create_task(receive(tunnel.server))
        at_agent = group.create_task(receive(tunnel.agent))
    assert at_server.result() == b"first " + up
    assert at_agent.result() == b"hello " + down
    assert await tunnel.end() == RelayResult(RelayEnd.FINISHED, len(up) + 6, len(down) + 6)


async def test_an_answer_after_the_request_has_ended_still_comes() -> None:
    loop = asyncio.get_running_loop()
    tunnel = Tunnel()
    await loop.sock_sendall(tunnel.agent, b"question")
    tunnel.agent.shutdown(socket.SHUT_WR)
    assert await receive(tunnel.server) == b"question"
    await loop.sock_sendall(tunnel.server, b"answer")
    tunnel.server.close()
    assert await receive(tunnel.agent) == b"answer"
    assert (await tunnel.end()).end is RelayEnd.FINISHED


async def test_close_on_demand_cuts_both_sides() -> None:
    loop = asyncio.get_running_loop()
    tunnel = Tunnel()
    await loop.sock_sendall(tunnel.agent, b"x")
    assert await loop.sock_recv(tunnel.server, 10) == b"x"
    assert tunnel.relay.counts == (1, 0)
    tunnel.relay.close("policy changed")
    assert await receive(tunnel.server) == b""
    assert await tunnel.end() == RelayResult(RelayEnd.CLOSED, 1, 0, "policy changed")


async def test_close_before_the_start() -> None:
    tunnel = Tunnel()
    tunnel.relay.close("at once")
    assert (await tunnel.end()).end is RelayEnd.CLOSED


async def test_cancelling_closes_the_sockets() -> None:
    tunnel = Tunnel()
    await asyncio.sleep(0)
    tunnel.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tunnel.end()
    assert await receive(tunnel.agent) == b""


async def test_silence_ends_it_and_traffic_does_not() -> None:
    loop = asyncio.get_running_loop()
    tunnel = Tunnel(idle=0.1)
    for _ in range(6):
        await asyncio.sleep(0.04)
        await loop.sock_sendall(tunnel.agent, b"x")
    assert not tunnel.task.done()
    assert (await tunnel.end()).end is RelayEnd.IDLE


async def test_a_half_closed_tunnel_does_not_stay_for_ever() -> None:
    tunnel = Tunnel(half=0.05)
    tunnel.agent.shutdown(socket.SHUT_WR)
    assert (await tunnel.end()).end is RelayEnd.IDLE


async def test_a_reader_that_is_slow_makes_the_sender_wait() -> None:
    loop = asyncio.get_running_loop()
    tunnel = Tunnel()
    sender = asyncio.create_task(loop.sock_sendall(tunnel.agent, bytes(30 << 20)))
    await asyncio.sleep(0.1)
    assert not sender.done()
    assert tunnel.relay.counts[0] < 8 << 20
    received = 0
    async with asyncio.timeout(20):
        while received < 30 << 20:
            received += len(await loop.sock_recv(tunnel.server, 1 << 20))
    await sender
    tunnel.relay.close()
    await tunnel.end()


async def test_many_readers_that_never_read_do_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand stalled tunnels would otherwise keep a buffer each."""
    monkeypatch.setattr(relay, "HELD_LIMIT", 300_000)
    monkeypatch.setattr(relay, "_shared", None)
    loop = asyncio.get_running_loop()
    count = 30
    tunnels = [Tunnel() for _ in range(count)]
    for tunnel in tunnels:
        for sock in tunnel.ours:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        tunnel.agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    senders = [loop.create_task(loop.sock_sendall(t.agent, bytes(4 << 20))) for t in tunnels]
    await asyncio.sleep(0.3)
    shared = relay._share()
    assert all(tunnel.relay.counts[0] > 0 for tunnel in tunnels)
    assert shared.held == sum(tunnel.relay._out._held for tunnel in tunnels)
    assert 300_000 <= shared.held < 300_000 + relay.BUFFER_SIZE + count * relay.CROWDED_READ
    received = 0
    async with asyncio.timeout(20):
        while received < 4 << 20:
            received += len(await loop.sock_recv(tunnels[-1].server, 1 << 20))
    for sender in senders:
        sender.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    for tunnel in tunnels:
        tunnel.relay.close()
        await tunnel.end()
    assert shared.held == 0


async def test_a_lost_peer_ends_it() -> None:
    tunnel = Tunnel()
    sender = asyncio.create_task(
        asyncio.get_running_loop().sock_sendall(tunnel.agent, bytes(5 << 20))
    )
    await asyncio.sleep(0.05)
    tunnel.server.close()
    assert (await tunnel.end()).end is RelayEnd.LOST
    with pytest.raises(OSError):
        await sender


@pytest.mark.parametrize("lost", [True, False], ids=["reset", "closed on demand"])
async def test_what_was_cut_short_looks_cut_short(lost: bool) -> None:
    ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    far, near = [], []
    for end in ends:
        far.append(socket.create_connection(end.getsockname()))
        near.append(end.accept()[0])
        end.close()
    tunnel = Relay(*near, idle_seconds=None, half_closed_seconds=30)
    task = asyncio.create_task(tunnel.run())
    loop = asyncio.get_running_loop()
    for sock in far:
        sock.setblocking(False)
    await loop.sock_sendall(far[1], b"half of it")
    assert await loop.sock_recv(far[0], 99) == b"half of it"
    if lost:
        far[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far[1].close()
    else:
        tunnel.close()
    await task
    with pytest.raises(ConnectionResetError):
        await loop.sock_recv(far[0], 99)
    for sock in far:
        sock.close()


@pytest.mark.parametrize(
    "test",
    [test_large_transfers_both_ways_at_once_with_half_close, test_close_on_demand_cuts_both_sides],
)
def test_on_the_loop_of_production(test) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())
