"""Credentials in paths, queries and bodies: at their endpoint, encoded, and nowhere else."""

import asyncio
import json
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
    parse,
    plain,
    problem,
    rest,
    rest_policy,
)
from openshell.egress.credentials import Binding, BoundEndpoint, CredentialSet
from openshell.ocsf import to_json

ENVIRONMENT = {"TOKEN": SECRET}
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
IN_JSON = json.dumps({"token": PLACEHOLDER, "n": 1}).encode()


def opened(host, port, **extra):
    return rest(host, port, request_body_credential_rewrite=True, **extra)


def request(port, *fields, method="GET", path="/", host=A, body=b""):
    extra = "".join(f"{field}\r\n" for field in fields)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{extra}\r\n"
    return head.encode() + body


def post(port, body, kind=JSON, *fields, host=A):
    length = f"Content-Length: {len(body)}"
    return request(
        port, f"Content-Type: {kind}", length, *fields, method="POST", host=host, body=body
    )


def chunked(port, body, size, kind=JSON, trailer=b""):
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    fields = (f"Content-Type: {kind}", "Transfer-Encoding: chunked")
    return request(port, *fields, method="POST", body=framed + b"0\r\n" + trailer + b"\r\n")


class Bound(Proxy):
    """One credential, bound to the first of two endpoints."""

    def __init__(self, up, other=None, *, endpoint=rest, value=SECRET, path=""):
        endpoints = [endpoint(A, up.port)]
        if other is not None:
            endpoints.append(endpoint(B, other.port))
        super().__init__(
            rest_policy(*endpoints),
            environment={"TOKEN": value},
            bindings=bound(A, up.port, path),
        )

    def hold(self, credentials):
        current = self.holder.current
        self.holder.swap(replace(current, number=current.number + 1, credentials=credentials))


def nothing_leaked(proxy):
    everything = b"".join(to_json(event) for event in proxy.events) + "".join(proxy.lines).encode()
    assert SECRET.encode() not in everything
    assert b"TOKEN" not in everything
    assert b"openshell:resolve" not in everything


TARGETS = {
    "path": (f"/bot{PLACEHOLDER}/send", f"/bot{SECRET}/send"),
    "path, encoded": (f"/{PLACEHOLDER.replace(':', '%3a')}/x", f"/{SECRET}/x"),
    "query": (f"/x?a=1&key={PLACEHOLDER}", f"/x?a=1&key={SECRET}"),
    "query, encoded": (f"/x?key={PLACEHOLDER.replace(':', '%3A')}&b", f"/x?key={SECRET}&b"),
    "encoded twice": (
        f"/{PLACEHOLDER.replace(':', '%253A')}",
        f"/{PLACEHOLDER.replace(':', '%253A')}",
    ),
}


@pytest.mark.parametrize("endpoint", [rest, plain], ids=["inspected", "uninspected"])
@pytest.mark.parametrize(("path", "sent"), TARGETS.values(), ids=TARGETS.keys())
async def test_targets(path, sent, endpoint):
    async with Upstream() as up, Upstream() as other, Bound(up, other, endpoint=endpoint) as proxy:
        client = await proxy.tunnel(A, up.port)
        assert await client.request(request(up.port, path=path)) == (200, b"ok")
        absolute = request(up.port, path=f"http://{A}:{up.port}{path}")
        assert await (await proxy.connect()).request(absolute) == (200, b"ok")
        client = await proxy.tunnel(B, other.port)
        if "%25" in path:
            # That is text, whoever reads it.
            assert (await client.request(request(other.port, path=path, host=B)))[0] == 200
            return
        answer = await client.say(request(other.port, path=path, host=B))
        elsewhere = request(other.port, path=f"http://{B}:{other.port}{path}", host=B)
        forward = await (await proxy.connect()).say(elsewhere)
    assert [each.line for each in up.requests] == [f"GET {sent} HTTP/1.1".encode()] * 2
    for told in (answer, forward):
        assert problem(told)[0] == 403
        assert problem(told)[1]["error"] == "credential_endpoint_mismatch"
    assert other.requests == []
    nothing_leaked(proxy)
    assert any("[CREDENTIAL]" in line for line in proxy.lines) == path.startswith(("/bot", "/open"))


