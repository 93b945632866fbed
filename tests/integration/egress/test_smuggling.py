"""No request reaches a server that policy has not judged: what is smuggled, nginx and uvicorn never see."""

import asyncio
import shutil

import pytest

from fuzz.smuggling_vectors import SECRET, VECTORS
from integration.egress.harness import A, Proxy, rest, rest_policy
from integration.egress.smuggling import NginxNotes, UvicornNotes
from openshell.ocsf import Action, HttpEvent

RULES = [
    {"allow": {"method": "GET", "path": "/open/**"}},
    {"allow": {"method": "POST", "path": "/open/**"}},
]
# How long a client waits that has sent less than it announced: the proxy waits for more.
PATIENCE = 0.3

SERVERS = {
    "nginx": NginxNotes,
    "uvicorn-h11": lambda _: UvicornNotes("h11"),
    "uvicorn-llhttp": lambda _: UvicornNotes("httptools"),
}


async def converse(client, stream):
    """Send and take what comes until the end, or until nothing more comes."""
    seen = b""
    try:
        async with asyncio.timeout(PATIENCE):
            await client.send(stream)
            while chunk := await client.reader.read(1 << 16):
                seen += chunk
    except (TimeoutError, ConnectionError):
        pass
    finally:
        client.close()
    return seen


def request(start, port, vector):
    return b"POST %b HTTP/1.1\r\nHost: %b:%d\r\n%b" % (start, A.encode(), port, vector)


@pytest.mark.parametrize("kind", SERVERS)
async def test_servers_see_what_was_judged(kind, tmp_path):
    if kind == "nginx" and shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    up = SERVERS[kind](tmp_path)
    async with up, Proxy(rest_policy(allowed(up.port))) as proxy:
        answers = {}

        async def one(number, name, *, tunnel):
            way = "t" if tunnel else "a"
            path = b"/open/%d%b" % (number, way.encode())
            after = b"GET %b-after HTTP/1.1\r\nHost: %b:%d\r\n\r\n"
            if tunnel:
                client = await proxy.tunnel(A, up.port)
                start = path
            else:
                client = await proxy.connect()
                start = b"http://%b:%d%b" % (A.encode(), up.port, path)
            stream = request(start, up.port, VECTORS[name])
            stream += after % (path, A.encode(), up.port)
            answers[name, way] = await converse(client, stream)

        await asyncio.gather(
            *(
                one(number, name, tunnel=tunnel)
                for number, name in enumerate(VECTORS)
                for tunnel in (True, False)
            )
        )
        allowed_ones = [
            event
            for event in proxy.events
            if isinstance(event, HttpEvent) and event.action is Action.ALLOWED
        ]
    paths = [line.partition(" ")[2] for line in up.lines]
    assert not [path for path in paths if SECRET.decode() in path]
    # Each request that a server understood is one that policy allowed, under the same name.
    judged = sorted(f"{event.method} {event.path}" for event in allowed_ones)
    for line in up.lines:
        judged.remove(line)
    assert up.refused == 0
    # The probe works: what is right arrives, and the request behind it.
    for name in ("request is the body", "request is a chunk"):
        number = list(VECTORS).index(name)
        assert f"POST /open/{number}t" in up.lines
        assert f"GET /open/{number}t-after" in up.lines
        assert b"GET /open/%dt-after" % number in answers[name, "t"]


@pytest.mark.parametrize("kind", SERVERS)
async def test_without_the_proxy_a_server_sees_the_second_request(kind, tmp_path):
    """So that its absence elsewhere means something."""
    if kind == "nginx" and shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    async with SERVERS[kind](tmp_path) as up:
        _, writer = connection = await asyncio.open_connection("127.0.0.1", up.port)
        writer.write(request(b"/open/x", up.port, VECTORS["request behind"]))
        async with asyncio.timeout(5):
            await connection[0].readuntil(b"GET /secret")
        writer.close()
    assert up.lines == ["POST /open/x", "GET /secret"]


def allowed(port):
    endpoint = rest(A, port, rules=RULES)
    del endpoint["access"]
    return endpoint
