"""HTTP/2 through the proxy: each stream a request to policy, between peers that are not ours."""

import asyncio
import json

import httpx
import pytest

from integration.egress.h2_peers import H2Client, H2Server, Nginx, answer_ok, curl
from integration.egress.harness import (
    PLACEHOLDER,
    SECRET,
    A,
    B,
    Proxy,
    Upstream,
    authority,
    bound,
    plain,
    rest,
    rest_policy,
)
from openshell.egress.ca import client_context

CANCEL, REFUSED = 8, 7


async def test_curl_and_nginx_speak_http2_and_policy_judges_each_request(tmp_path):
    async with (
        Nginx(tmp_path, A) as up,
        Proxy(rest_policy(rest(A, up.port, access="read-only"))) as proxy,
    ):
        url = f"https://{A}:{up.port}/echo"
        out, err = await curl(proxy, tmp_path, "-w", " %{http_version}", url)
        assert (out, err) == ("GET HTTP/2.0  2", "")
        out, err = await curl(proxy, tmp_path, "-w", "\n%{http_version} %{http_code}", "-XPUT", url)
    why = "[reason:PUT /echo not permitted by policy]"
    body, _, seen = out.rpartition("\n")
    assert seen == "2 403"
    assert json.loads(body)["error"] == "policy_denied"
    assert [line for line in proxy.lines if line.startswith("HTTP:")] == [
        f"HTTP:GET [INFO] ALLOWED /usr/bin/curl(4242) -> GET {url} [policy:test engine:l7]",
        f"HTTP:PUT [MED] DENIED /usr/bin/curl(4242) -> PUT {url} [policy:test engine:l7] {why}",
    ]


@pytest.mark.parametrize(
    ("http2", "arguments", "spoken"),
    [
        pytest.param(False, (), "GET HTTP/1.1  1.1", id="the upstream speaks HTTP/1.1 only"),
        pytest.param(True, ("--http1.1",), "GET HTTP/1.1  1.1", id="the client does"),
        pytest.param(True, (), "GET HTTP/2.0  2", id="both speak HTTP/2"),
    ],
)
async def test_both_sides_speak_the_same_version(tmp_path, http2, arguments, spoken):
    async with (
        Nginx(tmp_path, A, http2=http2) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        url = f"https://{A}:{up.port}/echo"
        assert await curl(proxy, tmp_path, "-w", " %{http_version}", *arguments, url) == (
            spoken,
            "",
        )


async def test_an_endpoint_that_skips_tls_stays_opaque(tmp_path):
    async with (
        Nginx(tmp_path, A) as up,
        Proxy(rest_policy(plain(A, up.port, tls="skip"))) as proxy,
    ):
        (tmp_path / "up.pem").write_bytes(authority("upstream").certificate_pem)
        url = f"https://{A}:{up.port}/echo"
        out, err = await curl(
            proxy, tmp_path, "--cacert", str(tmp_path / "up.pem"), "-w", " %{http_version}", url
        )
    assert (out, err) == ("GET HTTP/2.0  2", "")


async def test_many_streams_at_once_and_an_upstream_that_goes_away_in_between(tmp_path):
    # nginx ends a connection after five requests here: gracefully, with what runs answered.
    async with Nginx(tmp_path, A) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        (tmp_path / "www" / "large").write_bytes(b"x" * 300_000)
        context = client_context(authority("sandbox").certificate_pem)
        async with httpx.AsyncClient(
            http2=True, verify=context, proxy=f"http://127.0.0.1:{proxy.port}"
        ) as client:
            for _ in range(3):
                answers = await asyncio.gather(
                    *(client.get(f"https://{A}:{up.port}/large") for _ in range(8))
                )
                assert {answer.http_version for answer in answers} == {"HTTP/2"}
                assert {(a.status_code, len(a.content)) for a in answers} == {(200, 300_000)}
    assert proxy.denials == []


async def test_a_stream_carries_bodies_trailers_and_interim_answers_both_ways():
    async def script(stream):
        await stream.head(("link", "</a.css>"), status=103)
        await stream.head(("x-first", "1"))
        await stream.until(lambda s: s.body)
        await stream.send(b"while you speak, ")
        body = await stream.whole()
        await stream.send(body.upper())
        await stream.end(("x-checksum", "7"))

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        stream = await client.open_stream(client.fields("/a?b=c", "POST"), end=False)
        await client.answer(stream, until=lambda a: a.status)
        await client.send(stream, b"hello ")
        await client.answer(stream, until=lambda a: a.body)
        await client.send(stream, b"there")
        client.conn.send_headers(stream, [("x-mine", "t")], end_stream=True)
        await client.flush()
        answer = await client.answer(stream)
        client.close()
    assert answer.interim == [{":status": "103", "link": "</a.css>"}]
    assert (answer.status, answer.headers["x-first"]) == (200, "1")
    assert answer.body == b"while you speak, HELLO THERE"
    assert answer.trailers == {"x-checksum": "7"}
    assert up.streams[0].headers[":path"] == "/a?b=c"
    assert up.streams[0].trailers == {"x-mine": "t"}


async def test_paths_go_out_as_they_were_judged():
    async with (
        H2Server(A) as up,
        Proxy(rest_policy(_rules(A, up.port, ("GET", "/public/**")))) as proxy,
    ):
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get("/public/../public/./x")).status == 200
        assert (await client.get("/public/../secret")).status == 403
        assert (await client.get("/public/%2e%2e/secret")).status == 403
        assert (await client.get("/public/..%2fsecret")).status == 400
        client.close()
    assert [stream.headers[":path"] for stream in up.streams] == ["/public/x"]