async def test_policy_judges_the_redacted_path_and_a_value_cannot_leave_it():
    endpoint = {
        "protocol": "rest",
        "enforcement": "enforce",
        "rules": [{"allow": {"method": "GET", "path": "/bot*/send"}}],
    }
    async with Upstream() as up:

        def only(host, port):
            return plain(host, port, **endpoint)

        async with Bound(up, endpoint=only) as proxy:
            path = f"/bot{PLACEHOLDER}"
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(request(up.port, path=f"{path}/send")))[0] == 200
            assert problem(await client.say(request(up.port, path=f"{path}/delete")))[0] == 403
            for evil in ("x/../admin", "..", "x?y", "x#y", "a\\b", "x\r\nHost: evil", "."):
                proxy.hold(
                    CredentialSet.build(
                        1,
                        {"TOKEN": evil},
                        bound(A, up.port),
                        previous=proxy.holder.current.credentials.revoked(),
                    )
                )
                client = await proxy.tunnel(A, up.port)
                prefix = "/bot" if evil not in ("..", ".") else "/bot/../"
                sent = request(up.port, path=f"{prefix}{PLACEHOLDER}/send")
                assert problem(await client.say(sent))[0] in (403, 500), evil
    assert len(up.requests) == 1


async def test_an_expired_value_is_put_nowhere():
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        held = proxy.holder.current.credentials
        proxy.hold(
            CredentialSet.build(
                1,
                ENVIRONMENT,
                bound(A, up.port),
                expires_at_ms={"TOKEN": 1},
                previous=held.revoked(),
            )
        )
        for sent in (
            request(up.port, path=f"/{PLACEHOLDER}"),
            request(up.port, path=f"/?k={PLACEHOLDER}"),
            request(up.port, f"X-Key: {PLACEHOLDER}"),
            post(up.port, IN_JSON),
        ):
            client = await proxy.tunnel(A, up.port)
            status, told = problem(await client.say(sent))
            assert (status, told["error"]) == (500, "credential_unavailable")
    assert up.requests == []


BODIES = {
    "json": (JSON, IN_JSON, IN_JSON.replace(PLACEHOLDER.encode(), SECRET.encode())),
    "form": (
        FORM,
        f"a=1&t={PLACEHOLDER.replace(':', '%3A')}".encode(),
        f"a=1&t={SECRET}".encode(),
    ),
    "text": ("text/plain", f"t {PLACEHOLDER}\n".encode(), f"t {SECRET}\n".encode()),
    "nothing to replace": (JSON, b"{not even json", b"{not even json"),
    "empty": (JSON, b"", b""),
}


@pytest.mark.parametrize(("kind", "body", "sent"), BODIES.values(), ids=BODIES.keys())
async def test_bodies_where_the_endpoint_asks_for_it(kind, body, sent):
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        client = await proxy.tunnel(A, up.port)
        for size in (None, 1, 7, 4096):
            data = post(up.port, body, kind) if size is None else chunked(up.port, body, size, kind)
            assert await client.request(data) == (200, b"ok")
    assert [each.body for each in up.requests] == [sent] * 4
    for each in up.requests:
        assert each.header(b"content-length") == str(len(sent)).encode()
        assert each.header(b"transfer-encoding") is None
    nothing_leaked(proxy)


async def test_a_body_that_comes_byte_by_byte_behind_another_request():
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        client = await proxy.tunnel(A, up.port)
        data = post(up.port, IN_JSON) + request(up.port, path="/next")
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            if at % 16 == 0:
                await asyncio.sleep(0)
        assert [await client.response() for _ in range(2)] == [(200, b"ok")] * 2
    assert json.loads(up.requests[0].body) == {"token": SECRET, "n": 1}
    assert up.requests[1].line == b"GET /next HTTP/1.1"


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked():
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        client = await proxy.tunnel(A, up.port)
        data = post(up.port, IN_JSON, JSON, "Expect: 100-continue")
        await client.send(data[: -len(IN_JSON)])
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(IN_JSON)
        assert await client.response() == (200, b"ok")
    assert up.requests[0].header(b"expect") is None
    assert SECRET.encode() in up.requests[0].body


