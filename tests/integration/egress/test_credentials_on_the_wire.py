"""Placeholders become secrets at bound endpoints only, and nothing else leaves or shows."""

import asyncio
import base64
import time
from dataclasses import replace

import pytest

from integration.egress.harness import (
    PLACEHOLDER,
    SECRET,
    A,
    B,
    Proxy,
    Upstream,
    bound,
    plain,
    problem,
    rest,
    rest_policy,
)
from openshell.egress.credentials import CredentialSet
from openshell.ocsf import to_json

CREDENTIALS = {"environment": {"TOKEN": SECRET}}


def request(port, *fields, method="GET", path="/", host=A, body=b""):
    extra = "".join(f"{field}\r\n" for field in fields)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{extra}\r\n"
    return head.encode() + body


def nothing_leaked(proxy):
    everything = b"".join(to_json(event) for event in proxy.events) + "".join(proxy.lines).encode()
    assert SECRET.encode() not in everything
    assert b"TOKEN" not in everything
    assert b"openshell:resolve" not in everything


REPLACED = {
    "whole value": (f"X-Api-Key: {PLACEHOLDER}", b"x-api-key", SECRET),
    "bearer": (f"Authorization: Bearer {PLACEHOLDER}", b"authorization", f"Bearer {SECRET}"),
    "basic": (
        "Authorization: Basic " + base64.b64encode(f"user:{PLACEHOLDER}".encode()).decode(),
        b"authorization",
        "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode(),
    ),
}


@pytest.mark.parametrize(("field", "name", "value"), REPLACED.values(), ids=REPLACED.keys())
async def test_replaced_at_the_bound_endpoint(field, name, value):
    async with Upstream(tls_name=A) as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await proxy.tls(A, up.port)
            assert await client.request(request(up.port, field)) == (200, b"ok")
    assert up.requests[0].header(name) == value.encode()
    nothing_leaked(proxy)


async def test_not_at_another_allowed_endpoint():
    async with Upstream() as up, Upstream() as other:
        policy = rest_policy(rest(A, up.port), rest(B, other.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            field = f"Authorization: Bearer {PLACEHOLDER}"
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(request(up.port, field)))[0] == 200
            wrong = await proxy.tunnel(B, other.port)
            status, body = problem(await wrong.say(request(other.port, field, host=B)))
    assert (status, body["error"]) == (403, "credential_endpoint_mismatch")
    assert other.requests == []
    assert proxy.denials[0].severity.name == "HIGH"
    nothing_leaked(proxy)


async def test_not_on_another_path_of_the_same_endpoint():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        bindings = bound(A, up.port, "/v1/**")
        async with Proxy(policy, bindings=bindings, **CREDENTIALS) as proxy:
            field = f"X-Key: {PLACEHOLDER}"
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(request(up.port, field, path="/v1/x")))[0] == 200
            answer = await client.say(request(up.port, field, path="/v1/../v2"))
    assert problem(answer)[1]["error"] == "credential_endpoint_mismatch"
    assert len(up.requests) == 1


UNRESOLVED = {
    "unknown key": "X-Key: openshell:resolve:env:v1_OTHER",
    "bare form of a bound key": "X-Key: openshell:resolve:env:TOKEN",
    "a revision that never was": "X-Key: openshell:resolve:env:v9_TOKEN",
    "percent-encoded": "X-Key: openshell%3Aresolve%3Aenv%3Av1_TOKEN",
    "inside a larger value": f"Cookie: a={PLACEHOLDER}; b=1",
}


@pytest.mark.parametrize("field", UNRESOLVED.values(), ids=UNRESOLVED.keys())
async def test_what_cannot_be_resolved_is_not_sent(field):
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(request(up.port, f"X-Key: {PLACEHOLDER}")))[0] == 200
            status, body = problem(await client.say(request(up.port, field)))
    assert (status, body["error"]) == (500, "credential_unavailable")
    assert len(up.requests) == 1
    nothing_leaked(proxy)


async def test_a_value_with_line_breaks_injects_nothing():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        environment = {"TOKEN": "x\r\nX-Injected: 1"}
        async with Proxy(policy, environment=environment, bindings=bound(A, up.port)) as proxy:
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(request(up.port)))[0] == 200
            status, _ = problem(await client.say(request(up.port, f"X-Key: {PLACEHOLDER}")))
    assert status == 500
    assert len(up.requests) == 1


async def test_a_placeholder_field_name_injects_nothing():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await proxy.tunnel(A, up.port)
            answer = await client.say(request(up.port, "X-OPENSHELL-RESOLVE-ENV-TOKEN: 1"))
    assert problem(answer)[0] == 500
    assert up.requests == []


async def test_a_placeholder_nobody_knows_in_the_target_is_refused_and_never_shown():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            for path in (f"/bot{PLACEHOLDER}2/x", f"/x?key={PLACEHOLDER}2", f"/x?{PLACEHOLDER}"):
                client = await proxy.tunnel(A, up.port)
                assert problem(await client.say(request(up.port, path=path)))[0] == 500
    assert up.requests == []
    nothing_leaked(proxy)


BODIES = {
    "literal": b'{"key": "' + PLACEHOLDER.encode() + b'"}',
    "percent-encoded": b"key=openshell%3Aresolve%3Aenv%3Av1_TOKEN",
}


