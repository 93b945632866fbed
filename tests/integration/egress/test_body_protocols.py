"""GraphQL, JSON-RPC and MCP through the proxy: bodies judged, and every way to say one thing and do another.

The servers are real ones: graphql-core executes a schema, the MCP server is that of the protocol's SDK.
"""

import asyncio
import contextlib
import json
import urllib.parse

import httpx2
import pytest
from mcp.client import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from integration.egress.h2_peers import H2Client, H2Server
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
from openshell.egress import content
from openshell.egress.holding import LARGE_BODIES
from openshell.egress.limits import Limits
from openshell.egress.link import Link
from support.graphql_server import GraphqlServer
from support.mcp_server import mcp_server

JSON = "application/json"
READ = {"query": "{ me }"}
DROP = {"query": "mutation { drop }"}
HTTP_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


def graphql(host, port, **extra):
    shape = {"protocol": "graphql", "path": "/graphql", "enforcement": "enforce"}
    if "rules" not in extra:
        shape["access"] = "read-only"
    return plain(host, port, **{**shape, **extra})


def rpc(host, port, **extra):
    shape = {"protocol": "json-rpc", "path": "/rpc", "enforcement": "enforce"}
    return plain(host, port, **{**shape, "rules": [{"allow": {"method": "get"}}], **extra})


TOOL_RULES = [
    {"allow": {"method": name}}
    for name in ("initialize", "server/discover", "notifications/*", "tools/list", "ping")
] + [{"allow": {"method": "tools/call", "tool": "read_*"}}]


def mcp(host, port, **extra):
    shape = {"protocol": "mcp", "path": "/mcp", "enforcement": "enforce", "rules": TOOL_RULES}
    return plain(host, port, **{**shape, **extra})


class Api(Upstream):
    """The GraphQL server behind HTTP/1.1; any other path is told what it said."""

    def __init__(self):
        super().__init__(self._answer_one)
        self.graphql = GraphqlServer()

    def _answer_one(self, request):
        method, target, _ = request.line.decode().split(" ")
        body = b"{}"
        if target.startswith("/graphql"):
            body = self.graphql.execute(method, target, request.body)
        return HTTP_OK % (len(body), body)

    @property
    def ran(self):
        return self.graphql.ran


def request(port, body=b"", *fields, method="POST", path="/graphql", kind=JSON, length=True):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {A}:{port}", *fields]
    if kind:
        lines.append(f"Content-Type: {kind}")
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def posted(port, document, *fields, **more):
    return request(port, json.dumps(document).encode(), *fields, **more)


def get(port, path, *fields):
    return request(port, b"", *fields, method="GET", path=path, kind="", length=False)


def chunked(port, pieces, *fields, path="/graphql", extension=b"", trailer=b""):
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    head = request(port, b"", "Transfer-Encoding: chunked", *fields, path=path, length=False)
    return head + framed + b"0\r\n" + trailer + b"\r\n"


@contextlib.asynccontextmanager
async def api(*endpoints, **more):
    """A server, and a proxy whose policy `endpoints` make for it."""
    async with Api() as up:
        policy = rest_policy(*(make(A, up.port) for make in endpoints or (graphql,)))
        async with Proxy(policy, **more) as proxy:
            yield up, proxy


async def ask(proxy, up, data):
    """Say it in a new tunnel: status and JSON; a refusal is checked for its shape."""
    client = await proxy.tunnel(A, up.port)
    try:
        await client.send(data)
        head = await client.head()
        status = int(head.split(b" ", 2)[1])
        if b"Connection: close" in head:
            return problem(head + await client.rest())
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return status, json.loads(await client.reader.readexactly(length))
    finally:
        client.close()


async def test_a_query_passes_and_a_mutation_is_refused():
    async with api() as (up, proxy):
        assert await ask(proxy, up, posted(up.port, READ)) == (200, {"data": {"me": "me"}})
        status, told = await ask(proxy, up, posted(up.port, DROP))
        assert status == 403
        assert told["error"] == "policy_denied"
        assert told["layer"] == "l7"
        assert told["protocol"] == "rest"
        assert told["rule"] == "POST /graphql"
        assert told["detail"] == "GraphQL operation blocked by endpoint policy"
        assert told["reason_code"] == "no_allow"
        assert told["nearest_rule"] == "test.endpoints[0]"
        assert told["suggestion"] == "set access: read-write at test.endpoints[0]"
        assert told["command"] == "openshell policy set box --policy FILE"
    assert up.ran == ["me"]
    (sent,) = up.requests
    assert json.loads(sent.body) == READ
    assert sent.header(b"content-length") == b"%d" % len(sent.body)
    allowed, denied = proxy.lines[1], proxy.lines[-1]
    assert "ALLOWED" in allowed
    assert "engine:l7-graphql" in allowed
    assert "DENIED" in denied
    assert "engine:l7-graphql" in denied
    assert proxy.events[-1].message.startswith(
        f"GRAPHQL_L7_REQUEST deny POST {A}:{up.port}/graphql"
    )
    assert proxy.events[1].message == f"GRAPHQL_L7_REQUEST allow POST {A}:{up.port}/graphql"


