"""CONNECT and plain proxy requests against real upstreams, byte by byte where it matters."""

import asyncio
import ssl

import httpx
import pytest

from integration.egress.harness import (
    OK,
    A,
    B,
    Proxy,
    Upstream,
    parse,
    plain,
    problem,
    rest,
    rest_policy,
)
from openshell.egress.identity import IdentityUnknown
from openshell.egress.limits import Limits


def get(host, port, path="/", **headers):
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET http://{host}:{port}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n{extra}\r\n".encode()


def inner(host, port, path="/", method="GET", extra=""):
    return f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{extra}\r\n".encode()


READ_ONLY = {"access": "read-only"}


async def test_plain_request_is_forwarded_and_judged():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port, **READ_ONLY))) as proxy:
        client = await proxy.connect()
        assert await client.request(get(A, up.port, "/x/./y?q=1")) == (200, b"ok")
        sent = up.requests[0]
        assert sent.line == b"GET /x/y?q=1 HTTP/1.1"
        assert sent.header(b"host") == f"{A}:{up.port}".encode()
        assert sent.header(b"via") == b"1.1 openshell-sandbox"
        denied = get(A, up.port, "/x?secret=1").replace(b"GET", b"DELETE", 1)
        status, body = problem(await client.say(denied))
    assert status == 403
    assert (body["error"], body["layer"], body["binary"]) == (
        "policy_denied",
        "l7",
        "/usr/bin/curl",
    )
    assert "denied by L7 policy" in body["detail"]
    assert "secret" not in body["detail"]
    assert len(up.requests) == 1
    assert [line.split(" [policy")[0] for line in proxy.lines] == [
        f"HTTP:GET [INFO] ALLOWED /usr/bin/curl(4242) -> GET http://{A}:{up.port}/x/y",
        f"HTTP:DELETE [MED] DENIED /usr/bin/curl(4242) -> DELETE http://{A}:{up.port}/x",
    ]
    assert proxy.events[1].refusal.stage == "forward-l7-deny"


async def test_one_client_connection_serves_several_hosts():
    async with (
        Upstream() as one,
        Upstream() as two,
        Proxy(rest_policy(rest(A, one.port), rest(B, two.port))) as proxy,
    ):
        client = await proxy.connect()
        for _ in range(3):
            assert (await client.request(get(A, one.port)))[0] == 200
            assert (await client.request(get(B, two.port)))[0] == 200
    assert (len(one.requests), len(two.requests)) == (3, 3)
    assert (one.connections, two.connections) == (1, 1)
    assert proxy.program.asked == 1


async def test_tunnel_with_tls_is_inspected():
    async with (
        Upstream(tls_name=A) as up,
        Proxy(rest_policy(rest(A, up.port, **READ_ONLY))) as proxy,
    ):
        client = await proxy.tls(A, up.port)
        for number in range(3):
            assert await client.request(inner(A, up.port, f"/r{number}")) == (200, b"ok")
        status, body = problem(await client.say(inner(A, up.port, "/x", "POST")))
    assert status == 403
    assert body["rule_missing"]["method"] == "POST"
    assert up.connections == 1
    assert [request.line for request in up.requests] == [
        b"GET /r0 HTTP/1.1",
        b"GET /r1 HTTP/1.1",
        b"GET /r2 HTTP/1.1",
    ]
    assert f"https://{A}:{up.port}/r0" in proxy.lines[1]
    assert proxy.lines[0].startswith("NET:OPEN [INFO] ALLOWED /usr/bin/curl(4242) -> ")