@pytest.mark.parametrize("endpoint", [rest, opened], ids=["closed", "opened"])
@pytest.mark.parametrize("size", [None, 1, 9], ids=["length", "single bytes", "chunks"])
async def test_in_a_body_for_another_endpoint_it_is_a_mismatch(endpoint, size):
    async def listen(reader, _writer):
        while data := await reader.read(65536):
            other.received += data

    up, other = Upstream(), Upstream(script=listen)
    async with up, other, Bound(up, other, endpoint=endpoint) as proxy:
        for body in (IN_JSON, IN_JSON.replace(b":", b"%3A"), b"t=" + PLACEHOLDER.encode()):
            client = await proxy.tunnel(B, other.port)
            data = post(other.port, body, FORM, host=B)
            if size is not None:
                data = chunked(other.port, body, size, FORM).replace(A.encode(), B.encode())
            # In two writes, so that the placeholder's name is cut for whoever reads it.
            await client.send(data[:-24])
            await asyncio.sleep(0.02)
            status, told = problem(await client.say(data[-24:]))
            assert (status, told["error"]) == (403, "credential_endpoint_mismatch")
    # Where bodies are forwarded as they come a head may have left, but never a marker behind it.
    assert b"openshell:resolve:env:" not in other.received
    assert b"openshell%3Aresolve%3Aenv%3A" not in other.received
    assert bool(other.received) <= (endpoint is rest)
    assert any("endpoint_mismatch" in line for line in proxy.lines)
    nothing_leaked(proxy)


async def test_in_a_body_nobody_asked_for_it_is_not_replaced():
    async with Upstream() as up, Bound(up) as proxy:
        client = await proxy.tunnel(A, up.port)
        assert (await client.request(post(up.port, b"{}")))[0] == 200
        status, told = problem(await client.say(post(up.port, IN_JSON)))
    assert (status, told["error"]) == (500, "credential_unavailable")
    assert "request_body_credential_rewrite" in told["message"]
    assert [each.body for each in up.requests] == [b"{}"]