async def test_the_same_in_the_absolute_form_and_over_tls():
    server = GraphqlServer()

    def answer(got):
        method, target, _ = got.line.decode().split(" ")
        body = server.execute(method, target, got.body)
        return HTTP_OK % (len(body), body)

    async with Upstream(answer) as up, Upstream(answer, tls_name=B) as secure:
        policy = rest_policy(graphql(A, up.port), graphql(B, secure.port))
        async with Proxy(policy) as proxy:
            for document, status in ((READ, 200), (DROP, 403)):
                client = await proxy.connect()
                path = f"http://{A}:{up.port}/graphql"
                assert (await client.request(posted(up.port, document, path=path)))[0] == status
                client = await proxy.tls(B, secure.port)
                sent = posted(secure.port, document).replace(A.encode(), B.encode())
                assert (await client.request(sent))[0] == status
    assert server.ran == ["me", "me"]


async def test_queries_of_a_get():
    async with api() as (up, proxy):

        async def got(*pairs, raw=""):
            query = urllib.parse.urlencode(pairs) + raw
            return await ask(proxy, up, get(up.port, f"/graphql?{query}"))

        assert await got(("query", "{ me }")) == (200, {"data": {"me": "me"}})
        assert await got(
            ("query", "query($x: String) { echo(text: $x) }"), ("variables", '{"x":"a"}')
        ) == (
            200,
            {"data": {"echo": "a"}},
        )
        two = "query R { me } mutation W { drop }"
        assert (await got(("query", two), ("operationName", "R")))[0] == 200
        for pairs, why in (
            ([("query", "mutation { drop }")], "blocked by endpoint policy"),
            ([("query", two), ("operationName", "W")], "blocked by endpoint policy"),
            ([("query", two)], "several operations"),
            ([("query", "{ me }"), ("query", "mutation { drop }")], "repeated"),
            ([("query", "{ me }"), ("QUERY", "mutation { drop }")], "almost"),
            ([("query", "{ me }"), (" query", "mutation { drop }")], "almost"),
            ([("query", "{ me }"), ("query[]", "mutation { drop }")], "almost"),
            ([("query", "{ me }"), ("id", "hash-of-drop")], "an id"),
            ([("id", "hash-of-me")], "not registered"),
            ([], "neither"),
        ):
            status, told = await got(*pairs)
            assert (status, why in told["detail"]) == (403, True), (pairs, told)
        status, told = await got(("query", "{ me }"), raw=";query=mutation{drop}")
        assert (status, "';'" in told["detail"]) == (403, True)
        body = json.dumps(DROP).encode()
        sent = request(up.port, body, method="GET", path="/graphql?query={me}")
        status, told = await ask(proxy, up, sent)
        assert (status, "a GET with a body" in told["detail"]) == (403, True)
        for method in ("HEAD", "PUT", "OPTIONS", "DELETE", "post"):
            client = await proxy.tunnel(A, up.port)
            sent = request(up.port, body, method=method, path="/graphql?query={me}")
            assert parse(await client.say(sent))[0] == 403, method
    assert up.ran == ["me", "echo", "me"]


REGISTERED = {
    "persisted_queries": "allow_registered",
    "graphql_persisted_queries": {
        "hash-of-me": {"operation_type": "query", "operation_name": "Me", "fields": ["me"]},
        "hash-of-drop": {"operation_type": "mutation", "operation_name": "D", "fields": ["drop"]},
    },
}


