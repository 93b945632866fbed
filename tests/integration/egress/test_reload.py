"""A new generation: what it allows goes on without a hitch, what it forbids ends at once."""

import asyncio

import pytest

from integration.egress.harness import OK, A, Proxy, Upstream, plain, problem, rest, rest_policy


def get(port, path="/", method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: {A}:{port}\r\n\r\n".encode()


async def test_a_kept_tunnel_follows_the_new_policy():
    async with (
        Upstream(tls_name=A) as up,
        Proxy(rest_policy(rest(A, up.port, access="read-only"))) as proxy,
    ):
        client = await proxy.tls(A, up.port)
        assert (await client.request(get(up.port)))[0] == 200
        proxy.reload(rest_policy(rest(A, up.port)))
        assert (await client.request(get(up.port, method="DELETE")))[0] == 200
        proxy.reload(rest_policy(rest(A, up.port, access="read-only")))
        assert problem(await client.say(get(up.port, method="DELETE")))[0] == 403
    assert up.connections == 1
    assert len(up.requests) == 2


async def test_reloads_under_load_refuse_nothing():
    async with Upstream(tls_name=A) as up:
        # Something differs every time, so that nothing can be kept from before.
        policies = [
            rest_policy(rest(A, up.port), plain(f"other{number}.example", 443))
            for number in range(2)
        ]
        async with Proxy(policies[0]) as proxy:
            stop = asyncio.Event()
            counts = []

            async def load():
                client = await proxy.tls(A, up.port)
                count = 0
                while not stop.is_set():
                    assert await client.request(get(up.port, f"/{count}")) == (200, b"ok")
                    count += 1
                counts.append(count)

            async def reload():
                for number in range(60):
                    proxy.reload(policies[number % 2])
                    await asyncio.sleep(0.005)
                stop.set()

            await asyncio.gather(*(load() for _ in range(4)), reload())
    assert min(counts) > 5
    assert proxy.denials == []


async def test_a_reload_while_dialling_is_judged_again():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy) as proxy:
            dial = proxy.proxy._upstreams.dial

            async def slow(plan, **how):
                stream = await dial(plan, **how)
                proxy.reload(policies.pop())
                return stream

            policies = [rest_policy(), policy]
            proxy.proxy._upstreams.dial = slow
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(get(up.port)))[0] == 200
            answer = await proxy.say(f"CONNECT {A}:{up.port} HTTP/1.1\r\n\r\n".encode())
    assert problem(answer)[1]["error"] == "policy_denied"


STREAM_POLICIES = {
    "still allowed": ({"access": "read-write"}, True),
    "method no longer allowed": (
        {"rules": [{"allow": {"method": "POST", "path": "/**"}}], "access": ""},
        False,
    ),
    "denied by a deny rule": (
        {"deny_rules": [{"method": "GET", "path": "/stream"}]},
        False,
    ),
}


@pytest.mark.parametrize("absolute", [True, False], ids=["plain", "tunnel"])
@pytest.mark.parametrize(("change", "lives"), STREAM_POLICIES.values(), ids=STREAM_POLICIES.keys())
async def test_a_running_response_is_judged_again(change, lives, absolute):
    go_on = asyncio.Event()

    async def stream(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"data: 2\n\n")
        await writer.drain()

    async with Upstream(script=stream) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await (proxy.connect() if absolute else proxy.tunnel(A, up.port))
        path = f"http://{A}:{up.port}/stream" if absolute else "/stream"
        await client.send(get(up.port, path))
        assert b"200 OK" in await client.head()
        assert await client.reader.readexactly(9) == b"data: 1\n\n"
        proxy.reload(rest_policy(rest(A, up.port, **change)))
        if lives:
            go_on.set()
            assert await client.rest() == b"data: 2\n\n"
            assert proxy.denials == []
        else:
            assert await client.rest() == b""
            assert "NET:CLOSE [MED] DENIED" in proxy.lines[-1]


RAW_POLICIES = {
    "still allowed": (lambda port: plain(A, port, tls="skip"), True),
    "host gone": (lambda port: plain("other.example", port), False),
    "now inspected": (lambda port: rest(A, port), False),
}


@pytest.mark.parametrize(("endpoint", "lives"), RAW_POLICIES.values(), ids=RAW_POLICIES.keys())
async def test_a_raw_tunnel_is_judged_again(endpoint, lives):
    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)

    async with (
        Upstream(script=echo) as up,
        Proxy(rest_policy(plain(A, up.port, tls="skip"))) as proxy,
    ):
        client = await proxy.tunnel(A, up.port)
        await client.send(b"one")
        assert await client.reader.readexactly(3) == b"one"
        proxy.reload(rest_policy(endpoint(up.port)))
        if lives:
            await client.send(b"two")
            assert await client.reader.readexactly(3) == b"two"
            client.close()
        else:
            assert await client.rest() == b""


async def test_an_idle_tunnel_of_a_host_that_is_gone_is_closed():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        assert (await client.request(get(up.port)))[0] == 200
        proxy.reload(rest_policy())
        assert await client.rest() == b""
        again = await proxy.say(f"CONNECT {A}:{up.port} HTTP/1.1\r\n\r\n".encode())
    assert problem(again)[0] == 403


async def test_an_idle_proxy_connection_survives_every_reload():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        absolute = get(up.port, f"http://{A}:{up.port}/")
        assert (await client.request(absolute))[0] == 200
        proxy.reload(rest_policy())
        proxy.reload(rest_policy(rest(A, up.port)))
        assert (await client.request(absolute))[0] == 200
        proxy.reload(rest_policy())
        assert problem(await client.say(absolute))[1]["error"] == "policy_denied"


async def test_a_request_that_waits_for_its_upstream_is_judged_when_it_goes_out():
    async with Upstream(OK) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        dial = proxy.proxy._upstreams.dial

        async def slow(plan, **how):
            stream = await dial(plan, **how)
            proxy.reload(rest_policy(rest(A, up.port, access="read-only")))
            return stream

        proxy.proxy._upstreams.dial = slow
        absolute = get(up.port, f"http://{A}:{up.port}/", "POST")
        assert problem(await proxy.say(absolute))[0] == 403
    assert up.requests == []
