"""Through a corporate proxy: proxies of other people's making, and one that attacks.

`OUT` is an address that nothing here can dial: what reaches an upstream under it went through a proxy.
"""

import asyncio
import base64
import contextlib
import shutil
import socket
import subprocess
import time
from ipaddress import ip_address, ip_network

import pytest

from integration.egress.harness import (
    NOW,
    OK,
    Proxy,
    Upstream,
    authority,
    plain,
    problem,
    rest,
    rest_policy,
)
from openshell.egress.corporate import (
    Bypass,
    CorporateProxy,
    CorporateTunnels,
    TunnelFailed,
)
from openshell.egress.destination import Plan
from openshell.egress.limits import Limits

HOST, OUT = "api.example", "203.0.113.9"
GET = b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Middleman:
    """A corporate proxy that does what a test tells it; by default its tunnels lead to one port."""

    def __init__(self, port=0, answer=ESTABLISHED, *, script=None):
        self.heads = []
        self._upstream = port
        self._answer = answer
        self._script = script
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()

    @property
    def asked(self):
        return [head.split(b" ")[1].decode() for head in self.heads]

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if self._script is not None:
                await self._script(writer)
            else:
                answer = self._answer(self) if callable(self._answer) else self._answer
                writer.write(answer)
                if answer.startswith(b"HTTP/1.1 200") and self._upstream:
                    await self._join(reader, writer)
        writer.close()

    async def _join(self, reader, writer):
        far, to_far = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            await asyncio.gather(_copy(reader, to_far), _copy(far, writer))
        finally:
            to_far.close()

    def settings(self, **changes):
        return CorporateProxy("127.0.0.1", self.port, **changes)


async def _copy(source, sink):
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.write_eof()


def through(corporate, *endpoints, addresses=(OUT,)):
    proxy = Proxy(rest_policy(*(endpoints or (rest(HOST, 443),))))
    proxy.corporate = corporate
    proxy.names.known[HOST] = addresses
    return proxy


CONNECT = f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode()


async def test_a_tunnel_goes_through_the_proxy_to_the_checked_address():
    async with (
        Upstream(tls_name=HOST) as up,
        Middleman(up.port) as middle,
        through(middle.settings()) as proxy,
    ):
        client = await proxy.tls(HOST, 443)
        assert await client.request(GET) == (200, b"ok")
    assert middle.asked == [f"{OUT}:443"]
    assert b"authorization" not in middle.heads[0].lower()


async def test_names_are_given_to_a_proxy_that_wants_them():
    async with (
        Upstream(tls_name=HOST) as up,
        Middleman(up.port) as middle,
        through(middle.settings(by_hostname=True)) as proxy,
    ):
        assert (await (await proxy.tls(HOST, 443)).request(GET))[0] == 200
    assert middle.asked == [f"{HOST}:443"]


async def test_credentials_go_to_the_proxy_and_into_no_event():
    async with (
        Upstream(tls_name=HOST) as up,
        Middleman(up.port) as middle,
        through(middle.settings(credential="me:hunter2")) as proxy,
    ):
        assert (await (await proxy.tls(HOST, 443)).request(GET))[0] == 200
        shown = repr(proxy.events)
    token = base64.b64encode(b"me:hunter2")
    assert b"\r\nProxy-Authorization: Basic " + token + b"\r\n" in middle.heads[0]
    assert token not in up.requests[0].head
    assert b"roxy-" not in up.requests[0].head
    assert "hunter2" not in shown
    assert token.decode() not in shown


async def test_plain_requests_are_dialled_directly():
    async with Upstream() as up, Middleman() as middle:
        proxy = through(middle.settings(), rest(HOST, up.port))
        proxy.limits = Limits(dial_seconds=0.2)
        async with proxy:
            wanted = f"GET http://{HOST}:{up.port}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
            status, body = problem(await proxy.say(wanted.encode()))
    assert (status, body["error"]) == (502, "upstream_unreachable")
    assert middle.asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0"])
@pytest.mark.parametrize("by_hostname", [False, True])
async def test_a_forbidden_address_is_refused_before_the_proxy_is_asked(address, by_hostname):
    async with Middleman() as middle:
        settings = middle.settings(by_hostname=by_hostname, bypasses=())
        async with through(settings, addresses=(OUT, address)) as proxy:
            status, body = problem(await proxy.say(CONNECT))
    assert (status, body["error"]) == (403, "ssrf_denied")
    assert middle.asked == []


async def test_what_is_not_declared_never_reaches_the_proxy():
    async with Middleman() as middle, through(middle.settings(), rest("other", 443)) as proxy:
        status, body = problem(await proxy.say(CONNECT))
    assert (status, body["error"], middle.asked) == (403, "policy_denied", [])


