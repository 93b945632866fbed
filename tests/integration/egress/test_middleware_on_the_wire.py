"""Stages between policy and credentials, over real sockets: what they see, change, refuse and break."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from tests.integration.egress.harness import (
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
from tests.integration.egress.stages_here import (
    ALLOW,
    CLOSED,
    OPEN,
    Scripted,
    crashing,
    denying,
    failing,
    hanging,
    replacing,
    staged,
    writing,
)

from openshell.egress.middleware import (
    Answer,
    Existing,
    RegexRedaction,
    Remove,
    StageFault,
    Write,
)

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def staged_proxy(make_policy, implementations, **options):
    async with Upstream() as upstream:
        proxy = Proxy(make_policy(upstream.port), **options)
        proxy.names.known = {A: ["127.0.0.1"], B: ["127.0.0.1"]}
        proxy.implementations = implementations
        async with proxy:
            yield proxy, upstream


def one_host(*stages, endpoint=rest, **extra):
    return lambda port: staged(rest_policy(endpoint(A, port, **extra)), *stages)


def post(port, body=b"hello", *, host=A, path="/p", fields=()):
    lines = [
        f"POST http://{host}:{port}{path} HTTP/1.1",
        f"Host: {host}:{port}",
        f"Content-Length: {len(body)}",
        *fields,
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def findings(proxy):
    return [e for e in proxy.events if type(e).__name__ == "FindingEvent"]


def decisions(proxy):
    return [e for e in proxy.events if type(e).__name__ == "HttpEvent"]


async def test_a_stage_changes_body_and_fields_and_the_next_one_sees_it():
    first = Scripted(replacing(b"hello", b"goodbye!"))
    second = Scripted(writing())
    async with staged_proxy(
        one_host(("first", CLOSED), ("second", CLOSED)), {"first": first, "second": second}
    ) as (proxy, upstream):
        status, _, _ = parse(await proxy.say(post(upstream.port)))
        assert status == 200
        assert upstream.requests[0].body == b"goodbye!"
        assert upstream.requests[0].header(b"content-length") == b"8"
        assert upstream.requests[0].header(b"x-openshell-middleware-seen") == b"yes"
        assert first.seen[0].body == b"hello"
        assert second.seen[0].body == b"goodbye!"
        assert len(decisions(proxy)) == 1


async def test_a_host_without_a_stage_is_left_alone():
    stage = Scripted(denying())
    only_b = {"endpoints": {"include": [B]}}
    async with staged_proxy(
        lambda port: staged(rest_policy(rest(A, port), rest(B, port)), ("one", only_b)),
        {"one": stage},
    ) as (proxy, upstream):
        assert parse(await proxy.say(post(upstream.port, host=B)))[0] == 403
        own = ["X-OpenShell-Middleware-Seen: mine"]
        assert parse(await proxy.say(post(upstream.port, fields=own)))[0] == 200
        assert len(stage.seen) == 1
        assert upstream.requests[0].header(b"x-openshell-middleware-seen") == b"mine"


async def test_policy_comes_first_and_stages_see_no_refused_request():
    stage = Scripted()
    async with staged_proxy(one_host(("one", CLOSED), access="read-only"), {"one": stage}) as (
        proxy,
        upstream,
    ):
        assert parse(await proxy.say(post(upstream.port)))[0] == 403
        assert stage.seen == []


async def test_stages_see_placeholders_and_upstreams_see_values():
    stage = Scripted()

    def policy(port):
        return staged(rest_policy(rest(A, port)), ("one", CLOSED))

    async with Upstream() as upstream:
        proxy = Proxy(
            policy(upstream.port),
            environment={"TOKEN": SECRET},
            bindings=bound(A, upstream.port),
        )
        proxy.names.known = {A: ["127.0.0.1"]}
        proxy.implementations = {"one": stage}
        async with proxy:
            fields = [
                f"X-Key: {PLACEHOLDER}",
                f"Authorization: Bearer {PLACEHOLDER}",
                "Cookie: a=b",
                "X-Amz-Date: today",
                "X-OpenShell-Credential-Name: TOKEN",
                "Proxy-Authorization: Basic eA==",
            ]
            path = f"/p/{PLACEHOLDER}?key={PLACEHOLDER}"
            answer = await proxy.say(post(upstream.port, b"", path=path, fields=fields))
            assert parse(answer)[0] == 200
            assert SECRET.encode() in upstream.requests[0].head
    seen = stage.seen[0]
    assert SECRET not in repr((seen.headers, seen.path, seen.query, seen.body))
    assert PLACEHOLDER not in seen.path + seen.query
    assert ("X-Key", PLACEHOLDER) in seen.headers
    names = {name.lower() for name, _ in seen.headers}
    hidden = {"authorization", "cookie", "x-amz-date", "x-openshell-credential-name", "host"}
    assert names & (hidden | {"proxy-authorization", "content-length", "connection"}) == set()


async def test_a_denial_is_terminal_and_told_in_codes_only():
    after = Scripted()
    async with staged_proxy(
        one_host(("deny", OPEN), ("after", OPEN), enforcement="audit"),
        {"deny": Scripted(denying()), "after": after},
    ) as (proxy, upstream):
        status, body = problem(await proxy.say(post(upstream.port, b"hunter2")))
        assert status == 403
        assert body["error"] == "middleware_denied"
        assert body["reason_code"] == "too_secret"
        assert body["middleware"] == "shown-deny"
        assert "hunter2" not in json.dumps(body)
        assert upstream.requests == []
        assert after.seen == []
        assert len(decisions(proxy)) == 1
        assert [f.uid for f in findings(proxy)] == ["test.secret"]
        assert "hunter2" not in repr(proxy.lines)


_BAD = [
    ("service", failing(), "external_service_error"),
    ("crash", crashing, "middleware_internal_error"),
    ("hang", hanging, "middleware_timeout"),
    ("neither", lambda _: Answer(allow=None), "invalid_response_decision"),
    ("code", lambda _: Answer(allow=False, reason_code="Bad Code"), "invalid_response_reason"),
    ("large", lambda _: Answer(allow=True, body=b"x" * (1 << 20) + b"x"), "response_body_over_capacity"),
    ("protected", writing(name="Authorization"), "invalid_header_mutation"),
    ("host", writing(name="Host"), "invalid_header_mutation"),
    ("foreign", writing(name="X-Other"), "invalid_header_mutation"),
    ("crlf", writing("a\r\nX-Evil: b"), "invalid_header_mutation"),
    ("name", writing(name="X-OpenShell-Middleware-A\r\nX-Evil"), "invalid_header_mutation"),
    ("secret", writing(PLACEHOLDER), "invalid_header_mutation"),
    ("unknown", lambda _: Answer(allow=True, mutations=(None,)), "invalid_header_mutation"),
    ("cookie", lambda _: Answer(allow=True, mutations=(Remove("Cookie"),)), "invalid_header_mutation"),
    ("many", lambda _: Answer(allow=True, mutations=(Remove("X-A"),) * 65), "invalid_header_mutation"),
    (
        "half",
        lambda _: Answer(
            allow=True,
            body=b"changed",
            mutations=(
                Write("X-OpenShell-Middleware-Ok", "1", Existing.APPEND),
                Remove("transfer-encoding"),
            ),
        ),
        "invalid_header_mutation",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("script", "code"), [b[1:] for b in _BAD], ids=[b[0] for b in _BAD])
async def test_a_failed_stage_refuses_or_is_left_out_whole(script, code):
    bad = Scripted(script, seconds=0.05)
    good = Scripted(writing())
    async with staged_proxy(
        one_host(("good", CLOSED), ("bad", CLOSED)), {"good": good, "bad": bad}
    ) as (proxy, upstream):
        status, body = problem(await proxy.say(post(upstream.port)))
        assert (status, body["error"], body["reason_code"]) == (403, "middleware_failed", code)
        assert upstream.requests == []
        proxy.events.clear()
        proxy.reload(one_host(("bad", OPEN), ("good", CLOSED))(upstream.port))
        fields = ["Cookie: keep=me"]
        assert parse(await proxy.say(post(upstream.port, fields=fields)))[0] == 200
        sent = upstream.requests[0]
        assert sent.body == b"hello"
        assert sent.header(b"cookie") == b"keep=me"
        assert sent.header(b"x-openshell-middleware-seen") == b"yes"
        assert sent.header(b"x-openshell-middleware-ok") is None
        assert b"Evil" not in sent.head
        skipped = [f for f in findings(proxy) if f.uid == "openshell.middleware.stage_skipped"]
        assert len(skipped) == 1
        assert code in skipped[0].description
        assert "hunter2" not in repr(proxy.lines)


async def test_a_client_cannot_write_in_the_name_of_a_stage():
    async with staged_proxy(one_host(("one", CLOSED)), {"one": Scripted()}) as (proxy, upstream):
        own = ["X-OpenShell-Middleware-Seen: forged"]
        assert parse(await proxy.say(post(upstream.port, fields=own)))[0] == 200
        assert b"forged" not in upstream.requests[0].head


_QUERY = json.dumps({"query": "query { me }"}).encode()
_JSON = ["Content-Type: application/json"]


@pytest.mark.parametrize("enforcement", ["enforce", "audit"])
@pytest.mark.parametrize(
    ("new", "hard"),
    [
        (json.dumps({"query": "mutation { drop }"}).encode(), False),
        (b"{not json", True),
    ],
    ids=["another operation", "unreadable"],
)
async def test_what_a_stage_made_of_a_request_is_judged_like_a_clients(enforcement, new, hard):
    stage, after = Scripted(lambda _: Answer(allow=True, body=new)), Scripted()

    def policy(port):
        endpoint = {
            "host": A,
            "port": port,
            "protocol": "graphql",
            "enforcement": enforcement,
            "access": "read-only",
        }
        return staged(rest_policy(endpoint), ("one", OPEN), ("after", OPEN))

    async with staged_proxy(policy, {"one": stage, "after": after}) as (proxy, upstream):
        answer = await proxy.say(post(upstream.port, _QUERY, fields=_JSON))
        if enforcement == "audit" and not hard:
            assert parse(answer)[0] == 200
            assert upstream.requests[0].body == new
            assert len(after.seen) == 1
            return
        status, body = problem(answer)
        assert status == 403
        word = "rejected" if hard else "denied by policy"
        assert f": middleware transformation {word}: " in body["detail"]
        assert upstream.requests == []
        assert after.seen == []
        assert len(decisions(proxy)) == 1


async def test_a_policy_that_changes_while_a_stage_holds_a_request():
    entered, go = asyncio.Event(), asyncio.Event()

    async def hold():
        entered.set()
        await go.wait()
        return ALLOW

    slow, other = Scripted(lambda _: hold()), Scripted(writing())
    async with staged_proxy(one_host(("slow", CLOSED)), {"slow": slow, "other": other}) as (
        proxy,
        upstream,
    ):
        asking = asyncio.create_task(proxy.say(post(upstream.port)))
        await entered.wait()
        # Another chain is in force now: the request passes it, although it came before.
        proxy.reload(one_host(("other", CLOSED))(upstream.port))
        go.set()
        assert parse(await asking)[0] == 200
        assert len(other.seen) == 1
        assert upstream.requests[0].header(b"x-openshell-middleware-seen") == b"yes"
        entered.clear()
        go.clear()
        proxy.reload(one_host(("slow", CLOSED))(upstream.port))
        asking = asyncio.create_task(proxy.say(post(upstream.port)))
        await entered.wait()
        # A change that does not touch the chain does not ask the stage again.
        proxy.reload(one_host(("slow", CLOSED))(upstream.port))
        go.set()
        assert parse(await asking)[0] == 200
        assert len(slow.seen) == 2
        entered.clear()
        go.clear()
        asking = asyncio.create_task(proxy.say(post(upstream.port)))
        await entered.wait()
        proxy.reload(one_host(("slow", CLOSED), access="read-only")(upstream.port))
        go.set()
        assert parse(await asking)[0] == 403
        assert len(upstream.requests) == 2


@pytest.mark.parametrize("mode", ["closed", "open"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_bodies_over_the_capacity_of_the_chain(mode, framing):
    stage = Scripted(body_limit=100)
    how = OPEN if mode == "open" else CLOSED
    async with staged_proxy(one_host(("one", how)), {"one": stage}) as (proxy, upstream):
        body, request = b"x" * 101, post(upstream.port, b"x" * 101)
        if framing == "chunked":
            head = request.partition(b"\r\n\r\n")[0]
            head = head.replace(b"Content-Length: 101", b"Transfer-Encoding: chunked")
            request = head + b"\r\n\r\n65\r\n" + body + b"\r\n0\r\n\r\n"
        answer = await proxy.say(request)
        assert stage.seen == []
        if (mode, framing) == ("open", "length"):
            assert parse(answer)[0] == 200
            assert upstream.requests[0].body == body
            assert [f.uid for f in findings(proxy)] == ["openshell.middleware.body_unavailable"]
            return
        status, said = problem(answer)
        assert status == 403
        assert said["error"] == "middleware_failed"
        assert said["reason_code"] == "request_body_over_capacity"
        assert upstream.requests == []


async def test_trailers_are_refused_and_expect_is_answered_here():
    async with staged_proxy(one_host(("one", CLOSED)), {"one": Scripted()}) as (proxy, upstream):
        head = post(upstream.port).partition(b"\r\n\r\n")[0]
        chunked = head.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
        trailed = await proxy.say(chunked + b"\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
        assert problem(trailed)[1]["error"] == "request_trailers_not_supported"
        client = await proxy.connect()
        await client.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        assert (await client.request(b"hello"))[0] == 200
        client.close()
        assert upstream.requests[0].header(b"expect") is None


async def test_a_full_queue_refuses_before_the_body_is_read():
    go, entered = asyncio.Event(), asyncio.Semaphore(0)

    async def hold():
        entered.release()
        await go.wait()
        return ALLOW

    stage = Scripted(lambda _: hold(), seconds=20)
    async with staged_proxy(one_host(("one", CLOSED)), {"one": stage}) as (proxy, upstream):
        asking = [asyncio.create_task(proxy.say(post(upstream.port))) for _ in range(32 + 64)]
        for _ in range(32):
            await entered.acquire()
        while proxy.proxy._services.stages._waiting < 64:  # nobody else can tell
            await asyncio.sleep(0.01)
        client = await proxy.connect()
        head = post(upstream.port).partition(b"\r\n\r\n")[0]
        # The body never comes.
        status, body = problem(await client.say(head + b"\r\n\r\n"))
        assert (status, body["error"]) == (503, "middleware_failed")
        client.close()
        go.set()
        assert {parse(answer)[0] for answer in await asyncio.gather(*asking)} == {200}


@pytest.mark.parametrize("mode", ["closed", "open"])
async def test_tunnels_that_nobody_can_look_into(mode):
    how = OPEN if mode == "open" else CLOSED

    async def echo(reader, writer):
        writer.write(await reader.read(100))
        await writer.drain()

    async with Upstream(script=echo) as upstream:
        policy = staged(rest_policy(plain(A, upstream.port)), ("one", how))
        proxy = Proxy(policy)
        proxy.names.known = {A: ["127.0.0.1"]}
        proxy.implementations = {"one": Scripted()}
        async with proxy:
            client = await proxy.tunnel(A, upstream.port)
            answer = await client.say(b"\x00\x01 nothing we know")
            if mode == "open":
                assert answer == b"\x00\x01 nothing we know"
                uids = [f.uid for f in findings(proxy)]
                assert uids == ["openshell.middleware.traffic_uninspectable"]
            else:
                assert problem(answer)[1]["error"] == "middleware_required"
                assert upstream.received == b""


@pytest.mark.parametrize("mode", ["closed", "open"])
async def test_opaque_endpoints(mode):
    how = OPEN if mode == "open" else CLOSED

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()

    async with Upstream(script=echo) as upstream:
        opaque = rest_policy(plain(A, upstream.port, tls="skip"))
        proxy = Proxy(staged(opaque, ("one", how)))
        proxy.names.known = {A: ["127.0.0.1"]}
        proxy.implementations = {"one": Scripted()}
        async with proxy:
            if mode == "closed":
                place = f"{A}:{upstream.port}"
                answer = await proxy.say(
                    f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()
                )
                assert problem(answer)[1]["error"] == "middleware_required"
                assert upstream.connections == 0
                assert len(proxy.denials) == 1
                return
            client = await proxy.tunnel(A, upstream.port)
            await client.send(b"ping")
            assert await client.reader.readexactly(4) == b"ping"
            # A stage that must see it ends what it cannot see.
            proxy.reload(staged(opaque, ("one", CLOSED)))
            assert await client.rest() == b""


@pytest.mark.parametrize("mode", ["closed", "open"])
async def test_websockets_are_what_nobody_looks_into(mode):
    how = OPEN if mode == "open" else CLOSED
    switch = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    async with Upstream(switch) as upstream:
        proxy = Proxy(staged(rest_policy(rest(A, upstream.port)), ("one", how)))
        proxy.names.known = {A: ["127.0.0.1"]}
        proxy.implementations = {"one": Scripted()}
        async with proxy:
            client = await proxy.connect()
            place = f"{A}:{upstream.port}"
            await client.send(
                f"GET http://{place}/ws HTTP/1.1\r\nHost: {place}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            head = await client.head()
            if mode == "closed":
                assert head.startswith(b"HTTP/1.1 403 ")
                assert b"middleware_required" in await client.rest()
                assert upstream.requests == []
            else:
                assert head.startswith(b"HTTP/1.1 101 ")
                uids = [f.uid for f in findings(proxy)]
                assert uids == ["openshell.middleware.traffic_uninspectable"]
            client.close()


async def test_the_built_in_redaction_inside_tls():
    async with Upstream(tls_name=A) as upstream:
        proxy = Proxy(
            staged(
                rest_policy(rest(A, upstream.port)),
                ("openshell/regex", {"config": {"mode": "redact"}}),
            )
        )
        proxy.names.known = {A: ["127.0.0.1"]}
        proxy.implementations = {"openshell/regex": RegexRedaction()}
        async with proxy:
            client = await proxy.tls(A, upstream.port)
            body = b'{"key": "sk-abcdefghijklmnop", "short": "sk-abc"}'
            head = f"POST /p HTTP/1.1\r\nHost: {A}:{upstream.port}\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            assert (await client.request(head.encode() + body))[0] == 200
            assert upstream.requests[0].body == b'{"key": "[REDACTED]", "short": "sk-abc"}'
            assert [f.uid for f in findings(proxy)] == ["regex.openai"]
            zipped = head.replace("Content-Length", "Content-Encoding: gzip\r\nContent-Length")
            _, said = problem(await client.say(zipped.encode() + body))
            assert said["reason_code"] == StageFault.CONTENT.value
            client.close()