MALFORMED = {
    "scheme": ({"scheme": "http"}, (), 400),
    "another host": ({"host": "example.com"}, (), 403),
    "another port": ({"host": f"{A}:1"}, (), 403),
    "host and authority differ": ({}, (("host", "example.com"),), 400),
    "upper case": ({}, (("X-Upper", "1"),), 400),
    "connection": ({}, (("connection", "close"),), 400),
    "transfer-encoding": ({}, (("transfer-encoding", "chunked"),), 400),
    "te": ({}, (("te", "gzip"),), 400),
    "pseudo field after others": ({}, (("x", "1"), (":path", "/b")), 400),
    "unknown pseudo field": ({}, ((":protocol", "websocket"),), 400),
    "line end in a value": ({}, (("x", "1\r\nx-smuggled: 2"),), 400),
    "control byte in a name": ({}, (("x\x00", "1"),), 400),
    "a body that was not announced": ({}, (("content-length", "5"),), 400),
    "too much of it": ({}, tuple((f"x-{n}", "v" * 900) for n in range(20)), 431),
    "too many fields": ({}, tuple((f"x-{n}", "") for n in range(300)), 431),
}


@pytest.mark.parametrize(("more", "extra", "status"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_goes_nowhere_and_spoils_its_stream_only(more, extra, status):
    async with H2Server(A) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get("/before", "GET", ("x", "1"))).status == 200
        assert (await client.get("/", "GET", *extra, **more)).status == status
        assert (await client.get("/after")).status == 200
        client.close()
    assert [stream.headers[":path"] for stream in up.streams] == ["/before", "/after"]
    # The one of another authority comes with a finding.
    assert len(proxy.denials) == (2 if status == 403 else 1)


# Credentials.


def _with_token(up, **extra):
    return Proxy(
        rest_policy(rest(A, up.port, **extra), rest(B, up.port, **extra)),
        environment={"TOKEN": SECRET},
        bindings=bound(A, up.port),
    )


async def test_credentials_reach_the_upstream_and_no_one_else():
    async with H2Server(A) as up, _with_token(up) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        header = ("authorization", f"Bearer {PLACEHOLDER}")
        assert (await client.get("/", "GET", header)).status == 200
        assert (await client.get("/", "GET", ("x-other", f"a {PLACEHOLDER}9"))).status == 500
        assert (await client.get(f"/{PLACEHOLDER}")).status == 200
        client.close()
    assert up.streams[0].headers["authorization"] == f"Bearer {SECRET}"
    assert up.streams[1].headers[":path"] == f"/{SECRET}"
    assert len(up.streams) == 2
    assert SECRET not in "".join(proxy.lines)


async def test_a_credential_of_another_host_is_refused():
    async with H2Server(B) as up, _with_token(up) as proxy:
        client = await H2Client.open(proxy, B, up.port)
        answer = await client.get("/", "GET", ("authorization", f"Bearer {PLACEHOLDER}"))
        client.close()
    assert answer.status == 403
    assert json.loads(answer.body)["error"] == "credential_endpoint_mismatch"
    assert up.streams == []


@pytest.mark.parametrize("cut", [3, 24, 31])
async def test_a_marker_in_a_body_stops_the_stream_however_it_is_cut(cut):
    async def script(stream):
        await stream.whole()
        await answer_ok(stream)

    async with H2Server(A, script) as up, _with_token(up) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        text = f"x{PLACEHOLDER}".encode()
        stream = await client.open_stream(client.fields("/", "POST"), end=False)
        await client.send(stream, b"first")
        await asyncio.sleep(0.05)
        await client.send(stream, text[:cut])
        await asyncio.sleep(0.05)
        await client.send(stream, text[cut:], end=True)
        answer = await client.answer(stream)
        assert (await client.get("/")).status == 200
        client.close()
    assert answer.status == 500
    assert up.streams[0].reset == CANCEL
    assert b"resolve" not in up.streams[0].body


async def test_placeholders_in_bodies_are_replaced_where_the_author_wants_it():
    async def script(stream):
        await stream.whole()
        await answer_ok(stream)

    async with (
        H2Server(A, script) as up,
        _with_token(up, request_body_credential_rewrite=True) as proxy,
    ):
        client = await H2Client.open(proxy, A, up.port)
        body = json.dumps({"key": PLACEHOLDER, "more": "x" * 100_000}).encode()
        fields = client.fields("/", "POST", ("content-type", "application/json"))
        stream = await client.open_stream(fields, end=False)
        await client.send(stream, body, end=True)
        assert (await client.answer(stream)).status == 200
        client.close()
    assert json.loads(up.streams[0].body)["key"] == SECRET
    assert up.streams[0].headers["content-length"] == str(len(up.streams[0].body))


async def test_what_a_body_says_is_judged():
    async def script(stream):
        await stream.whole()
        await answer_ok(stream)

    async with H2Server(A, script) as up:
        rules = [{"allow": {"operation_type": "query", "fields": ["user"]}}]
        endpoint = rest(A, up.port, protocol="graphql", path="/graphql", rules=rules)
        del endpoint["access"]
        async with Proxy(rest_policy(endpoint)) as proxy:
            client = await H2Client.open(proxy, A, up.port)
            fields = client.fields("/graphql", "POST", ("content-type", "application/json"))
            statuses = []
            for query in ("{ user { name } }", "{ secrets }"):
                stream = await client.open_stream(fields, end=False)
                await client.send(stream, json.dumps({"query": query}).encode(), end=True)
                statuses.append((await client.answer(stream)).status)
            client.close()
    assert statuses == [200, 403]
    assert [stream.body for stream in up.streams] == [b'{"query": "{ user { name } }"}']


# Reloads.


def _rules(host, port, *allowed):
    rules = [{"allow": {"method": method, "path": path}} for method, path in allowed]
    endpoint = rest(host, port, rules=rules)
    del endpoint["access"]
    return endpoint


async def test_a_reload_ends_the_streams_that_it_forbids_and_no_others():
    async def script(stream):
        await stream.head()
        await stream.send(b"first")
        await stream.whole()
        await stream.send(b"last", end=True)

    async with H2Server(A, script) as up:
        both = _rules(A, up.port, ("POST", "/keep"), ("POST", "/end"))
        one = _rules(A, up.port, ("POST", "/keep"))
        async with Proxy(rest_policy(both)) as proxy:
            client = await H2Client.open(proxy, A, up.port)
            keep, end = [
                await client.open_stream(client.fields(path, "POST"), end=False)
                for path in ("/keep", "/end")
            ]
            for stream in (keep, end):
                await client.answer(stream, until=lambda a: a.body)
            proxy.reload(rest_policy(one))
            assert (await client.answer(end)).reset == CANCEL
            assert (await client.get("/end", "POST")).status == 403
            await client.send(keep, b"", end=True)
            answer = await client.answer(keep)
            assert (await client.get("/keep", "POST")).status == 200
            assert client.goaway is None
            client.close()
    assert (answer.body, answer.reset) == (b"firstlast", None)
    assert up.streams[1].reset == CANCEL
    closed = [line for line in proxy.lines if line.startswith("NET:CLOSE")]
    assert len(closed) == 1
    assert "policy changed" in closed[0]


async def test_a_connection_that_is_not_admitted_any_more_gets_a_goaway():
    async def script(stream):
        await stream.head()
        await stream.send(b"first")
        await stream.whole()

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        stream = await client.open_stream(client.fields("/", "POST"), end=False)
        await client.answer(stream, until=lambda a: a.body)
        proxy.reload(rest_policy(rest("other.example", 443)))
        await client.wait_end()
        client.close()
    assert client.answers[stream].reset == CANCEL
    assert client.goaway == 0
    assert up.streams[0].reset == CANCEL
    assert len([line for line in proxy.lines if line.startswith("NET:CLOSE")]) == 1


async def test_a_new_credential_epoch_uses_a_new_upstream_connection():
    async with H2Server(A) as up, _with_token(up) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get()).status == 200
        credentials = proxy._credentials
        proxy._credentials = type(credentials).build(
            2, {"TOKEN": SECRET + "2"}, bound(A, up.port), previous=credentials
        )
        proxy.reload(proxy._policy)
        header = ("authorization", f"Bearer {PLACEHOLDER.replace('v1', 'v2')}")
        assert (await client.get("/", "GET", header)).status == 200
        client.close()
    assert up.connections == 2
    assert up.streams[1].headers["authorization"] == f"Bearer {SECRET}2"