REFUSED = {
    "a name in json": (JSON, json.dumps({PLACEHOLDER: 1}).encode(), 500),
    "no json": (JSON, PLACEHOLDER.encode(), 500),
    "a form's name": (FORM, f"{PLACEHOLDER}=1".encode(), 500),
    "of no type we know": ("application/octet-stream", PLACEHOLDER.encode(), 500),
    "not utf-8": ("text/plain", PLACEHOLDER.encode() + b"\xff", 500),
    "unknown key": (JSON, IN_JSON.replace(b"TOKEN", b"TOKEN2"), 500),
    "too large": (JSON, b" " * (256 * 1024 + 1), 413),
}


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("kind", "body", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_bodies_that_go_nowhere(kind, body, code, is_chunked):
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        client = await proxy.tunnel(A, up.port)
        assert (await client.request(post(up.port, IN_JSON)))[0] == 200
        data = chunked(up.port, body, 65536, kind) if is_chunked else post(up.port, body, kind)
        assert problem(await client.say(data))[0] == code
    assert len(up.requests) == 1
    nothing_leaked(proxy)


@pytest.mark.parametrize(
    "trailer",
    [f"X-Key: {PLACEHOLDER}\r\n".encode(), b"X-Key: 1\r\n"],
    ids=["placeholder", "plain"],
)
async def test_trailers_are_refused_where_bodies_are_held(trailer):
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        client = await proxy.tunnel(A, up.port)
        assert (await client.request(chunked(up.port, IN_JSON, 9)))[0] == 200
        status, told = problem(await client.say(chunked(up.port, IN_JSON, 9, trailer=trailer)))
    assert (status, told["error"]) == (400, "request_trailers_not_supported")
    assert len(up.requests) == 1


async def test_framing_that_is_longer_than_the_data_is_bounded_too():
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        client = await proxy.tunnel(A, up.port)
        body = b'"' + b"x" * 60_000 + b'"'
        assert (await client.request(chunked(up.port, body, 1024)))[0] == 200
        assert parse(await client.say(chunked(up.port, body, 1)))[0] == 413
    assert len(up.requests) == 1


async def test_a_body_broken_while_it_is_held():
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        broken = request(
            up.port, f"Content-Type: {JSON}", "Transfer-Encoding: chunked", method="POST"
        )
        client = await proxy.tunnel(A, up.port)
        assert parse(await client.say(broken + b"zz\r\n"))[0] == 400
        client = await proxy.tunnel(A, up.port)
        await client.send(post(up.port, IN_JSON)[:-5])
        client.writer.write_eof()
        assert parse(await client.rest())[0] == 400
    assert up.requests == []


async def test_what_changes_while_a_body_is_held_is_judged_anew():
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        data = post(up.port, IN_JSON)
        steps = {
            # The value that is in force when the body is whole is the one that is sent.
            "rotated": lambda held: CredentialSet.build(
                2, {"TOKEN": "rotated"}, handled(A, up.port), previous=held
            ),
            "revoked": lambda held: held.revoked(),
        }
        held = CredentialSet.build(1, ENVIRONMENT, handled(A, up.port))
        proxy.hold(held)
        data = data.replace(PLACEHOLDER.encode(), HANDLED.encode())
        data = data.replace(
            b"Content-Length: %d" % len(IN_JSON),
            b"Content-Length: %d" % (len(IN_JSON) - len(PLACEHOLDER) + len(HANDLED)),
        )
        for change in steps.values():
            client = await proxy.tunnel(A, up.port)
            await client.send(data[:-5])
            await asyncio.sleep(0.05)
            proxy.hold(change(proxy.holder.current.credentials))
            answer = await client.say(data[-5:] + request(up.port, "Connection: close"))
            if change is steps["rotated"]:
                assert parse(answer)[0] == 200
        assert problem(answer)[1]["error"] == "credential_unavailable"
        # The policy that asked for bodies goes: the next one is not held any more.
        proxy.hold(steps["rotated"](proxy.holder.current.credentials))
        client = await proxy.tunnel(A, up.port)
        await client.send(data[:-5])
        await asyncio.sleep(0.05)
        proxy._credentials = proxy.holder.current.credentials
        proxy.reload(rest_policy(rest(A, up.port)))
        status, told = problem(await client.say(data[-5:]))
        assert (status, told["error"]) == (500, "credential_unavailable")
    assert [json.loads(each.body)["token"] for each in up.requests if each.body] == ["rotated"]


HANDLE = "0123456789abcdef" * 4
HANDLED = f"openshell:resolve:env:s{HANDLE}_TOKEN"


def handled(host, port):
    return {"TOKEN": Binding((BoundEndpoint(host, port),), f"refresh:{HANDLE}", HANDLE)}


async def test_a_rotated_value_serves_the_placeholder_that_a_program_keeps():
    async with Upstream() as up, Bound(up, endpoint=opened) as proxy:
        held = CredentialSet.build(1, {"TOKEN": "value-0"}, handled(A, up.port))
        proxy.hold(held)
        assert held.child_environment() == {"TOKEN": HANDLED}
        client = await proxy.tunnel(A, up.port)
        for number in range(12):
            body = json.dumps(HANDLED).encode()
            sent = post(up.port, body, JSON, f"X-Key: {HANDLED}").replace(
                b"POST / ", f"POST /{HANDLED}?k={HANDLED} ".encode()
            )
            assert await client.request(sent) == (200, b"ok")
            rotated = CredentialSet.build(
                number + 2,
                {"TOKEN": f"value-{number + 1}"},
                handled(A, up.port),
                previous=proxy.holder.current.credentials,
            )
            proxy.hold(rotated)
            assert rotated.child_environment() == {"TOKEN": HANDLED}
    values = [f"value-{number}" for number in range(12)]
    assert [each.header(b"x-key").decode() for each in up.requests] == values
    assert [json.loads(each.body) for each in up.requests] == values
    lines = [f"POST /{value}?k={value} HTTP/1.1" for value in values]
    assert [each.line.decode() for each in up.requests] == lines


ATTACKS = {
    "in the authority": f"GET http://{PLACEHOLDER}/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "in CONNECT": f"CONNECT {PLACEHOLDER}:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "as user": "GET http://{PLACEHOLDER}@{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "in a field's name": "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nX-OPENSHELL-RESOLVE-ENV-TOKEN: 1\r\n\r\n",
    "in the Host field": "GET http://{host}/ HTTP/1.1\r\nHost: {PLACEHOLDER}\r\n\r\n",
    "in the method": "X-OPENSHELL-RESOLVE-ENV-TOKEN http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "in TRACE": "TRACE http://{host}/{PLACEHOLDER} HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "in a fragment": "GET http://{host}/#{PLACEHOLDER} HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "malformed": "GET http://{host}/openshell:resolve:env: HTTP/1.1\r\nHost: {host}\r\n\r\n",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_places_where_nothing_is_ever_put(attack):
    async with Upstream() as up, Bound(up) as proxy:
        host = f"{A}:{up.port}"
        probe = "GET http://{host}/?k={PLACEHOLDER} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        for text, works in ((probe, True), (attack, False)):
            client = await proxy.connect()
            data = text.replace("{host}", host).replace("{PLACEHOLDER}", PLACEHOLDER)
            await client.send(data.encode())
            status = int((await client.head()).split(b" ")[1])
            assert (status == 200) is works
            assert works or status >= 400
    assert len(up.requests) == 1
    nothing_leaked(proxy)
