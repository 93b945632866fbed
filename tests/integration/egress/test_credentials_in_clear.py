"""A credential value never goes out in clear text where TLS was expected, whichever door is used."""

import asyncio
import dataclasses

import pytest

from integration.egress.harness import (
    PLACEHOLDER,
    SECRET,
    A,
    Client,
    Proxy,
    Upstream,
    bound,
    plain,
    problem,
    rest,
    rest_policy,
)
from openshell.egress.dns import RType
from openshell.egress.identity import Peers
from openshell.ocsf import to_json

SYNTHETIC = "198.18.0.1"
FIELD = f"Authorization: Bearer {PLACEHOLDER}\r\n"


async def tunnel(proxy, port):
    return await proxy.tunnel(A, port), "/x"


async def absolute(proxy, port):
    return await proxy.connect(), f"http://{A}:{port}/x"


async def captured(proxy, port):
    adapter = proxy.proxy._capture
    assert adapter._names.address_for(A, RType.A) == SYNTHETIC
    serve = adapter.serve

    async def elsewhere(connection):
        connection.peers = Peers(connection.peers.client, (SYNTHETIC, port))
        await serve(connection)

    adapter.serve = elsewhere
    return Client(*await asyncio.open_connection("127.0.0.1", proxy.capture_port)), "/x"


DOORS = [tunnel, absolute, captured]
NAMES = ["tunnel", "absolute", "captured"]


def proxy_for(endpoint, up, port):
    proxy = Proxy(rest_policy(endpoint), environment={"TOKEN": SECRET}, bindings=bound(A, port))

    return proxy, lambda: lead(proxy, up)


def lead(proxy, up):
    """Has every dialled address answer at the upstream's port: 443 cannot be listened on."""
    upstreams = proxy.proxy._upstreams
    dial = upstreams.dial
    upstreams.dial = lambda plan, **how: dial(dataclasses.replace(plan, port=up.port), **how)


def request(target, port, field=""):
    return f"GET {target} HTTP/1.1\r\nHost: {A}:{port}\r\n{field}\r\n".encode()


ENDPOINTS = {
    "port 443": lambda _: rest(A, 443),
    "port 443, not inspected": lambda _: plain(A, 443),
    "tls: terminate": lambda port: rest(A, port, tls="terminate"),
    "tls: Passthrough": lambda port: rest(A, port, tls="Passthrough"),
}


@pytest.mark.parametrize("door", DOORS, ids=NAMES)
@pytest.mark.parametrize("make", ENDPOINTS.values(), ids=ENDPOINTS.keys())
async def test_no_value_goes_where_tls_was_expected(make, door):
    async with Upstream() as up:
        endpoint = make(up.port)
        port = endpoint["port"]
        proxy, lead_to_upstream = proxy_for(endpoint, up, port)
        async with proxy:
            lead_to_upstream()
            client, target = await door(proxy, port)
            # The policy allows clear text, and requests that carry no value pass.
            assert await client.request(request(target, port)) == (200, b"ok")
            answer = await client.say(request(target, port, FIELD))
    status, body = problem(answer)
    assert (status, body["error"]) == (403, "credential_needs_tls")
    assert "https://" in body["detail"]
    assert len(up.requests) == 1
    assert proxy.denials[-1].severity.name == "HIGH"
    assert any("clear_text" in line for line in proxy.lines)
    everything = b"".join(to_json(event) for event in proxy.events)
    assert SECRET.encode() not in everything
    assert b"openshell:resolve" not in everything


@pytest.mark.parametrize("door", DOORS, ids=NAMES)
async def test_a_plain_service_on_another_port_gets_its_value(door):
    async with Upstream() as up:
        proxy, _ = proxy_for(rest(A, up.port), up, up.port)
        async with proxy:
            client, target = await door(proxy, up.port)
            assert await client.request(request(target, up.port, FIELD)) == (200, b"ok")
    assert up.requests[0].header(b"authorization") == f"Bearer {SECRET}".encode()


async def test_with_tls_port_443_gets_its_value():
    async with Upstream(tls_name=A) as up:
        proxy, lead_to_upstream = proxy_for(rest(A, 443), up, 443)
        async with proxy:
            lead_to_upstream()
            client = await proxy.tls(A, 443)
            assert await client.request(request("/x", 443, FIELD)) == (200, b"ok")
    assert up.requests[0].header(b"authorization") == f"Bearer {SECRET}".encode()


async def test_another_endpoint_stays_a_mismatch_in_clear_text_too():
    async with Upstream() as up:
        proxy = Proxy(
            rest_policy(rest(A, 443)),
            environment={"TOKEN": SECRET},
            bindings=bound("b.example", 443),
        )
        async with proxy:
            lead(proxy, up)
            client = await proxy.tunnel(A, 443)
            answer = await client.say(request("/x", 443, FIELD))
    assert problem(answer)[1]["error"] == "credential_endpoint_mismatch"
