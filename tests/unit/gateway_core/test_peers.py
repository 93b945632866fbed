"""Notices between gateways over datagrams: what arrives, what does not, what it costs."""

import asyncio
import contextlib
import os
import socket

import pytest

from openshell.gateway.events import CONFIG, LOGS, PLATFORM, SANDBOX, Bus
from openshell.gateway.peer_datagrams import DatagramChannel
from openshell.gateway.peers import MESSAGE_BYTES, PENDING_MAX, Peers
from openshell.gateway.tasks import Tasks


class Side:
    """One gateway's bus and what was delivered on it."""

    def __init__(self, name, channel):
        self.bus = Bus()
        self.tasks = Tasks()
        self.heard = []
        self.channel = channel
        self.peers = Peers(self.bus, channel, self.tasks, own_id=name)
        for topic in (CONFIG, SANDBOX, LOGS, PLATFORM):
            self.bus.listen(
                topic, lambda key, value, topic=topic: self.heard.append((topic, key, value))
            )

    async def hears(self, count):
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                await asyncio.sleep(0.001)
        return sorted(self.heard, key=str)


@contextlib.asynccontextmanager
async def sides(directory, *names):
    made = [Side(name, DatagramChannel(str(directory), name)) for name in names]
    for side in made:
        await side.peers.open()
    yield made
    for side in made:
        await side.tasks.close()
        await side.peers.close()


async def test_what_one_publishes_reaches_the_others_once(tmp_path):
    async with sides(tmp_path / "p", "a", "b", "c") as (a, b, c):
        a.bus.config_changed(["s1", "s2"], "policy")
        a.bus.config_changed(["s1"], "providers")
        a.bus.publish(LOGS, "s1")
        a.bus.publish(PLATFORM, "s1", object())
        expected = [
            (CONFIG, "s1", "policy,providers"),
            (CONFIG, "s2", "policy"),
            (LOGS, "s1", None),
            (SANDBOX, "s1", None),
            (SANDBOX, "s2", None),
        ]
        assert await b.hears(5) == await c.hears(5) == expected
        own = len(a.heard)
        b.bus.publish(SANDBOX, "s3")
        await a.hears(own + 1)
        assert a.heard[-1] == (SANDBOX, "s3", None)
        # Nothing comes back: it would go round for ever.
        await asyncio.sleep(0.05)
        assert (len(a.heard), len(b.heard), len(c.heard)) == (own + 1, 6, 6)


async def test_many_at_once_are_cut_into_messages_that_any_channel_takes():
    class Kept:
        def __init__(self):
            self.messages = []

        async def open(self, receive, tasks):
            self.receive = receive

        async def send(self, message):
            self.messages.append(message)

        async def close(self):
            pass

    side, other = Side("a", Kept()), Side("b", Kept())
    await side.peers.open()
    await other.peers.open()
    side.bus.config_changed([f"{index:036d}" for index in range(PENDING_MAX)], "policy")
    async with asyncio.timeout(5):
        while side.peers._telling:
            await asyncio.sleep(0.001)
    assert max(len(message) for message in side.channel.messages) <= MESSAGE_BYTES
    for message in side.channel.messages:
        other.channel.receive(message)
    # Bounded: the rest is found by polling.
    assert len(other.heard) == PENDING_MAX
    await side.tasks.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"sender":1,"notices":[]}',
        b'{"sender":"x","notices":[["config","s"]]}',
        b'{"sender":"x","notices":[["platform","s","r"]]}',
        b'{"sender":"x","notices":[["config","' + b"s" * 600 + b'","r"]]}',
    ],
)
async def test_what_is_no_notice_is_dropped(tmp_path, data):
    async with sides(tmp_path / "p", "a", "b") as (a, b):
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
            sender.sendto(data, str(tmp_path / "p/b"))
        a.bus.publish(SANDBOX, "s")
        assert await b.hears(1) == [(SANDBOX, "s", None)]


async def test_a_dead_gateways_socket_is_removed_and_taken_over(tmp_path):
    directory = tmp_path / "p"
    async with sides(directory, "a") as (a,):
        for name in ("dead", "b"):
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as left:
                left.bind(str(directory / name))
        async with sides(directory, "b") as (b,):
            a.bus.publish(SANDBOX, "s")
            assert await b.hears(1) == [(SANDBOX, "s", None)]
            assert sorted(os.listdir(directory)) == ["a", "b"]
    assert os.listdir(directory) == []


async def test_a_gateway_that_does_not_read_holds_nobody_up(tmp_path):
    directory = tmp_path / "p"
    async with sides(directory, "a", "b") as (a, b):
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as deaf:
            deaf.bind(str(directory / "0-deaf"))
            for _ in range(600):
                with contextlib.suppress(BlockingIOError):
                    b.channel._socket.sendto(b"x", str(directory / "0-deaf"))
            a.bus.publish(SANDBOX, "s")
            assert await b.hears(1) == [(SANDBOX, "s", None)]


async def test_a_deep_directory_is_no_obstacle(tmp_path):
    async with sides(tmp_path / ("d" * 200) / "p", "a", "b") as (a, b):
        a.bus.publish(SANDBOX, "s")
        assert await b.hears(1) == [(SANDBOX, "s", None)]


async def test_a_directory_that_others_can_enter_is_not_used(tmp_path):
    directory = tmp_path / "p"
    directory.mkdir(mode=0o755)
    async with sides(directory, "a") as (a,):
        a.bus.publish(SANDBOX, "s")
        assert a.heard == [(SANDBOX, "s", None)]
        assert os.listdir(directory) == []