async def test_the_next_address_is_asked_for_when_one_is_refused():
    def answer(middle):
        return ESTABLISHED if len(middle.heads) > 1 else b"HTTP/1.1 503 No\r\n\r\n"

    async with (
        Upstream(tls_name=HOST) as up,
        Middleman(up.port, answer) as middle,
        through(middle.settings(), addresses=(OUT, "203.0.113.10")) as proxy,
    ):
        assert (await (await proxy.tls(HOST, 443)).request(GET))[0] == 200
    assert middle.asked == [f"{OUT}:443", "203.0.113.10:443"]


FAILURES = {
    "refused": (b"HTTP/1.1 403 No\r\n\r\n", "refused a tunnel to api.example:443 (403)"),
    "no way": (b"HTTP/1.1 504 No\r\n\r\n", "could not reach api.example:443 (504)"),
    "credentials": (b"HTTP/1.1 407 No\r\n\r\n", "wants credentials (407)"),
    "other success": (b"HTTP/1.1 204 No\r\n\r\n", "refused a tunnel"),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED, "refused a tunnel"),
    "silence": (b"", "closed the connection"),
    "half an answer": (b"HTTP/1.1 200", "closed the connection"),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", "broke its answer (malformed_status_line)"),
    "bare lines": (b"HTTP/1.1 200 OK\n\n", "broke its answer (bare_lf)"),
    "oversize": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 8192 + b"\r\n\r\n", "(head_too_large)"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_failures_are_told_apart(case):
    answer, words = FAILURES[case]
    async with Middleman(0, answer) as middle, through(middle.settings()) as proxy:
        status, body = problem(await proxy.say(CONNECT))
        assert (status, body["error"]) == (502, "upstream_unreachable")
        assert words in body["reason"]
        assert [line.split(" [")[0] for line in proxy.lines] == ["NET:FAIL"]
        assert proxy.events[0].message.startswith("proxy: the corporate proxy ")


async def test_refused_credentials_are_named_so():
    async with (
        Middleman(0, b"HTTP/1.1 407 No\r\n\r\n") as middle,
        through(middle.settings(credential="me:hunter2"), addresses=(OUT, OUT)) as proxy,
    ):
        _, body = problem(await proxy.say(CONNECT))
    assert "does not accept the credentials in proxy_auth_file (407)" in body["reason"]
    assert len(middle.asked) == 1


async def test_a_proxy_that_is_not_there_is_named_so():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with through(CorporateProxy("127.0.0.1", port)) as proxy:
        _, body = problem(await proxy.say(CONNECT))
    assert "cannot be reached (Connection refused)" in body["reason"]
    async with through(CorporateProxy("unknown.example", port)) as proxy:
        _, body = problem(await proxy.say(CONNECT))
    assert "its name has no address" in body["reason"]


async def endless(writer):
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0)


async def dripping(writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "words"), [(endless, "broke its answer"), (dripping, "did not answer")]
)
async def test_an_answer_that_never_ends_is_given_up(script, words):
    """All addresses share the time: two that drip take no longer than one."""

    async def resolve(host):
        return (ip_address(host),)

    async with Middleman(script=script) as middle:
        clock = asyncio.get_running_loop().time
        tunnels = CorporateTunnels(middle.settings(), resolve, clock=clock, seconds=0.4)
        began = time.monotonic()
        with pytest.raises(TunnelFailed, match=words):
            await tunnels.open(Plan(HOST, 443, (ip_address(OUT), ip_address("203.0.113.10"))))
        assert time.monotonic() - began < 2


async def test_bytes_behind_the_answer_belong_to_the_tunnel():
    """Opaque: they reach the client, as those of a server that speaks first."""

    async def script(writer):
        writer.write(ESTABLISHED + b"220 ready\r\n")
        await writer.drain()
        await asyncio.sleep(5)

    async with (
        Middleman(script=script) as middle,
        through(middle.settings(), plain(HOST, 25, tls="skip")) as proxy,
    ):
        client = await proxy.tunnel(HOST, 25)
        async with asyncio.timeout(5):
            assert await client.reader.readline() == b"220 ready\r\n"
        client.close()


