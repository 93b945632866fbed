"""HTTP/1.1 through the proxy, where a message has parts that few messages have."""

import asyncio

import pytest

from integration.egress.harness import OK, A, Proxy, Upstream, plain, problem, rest, rest_policy
from openshell.egress.http1 import TUNNEL_HEAD_LIMIT

CHUNKED = b"Transfer-Encoding: chunked\r\n"
TRAILED = b"5\r\nhello\r\n0\r\nX-Checksum: 7\r\nX-Other: a b\r\n\r\n"


def head(port, line=b"GET /", *fields, version=b"1.1"):
    lines = [b"%b HTTP/%b" % (line, version), b"Host: %b:%d" % (A.encode(), port), *fields]
    return b"\r\n".join((*lines, b"", b""))


@pytest.mark.parametrize("secure", [False, True], ids=["clear", "tls"])
async def test_trailers_go_both_ways_as_they_are(secure):
    got = []

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        got.append(await reader.readuntil(b"a b\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nTrailer: X-Checksum\r\n" + CHUNKED + b"\r\n" + TRAILED)
        await writer.drain()
        await reader.read()

    name = A if secure else None
    async with (
        Upstream(script=script, tls_name=name) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        client = await (proxy.tls if secure else proxy.tunnel)(A, up.port)
        await client.send(head(up.port, b"POST /", CHUNKED.strip(), b"Trailer: X-Checksum"))
        for byte in TRAILED:
            await client.send(bytes([byte]))
        assert b"Trailer: X-Checksum" in await client.head()
        async with asyncio.timeout(5):
            assert await client.reader.readexactly(len(TRAILED)) == TRAILED
        client.close()
    assert got == [TRAILED]


async def test_bytes_behind_a_connect_are_no_part_of_the_tunnel():
    async with Upstream() as up, Proxy(rest_policy(plain(A, up.port, tls="skip"))) as proxy:
        client = await proxy.connect()
        place = f"{A}:{up.port}".encode()
        early = head(up.port, b"GET /too-early")
        await client.send(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (place, place) + early)
        assert b" 200 " in await client.head()
        assert await client.request(head(up.port, b"GET /in-time")) == (200, b"ok")
        client.close()
    assert [request.line for request in up.requests] == [b"GET /in-time HTTP/1.1"]


@pytest.mark.parametrize("option", [b"Connection: keep-alive", b"X: 1"])
async def test_an_old_client_gets_its_answer_and_the_end(option):
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        answer = await client.say(head(up.port, b"GET /", option, version=b"1.0"))
        assert answer.endswith(b"Connection: close\r\n\r\nok")


@pytest.mark.parametrize("count", [1, 3, 32, 33])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_hints_come_before_the_answer_and_are_counted(count, tls):
    hints = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
        * count
    )
    async with (
        Upstream(hints + OK, tls_name=A if tls else None) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        client = await (proxy.tls if tls else proxy.tunnel)(A, up.port)
        await client.send(head(up.port))
        for _ in range(min(count, 32)):
            hint = await client.head()
            assert hint == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        if count > 32:
            assert problem(await client.rest())[1]["error"] == "upstream_invalid_response"
        else:
            assert await client.response() == (200, b"ok")
        client.close()


@pytest.mark.parametrize("over", [0, 1])
async def test_the_largest_head_and_the_longest_path(over):
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        path = b"/" + b"p" * (4095 + over)
        await client.send(head(up.port, b"GET " + path))
        assert (await client.head())[9:12] == (b"400" if over else b"200")
        client.close()
        again = await proxy.tunnel(A, up.port)
        bare = len(head(up.port, b"GET /", b"X: "))
        await again.send(head(up.port, b"GET /", b"X: " + b"x" * (TUNNEL_HEAD_LIMIT - bare + over)))
        assert (await again.head())[9:12] == (b"431" if over else b"200")
        again.close()