async def test_persisted_operations_are_judged_as_registered():
    def endpoint(host, port):
        return graphql(host, port, **REGISTERED)

    async with api(endpoint) as (up, proxy):

        def hashed(name):
            return {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": name}}}

        assert await ask(proxy, up, posted(up.port, hashed("hash-of-me"))) == (
            200,
            {"data": {"me": "me"}},
        )
        query = urllib.parse.urlencode(
            {"extensions": json.dumps(hashed("hash-of-me")["extensions"])}
        )
        assert (await ask(proxy, up, get(up.port, f"/graphql?{query}")))[0] == 200
        for document, why in (
            (hashed("hash-of-drop"), "blocked by endpoint policy"),
            (hashed("other"), "GraphQL persisted query is not registered"),
            ({**hashed("hash-of-me"), "id": "hash-of-drop"}, "more than one"),
            ([hashed("hash-of-me"), hashed("hash-of-drop")], "blocked by endpoint policy"),
        ):
            status, told = await ask(proxy, up, posted(up.port, document))
            assert (status, why in told["detail"]) == (403, True), (document, told)
    assert up.ran == ["me", "me"]


# What says a query to one reader and a mutation to another. Nothing of it may reach the server.
LIES = {
    "two keys": (b'{"query":"{me}","query":"mutation{drop}"}', 403, "a key twice"),
    "key in another case": (b'{"query":"{me}","Query":"mutation{drop}"}', 403, "spelled"),
    "batch": (json.dumps([READ, DROP]).encode(), 403, "blocked by endpoint policy"),
    "batch, denied first": (json.dumps([DROP, READ]).encode(), 403, "blocked by endpoint policy"),
    "empty batch": (b"[]", 403, "empty batch"),
    "no operation name": (
        json.dumps({"query": "{me} mutation D {drop}"}).encode(), 403, "several operations"),
    "mutation chosen": (
        json.dumps({"query": "query R {me} mutation D {drop}", "operationName": "D"}).encode(),
        403, "blocked by endpoint policy"),
    "alias": (b'{"query":"mutation{me:drop}"}', 403, "blocked by endpoint policy"),
    "fragment": (
        b'{"query":"mutation{...F} fragment F on Mutation{drop}"}', 403, "blocked by endpoint policy"),
    "escaped key": (b'{"query":"{me}","\\u0071uery":"mutation{drop}"}', 403, "a key twice"),
    "subscription": (b'{"query":"subscription{x}"}', 403, "blocked by endpoint policy"),
    "no JSON": (b"{me}", 403, "invalid JSON"),
    "empty": (b"", 403, "invalid JSON"),
    "not UTF-8": (b'{"query":"{me}\xff"}', 403, "invalid JSON"),
    "UTF-16": ('{"query":"mutation{drop}"}'.encode("utf-16"), 403, "invalid JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(READ).encode(), 403, "invalid JSON"),
    "deep JSON": (b'{"query":"{me}","v":' + b"[" * 200 + b"]" * 200 + b"}", 403, "nested"),
    "deep document": (json.dumps({"query": "{a" * 129 + "}" * 129}).encode(), 403, "nested"),
    "too many tokens": (
        json.dumps({"query": "{" + "a " * 20_000 + "}"}).encode(), 403, "tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "status", "why"), LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("enforcement", ["enforce", "audit"])
async def test_bodies_that_lie(body, status, why, enforcement):
    def endpoint(host, port):
        return graphql(host, port, enforcement=enforcement)

    async with api(endpoint) as (up, proxy):
        assert (await ask(proxy, up, posted(up.port, READ)))[0] == 200
        got, told = await ask(proxy, up, request(up.port, body))
        if enforcement == "audit" and "blocked by" in why:
            # Read well and not allowed: recorded only.
            assert got == 200
            assert proxy.events[-1].message.startswith("GRAPHQL_L7_REQUEST audit")
            return
        assert (got, why in told["detail"]) == (status, True), told
        assert len(proxy.denials) == 1
    assert up.ran == ["me"]


KINDS = {
    "as usual": (JSON, (), 200),
    "charset": ("application/json; charset=UTF-8", (), 200),
    "charset in quotes": ('application/json;charset="utf-8"', (), 200),
    "suffix": ("application/graphql+json", (), 200),
    "identity": (JSON, ("Content-Encoding: identity",), 200),
    "another charset": ("application/json; charset=utf-16", (), 415),
    "two charsets": ("application/json; charset=utf-8; charset=utf-7", (), 415),
    "form": ("application/x-www-form-urlencoded", (), 415),
    "multipart": ("multipart/form-data; boundary=x", (), 415),
    "multipart as JSON": ("application/json; boundary=x, multipart/form-data", (), 415),
    "graphql": ("application/graphql", (), 415),
    "text": ("text/plain", (), 415),
    "none": ("", (), 415),
    "two": (JSON, ("Content-Type: application/x-www-form-urlencoded",), 415),
    "twice the same": (JSON, (f"Content-Type: {JSON}",), 415),
    "gzip": (JSON, ("Content-Encoding: gzip",), 415),
    "identity, gzip": (JSON, ("Content-Encoding: identity, gzip",), 415),
    "gzip elsewhere": (JSON, ("Content-Encoding: identity", "Content-Encoding: gzip"), 415),
}


@pytest.mark.parametrize(("kind", "fields", "status"), KINDS.values(), ids=KINDS.keys())
async def test_what_a_body_says_it_is(kind, fields, status):
    async with api() as (up, proxy):
        got, told = await ask(proxy, up, posted(up.port, READ, *fields, kind=kind))
        assert got == status
        if status != 200:
            assert told["error"] == "unsupported_media_type"
            assert told["detail"]
            (denied,) = proxy.denials
            assert denied.engine == "l7-graphql"
    assert up.ran == (["me"] if status == 200 else [])


async def test_the_query_of_a_post_cannot_replace_its_body():
    async with api(lambda h, p: rest(h, p, path="/graphql"), graphql) as (up, proxy):
        # The probe: what the server does with it where a rest endpoint lets it through.
        lie = posted(up.port, READ, path="/graphql?query=mutation%7Bdrop%7D")
        proxy.reload(rest_policy(rest(A, up.port)))
        assert await ask(proxy, up, lie) == (200, {"data": {"drop": "drop"}})
        proxy.reload(rest_policy(graphql(A, up.port)))
        for query in (
            "query=mutation%7Bdrop%7D",
            "Query=mutation%7Bdrop%7D",
            "a=1&id=hash-of-drop",
            "a=1;query=mutation%7Bdrop%7D",
            "operationName=W",
        ):
            status, told = await ask(proxy, up, posted(up.port, READ, path=f"/graphql?{query}"))
            assert (status, "the query of a POST" in told["detail"]) == (403, True)
        assert (await ask(proxy, up, posted(up.port, READ, path="/graphql?trace=1")))[0] == 200
    assert up.ran == ["drop", "me"]


async def test_how_a_body_comes():
    body = json.dumps({**READ, "pad": "x" * 300}).encode()
    ones = [body[at : at + 1] for at in range(len(body))]
    fours = [body[at : at + 8] for at in range(0, len(body), 8)]
    async with api() as (up, proxy):
        whole = (
            request(up.port, body),
            chunked(up.port, [body]),
            chunked(up.port, fours),
            chunked(up.port, [body], extension=b";a=b"),
            chunked(up.port, ones),
        )
        for data in whole:
            assert (await ask(proxy, up, data))[0] == 200
        # Byte by byte, with a next request behind it that has to wait.
        client = await proxy.tunnel(A, up.port)
        data = request(up.port, body) + posted(up.port, DROP)
        for at in range(len(data) - 1):
            client.writer.write(data[at : at + 1])
            if at % 16 == 0:
                await asyncio.sleep(0)
        assert (await client.response())[0] == 200
        assert up.ran == ["me"] * 6
        assert problem(await client.say(data[-1:]))[0] == 403
        # What a chunk may not look like is refused as framing; a body that could be read twice as well.
        for bad in (
            chunked(up.port, [body], extension=b';a="b"'),
            chunked(up.port, [body]).replace(b"\r\n0\r\n", b"\n0\r\n"),
            chunked(up.port, [body]).replace(b"chunked\r\n", b"chunked\r\nContent-Length: 3\r\n"),
        ):
            client = await proxy.tunnel(A, up.port)
            assert parse(await client.say(bad))[0] == 400
        client = await proxy.tunnel(A, up.port)
        status, told = problem(await client.say(chunked(up.port, [body], trailer=b"X-A: b\r\n")))
        assert (status, told["error"]) == (400, "request_trailers_not_supported")
    assert up.ran == ["me"] * 6
    for sent in up.requests:
        assert sent.body == body
        assert sent.header(b"content-length") == str(len(body)).encode()
        assert sent.header(b"transfer-encoding") is None


async def test_a_body_is_bounded_and_its_limit_named():
    def endpoint(host, port):
        return graphql(host, port, graphql_max_body_bytes=1000)

    async with api(endpoint) as (up, proxy):

        def padded(size):
            body = json.dumps({**READ, "pad": ""}).encode()
            return json.dumps({**READ, "pad": "x" * (size - len(body))}).encode()

        fits, over = padded(1000), padded(1001)
        small = [fits[at : at + 3] for at in range(0, 1000, 3)]
        for data, status in (
            (request(up.port, fits), 200),
            (chunked(up.port, [fits]), 200),
            (request(up.port, over), 413),
            (chunked(up.port, [over]), 413),
            # More framing than data.
            (chunked(up.port, small), 413),
            # Declared, never sent: nobody waits for it.
            (request(up.port, over, length=False).replace(
                b"\r\n\r\n", b"\r\nContent-Length: 99999999999\r\n\r\n", 1)[:-1000], 413),
        ):  # fmt: skip
            got, told = await ask(proxy, up, data)
            assert got == status
            if status == 413:
                assert told["error"] == "request_body_too_large"
                assert "1000 bytes" in told["detail"]
    assert up.ran == ["me", "me"]


async def test_a_client_that_waits_is_asked_for_its_body_unless_it_is_refused():
    async with api() as (up, proxy):
        body = json.dumps(READ).encode()
        client = await proxy.tunnel(A, up.port)
        head, _, _ = request(up.port, body, "Expect: 100-continue").partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.response())[0] == 200
        for kind, length, status in ((JSON, 70_000, 413), ("text/plain", 10, 415)):
            client = await proxy.tunnel(A, up.port)
            head = request(up.port, b"", "Expect: 100-continue", kind=kind, length=False)[:-2]
            answer = await client.say(head + f"Content-Length: {length}\r\n\r\n".encode())
            assert parse(answer)[0] == status
    (sent,) = up.requests
    assert sent.header(b"expect") is None


async def test_a_body_that_does_not_come_is_answered():
    async with api(limits=Limits(body_idle_seconds=0.3)) as (up, proxy):
        body = json.dumps(READ).encode()
        client = await proxy.tunnel(A, up.port)
        await client.send(request(up.port, body)[:-5])
        # Dripping buys no time.
        for at in (5, 4, 3):
            await asyncio.sleep(0.05)
            await client.send(body[-at:][:1])
        status, told = problem(await client.rest())
        assert (status, told["error"]) == (408, "request_body_timeout")
        # One that gives up in the middle has broken no rule.
        client = await proxy.tunnel(A, up.port)
        await client.send(request(up.port, body)[:-5])
        client.writer.write_eof()
        assert parse(await client.rest())[0] == 400
        assert (await ask(proxy, up, posted(up.port, READ)))[0] == 200
    assert up.ran == ["me"]


async def test_many_bodies_are_held_at_once_and_large_ones_take_turns():
    limit = 1024 * 1024

    def endpoint(host, port):
        return graphql(host, port, graphql_max_body_bytes=limit)

    async with api(endpoint) as (up, proxy):
        small = json.dumps({**READ, "pad": "x" * 60_000}).encode()
        large = json.dumps({**READ, "pad": "x" * 600_000}).encode()
        for body, count in ((small, 64), (large, 64)):
            clients = [await proxy.tunnel(A, up.port) for _ in range(count)]
            for client in clients:
                client.writer.write(request(up.port, body)[:-1])
            await asyncio.sleep(0.2)
            places = proxy.proxy._services.large_bodies
            assert places.locked() is (body is large)
            before = len(up.ran)
            done = []
            for client in clients:
                client.writer.write(b"}")
                done.append(asyncio.create_task(client.response()))
            assert [status for status, _ in await asyncio.gather(*done)] == [200] * count
            assert len(up.ran) - before == count
            for client in clients:
                client.close()
        assert places._value == LARGE_BODIES


async def test_everything_else_moves_while_many_requests_are_read(monkeypatch):
    rounds, reads = 0, []
    read = content.read_graphql_body

    def noted(body):
        reads.append(rounds)
        return read(body)

    async def turn():
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    monkeypatch.setattr(content, "read_graphql_body", noted)
    async with api() as (up, proxy):
        clients = [await proxy.tunnel(A, up.port) for _ in range(32)]
        data = posted(up.port, READ)
        for client in clients:
            client.writer.write(data[:-1])
        await asyncio.sleep(0.1)
        ticking = asyncio.create_task(turn())
        for client in clients:
            client.writer.write(data[-1:])
        answers = await asyncio.gather(*(client.response() for client in clients))
        ticking.cancel()
        for client in clients:
            client.close()
    assert {status for status, _ in answers} == {200}
    assert len(set(reads)) == len(reads) == 32


@pytest.mark.parametrize("policy", ["graphql", "rest"])
async def test_a_reload_while_a_body_comes_counts(policy):
    async with api(lambda h, p: graphql(h, p, access="full")) as (up, proxy):
        client = await proxy.tunnel(A, up.port)
        body = json.dumps(DROP).encode()
        await client.send(request(up.port, body)[:-1])
        await asyncio.sleep(0.05)
        if policy == "graphql":
            proxy.reload(rest_policy(graphql(A, up.port)))
            assert problem(await client.say(body[-1:]))[0] == 403
            assert up.ran == []
        else:
            # What was held goes on, for a policy that does not look into it.
            proxy.reload(rest_policy(rest(A, up.port)))
            await client.send(body[-1:])
            assert (await client.response())[0] == 200
            assert up.ran == ["drop"]


@pytest.mark.parametrize("changed", ["protocol", "rules", "limit"])
async def test_a_held_body_is_read_again_as_the_new_policy_reads_it(changed):
    """The body is whole and judged, the connection to the upstream takes time, the policy changes."""
    async with Api() as up, Proxy(rest_policy(rpc(A, up.port, path=""))) as proxy:
        document = {"jsonrpc": "2.0", "id": 1, "method": "get", "query": "mutation { drop }"}
        dialled, release = asyncio.Event(), asyncio.Event()
        open_one = Link.open

        async def slowly(link, *, fresh):
            dialled.set()
            await release.wait()
            return await open_one(link, fresh=fresh)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Link, "open", slowly)
            client = await proxy.connect()
            path = f"http://{A}:{up.port}/graphql"
            await client.send(posted(up.port, document, path=path))
            await dialled.wait()
            endpoint = {
                "protocol": graphql(A, up.port, path=""),
                "rules": rpc(A, up.port, path="", rules=[{"allow": {"method": "other"}}]),
                "limit": rpc(A, up.port, path="", json_rpc={"max_body_bytes": 10}),
            }[changed]
            proxy.reload(rest_policy(endpoint))
            release.set()
            status, _ = problem(await client.rest())
    assert status == (413 if changed == "limit" else 403)
    assert up.requests == []


async def test_a_body_on_its_way_cannot_be_read_any_more():
    """The policy of before lets it stream; the one of now reads it, when a part of it was taken."""
    async with Api() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        dialled, release = asyncio.Event(), asyncio.Event()
        open_one = Link.open

        async def slowly(link, *, fresh):
            dialled.set()
            await release.wait()
            return await open_one(link, fresh=fresh)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Link, "open", slowly)
            client = await proxy.connect()
            path = f"http://{A}:{up.port}/graphql"
            await client.send(posted(up.port, READ, path=path))
            await dialled.wait()
            proxy.reload(rest_policy(graphql(A, up.port)))
            release.set()
            status, told = problem(await client.rest())
        assert (status, told["error"]) == (503, "policy_changed")
        assert (await ask(proxy, up, posted(up.port, READ)))[0] == 200
    assert up.ran == ["me"]


async def test_the_endpoint_that_governs_says_how_a_request_is_read():
    async with api(graphql, rpc, lambda h, p: rest(h, p, path="/api/**")) as (up, proxy):
        call = {"jsonrpc": "2.0", "id": 1, "method": "get"}
        assert (await ask(proxy, up, posted(up.port, READ)))[0] == 200
        assert (await ask(proxy, up, posted(up.port, call, path="/rpc")))[0] == 200
        assert (await ask(proxy, up, posted(up.port, DROP, path="/api/x")))[0] == 200
        # A body of any size and kind streams where nobody reads it.
        large = request(up.port, b"x" * 300_000, path="/api/x", kind="text/plain")
        assert (await ask(proxy, up, large))[0] == 200
        for document, path in ((call, "/graphql"), (READ, "/rpc"), (DROP, "/api/../graphql")):
            assert (await ask(proxy, up, posted(up.port, document, path=path)))[0] == 403
        # None governs: refused without waiting for the body.
        status, told = await ask(proxy, up, posted(up.port, READ, path="/other")[:-3])
        assert (status, told["detail"]) == (403, "no L7 endpoint path matched request")
    assert up.ran == ["me"]


@pytest.mark.parametrize("make", [graphql, rpc, mcp])
async def test_placeholders_in_heads_are_replaced_and_in_bodies_refused(make):
    path, document = {
        graphql: ("/graphql", READ),
        rpc: ("/rpc", {"jsonrpc": "2.0", "id": 1, "method": "get"}),
        mcp: ("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"}),
    }[make]
    async with Api() as up:
        policy = rest_policy(make(A, up.port), graphql(B, up.port))
        environment = {"TOKEN": SECRET}
        async with Proxy(policy, environment=environment, bindings=bound(A, up.port)) as proxy:
            field = f"Authorization: Bearer {PLACEHOLDER}"
            assert (await ask(proxy, up, posted(up.port, document, field, path=path)))[0] == 200
            marked = {**document, "pad": PLACEHOLDER}
            status, told = await ask(proxy, up, posted(up.port, marked, path=path))
            assert (status, told["error"]) == (500, "credential_unavailable")
            body = json.dumps(marked).encode()
            pieces = [body[at : at + 9] for at in range(0, len(body), 9)]
            assert (await ask(proxy, up, chunked(up.port, pieces, path=path)))[0] == 500
            client = await proxy.tunnel(B, up.port)
            sent = posted(up.port, READ, field).replace(
                f"Host: {A}".encode(), f"Host: {B}".encode()
            )
            assert problem(await client.say(sent))[1]["error"] == "credential_endpoint_mismatch"
    (sent,) = up.requests
    assert sent.header(b"authorization") == f"Bearer {SECRET}".encode()
    findings = [each for each in proxy.lines if "Credential placeholder in a request body" in each]
    assert len(findings) == 2
    assert not any(SECRET in line or "openshell:resolve" in line for line in proxy.lines)