async def test_bytes_behind_the_answer_are_no_response_to_a_request():
    """Inspected TLS: what stands there is no TLS, so the request is never sent."""

    async def script(writer):
        writer.write(ESTABLISHED + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake")
        await writer.drain()
        await asyncio.sleep(5)

    async with Middleman(script=script) as middle, through(middle.settings()) as proxy:
        client = await proxy.tls(HOST, 443)
        status, body = await client.request(GET)
        client.close()
    assert status == 502
    assert b"fake" not in body


async def test_no_proxy_destinations_are_dialled_directly():
    """The address is one of this machine's own, which a test may declare to be another's."""
    own = own_address()
    async with Middleman() as middle:
        server = await asyncio.start_server(_say_ok, own, 0)
        port = server.sockets[0].getsockname()[1]
        settings = middle.settings(bypasses=(Bypass(ip_network(own)),))
        async with through(settings, rest(HOST, port), addresses=(OUT, own)) as proxy:
            client = await proxy.tunnel(HOST, port)
            sent = GET.replace(b"api.example", f"api.example:{port}".encode())
            assert await client.request(sent) == (200, b"ok")
        server.close()
    assert middle.asked == []


async def _say_ok(reader, writer):
    with contextlib.suppress(asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
    writer.close()


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Only asks the routing table: nothing is sent.
            probe.connect((OUT, 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]


# Proxies of other people's making.


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@contextlib.contextmanager
def real_proxy(name, directory, lines=""):
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (deploy/system-packages.sh)")
    port, config = _free_port(), directory / f"{name}.conf"
    if name == "tinyproxy":
        config.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 10\nLogLevel Error\n{lines}")
        arguments = ["-d", "-c", str(config)]
    else:
        config.write_text(
            f"http_port 127.0.0.1:{port}\n{lines}http_access allow all\ncache deny all\n"
            "access_log none\ncache_log /dev/null\npid_filename none\nnetdb_filename none\n"
            f"shutdown_lifetime 0 seconds\ncoredump_dir {directory}\n"
        )
        arguments = ["-N", "-f", str(config)]
    process = subprocess.Popen(
        [found, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_for(port, process):
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, "the proxy ended"
        time.sleep(0.05)
    raise AssertionError("the proxy does not listen")


REAL = pytest.mark.parametrize("name", ["tinyproxy", "squid"])


@REAL
async def test_a_real_proxy_by_name(name, tmp_path):
    """The proxy takes the name for this machine; for us it is an address elsewhere."""
    async with Upstream(tls_name="localhost") as up:
        with real_proxy(name, tmp_path) as port:
            settings = CorporateProxy("127.0.0.1", port, by_hostname=True)
            async with through(settings, rest("localhost", up.port)) as proxy:
                proxy.names.known["localhost"] = (OUT,)
                client = await proxy.tls("localhost", up.port)
                sent = GET.replace(b"api.example", f"localhost:{up.port}".encode())
                assert await client.request(sent) == (200, b"ok")
                assert await client.request(sent) == (200, b"ok")
                client.close()
    assert up.connections == 1


@REAL
async def test_a_real_proxy_by_address(name, tmp_path):
    own = own_address()
    context = authority("upstream").server_context(HOST, NOW)
    server = await asyncio.start_server(_say_ok, own, 0, ssl=context)
    number = server.sockets[0].getsockname()[1]
    with real_proxy(name, tmp_path) as port:
        settings = CorporateProxy("127.0.0.1", port)
        async with through(settings, rest(HOST, number), addresses=(own,)) as proxy:
            client = await proxy.tls(HOST, number)
            sent = GET.replace(b"api.example", f"api.example:{number}".encode())
            assert await client.request(sent) == (200, b"ok")
            client.close()
    server.close()


@pytest.mark.parametrize(
    ("credential", "words"),
    [("", "wants credentials (407)"), ("me:wrong", "does not accept"), ("me:right", None)],
)
async def test_a_real_proxy_with_credentials(credential, words, tmp_path):
    async with Upstream(tls_name="localhost") as up:
        with real_proxy("tinyproxy", tmp_path, "BasicAuth me right\n") as port:
            settings = CorporateProxy("127.0.0.1", port, credential=credential, by_hostname=True)
            async with through(settings, rest("localhost", up.port)) as proxy:
                proxy.names.known["localhost"] = (OUT,)
                client = await proxy.connect()
                place = f"localhost:{up.port}"
                await client.send(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
                answer = await client.head()
                if words is None:
                    assert answer.startswith(b"HTTP/1.1 200 ")
                    client.close()
                    return
                _, body = problem(answer + await client.rest())
                assert words in body["reason"]


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("squid", "acl no dstdomain localhost\nhttp_access deny no\n", "refused a tunnel"),
        ("tinyproxy", "ConnectPort 1\n", "refused a tunnel"),
        ("squid", "", "could not reach"),
        ("tinyproxy", "", "could not reach"),
    ],
)
async def test_a_real_proxy_that_refuses_or_fails(name, lines, words, tmp_path):
    closed = _free_port()
    with real_proxy(name, tmp_path, lines) as port:
        settings = CorporateProxy("127.0.0.1", port, by_hostname=True)
        async with through(settings, rest("localhost", closed)) as proxy:
            proxy.names.known["localhost"] = (OUT,)
            place = f"localhost:{closed}"
            wanted = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"
            _, body = problem(await proxy.say(wanted.encode()))
    assert words in body["reason"]


async def test_bytes_of_a_tunnel_before_a_request_are_no_answer_to_it():
    """A proxy, or who stands behind it, cannot have an answer ready for a request it has not seen."""
    early = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly"
    async with (
        Middleman(answer=ESTABLISHED + early) as middle,
        through(middle.settings(), rest(HOST, 8080)) as proxy,
    ):
        client = await proxy.tunnel(HOST, 8080)
        answer = await client.say(b"GET / HTTP/1.1\r\nHost: %b:8080\r\n\r\n" % HOST.encode())
        status, body = problem(answer)
        assert (status, body["error"]) == (502, "upstream_invalid_response")
        assert "before it was asked" in body["reason"]
