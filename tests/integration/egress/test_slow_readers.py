"""Clients that do not read: slow ones get everything, stuck ones are ended, and all of them count."""

import asyncio
import socket
import time

import pytest

from integration.egress.harness import OK, A, Client, Proxy, Upstream, rest, rest_policy
from openshell.egress.limits import Limits

STALL = 1.2
LIMITS = Limits(stalled_reader_seconds=STALL)
SIZE = 12_000_000
BIG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + b"x" * SIZE


def get(port, *, absolute=True, extra=""):
    target = f"http://{A}:{port}/" if absolute else "/"
    return f"GET {target} HTTP/1.1\r\nHost: {A}:{port}\r\n{extra}\r\n".encode()


async def small_window(proxy):
    """Connect with a small receive buffer, so that the kernel hides little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", proxy.port))
    return Client(*await asyncio.open_connection(sock=sock, limit=16 * 1024))


async def gone(proxy, seconds=10):
    """Wait until the proxy holds no connection; return how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while proxy.proxy.connections or proxy.proxy._open:
            await asyncio.sleep(0.02)
    return time.monotonic() - started


STUCK = {
    "in the middle of a response": (BIG, "", True),
    "on the last bytes before a close": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
        "Connection: close\r\n",
        True,
    ),
    "behind the last response": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
        "",
        True,
    ),
    "in a tunnel": (BIG, "", False),
    "in TLS": (BIG, "", None),
}


@pytest.mark.parametrize(("answer", "extra", "absolute"), STUCK.values(), ids=STUCK.keys())
async def test_a_client_that_stops_reading_is_ended(answer, extra, absolute):
    secure = absolute is None
    async with (
        Upstream(answer, tls_name=A if secure else None) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=LIMITS) as proxy,
    ):
        sent = get(up.port, absolute=bool(absolute), extra=extra)
        if absolute:
            client = await small_window(proxy)
        else:
            client = await (proxy.tls(A, up.port) if secure else proxy.tunnel(A, up.port))
        client.writer.transport.pause_reading()
        # Small answers are asked for often enough to fill the kernel's buffers as well.
        await client.send(sent if answer is BIG or extra else sent * 30)
        if extra:
            await _shrink(proxy)
        await asyncio.sleep(STALL / 2)
        assert proxy.proxy.connections == 1
        (connection,) = proxy.proxy._connections
        assert await gone(proxy) > STALL / 4
        assert connection.stream.lost
        client.close()


async def _shrink(proxy):
    """Make the kernel take little of what the proxy sends."""
    (connection,) = proxy.proxy._connections
    raw = connection.stream.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@pytest.mark.parametrize("extra", ["", "Connection: close\r\n"], ids=["kept", "last"])
async def test_a_client_that_reads_slowly_gets_everything(extra):
    async with (
        Upstream(BIG) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=LIMITS) as proxy,
    ):
        client = await small_window(proxy)
        await client.send(get(up.port, extra=extra))
        await client.head()
        started, got = time.monotonic(), 0
        while time.monotonic() - started < 2 * STALL:
            got += len(await client.reader.read(16 * 1024))
            await asyncio.sleep(0.1)
        while got < SIZE and (data := await client.reader.read(1 << 20)):
            got += len(data)
        assert got == SIZE
        client.close()


async def test_events_that_come_rarely_outlive_the_limit():
    async def events(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for _ in range(2):
            await asyncio.sleep(1.5 * STALL)
            writer.write(b"data: 1\n\n")
        await writer.drain()

    async with (
        Upstream(script=events) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=LIMITS) as proxy,
    ):
        client = await proxy.connect()
        await client.send(get(up.port))
        await client.head()
        assert await client.rest() == b"data: 1\n\n" * 2


async def test_a_client_that_leaves_its_last_answer_unread_keeps_its_place():
    limits = Limits(stalled_reader_seconds=STALL, max_connections=1)
    async with Upstream(BIG) as up, Proxy(rest_policy(rest(A, up.port)), limits=limits) as proxy:
        client = await small_window(proxy)
        client.writer.transport.pause_reading()
        await client.send(get(up.port, extra="Connection: close\r\n"))
        client.writer.write_eof()
        await asyncio.sleep(0.1)
        up.answer = OK
        started = time.monotonic()
        other = await proxy.connect()
        assert await other.request(get(up.port)) == (200, b"ok")
        assert time.monotonic() - started > STALL / 2
        client.close()
        other.close()


async def test_the_proxy_ends_at_once_whoever_reads():
    async with Upstream(BIG) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await small_window(proxy)
        client.writer.transport.pause_reading()
        await client.send(get(up.port, extra="Connection: close\r\n"))
        await asyncio.sleep(0.2)
        assert proxy.proxy.connections == 1
        started = time.monotonic()
    assert time.monotonic() - started < 1
    client.close()