async def test_tunnel_without_tls_is_inspected():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port, **READ_ONLY))) as proxy:
        client = await proxy.tunnel(A, up.port)
        assert await client.request(inner(A, up.port)) == (200, b"ok")
        assert problem(await client.say(inner(A, up.port, method="PUT")))[0] == 403
    assert len(up.requests) == 1


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
async def test_httpx(secure):
    async with (
        Upstream(tls_name=A if secure else None) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        context = proxy.client_tls() if secure else ssl.create_default_context()
        async with httpx.AsyncClient(
            proxy=f"http://127.0.0.1:{proxy.port}", verify=context, trust_env=False
        ) as client:
            url = f"http{'s' if secure else ''}://{A}:{up.port}/data"
            for _ in range(3):
                assert (await client.get(url)).text == "ok"
            assert (await client.post(url, content=b"x" * 100_000)).status_code == 200
    assert up.requests[-1].body == b"x" * 100_000


CONNECT_REFUSALS = {
    "no such endpoint": ("other.example:443", "policy_denied", "opa", "connect"),
    "other port": (f"{A}:1", "policy_denied", "opa", "connect"),
    "loopback by address": ("127.0.0.1:PORT", "ssrf_denied", "ssrf", "ssrf"),
    "loopback by another spelling": ("[::ffff:127.0.0.1]:PORT", "ssrf_denied", "ssrf", "ssrf"),
    "metadata service": ("169.254.169.254:PORT", "ssrf_denied", "ssrf", "ssrf"),
    "name that resolves to loopback": ("rebind.example:PORT", "ssrf_denied", "ssrf", "ssrf"),
    "name that does not resolve": ("nowhere.example:PORT", "ssrf_denied", "ssrf", "ssrf"),
    "wildcard to a private address": ("a.wild.example:PORT", "ssrf_denied", "ssrf", "ssrf"),
    "gateway port on the alias": (f"{A}:17670", "ssrf_denied", "ssrf", "ssrf"),
}


@pytest.mark.parametrize(
    ("target", "error", "engine", "stage"), CONNECT_REFUSALS.values(), ids=CONNECT_REFUSALS.keys()
)
async def test_refused_connect(target, error, engine, stage):
    async with Upstream() as up:
        hosts = [
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "169.254.169.254",
            "rebind.example",
            "nowhere.example",
            "*.wild.example",
        ]
        endpoints = [plain(host, up.port) for host in hosts]
        proxy = Proxy(rest_policy(*endpoints, plain(A, up.port), plain(A, 17670)))
        proxy.names.known = {"rebind.example": ["127.0.0.1"], "a.wild.example": ["10.1.2.3"]}
        proxy.closed_ports = frozenset({17670})
        async with proxy:
            (await proxy.tunnel(A, up.port)).close()
            target = target.replace("PORT", str(up.port))
            answer = await proxy.say(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            status, body = problem(answer)
    assert (status, body["error"]) == (403, error)
    assert body["detail"].startswith("CONNECT ")
    denied = proxy.denials[-1]
    assert (denied.engine, denied.refusal.stage) == (engine, stage)
    assert len(proxy.denials) == 1


async def test_a_process_that_cannot_be_named_is_refused():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        assert (await (await proxy.connect()).request(get(A, up.port)))[0] == 200
        proxy.program.found = IdentityUnknown("no process of the sandbox holds the connection")
        connect = f"CONNECT {A}:{up.port} HTTP/1.1\r\n\r\n".encode()
        assert problem(await proxy.say(connect))[1]["reason_code"] == "identity_unknown"
        assert problem(await proxy.say(get(A, up.port)))[0] == 403
    assert len(up.requests) == 1


async def test_another_program_is_refused():
    async with (
        Upstream() as up,
        Proxy(rest_policy(rest(A, up.port), binary="/usr/bin/python3")) as proxy,
    ):
        connect = f"CONNECT {A}:{up.port} HTTP/1.1\r\n\r\n".encode()
        status, body = problem(await proxy.say(connect))
    assert (status, body["error"]) == (403, "policy_denied")
    assert "binary '/usr/bin/curl' not allowed" in body["reason"]
    assert body["suggestion"]
    assert up.connections == 0


FIRST_HEADS = {
    "CL and TE": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    "two lengths": b"Content-Length: 3\r\nContent-Length: 4\r\n",
    "length list": b"Content-Length: 3, 3\r\n",
    "signed length": b"Content-Length: +3\r\n",
    "folded line": b"X-A: 1\r\n continued\r\n",
    "bare LF": b"X-A: 1\nX-B: 2\r\n",
    "space before colon": b"Host : evil.example\r\n",
    "NUL": b"X-A: a\0b\r\n",
    "TE twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "TE identity": b"Transfer-Encoding: identity\r\n",
    "Connection names Content-Length": b"Connection: content-length\r\nContent-Length: 3\r\n",
    "two hosts": b"Host: a.example\r\nHost: b.example\r\n",
}


@pytest.mark.parametrize("secure", [True, False], ids=["in a tunnel", "first request"])
@pytest.mark.parametrize("fields", FIRST_HEADS.values(), ids=FIRST_HEADS.keys())
async def test_smuggling_is_refused_before_any_upstream_sees_it(fields, secure):
    async with (
        Upstream(tls_name=A if secure else None) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        host = b"" if b"Host:" in fields else f"Host: {A}:{up.port}\r\n".encode()
        good = b"POST / HTTP/1.1\r\n" + f"Host: {A}:{up.port}\r\n".encode()
        target = b"/" if secure else f"http://{A}:{up.port}/".encode()
        evil = b"POST " + target + b" HTTP/1.1\r\n" + host + fields + b"\r\nabc"
        client = await (proxy.tls(A, up.port) if secure else proxy.connect())
        probe = good.replace(b" / ", b" " + target + b" ", 1) + b"Content-Length: 3\r\n\r\nabc"
        assert (await client.request(probe))[0] == 200
        status, _, body = parse(await client.say(evil))
    assert (status, body) == (400, b"")
    assert len(up.requests) == 1
    assert proxy.denials[-1].engine == "http-parser"


async def test_an_oversized_head_is_431():
    async with Proxy(rest_policy()) as proxy:
        answer = await proxy.say(b"GET http://a/ HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n")
    assert parse(answer)[0] == 431


PLAIN_FAULTS = {
    "origin form": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    "https": (b"GET https://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    "ftp": (b"GET ftp://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "unsupported_proxy_scheme"),
    "fragment": (b"GET http://a.example/#x HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    "userinfo": (b"GET http://u:p@a.example/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    "policy.local": (
        b"GET http://policy.local/ HTTP/1.1\r\nHost: a\r\n\r\n",
        501,
        "not_supported_yet",
    ),
    "CONNECT without port": (b"CONNECT a.example HTTP/1.1\r\n\r\n", 400, None),
}


@pytest.mark.parametrize(
    ("data", "status", "error"), PLAIN_FAULTS.values(), ids=PLAIN_FAULTS.keys()
)
async def test_targets_that_are_refused(data, status, error):
    async with Proxy(rest_policy()) as proxy:
        answer = await proxy.say(data)
    assert parse(answer)[0] == status
    if error:
        assert problem(answer)[1]["error"] == error


async def test_path_tricks_are_judged_and_sent_in_canonical_form():
    async with Upstream() as up:
        rules = [{"allow": {"method": "GET", "path": "/public/**"}}]
        endpoint = rest(A, up.port, rules=rules)
        del endpoint["access"]
        async with Proxy(rest_policy(endpoint)) as proxy:
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(inner(A, up.port, "/public/./a//b;x=1")))[0] == 200
            for path in ("/public/../secret", "/public/%2e%2e/secret", "/public/..;/secret"):
                status, body = problem(
                    await (await proxy.tunnel(A, up.port)).say(inner(A, up.port, path))
                )
                assert (status, body["path"]) == (403, "/secret")
            for path in ("/public/..%2fsecret", "/../x", "/public/a%00b"):
                answer = await (await proxy.tunnel(A, up.port)).say(inner(A, up.port, path))
                assert problem(answer)[1]["error"] == "invalid_request_target"
    assert [request.line for request in up.requests] == [b"GET /public/a/b HTTP/1.1"]


HOSTS = {
    "another name": "evil.example",
    "another alias": f"{B}:PORT",
    "default port": A,
    "another port": f"{A}:1",
    "suffix": f"{A}.evil.example:PORT",
}


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
async def test_the_host_field_must_name_the_tunnel(host, secure):
    async with (
        Upstream(tls_name=A if secure else None) as up,
        Proxy(rest_policy(rest(A, up.port), rest(B, up.port))) as proxy,
    ):
        client = await (proxy.tls if secure else proxy.tunnel)(A, up.port)
        assert (await client.request(inner(A.upper(), up.port)))[0] == 200
        head = f"GET / HTTP/1.1\r\nHost: {host.replace('PORT', str(up.port))}\r\n\r\n"
        status, body = problem(await client.say(head.encode()))
    assert (status, body["error"]) == (403, "request_authority_mismatch")
    assert len(up.requests) == 1
    assert any("request_authority_mismatch" in line for line in proxy.lines if "FINDING" in line)


async def test_absolute_form_inside_a_tunnel_must_agree_too():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        own = f"GET http://{A}:{up.port}/x HTTP/1.1\r\nHost: {A}:{up.port}\r\n\r\n"
        assert (await client.request(own.encode()))[0] == 200
        other = f"GET http://evil.example/x HTTP/1.1\r\nHost: {A}:{up.port}\r\n\r\n"
        assert problem(await client.say(other.encode()))[0] == 403
    assert [request.line for request in up.requests] == [b"GET /x HTTP/1.1"]


async def test_the_leaf_is_for_the_connect_host_whatever_sni_says():
    async with Upstream(tls_name=A) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        (await proxy.tls(A, up.port)).close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await proxy.tls(A, up.port, server_name="evil.example")
    assert up.requests == []


async def test_hop_by_hop_fields_do_not_pass():
    async with (
        Upstream(
            b"HTTP/1.1 200 OK\r\nConnection: x-up\r\nX-Up: 1\r\nContent-Length: 0\r\n\r\n"
        ) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        client = await proxy.connect()
        await client.send(
            get(
                A,
                up.port,
                Connection="x-mine",
                **{"X-Mine": "1", "Proxy-Authorization": "Basic eA=="},
            )
        )
        answer = await client.head()
        client.close()
    sent = up.requests[0]
    for name in (b"connection", b"x-mine", b"proxy-authorization"):
        assert sent.header(name) is None
    assert b"X-Up" not in answer


async def test_clear_text_http2_is_refused():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        upgrade = "Upgrade: h2c\r\nConnection: Upgrade\r\n"
        answer = await (await proxy.tunnel(A, up.port)).say(inner(A, up.port, extra=upgrade))
    assert problem(answer)[0] == 403
    assert problem(answer)[1]["error"] == "policy_denied"
    assert up.requests == []


async def test_an_unknown_upgrade_is_an_ordinary_request():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        extra = "Upgrade: foo\r\nConnection: Upgrade\r\n"
        assert (await client.request(inner(A, up.port, extra=extra)))[0] == 200
    assert up.requests[0].header(b"upgrade") is None


async def test_a_switch_of_protocols_that_nobody_asked_for_is_not_forwarded():
    async with (
        Upstream(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n") as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        answer = await (await proxy.tunnel(A, up.port)).say(inner(A, up.port))
    assert problem(answer)[1]["error"] == "upstream_invalid_response"


UNKNOWN_BYTES = {
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.9\r\n",
    "slow start of nothing": b"GE",
}


@pytest.mark.parametrize("data", UNKNOWN_BYTES.values(), ids=UNKNOWN_BYTES.keys())
async def test_uninspectable_bytes(data):
    async def echo(reader, writer):
        while chunk := await reader.read(1000):
            writer.write(b"got " + chunk)

    async with Upstream(script=echo) as up, Upstream(script=echo) as raw:
        policy = rest_policy(rest(A, up.port), plain(B, raw.port))
        async with Proxy(policy) as proxy:
            client = await proxy.tunnel(B, raw.port)
            await client.send(data)
            assert await client.reader.readexactly(4 + len(data)) == b"got " + data
            client.close()
            answer = await (await proxy.tunnel(A, up.port)).say(data)
    assert problem(answer)[1]["error"] == "unsupported_l7_protocol"
    assert proxy.denials[-1].refusal.stage == "connect-l7-parse-rejection"


async def test_tls_skip_is_a_raw_tunnel_with_half_close():
    async def sum_up(reader, writer):
        data = await reader.read()
        writer.write(b"%d bytes" % len(data))
        await writer.drain()

    async with (
        Upstream(script=sum_up) as up,
        Proxy(rest_policy(plain(A, up.port, tls="skip"))) as proxy,
    ):
        client = await proxy.tunnel(A, up.port)
        await client.send(b"\x16\x03\x01 not really TLS" * 100_000)
        client.writer.write_eof()
        assert await client.rest() == b"1800000 bytes"


async def test_without_a_ca_only_raw_tunnels_open():
    async with Upstream() as up:
        policy = rest_policy(rest(A, up.port), plain(B, up.port, tls="skip"))
        async with Proxy(policy, ca=False) as proxy:
            (await proxy.tunnel(B, up.port)).close()
            answer = await proxy.say(f"CONNECT {A}:{up.port} HTTP/1.1\r\n\r\n".encode())
    assert problem(answer) == (
        503,
        {**problem(answer)[1], "error": "tls_termination_unavailable"},
    )
    assert proxy.denials[-1].severity.name == "HIGH"


async def test_an_upstream_that_is_down_is_a_502():
    async with Upstream() as up:
        port = up.port
    async with Proxy(rest_policy(rest(A, port))) as proxy:
        connect = f"CONNECT {A}:{port} HTTP/1.1\r\n\r\n".encode()
        assert problem(await proxy.say(connect))[1]["error"] == "upstream_unreachable"
        assert problem(await proxy.say(get(A, port)))[1]["error"] == "upstream_unreachable"


UNTRUSTED = {"unknown CA": (A, "elsewhere"), "another name": (B, "upstream")}


@pytest.mark.parametrize(("name", "ca"), UNTRUSTED.values(), ids=UNTRUSTED.keys())
async def test_an_upstream_without_a_trusted_certificate_gets_no_request(name, ca):
    async with Upstream(tls_name=name, ca=ca) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.tls(A, up.port)
        status, body = problem(await client.say(inner(A, up.port)))
    assert status == 502
    assert "certificate" in body["reason"]
    assert up.requests == []


async def test_a_client_that_drips_its_head_is_ended():
    limits = Limits(head_seconds=0.2)
    async with Proxy(rest_policy(), limits=limits) as proxy:
        client = await proxy.connect()
        await client.send(b"GET http://a/ HTTP/1.1\r\n")
        started = asyncio.get_running_loop().time()
        assert await client.rest() == b""
        assert asyncio.get_running_loop().time() - started < 3


async def test_more_connections_than_allowed_wait_their_turn():
    async with Upstream() as up:
        proxy = Proxy(rest_policy(rest(A, up.port)), limits=Limits(max_connections=2))
        async with proxy:
            first, second = await proxy.connect(), await proxy.connect()
            assert (await first.request(get(A, up.port)))[0] == 200
            third = await proxy.connect()
            await third.send(get(A, up.port))
            await asyncio.sleep(0.05)
            assert len(up.requests) == 1
            first.close()
            second.close()
            assert (await third.response())[0] == 200


async def test_ok_is_what_the_other_tests_rely_on():
    assert OK.endswith(b"ok")


async def test_targets_on_one_connection_are_each_read_by_themselves():
    async with Upstream() as up, Upstream() as other:
        here, there = f"{A}:{up.port}", f"{B}:{other.port}"
        wanted = [
            (f"http://{here}", up, "/"),
            (f"http://{here}/a/b?x=/a/b", up, "/a/b?x=/a/b"),
            (f"http://{here}/a/b", up, "/a/b"),
            (f"http://{here}?x=1", up, "/?x=1"),
            # What follows the question mark is no path, however it begins.
            (f"http://{here}?x=1/secret", up, "/?x=1/secret"),
            (f"http://{here}/", up, "/"),
            (f"http://{there}/{here}/", other, f"/{here}/"),
            (f"http://{here}//{there}/../x", up, "/x"),
            (f"HTTP://{here.upper()}/c", up, "/c"),
        ]
        async with Proxy(rest_policy(rest(A, up.port), rest(B, other.port))) as proxy:
            client = await proxy.connect()
            for target, upstream, _ in wanted:
                before = len(upstream.requests)
                status, *_ = await client.request(
                    f"GET {target} HTTP/1.1\r\nHost: ignored\r\n\r\n".encode()
                )
                assert status == 200, target
                assert len(upstream.requests) == before + 1, target
            client.close()
        for upstream in (up, other):
            paths = [f"GET {path} HTTP/1.1".encode() for _, one, path in wanted if one is upstream]
            assert [request.line for request in upstream.requests] == paths