async def test_the_same_over_http2():
    server = GraphqlServer()

    async def script(stream):
        body = server.execute(
            stream.headers[":method"], stream.headers[":path"], await stream.whole()
        )
        await stream.head(("content-length", str(len(body))))
        await stream.send(body, end=True)

    async with (
        H2Server(A, script) as up,
        Proxy(rest_policy(graphql(A, up.port, graphql_max_body_bytes=100))) as proxy,
    ):
        client = await H2Client.open(proxy, A, up.port)
        kind = ("content-type", JSON)

        async def post(body, *fields):
            sent = client.fields("/graphql", "POST", *(fields or (kind,)))
            stream = await client.open_stream(sent, end=False)
            # The body in two frames, without a length.
            await client.send(stream, body[:5])
            await client.send(stream, body[5:], end=True)
            return await client.answer(stream)

        read, drop = (json.dumps(document).encode() for document in (READ, DROP))
        assert (await post(read)).status == 200
        assert (await client.get("/graphql?query={me}")).status == 200
        for body, fields, status in (
            (drop, (), 403),
            (b'{"query":"{me}","query":"mutation{drop}"}', (), 403),
            (read + b" " * 200, (), 413),
            (read, (("content-type", "text/plain"),), 415),
            (read, (kind, ("content-type", "text/plain")), 415),
            (read, (kind, ("content-encoding", "gzip")), 415),
        ):
            assert (await post(body, *fields)).status == status
        assert (await client.get("/graphql?query=mutation{drop}")).status == 403
        assert (await post(read)).status == 200
        client.close()
    assert server.ran == ["me"] * 3
    assert {event.engine for event in proxy.denials} == {"l7-graphql"}


UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Accept: text/event-stream",
)


async def test_no_websocket_leads_past_these_protocols():
    async with api(graphql, mcp, lambda h, p: rest(h, p, path="/api")) as (up, proxy):
        client = await proxy.tunnel(A, up.port)
        await client.send(get(up.port, "/api", *UPGRADE))
        assert (await client.response())[0] == 200
        assert up.requests[0].header(b"upgrade") == b"websocket"
        for path in ("/graphql?query={me}", "/mcp"):
            client = await proxy.tunnel(A, up.port)
            # Refused, or an ordinary request: never a switch.
            answer = await client.say(get(up.port, path, *UPGRADE, "Connection: close"))
            assert parse(answer)[0] in (200, 400, 403)
        assert not any(each.header(b"upgrade") for each in up.requests[1:])


async def test_names_with_placeholders_reach_no_log():
    async with api(graphql, mcp, rpc) as (up, proxy):
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": PLACEHOLDER}}
        persisted = {"id": PLACEHOLDER}
        query = urllib.parse.urlencode({"query": '{ echo(text: "' + PLACEHOLDER + '") }'})
        for data in (
            posted(up.port, call, path="/mcp"),
            posted(up.port, {**call, "method": PLACEHOLDER}, path="/rpc"),
            posted(up.port, persisted),
            get(up.port, f"/graphql?{query}"),
        ):
            status, told = await ask(proxy, up, data)
            assert (status, "a credential placeholder" in told["detail"]) == (403, True)
            assert "openshell:resolve" not in json.dumps(told)
    assert not any("openshell:resolve" in line for line in proxy.lines)
    assert up.requests == []


