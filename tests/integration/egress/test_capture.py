"""Captured connections: judged like any other, answered in HTTP or reset, never silent.

Plain TCP endpoints have tests of their own: `test_plain_tcp`.
"""

import ssl

import pytest

from integration.egress.captured import SYNTHETIC, Captured, say
from integration.egress.harness import (
    A,
    B,
    Upstream,
    plain,
    problem,
    rest,
    rest_policy,
)
from unit.egress.test_tls_hello import extension, hello, record, sni


def get(host, port):
    return f"GET /x HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


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


OTHER_HOSTS = {
    "Host": "GET /x HTTP/1.1\r\nHost: {b}\r\n\r\n",
    "absolute target": "GET http://{b}/x HTTP/1.1\r\nHost: {a}\r\n\r\n",
    "Host beside an absolute target": "GET http://{a}/x HTTP/1.1\r\nHost: {b}\r\n\r\n",
    "both": "GET http://{b}/x HTTP/1.1\r\nHost: {b}\r\n\r\n",
    "another port": "GET /x HTTP/1.1\r\nHost: {host}:1\r\n\r\n",
}


@pytest.mark.parametrize("request_of", OTHER_HOSTS.values(), ids=OTHER_HOSTS.keys())
async def test_another_host_field_is_refused(request_of):
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port), rest(B, up.port))
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            names = {"a": f"{A}:{up.port}", "b": f"{B}:{up.port}", "host": A}
            good, _ = await say(proxy, get(A, up.port))
            assert good.startswith(b"HTTP/1.1 200 ")
            up.requests.clear()
            answer, _ = await say(proxy, request_of.format(**names).encode())
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


HIDDEN = {
    # What clients send that hide the name: the outer one belongs to the operator of the front.
    "outer name of a front": (
        record(hello(sni(b"front.example"), extension(0xFE0D, bytes(40)))),
        0,
    ),
    "outer name as looked up": (record(hello(sni(A.encode()), extension(0xFE0D, bytes(40)))), 1),
    "no name": (record(hello(extension(43, b"\x02\x03\x04"))), 1),
    "upper case": (record(hello(sni(A.upper().encode()))), 1),
    "two names": (record(hello(sni(A.encode(), B.encode()))), 0),
}


@pytest.mark.parametrize(("data", "reached"), HIDDEN.values(), ids=HIDDEN.keys())
async def test_what_a_hello_names_must_be_what_was_looked_up(data, reached):
    async def end(reader, writer):
        await reader.read(9)
        writer.write(b"bye")

    async with Upstream(script=end) as up:
        policy = rest_policy(plain(A, up.port, tls="skip"), plain("front.example", up.port))
        async with Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: A}) as proxy:
            answer, was_reset = await say(proxy, data)
    assert (up.connections, was_reset) == (reached, not reached)
    assert answer == (b"bye" if reached else b"")
    assert len(proxy.denials) == 1 - reached


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
    if allowed:
        refusal = proxy.denials[0].refusal
        assert (refusal.code, refusal.stage) == ("plain_tcp_not_declared", "bypass")
        assert refusal.suggestion == "set protocol: tcp at test.endpoints[0]"
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
