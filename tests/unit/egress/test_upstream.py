"""Dialling pinned addresses and keeping connections; upstreams are real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from openshell.egress.upstream import IDLE_SECONDS, MAX_IDLE, UpstreamFailed, UpstreamKey, Upstreams
from support.certificates import make_certificates


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(
    *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    accepted: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], accepted
    finally:
        server.close()
        for writer in accepted:
            writer.close()


def key(port: int, *addresses: str, **changes: object) -> UpstreamKey:
    pinned = tuple(ip_address(address) for address in (addresses or ("127.0.0.1",)))
    return replace(UpstreamKey("a.example", port, pinned, tls=False, credential_epoch=1), **changes)


def upstreams(clock: Clock) -> Upstreams:
    return Upstreams(ssl.create_default_context(), clock=clock, dial_seconds=2, handshake_seconds=2)


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_a_released_connection_is_used_again_for_the_same_key_only() -> None:
    clock = Clock()
    pool = upstreams(clock)
    async with serving() as (port, accepted):
        first = await pool.open(key(port))
        first.stream.write(b"ping")
        assert await first.stream.read() == b"PING"
        pool.release(first)
        for other in (
            key(port, credential_epoch=2),
            key(port, host="b.example"),
            key(port, "127.0.0.1", "127.0.0.2"),
        ):
            lease = await pool.open(other)
            assert not lease.reused
            lease.stream.abort()
        again = await pool.open(key(port))
        assert again.reused
        assert again.stream is first.stream
        fresh = await pool.open(key(port), fresh=True)
        assert not fresh.reused
        fresh.stream.abort()
        again.stream.abort()
        assert len(accepted) == 5
        pool.close()


async def test_connections_that_ended_or_speak_unasked_are_not_used_again() -> None:
    pool = upstreams(Clock())
    async with serving() as (port, accepted):
        for spoil in (lambda writer: writer.close(), lambda writer: writer.write(b"unasked")):
            lease = await pool.open(key(port))
            pool.release(lease)
            await asyncio.sleep(0.02)
            spoil(accepted[-1])
            await asyncio.sleep(0.02)
            again = await pool.open(key(port))
            assert not again.reused
            again.stream.abort()


async def test_idle_connections_expire_and_old_epochs_are_dropped() -> None:
    clock = Clock()
    pool = upstreams(clock)
    async with serving() as (port, _):
        pool.release(await pool.open(key(port)))
        clock.now = IDLE_SECONDS + 1
        lease = await pool.open(key(port))
        assert not lease.reused
        pool.release(lease)
        pool.drop_older(2)
        lease = await pool.open(key(port))
        assert not lease.reused
        pool.release(lease)
        clock.now *= 3
        pool.tidy()
        assert len(pool._pool) == 0


async def test_the_pool_is_bounded() -> None:
    pool = upstreams(Clock())
    async with serving() as (port, _):
        leases = [await pool.open(key(port)) for _ in range(MAX_IDLE + 2)]
        for lease in leases:
            pool.release(lease)
        assert len(pool._pool) == MAX_IDLE
        assert leases[0].stream.transport.is_closing()
        pool.close()


async def test_addresses_are_tried_in_order() -> None:
    pool = upstreams(Clock())
    async with serving() as (port, accepted):
        lease = await pool.open(key(port, "127.0.0.99", "127.0.0.1"))
        await asyncio.sleep(0.02)
        assert len(accepted) == 1
        lease.stream.abort()


async def test_a_closed_port_is_a_dial_failure() -> None:
    with pytest.raises(UpstreamFailed) as caught:
        await upstreams(Clock()).open(key(closed_port()))
    assert caught.value.stage == "dial"


async def test_an_upstream_that_speaks_no_tls_is_a_tls_failure() -> None:
    async with serving() as (port, _):
        with pytest.raises(UpstreamFailed) as caught:
            await upstreams(Clock()).open(key(port, tls=True))
        assert caught.value.stage == "tls"
        assert caught.value.code == "tls_handshake"


async def test_an_upstream_that_says_nothing_is_a_tls_failure() -> None:
    pool = Upstreams(
        ssl.create_default_context(), clock=Clock(), dial_seconds=2, handshake_seconds=0.05
    )
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UpstreamFailed) as caught:
        await pool.open(key(silent.getsockname()[1], tls=True))
    assert (caught.value.stage, caught.value.reason) == (
        "tls",
        "the TLS handshake with a.example took too long; try again later",
    )


def server_context(directory: Path, host: str) -> ssl.SSLContext:
    """TLS of an upstream with a certificate for the host; `cert.pem` is whom to trust for it."""
    make_certificates(directory / "cert.pem", directory / "key.pem", host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "key.pem")
    return context


async def test_tls_goes_to_a_trusted_certificate_of_that_name_only(tmp_path: Path) -> None:
    async with serving(tls=server_context(tmp_path, "a.example")) as (port, _):
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        pool = Upstreams(trusting, clock=Clock(), dial_seconds=2, handshake_seconds=2)
        lease = await pool.open(key(port, tls=True))
        lease.stream.write(b"ping")
        assert await lease.stream.read() == b"PING"
        pool.release(lease)
        again = await pool.open(key(port, tls=True))
        assert again.reused
        again.stream.abort()
        for failing, words in (
            (pool.open(key(port, tls=True, host="b.example")), "is not for b.example"),
            (upstreams(Clock()).open(key(port, tls=True)), "not signed by a root"),
        ):
            with pytest.raises(UpstreamFailed) as caught:
                await failing
            assert caught.value.stage == "tls"
            assert words in caught.value.reason