CALL = {"jsonrpc": "2.0", "id": 1, "method": "get"}
CALLS = {
    "call": (CALL, 200, ""),
    "notification": ({"jsonrpc": "2.0", "method": "get"}, 200, ""),
    "batch": ([CALL, {**CALL, "id": 2}], 200, ""),
    "another method": ({**CALL, "method": "set"}, 403, "POST /rpc not permitted by policy"),
    "batch hides one": ([CALL, {**CALL, "method": "set"}], 403, "not permitted by policy"),
    "bad item": ([CALL, 3], 403, "JSON-RPC request rejected: batch item invalid: not an object"),
    "answer": ({"jsonrpc": "2.0", "id": 1, "result": 1}, 403, "response frames are not permitted"),
    "answer in a batch": ([CALL, {"jsonrpc": "2.0", "id": 1, "result": 1}], 403, "response frames"),
    "no version": ({"method": "get"}, 403, "missing or non-string 'jsonrpc' field"),
    "old version": ({**CALL, "jsonrpc": "1.0"}, 403, "unsupported JSON-RPC version"),
    "no method": ({"jsonrpc": "2.0"}, 403, "missing or non-string 'method' field"),
    "method and result": ({**CALL, "result": 1}, 403, "JSON-RPC request rejected: both"),
    "empty batch": ([], 403, "JSON-RPC request rejected: empty batch"),
    "text": ("get", 403, "not an object"),
}


