"""Each final decision has one event in the protocols that need more than one message to reach it."""

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from integration.egress.h2_peers import H2Client, H2Server, answer_ok
from integration.egress.harness import A, Proxy, Upstream, plain, rest, rest_policy
from integration.egress.test_one_event_each import connect as asked
from integration.egress.test_one_event_each import outcomes
from integration.egress.test_signing_on_the_wire import KEYS, put, signing, verifying
from integration.egress.test_token_grants_on_the_wire import World, request
from integration.egress.websockets_here import chat, echoing
from integration.egress.websockets_here import policy as chatting
from openshell.egress.dns_server import DnsRefusal
from openshell.supervisor.tally import Tally


def agree(proxy, outcome):
    """The events, and what the summaries make of them."""
    assert outcomes(proxy) == outcome, proxy.lines
    tally = Tally()
    for event in proxy.events:
        tally.add(event)
    activity = tally.take_activity()
    decided = outcome.replace("-", "")
    counted = (
        (activity.network_activity_count, activity.denied_action_count) if activity else (0, 0)
    )
    assert counted == (len(decided), decided.count("D"))


async def test_streams_of_http2():
    async with (
        H2Server(A, answer_ok) as up,
        Proxy(rest_policy(rest(A, up.port, access="read-only"))) as proxy,
    ):
        client = await H2Client.open(proxy, A, up.port)
        for method, status in (("GET", "200"), ("PUT", "403"), ("GET", "200")):
            answer = await client.get("/", method)
            assert str(answer.status) == status
        # A tunnel, and each stream by itself.
        agree(proxy, "AADA")


@pytest.mark.parametrize(("rules", "outcome"), [(("GET",), "AD"), (("GET", "WEBSOCKET_TEXT"), "A")])
async def test_messages_of_a_websocket(rules, outcome):
    allowed = [{"method": method, "path": "/chat"} for method in rules]
    async with echoing() as (port, _), Proxy(chatting(chat(port, *allowed))) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            for _ in range(3):
                try:
                    await socket.send("x")
                    await socket.recv()
                except ConnectionClosedError:
                    break
        # websockets asks for a tunnel first.
        agree(proxy, "A" + outcome)


async def test_a_raw_tunnel():
    async with (
        Upstream() as up,
        Proxy(rest_policy(plain(A, up.port, tls="skip"))) as proxy,
    ):
        client = await proxy.tunnel(A, up.port)
        for _ in range(2):
            await client.request(b"PUT /anything HTTP/1.1\r\nHost: other\r\n\r\n")
        client.close()
        agree(proxy, "A")


@pytest.mark.parametrize(("keys", "outcome"), [(KEYS, "AA"), ({"AWS_SESSION_TOKEN": "x"}, "AD")])
async def test_a_signed_request(keys, outcome):
    async with Upstream(verifying) as up, signing(up, keys=keys) as proxy:
        client = await proxy.tunnel(A, up.port)
        await client.send(put()(up.port))
        await client.head()
        client.close()
        agree(proxy, outcome)


@pytest.mark.parametrize("refused", [False, True], ids=["granted", "refused"])
async def test_a_token_that_is_fetched(refused, tmp_path):
    async with World(tmp_path) as world:
        if refused:
            world.server.audiences = ["another"]
        async with world.proxy() as proxy:
            client = await proxy.tunnel(A, world.up.port)
            await client.send(request(world.up.port))
            assert (b" 502 " in await client.head()) is refused
            client.close()
            agree(proxy, "AD" if refused else "AA")


async def test_names_that_are_refused():
    async with Proxy(rest_policy(rest(A, 1))) as proxy:
        for host in ("a.example", "a.example", "b.example", None, None):
            proxy.proxy._dns._on_refused(DnsRefusal(host, None, "not_eligible"))
        # Programs ask again and again: a name is told of once in a while.
        agree(proxy, "DDD")


async def test_what_fails_is_no_second_decision():
    """An upstream that is not there: what was decided stands, what failed is beside it."""
    async with Upstream() as up:
        port = up.port
    async with Proxy(rest_policy(rest(A, port))) as proxy:
        assert b" 502 " in await proxy.say(asked(A, port))
        agree(proxy, "-")

    async def rude(reader, writer):
        await reader.readuntil(b"\r\n\r\n")

    async with Upstream(script=rude) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        line = f"GET http://{A}:{up.port}/ HTTP/1.1\r\nHost: x\r\n\r\n"
        assert b" 502 " in await proxy.say(line.encode())
        agree(proxy, "A-")


BROKEN = {
    "a second head that is none": (b"GET / HTTP/1.1\r\nHost: %b\r\n\r\nBAD\r\n\r\n", "AAD"),
    "a body that is none": (
        b"POST / HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "AD"),
    "another authority": (b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n", "AD"),
    "a head without end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 17_000, "AD"),
    "a body that ends too early": (
        b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: 9\r\n\r\nhalf", "AA-"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
async def test_what_a_client_breaks_inside_a_tunnel(case):
    sent, outcome = BROKEN[case]
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        await client.send(sent.replace(b"%b", f"{A}:{up.port}".encode()))
        if case.endswith("too early"):
            client.writer.write_eof()
        await client.rest()
        await asyncio.sleep(0)
        agree(proxy, outcome)