@pytest.mark.parametrize("cut", [0, 12], ids=["with the head", "cut in two"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_placeholder_in_a_body_ends_the_request(body, cut):
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await proxy.tunnel(A, up.port)
            length = f"Content-Length: {len(body)}"
            probe = request(up.port, length, method="POST", body=b"x" * len(body))
            assert (await client.request(probe))[0] == 200
            evil = request(up.port, length, method="POST", body=body)
            if cut:
                await client.send(evil[:-cut])
                client.writer.write(evil[-cut:])
            else:
                await client.send(evil)
            assert problem(await client.rest())[0] == 500
    assert [r.body for r in up.requests] == [b"x" * len(body)]
    assert any("placeholder_in_body" in line for line in proxy.lines)
    nothing_leaked(proxy)


async def test_an_endpoint_may_opt_out_of_the_body_scan():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port, allow_uninspected_credentials=True))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await proxy.tunnel(A, up.port)
            body = BODIES["literal"]
            length = f"Content-Length: {len(body)}"
            sent = request(up.port, length, method="POST", body=body)
            assert (await client.request(sent))[0] == 200
    assert up.requests[0].body == BODIES["literal"]


async def test_the_response_is_not_touched():
    body = PLACEHOLDER.encode()
    async with Upstream(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    ) as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(request(up.port)))[1] == body


async def test_replaced_on_an_uninspected_endpoint_too():
    async with Upstream() as up:
        policy = rest_policy(plain(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(request(up.port, f"X-Key: {PLACEHOLDER}")))[0] == 200
    assert up.requests[0].header(b"x-key") == SECRET.encode()


async def test_a_request_without_host_gets_no_value():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            old = f"GET / HTTP/1.0\r\nX-Key: {PLACEHOLDER}\r\n\r\n".encode()
            without = b"GET / HTTP/1.0\r\n\r\n"
            assert (await (await proxy.tunnel(A, up.port)).request(without))[0] == 200
            assert problem(await (await proxy.tunnel(A, up.port)).say(old))[0] == 500
    assert len(up.requests) == 1


async def test_requests_that_repeat_their_fields_are_each_looked_at():
    async with Upstream(tls_name=A) as up:
        policy = rest_policy(rest(A, up.port))
        async with Proxy(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await proxy.tls(A, up.port)
            for field in (f"X-Api-Key: {PLACEHOLDER}", "X-Api-Key: mine"):
                for _ in range(3):
                    assert await client.request(request(up.port, field)) == (200, b"ok")
            hidden = request(up.port, "X-Api-Key: mine", path=f"/{PLACEHOLDER}2")
            status, _ = await client.request(hidden)
            assert status == 500
    sent = [each.header(b"x-api-key") for each in up.requests]
    assert sent == [SECRET.encode()] * 3 + [b"mine"] * 3
    nothing_leaked(proxy)


def held(proxy, port, revision, value, **extra):
    return CredentialSet.build(
        revision, {"TOKEN": value}, bound(A, port), previous=proxy.credentials, **extra
    )


class Rotating(Proxy):
    """A proxy whose credentials change while its policy stays."""

    @property
    def credentials(self):
        return self.holder.current.credentials

    def rotate(self, credentials):
        current = self.holder.current
        self.holder.swap(replace(current, number=current.number + 1, credentials=credentials))


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
async def test_a_kept_connection_uses_the_newest_credentials_or_none(secure):
    async with Upstream(tls_name=A if secure else None) as up:
        policy = rest_policy(rest(A, up.port))
        async with Rotating(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            client = await (proxy.tls if secure else proxy.tunnel)(A, up.port)
            old = request(up.port, f"X-Key: {PLACEHOLDER}")
            new = request(up.port, f"X-Key: {PLACEHOLDER.replace('v1', 'v2')}")
            for _ in range(2):
                assert await client.request(old) == (200, b"ok")
            assert up.connections == 1
            proxy.rotate(held(proxy, up.port, 2, "rotated-value"))
            for _ in range(2):
                assert await client.request(new) == (200, b"ok")
            # What carried the old value carries nothing else.
            assert up.connections == 2
            proxy.rotate(proxy.credentials.revoked())
            status, body = problem(await client.say(new))
    assert (status, body["error"]) == (500, "credential_unavailable")
    assert [each.header(b"x-key") for each in up.requests] == [
        SECRET.encode(),
        SECRET.encode(),
        b"rotated-value",
        b"rotated-value",
    ]


async def test_a_credential_that_ends_while_its_upstream_is_dialled_is_not_sent():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port))
        async with Rotating(policy, bindings=bound(A, up.port), **CREDENTIALS) as proxy:
            ends = time.time_ns() // 1_000_000 + 1000
            proxy.rotate(held(proxy, up.port, 2, SECRET, expires_at_ms={"TOKEN": ends}))
            dial = proxy.proxy._upstreams.dial

            async def slow(plan, **how):
                await asyncio.sleep(1.1)
                return await dial(plan, **how)

            sent = request(up.port, f"X-Key: {PLACEHOLDER.replace('v1', 'v2')}").replace(
                b"GET /", f"GET http://{A}:{up.port}/".encode()
            )
            client = await proxy.connect()
            assert (await client.request(sent)) == (200, b"ok")
            proxy.proxy._upstreams.dial = slow
            proxy.proxy._upstreams.close()
            other = await proxy.connect()
            status, body = problem(await other.say(sent))
    assert (status, body["error"]) == (500, "credential_injection_failed")
    assert len(up.requests) == 1