@pytest.mark.parametrize(("document", "status", "why"), CALLS.values(), ids=CALLS.keys())
async def test_json_rpc(document, status, why):
    async with api(rpc) as (up, proxy):
        got, told = await ask(proxy, up, posted(up.port, document, path="/rpc"))
        assert got == status
        assert status == 200 or why in told["detail"]
        event = proxy.events[-1]
        assert event.engine == "l7-jsonrpc"
        assert event.message.startswith("JSONRPC_L7_REQUEST ")
    assert len(up.requests) == (status == 200)


async def test_json_rpc_takes_posts_only():
    async with api(rpc) as (up, proxy):
        stream = get(up.port, "/rpc?method=get", "Accept: text/event-stream")
        for data in (stream, posted(up.port, CALL, path="/rpc", method="PUT")):
            status, told = await ask(proxy, up, data)
            assert (status, "JSON-RPC request rejected" in told["detail"]) == (403, True)
    assert up.requests == []


TOOL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read_file"}}


def named(name):
    return {**TOOL, "params": {"name": name}}


MCP = {
    "tool": (TOOL, (), 200, ""),
    "answer": ({"jsonrpc": "2.0", "id": 1, "result": {}}, (), 200, ""),
    "another tool": (named("delete_file"), (), 403, "not permitted by policy"),
    "batch hides one": ([TOOL, named("delete_file")], (), 403, "not permitted by policy"),
    "no id": ({k: v for k, v in named("delete_file").items() if k != "id"}, (), 403, "without id"),
    "odd name": (named("read_a b"), (), 403, "1 to 128"),
    "no name": ({**TOOL, "params": {}}, (), 403, "params.name"),
    "name twice": (
        json.dumps(TOOL).encode().replace(b'"name":', b'"name":"delete_file","name":'), (), 403, "a key twice"),
    "name in another case": (
        {**TOOL, "params": {"name": "read_x", "Name": "delete_file"}}, (), 403, "spelled"),
    "unlisted method": ({**TOOL, "method": "resources/list"}, (), 403, "not permitted"),
    "fields agree": (TOOL, ("Mcp-Method: tools/call", "Mcp-Name: read_file"), 200, ""),
    "fields agree, encoded": (TOOL, ("Mcp-Name: =?base64?cmVhZF9maWxl?=",), 200, ""),
    "name in a field": (TOOL, ("Mcp-Name: delete_file",), 403, "another call"),
    "name in a field, encoded": (TOOL, ("Mcp-Name: =?base64?ZGVsZXRl?=",), 403, "another call"),
    "method in a field": ({**TOOL, "method": "ping"}, ("Mcp-Method: tools/call",), 403, "another"),
    "two names": (TOOL, ("Mcp-Name: read_file", "Mcp-Name: delete_file"), 403, "another"),
    "batch and a field": ([TOOL, TOOL], ("Mcp-Method: tools/call",), 403, "another call"),
}  # fmt: skip