# Upstreams that fail.


async def test_an_upstream_that_speaks_no_http2_is_told_of_to_a_client_that_speaks_only_that():
    async with Upstream(tls_name=A) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        answer = await client.get()
        client.close()
    assert answer.status == 502
    assert json.loads(answer.body)["error"] == "upstream_unreachable"


async def test_what_an_upstream_resets_is_reset_with_its_code():
    async def script(stream):
        stream.conn.reset_stream(stream.id, REFUSED)
        await stream.flush()

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get()).reset == REFUSED
        client.close()


async def test_an_upstream_that_breaks_off_costs_its_streams_and_the_next_gets_a_new_connection():
    async def script(stream):
        if stream.headers[":path"] == "/break":
            await stream.raw(b"\xff" * 40)
        elif stream.headers[":path"] == "/list":
            await stream.head(("connection", "close"))
        else:
            await answer_ok(stream)

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get()).status == 200
        broken = await client.get("/break", "POST")
        malformed = await client.get("/list")
        assert (await client.get()).status == 200
        client.close()
    assert {broken.status, malformed.status} == {502}
    assert up.connections == 2


async def test_an_upstream_with_few_streams_gets_no_more():
    running, most = 0, 0

    async def script(stream):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        await answer_ok(stream)

    async with (
        H2Server(A, script, settings={3: 2}) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        client = await H2Client.open(proxy, A, up.port)
        streams = [await client.open_stream(client.fields(f"/{n}")) for n in range(9)]
        assert {(await client.answer(stream)).status for stream in streams} == {200}
        client.close()
    assert most == 2
