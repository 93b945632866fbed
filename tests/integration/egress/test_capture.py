"""Captured connections: judged like any other, answered in HTTP or reset, never silent.

Here the accepted socket's own address plays the original destination: the listener takes every
address of loopback, and the table of handed-out names is told which host an address stands for.
"""

import asyncio
import ssl

import pytest

from integration.egress.harness import (
    A,
    B,
    Client,
    Proxy,
    Upstream,
    plain,
    problem,
    rest,
    rest_policy,
)
from openshell.egress.identity import Peers
from openshell.egress.limits import Limits

# A busy machine may keep a client from its first byte for a while.
LIMITS = Limits(captured_silent_seconds=2.0, refusal_peek_seconds=1.0)


class Captured(Proxy):
    """A proxy whose captured connections believe in another destination."""

    def __init__(self, policy, destination, names, **extra):
        super().__init__(policy, limits=LIMITS, **extra)
        self._destination = destination
        self._names = names

    async def __aenter__(self):
        await super().__aenter__()
        adapter = self.proxy._capture
        adapter._host_for = self._names.get
        serve = adapter.serve

        async def elsewhere(connection):
            connection.peers = Peers(connection.peers.client, self._destination)
            await serve(connection)

        if self._destination is not None:
            adapter.serve = elsewhere
        return self

    async def connect_directly(self):
        return Client(*await asyncio.open_connection("127.0.0.1", self.capture_port))


SYNTHETIC = "198.18.0.1"


def get(host, port):
    return f"GET /x HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


async def say(proxy, data):
    """Send and return the answer, and whether the end was a reset."""
    client = await proxy.connect_directly()
    if data:
        await client.send(data)
    try:
        async with asyncio.timeout(5):
            return await client.reader.read(65536), False
    except ConnectionResetError:
        return b"", True
    finally:
        client.close()


async def test_http_to_a_looked_up_name():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port, access="read-only"))
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            client = await proxy.connect_directly()
            for _ in range(2):
                assert await client.request(get(A, up.port)) == (200, b"ok")
            denied = get(A, up.port).replace(b"GET", b"POST")
            assert problem(await client.say(denied))[0] == 403
    assert up.requests[0].line == b"GET /x HTTP/1.1"
    assert up.requests[0].header(b"via") is None
    assert proxy.lines[0].startswith("NET:OPEN [INFO] ALLOWED /usr/bin/curl(4242) -> ")


async def test_tls_to_a_looked_up_name():
    async with Upstream(tls_name=A) as up:
        policy = rest_policy(rest(A, up.port))
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            client = await proxy.connect_directly()
            await client.start_tls(proxy.client_tls(), A)
            assert await client.request(get(A, up.port)) == (200, b"ok")


async def test_tls_skip_passes_the_hello_on():
    async with Upstream(tls_name=A) as up:
        policy = rest_policy(plain(A, up.port, tls="skip"))
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            client = await proxy.connect_directly()
            with pytest.raises(ssl.SSLCertVerificationError):
                await client.start_tls(proxy.client_tls(), A)


@pytest.mark.parametrize("tls", ["skip", ""], ids=["raw", "inspected"])
async def test_another_server_name_is_refused(tls):
    async with Upstream(tls_name=A) as up:
        policy = rest_policy(plain(A, up.port, tls=tls), plain(B, up.port))
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            context = ssl.create_default_context()
            client = await proxy.connect_directly()
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await client.start_tls(context, B)
    assert proxy.denials[-1].refusal.code == "server_name_mismatch"
    assert up.connections == 0


async def test_another_host_field_is_refused():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port), rest(B, up.port))
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            answer, _ = await say(proxy, get(B, up.port))
    assert problem(answer)[1]["error"] == "request_authority_mismatch"
    assert up.requests == []


async def test_a_denied_name_is_answered_in_http_and_recorded():
    async with (
        Upstream() as up,
        Captured(rest_policy(), (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy,
    ):
        answer, _ = await say(proxy, get(A, up.port))
    assert problem(answer)[1]["error"] == "policy_denied"
    assert proxy.lines[0].startswith(
        f"NET:REFUSE [MED] DENIED /usr/bin/curl(4242) -> {A}:{up.port} [policy:- engine:opa] [reason:"
    )
    assert proxy.denials[0].refusal.stage == "bypass"


DIRECT = {
    "undeclared address": ("93.184.216.34", "policy_denied"),
    "undeclared IPv6 address": ("2606:2800:220:1::1", "policy_denied"),
    "metadata service": ("169.254.169.254", "ssrf_denied"),
    "unknown synthetic address": ("198.18.7.7", "policy_denied"),
}


@pytest.mark.parametrize(("address", "error"), DIRECT.values(), ids=DIRECT.keys())
async def test_a_direct_address_is_judged_as_what_it_is(address, error):
    policy = rest_policy(plain("169.254.169.254", 8080), plain(A, 8080))
    async with Captured(policy, (address, 8080), {}) as proxy:
        answer, _ = await say(proxy, get(address, 8080))
        # The name in the Host field makes no difference: nobody looked it up.
        second, _ = await say(proxy, get(A, 8080))
    assert problem(answer)[1]["error"] == error
    assert problem(second)[1]["error"] == error
    assert len(proxy.denials) == 2


NOT_HTTP = {
    "ssh": b"SSH-2.0-OpenSSH\r\n",
    "silence": b"",
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed host", "denied host"])
@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP.keys())
async def test_other_protocols_are_reset_with_one_event(data, allowed):
    async with Upstream() as up:
        policy = rest_policy(plain(A, up.port)) if allowed else rest_policy()
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            assert await say(proxy, data) == (b"", True)
    assert len(proxy.denials) == 1
    assert proxy.denials[0].activity.name == "REFUSE"
    assert up.connections == 0


@pytest.mark.parametrize("tls", ["skip", ""], ids=["raw", "inspected"])
async def test_broken_hellos_are_reset(tls):
    async with Upstream() as up:
        policy = rest_policy(plain(A, up.port, tls=tls))
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            assert await say(proxy, b"\x16\x03\x01\x00\x05\x02\x00\x00\x01x") == (b"", True)
    assert up.connections == 0


async def test_a_connection_to_the_listener_itself_is_refused():
    async with Upstream() as up:
        policy = rest_policy(plain("127.0.0.1", up.port))
        async with Captured(policy, None, {}) as proxy:
            assert await say(proxy, get(A, up.port)) == (b"", True)
    assert proxy.denials[0].refusal.code == "own_listener"