@pytest.mark.parametrize(("document", "fields", "status", "why"), MCP.values(), ids=MCP.keys())
async def test_mcp(document, fields, status, why):
    async with api(mcp) as (up, proxy):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        got, told = await ask(proxy, up, request(up.port, body, *fields, path="/mcp"))
        assert got == status, told
        assert status == 200 or why in told["detail"], told
        assert proxy.events[-1].engine == "l7-mcp"
        assert proxy.events[-1].message.startswith("JSONRPC_L7_REQUEST ")
    assert len(up.requests) == (status == 200)


async def test_the_receive_stream_of_mcp():
    async with api(mcp) as (up, proxy):
        for accepted in ("text/event-stream", "application/json, text/event-stream;q=0.5"):
            assert (await ask(proxy, up, get(up.port, "/mcp", f"Accept: {accepted}")))[0] == 200
        body = json.dumps(named("delete_file")).encode()
        for data in (
            get(up.port, "/mcp"),
            get(up.port, "/mcp", "Accept: text/event-streams"),
            request(up.port, body, "Accept: text/event-stream", method="GET", path="/mcp"),
            request(up.port, b"", method="DELETE", path="/mcp"),
            request(up.port, body, "Accept: text/event-stream", method="DELETE", path="/mcp"),
        ):
            status, told = await ask(proxy, up, data)
            assert (status, told["detail"]) == (403, "JSON-RPC request rejected: no JSON") or (
                "only POST" in told["detail"]
            )
    assert len(up.requests) == 2


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_sdks_client_and_server_talk_through_the_proxy(mode):
    with mcp_server() as tools:
        async with Proxy(rest_policy(mcp(A, tools.port))) as proxy:
            through = httpx2.AsyncClient(proxy=f"http://127.0.0.1:{proxy.port}", trust_env=False)
            url = f"http://{A}:{tools.port}/mcp"
            async with through:
                transport = streamable_http_client(url, http_client=through)
                async with McpClient(transport, mode=mode) as client:
                    names = [tool.name for tool in (await client.list_tools()).tools]
                    assert names == ["read_file", "delete_file"]
                    result = await client.call_tool("read_file", {"path": "/x"})
                    assert result.content[0].text == "content of /x"
                    with pytest.raises(Exception, match="Server returned an error response"):
                        await client.call_tool("delete_file", {"path": "/x"})
                    result = await client.call_tool("read_file", {"path": "/y"})
                    assert result.content[0].text == "content of /y"
    assert tools.called == ["read_file", "read_file"]
    denied = [event.detail for event in proxy.denials]
    assert denied[0] == "POST /mcp not permitted by policy"
