"""Notices over PostgreSQL: told, heard, and heard again after the connection broke."""

import asyncio
import contextlib

from openshell.gateway import peer_notify
from openshell.gateway.peer_notify import NotifyChannel
from openshell.gateway.tasks import Tasks


@contextlib.asynccontextmanager
async def opened(url, heard):
    tasks = Tasks()
    channel = NotifyChannel(url)
    await channel.open(heard.append, tasks)
    yield channel
    await tasks.close()
    await channel.close()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_told_and_heard(database_url):
    at_a, at_b = [], []
    async with opened(database_url, at_a) as a, opened(database_url, at_b):
        await a.send(b'{"a":"\xc3\xa9"}')
        await a.send(b"x" * 7_000)
        await until(lambda: len(at_b) == 2)
        assert at_b == ['{"a":"é"}'.encode(), b"x" * 7_000]
        # PostgreSQL tells the teller too; `Peers` knows its own by the sender.
        await until(lambda: len(at_a) == 2)


async def test_broken_connections_are_opened_again(database_url, postgres, monkeypatch):
    monkeypatch.setattr(peer_notify, "RETRY_SECONDS", 0.05)
    heard = []
    async with opened(database_url, heard) as channel:
        await channel.send(b"1")
        await until(lambda: heard == [b"1"])
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'openshell-gateway'"
        )

        async def heard_again():
            async with asyncio.timeout(5):
                while b"2" not in heard:
                    await channel.send(b"2")
                    await asyncio.sleep(0.02)

        await heard_again()


async def test_without_a_server_nothing_fails(caplog):
    url = "postgresql://u:hunter2@/d?host=/nonexistent"
    async with opened(url, []) as channel:
        await channel.send(b"1")
    assert "not told" in caplog.text
    assert "hunter2" not in caplog.text
