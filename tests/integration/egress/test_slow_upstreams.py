"""Upstreams that do not move: silent ones are given up on, slow ones are not, streams of events never are."""

import asyncio

import pytest

from integration.egress.harness import OK, A, Proxy, Upstream, problem, rest, rest_policy
from openshell.egress.limits import Limits

SOON, NEVER = 0.2, 600.0
LIMITS = Limits(silent_upstream_seconds=SOON)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def ask(port, method="GET", fields="", body=b""):
    head = f"{method} http://{A}:{port}/ HTTP/1.1\r\nHost: {A}:{port}\r\n{fields}\r\n"
    return head.encode() + body


def saying(*pieces, pause=0.0):
    """An upstream that says this after a request, and nothing more."""

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        await reader.read()

    return script


@pytest.mark.parametrize(
    ("pieces", "limits"),
    [
        ((), LIMITS),
        ((b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",), LIMITS),
        ((b"HTTP/1.1 200 OK\r\nX-A: 1",), Limits(silent_upstream_seconds=NEVER, head_seconds=SOON)),
    ],
    ids=["nothing", "an interim response", "half a head"],
)
async def test_a_response_that_does_not_come_is_a_504(pieces, limits):
    async with (
        Upstream(script=saying(*pieces)) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=limits) as proxy,
    ):
        answer = (await proxy.say(ask(up.port))).removeprefix(b"".join(pieces[:1]))
        status, body = problem(answer)
        assert (status, body["error"]) == (504, "upstream_timeout")
        assert proxy.lines[-1].startswith("NET:FAIL [LOW]"), proxy.lines
        assert len(proxy.events) == 2


async def test_a_head_that_drips_is_a_504():
    drips = [bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200]
    limits = Limits(silent_upstream_seconds=NEVER, head_seconds=SOON)
    async with (
        Upstream(script=saying(*drips, pause=0.02)) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=limits) as proxy,
    ):
        assert problem(await proxy.say(ask(up.port)))[1]["error"] == "upstream_timeout"


@pytest.mark.parametrize(
    "answer",
    [CHUNKED + b"4\r\nhalf\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"],
    ids=["chunked", "length"],
)
async def test_a_response_that_stalls_ends_with_a_reset(answer):
    async with (
        Upstream(script=saying(answer)) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=LIMITS) as proxy,
    ):
        client = await proxy.connect()
        await client.send(ask(up.port))
        assert (await client.head()).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(10):
                while await client.reader.read(100):
                    pass
        assert "stopped moving" in proxy.events[-1].message


async def test_events_may_be_silent_and_slow_answers_are_whole():
    events = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    drips = [b"1\r\nx\r\n"] * 12

    async def rare(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(events)
        await asyncio.sleep(1.2)
        writer.write(b"5\r\nlater\r\n0\r\n\r\n")
        await writer.drain()

    async with (
        Upstream(script=rare) as quiet,
        Upstream(script=saying(CHUNKED, *drips, b"0\r\n\r\n", pause=0.1)) as slow,
        Proxy(rest_policy(rest(A, quiet.port), rest(A, slow.port)), limits=LIMITS) as proxy,
    ):
        fields = "Connection: close\r\n"
        first, second = await asyncio.gather(
            proxy.say(ask(quiet.port, fields=fields)), proxy.say(ask(slow.port, fields=fields))
        )
        assert first.endswith(b"later\r\n0\r\n\r\n")
        assert second.endswith(b"1\r\nx\r\n" * 12 + b"0\r\n\r\n")


async def test_an_upstream_that_takes_no_body_is_a_504():
    async def deaf(reader, writer):
        writer.transport.pause_reading()
        await asyncio.sleep(30)

    limits = Limits(body_idle_seconds=SOON)
    size = 30_000_000
    async with (
        Upstream(script=deaf) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=limits) as proxy,
    ):
        client = await proxy.connect()
        client.writer.write(ask(up.port, "POST", f"Content-Length: {size}\r\n", b"x" * size))
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 504 "), head
        client.close()


async def test_a_body_that_moves_keeps_a_silent_upstream():
    async def patient(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(12)
        writer.write(OK)
        await writer.drain()

    async with (
        Upstream(script=patient) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=LIMITS) as proxy,
    ):
        client = await proxy.connect()
        await client.send(ask(up.port, "POST", "Content-Length: 12\r\n"))
        for _ in range(12):
            await asyncio.sleep(0.1)
            await client.send(b"x")
        assert await client.response() == (200, b"ok")
        client.close()
