"""Which upstream connections carry another request: only those on which nobody can be out of step."""

import asyncio

import pytest

from integration.egress.harness import (
    OK,
    PLACEHOLDER,
    SECRET,
    A,
    Proxy,
    Upstream,
    bound,
    read_request,
    rest,
    rest_policy,
)
from openshell.egress.credentials import CredentialSet

GET = "GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"
POST = "POST {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"


def ask(port, form=GET, *, tunnel=False, fields="", path="/"):
    host = f"{A}:{port}"
    target = path if tunnel else f"http://{host}{path}"
    return form.format(target=target, host=host, fields=fields).encode()


def answering(answer, late=b""):
    async def script(reader, writer):
        while await read_request(reader):
            writer.write(answer)
            await writer.drain()
            if late:
                await asyncio.sleep(0.05)
                writer.write(late)

    return script


# The answer, what follows it a little later, and the connections that two requests take.
ANSWERS = {
    "a whole response": (OK, b"", 1),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", 1),
    "surplus bytes": (OK + b"x", b"", 2),
    "a second response": (OK + OK, b"", 2),
    "a second response, later": (OK, OK, 2),
    "surplus behind 204": (b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"", 2),
    "surplus behind the last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n0\r\n\r\n", b"", 2),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b"", 2),
    "an old version": (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", b"", 2),
}  # fmt: skip


@pytest.mark.parametrize("tunnel", [False, True], ids=["plain", "tunnel"])
@pytest.mark.parametrize("case", ANSWERS)
async def test_a_connection_is_used_again_only_after_exactly_one_response(case, tunnel):
    answer, late, connections = ANSWERS[case]
    async with (
        Upstream(script=answering(answer, late)) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        client = None
        for _ in range(2):
            if client is None or client.reader.at_eof():
                client = await (proxy.tunnel(A, up.port) if tunnel else proxy.connect())
            await client.send(ask(up.port, tunnel=tunnel))
            assert (await client.head())[9:12] in (b"200", b"204")
            await asyncio.sleep(0.1)
            client.reader._buffer.clear()
        client.close()
    assert up.connections == connections


async def test_a_server_that_answers_before_the_body_ends_gets_no_other_request_on_that_connection():
    async def hasty(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)
            await writer.drain()
            # It does read the rest: all in order, as far as anybody can see.
            await reader.readexactly(4)

    async with Upstream(script=hasty) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        for _ in range(2):
            client = await proxy.connect()
            await client.send(ask(up.port, POST, fields="Content-Length: 4\r\n"))
            head = await client.head()
            assert b"Connection: close" in head
            await client.send(b"body")
            assert await client.rest() == b"ok"
            client.close()
    assert up.connections == 2


async def test_a_stale_connection_costs_repeatable_requests_nothing_and_others_are_not_sent_twice():
    """The server closes when the next request has arrived, so that nobody can know before."""

    async def once(reader, writer):
        up.requests.append(await read_request(reader))
        writer.write(OK)
        await writer.drain()
        up.requests.append(await read_request(reader))

    for method, status, sent in (("GET", 200, 3), ("PUT", 200, 3), ("POST", 502, 2)):
        async with Upstream(script=once) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
            client = await proxy.connect()
            assert (await client.request(ask(up.port)))[0] == 200
            form = GET.replace("GET", method)
            fields = "" if method == "GET" else "Content-Length: 0\r\n"
            assert (await client.request(ask(up.port, form, fields=fields)))[0] == status, method
            assert len([request for request in up.requests if request]) == sent, method
            client.close()


async def test_a_connection_that_carried_other_credentials_is_not_used_for_these():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        bindings = bound(A, up.port)
        proxy = Proxy(policy, environment={"TOKEN": SECRET}, bindings=bindings)
        async with proxy:
            client = await proxy.connect()
            for connections in (1, 1, 2):
                if connections == 2:
                    proxy._credentials = CredentialSet.build(
                        2, {"TOKEN": "renewed"}, bindings, previous=proxy._credentials
                    )
                    proxy.reload(policy)
                shown = PLACEHOLDER.replace("v1", f"v{connections}")
                fields = f"Authorization: Bearer {shown}\r\n"
                assert (await client.request(ask(up.port, fields=fields)))[0] == 200
                assert up.connections == connections
            client.close()
    sent = [request.header(b"authorization").decode() for request in up.requests]
    assert sent == [f"Bearer {SECRET}", f"Bearer {SECRET}", "Bearer renewed"]
