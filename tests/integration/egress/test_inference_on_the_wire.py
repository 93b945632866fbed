"""`inference.local` through the real proxy, to a server that insists on the operator's key."""

import asyncio
import contextlib
import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from integration.egress.harness import A, Proxy, Upstream, parse, read_request
from openshell.egress.dns import RType
from openshell.egress.inference import relaying
from openshell.egress.inference.routes import Route, Routes
from openshell.egress.limits import Limits
from openshell.ocsf import ApiEvent, Status
from support.model_server import KEY, MODEL, TEXT, WORDS, model_server

DUMMY = "dummy-key-of-the-agent"
OPENAI = (
    "openai_chat_completions",
    "openai_completions",
    "openai_responses",
    "openai_embeddings",
    "model_discovery",
)


def route(port, kind="openai", **changed):
    protocols = ("anthropic_messages", "model_discovery") if kind == "anthropic" else OPENAI
    fields = {
        "name": "inference.local",
        "base_url": f"http://{A}:{port}/v1",
        "protocols": protocols,
        "key": KEY,
        "model": MODEL,
        "provider_type": kind,
        "timeout_secs": 0,
        "model_in_path": False,
        "path_override": None,
        **changed,
    }
    return Route.read(**fields)


class Inference(Proxy):
    """The proxy with routes; no policy allows anything."""

    def __init__(self, *routes, **more):
        super().__init__('{"version": 1}', **more)
        self.routes = None if routes == (None,) else Routes("1", routes)

    def _generation(self, number, policy):
        return replace(super()._generation(number, policy), inference=self.routes)

    async def open(self):
        return await self.tls("inference.local", 443)

    async def ask(self, path="/v1/chat/completions", body=None, *, method="POST", **fields):
        """Status, fields and body of one request on a connection of its own."""
        client = await self.open()
        try:
            return parse(await client.say(message(path, body, method=method, **fields)))
        finally:
            client.close()

    @property
    def calls(self):
        return [event for event in self.events if isinstance(event, ApiEvent)]


def message(path="/v1/chat/completions", body=None, *, method="POST", close=True, **fields):
    if body is None:
        body = prompt("hi")
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    if method == "GET":
        raw = b""
    lines = {
        "Host": "inference.local",
        "Authorization": f"Bearer {DUMMY}",
        "Content-Type": "application/json",
        **({"Content-Length": str(len(raw))} if raw else {}),
        **({"Connection": "close"} if close else {}),
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + raw


def prompt(text, **more):
    return {
        "model": "what-the-agent-wants",
        "messages": [{"role": "user", "content": text}],
        **more,
    }


@pytest.fixture
def server():
    with model_server() as started:
        yield started


def unchunk(body):
    data = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        if not int(size, 16):
            assert rest == b"\r\n"
            return data
        data, body = data + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    raise AssertionError("the body has no end")


async def test_a_request_reaches_the_model_with_the_operators_key(server):
    async with Inference(route(server.port)) as proxy:
        status, fields, body = await proxy.ask()
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == TEXT
    assert int(fields["content-length"]) == len(body)
    assert fields["x-request-id"] == "req_1"
    got = server.last
    assert got.path == "/v1/chat/completions"
    assert got.headers["authorization"] == f"Bearer {KEY}"
    assert got.headers["host"] == f"{A}:{server.port}"
    assert server.last_body["model"] == MODEL
    assert DUMMY.encode() not in got.body + repr(got.headers).encode()
    (event,) = proxy.calls
    assert (event.operation, event.model, event.provider, event.status) == (
        "openai_chat_completions",
        MODEL,
        "openai",
        Status.SUCCESS,
    )
    assert event.unmapped == {"tokens_in": 3, "tokens_out": 4}
    assert event.process.name == "/usr/bin/curl"
    assert KEY not in " ".join(map(repr, proxy.events))
    assert "hi" not in [getattr(event, "message", "") for event in proxy.events]


ANSWERED = {
    "completions": ("/v1/completions", {"prompt": "hi"}, "POST"),
    "responses": ("/v1/responses", {"input": "hi"}, "POST"),
    "embeddings": ("/v1/embeddings", {"input": "hi"}, "POST"),
    "models": ("/v1/models", None, "GET"),
    "absolute target": ("https://inference.local/v1/models", None, "GET"),
    "dots": ("/v1/x/../models?limit=3", None, "GET"),
}


@pytest.mark.parametrize(("path", "body", "method"), ANSWERED.values(), ids=ANSWERED.keys())
async def test_every_way_of_asking(server, path, body, method):
    async with Inference(route(server.port)) as proxy:
        status, _, answer = await proxy.ask(path, body, method=method)
    assert status == 200, answer
    assert len(proxy.calls) == 1


async def test_anthropics_way(server):
    async with Inference(route(server.port, "anthropic")) as proxy:
        status, _, body = await proxy.ask(
            "/v1/messages?beta=true", prompt("hi"), x_api_key=DUMMY, anthropic_beta="tools"
        )
    assert (status, json.loads(body)["content"][0]["text"]) == (200, TEXT)
    got = server.last
    assert got.path == "/v1/messages?beta=true"
    assert got.headers["x-api-key"] == KEY
    assert got.headers["anthropic-version"] == "2023-06-01"
    assert got.headers["anthropic-beta"] == "tools"
    assert "authorization" not in got.headers


async def test_a_stream_arrives_as_it_comes(server):
    async with Inference(route(server.port)) as proxy:
        client = await proxy.open()
        await client.send(message(body=prompt("hi", stream=True), close=False))
        head = await client.head()
        assert b"Transfer-Encoding: chunked" in head
        assert b"content-length" not in head.lower()
        first = await client.reader.readuntil(b"\n\n\r\n")
        assert WORDS[0].encode() in first
        assert first.count(b"data:") == 1
        rest = await client.reader.readuntil(b"0\r\n\r\n")
        assert b"[DONE]" in rest
        # The connection carries another request.
        await client.send(message("/v1/models", method="GET"))
        assert parse(await client.rest())[0] == 200
        client.close()
    assert proxy.calls[0].unmapped == {"tokens_in": 3, "tokens_out": 4}


async def test_one_upstream_connection_serves_one_client_connection():
    def answer(request):
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    async with Upstream(answer) as up, Inference(route(up.port)) as proxy:
        client = await proxy.open()
        for _ in range(3):
            await client.send(message(close=False))
            assert (await client.response())[0] == 200
        client.close()
        assert up.connections == 1


async def test_a_name_is_looked_up_once_for_a_connection():
    up = Upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", tls_name="models.example")
    async with up:
        url = f"https://models.example:{up.port}/v1"
        async with Inference(route(up.port, base_url=url)) as proxy:
            proxy.names.known["models.example"] = ["93.184.216.34", "93.184.216.35"]
            dial_loopback(proxy)
            client = await proxy.open()
            for _ in range(3):
                await client.send(message(close=False))
                assert (await client.response())[0] == 200
                proxy.names.known["models.example"].reverse()
            client.close()
            assert proxy.names.asked.count("models.example") == 1
        assert up.connections == 1


def dial_loopback(proxy):
    """Wherever the proxy dials, it comes to this machine."""
    dial = proxy.proxy._services.upstreams.dial

    async def elsewhere(plan, **how):
        return await dial(replace(plan, addresses=(ip_address("127.0.0.1"),)), **how)

    proxy.proxy._services.upstreams.dial = elsewhere


async def test_an_upstream_that_closed_in_between_is_asked_again():
    async def script(reader, writer):
        while request := await read_request(reader):
            up.requests.append(request)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
            await reader.read(1)
            return

    async with Upstream(script=script) as up, Inference(route(up.port)) as proxy:
        client = await proxy.open()
        for _ in range(3):
            await client.send(message(close=False))
            assert (await client.response())[0] == 200
        client.close()


REFUSED = {
    "another path": ("/v1/files", "POST"),
    "another method": ("/v1/chat/completions", "PUT"),
    "out of the root": ("/../v1/models", "GET"),
    "no pattern": ("/", "GET"),
}


@pytest.mark.parametrize(("path", "method"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_not_served(server, path, method):
    async with Inference(route(server.port)) as proxy:
        status, fields, body = await proxy.ask(path, method=method)
    assert (status, json.loads(body)) == (403, {"error": "connection not allowed by policy"})
    assert fields["connection"] == "close"
    assert server.received == []
    (event,) = proxy.denials
    assert event.engine == "inference"


async def test_a_placeholder_in_a_path_is_in_no_event(server):
    async with Inference(route(server.port)) as proxy:
        await proxy.ask("/openshell:resolve:env:v1_TOKEN", method="GET")
    assert "v1_TOKEN" not in repr(proxy.events)


BROKEN = {
    "CL and TE": (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400, b""),
    "two lengths": (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, b""),
    "length is none": (b"Content-Length: x\r\n\r\n{}", 400, b""),
    "too long": (b"Content-Length: 10485760\r\n\r\n", 413, b"Payload Too Large"),
    "chunk is none": (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"Bad Request"),
    "chunks too many": (
        b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 4097,
        413,
        b"Payload Too Large",
    ),
    "chunks too large": (
        b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b" " * 0x100000 + b"\r\n") * 10,
        413,
        b"Payload Too Large",
    ),
}


@pytest.mark.parametrize(("rest", "status", "text"), BROKEN.values(), ids=BROKEN.keys())
async def test_requests_that_break_http_or_a_bound(server, rest, status, text):
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\n"
    async with Inference(route(server.port)) as proxy:
        client = await proxy.open()
        answer = parse(await client.say(start + rest))
        client.close()
    assert (answer[0], answer[2]) == (status, text)
    assert server.received == []


async def test_chunks_are_taken_and_sent_with_a_length(server):
    body = json.dumps(prompt("hi")).encode()
    chunked = b"".join(b"1\r\n%b\r\n" % body[i : i + 1] for i in range(len(body))) + b"0\r\n\r\n"
    start = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    async with Inference(route(server.port)) as proxy:
        client = await proxy.open()
        assert parse(await client.say(start + chunked))[0] == 200
        client.close()
    assert "transfer-encoding" not in server.last.headers


async def test_a_client_that_waits_is_asked_for_its_body(server):
    async with Inference(route(server.port)) as proxy:
        client = await proxy.open()
        head, _, body = message(Expect="100-continue").partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert parse(await client.say(body))[0] == 200
        client.close()


async def test_a_body_in_which_no_model_can_be_put_is_refused(server):
    async with Inference(route(server.port)) as proxy:
        status, _, body = await proxy.ask(body=b'\xef\xbb\xbf{"model": "another"}')
    assert (status, json.loads(body)["error"]["type"]) == (400, "invalid_request_error")
    assert server.received == []


async def test_without_routes_it_says_how_to_set_one():
    async with Inference() as proxy:
        status, _, body = await proxy.ask()
        assert (status, json.loads(body)["hint"]) == (503, "run: openshell inference set --help")
        status, _, body = await proxy.ask("/v1/messages")
    assert json.loads(body)["type"] == "error"
    assert json.loads(body)["error"]["message"] == "cluster inference is not configured"


async def test_a_route_that_does_not_speak_the_protocol(server):
    async with Inference(route(server.port)) as proxy:
        status, _, body = await proxy.ask("/v1/messages")
    assert status == 400
    assert json.loads(body)["error"]["message"] == "no compatible inference route available"
    assert server.received == []


async def test_the_systems_route_is_not_for_agents(server):
    async with Inference(route(server.port, name="sandbox-system")) as proxy:
        assert (await proxy.ask())[0] == 503
    assert server.received == []


async def test_an_error_of_the_provider_is_passed_on(server):
    server.key = "sk-another"
    async with Inference(route(server.port)) as proxy:
        status, _, body = await proxy.ask()
        assert (status, json.loads(body)["error"]["type"]) == (401, "authentication_error")
        server.key = KEY
        assert (await proxy.ask(body=prompt("please status=429")))[0] == 429
    assert [call.detail for call in proxy.calls] == [
        "the upstream answered 401",
        "the upstream answered 429",
    ]
    assert KEY not in repr(proxy.events)


async def test_an_upstream_that_is_down():
    async with Upstream() as up:
        port = up.port
    async with Inference(route(port)) as proxy:
        status, _, body = await proxy.ask()
        assert status == 503
        assert json.loads(body)["error"]["message"] == "inference service unavailable"


async def test_an_answer_that_takes_too_long(server):
    async with Inference(route(server.port, timeout_secs=1)) as proxy:
        assert (await proxy.ask(body=prompt("please sleep=0.3")))[0] == 200
        status, _, body = await proxy.ask(body=prompt("please sleep=3"))
    assert (status, proxy.calls[-1].detail) == (503, "no answer in time")
    assert json.loads(body)["error"]["message"] == "inference service unavailable"


async def test_a_stream_may_take_longer_than_the_routes_time(server):
    async with Inference(route(server.port, timeout_secs=1)) as proxy:
        assert (await proxy.ask(body=prompt("please sleep=1.3", stream=True)))[0] == 200


NO_ANSWERS = {
    "nothing": b"",
    "no HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
    "a switch": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
async def test_an_upstream_that_breaks_its_answer(answer):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    async with Upstream(script=script) as up, Inference(route(up.port)) as proxy:
        status, _, body = await proxy.ask()
    assert status == 502
    assert json.loads(body)["error"]["message"] == "inference service error"
    assert proxy.calls[0].status is Status.FAILURE


async def test_an_answer_that_is_too_large_to_hold(server):
    async with Inference(route(server.port)) as proxy:
        assert (await proxy.ask(body=prompt("please huge")))[0] == 502
        assert (await proxy.ask())[0] == 200, "what was held is given back"


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_stream_that_is_cut_ends_with_an_event(server, kind):
    path = "/v1/messages" if kind == "anthropic" else "/v1/chat/completions"
    async with Inference(route(server.port, kind)) as proxy:
        status, _, body = await proxy.ask(path, prompt("please cut", stream=True))
    text = unchunk(body).decode()
    last = text.rstrip().splitlines()[-1]
    assert (status, json.loads(last.removeprefix("data: "))["error"]) == (
        200,
        {"message": "response truncated: upstream read error", "type": "proxy_stream_error"},
    )
    assert ("event: error\n" in text) is (kind == "anthropic")
    assert proxy.calls[0].detail == "upstream read error"


def streaming(*pieces, kind=b"text/event-stream", more=b"", then=None):
    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n" + more + b"\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then is not None:
            await then.wait()

    return script


async def test_a_stream_that_falls_silent(monkeypatch):
    monkeypatch.setattr(
        relaying.Relay.__init__, "__kwdefaults__", {"idle_seconds": 0.2, "limit": 9}
    )
    hang = asyncio.Event()
    script = streaming(b"data: 1\n", then=hang)
    async with Upstream(script=script) as up, Inference(route(up.port)) as proxy:
        _, _, body = await proxy.ask(body=prompt("hi", stream=True))
        hang.set()
    assert b"response truncated: chunk idle timeout exceeded" in unchunk(body)


async def test_a_stream_that_is_too_long(monkeypatch):
    monkeypatch.setattr(relaying.Relay.__init__, "__kwdefaults__", {"idle_seconds": 5, "limit": 9})
    hang = asyncio.Event()
    script = streaming(b"data: 1\n", b"data: 22\n", then=hang)
    async with Upstream(script=script) as up, Inference(route(up.port)) as proxy:
        _, _, body = await proxy.ask(body=prompt("hi", stream=True))
        hang.set()
    assert b"response truncated: exceeded maximum streaming body size" in unchunk(body)


@pytest.mark.parametrize(
    "fields",
    [{"kind": b"application/json"}, {"more": b"Content-Encoding: gzip\r\n"}],
    ids=["no events", "compressed"],
)
async def test_what_takes_no_event_is_cut_off(fields):
    chunked = {**fields, "more": fields.get("more", b"") + b"Transfer-Encoding: chunked\r\n"}
    script = streaming(b"3\r\nabc\r\n", **chunked)
    async with Upstream(script=script) as up, Inference(route(up.port)) as proxy:
        _, _, body = await proxy.ask(body=prompt("hi", stream=True))
    assert body == b"3\r\nabc\r\n", "without an end"


async def test_a_client_that_goes_away_takes_its_upstream_along():
    gone = asyncio.Event()

    async def script(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"data: 1\n\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        gone.set()

    async with Upstream(script=script) as up, Inference(route(up.port)) as proxy:
        client = await proxy.open()
        await client.send(message(body=prompt("hi", stream=True)))
        await client.head()
        client.close()
        async with asyncio.timeout(5):
            await gone.wait()
            while not proxy.calls:
                await asyncio.sleep(0.01)
    assert proxy.calls[0].detail == "the client went away"


async def test_a_client_of_http_1_0_gets_a_stream_that_ends_by_closing(server):
    async with Inference(route(server.port)) as proxy:
        client = await proxy.open()
        asked = message(body=prompt("hi", stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0")
        _, fields, body = parse(await client.say(asked))
        client.close()
    assert "transfer-encoding" not in fields
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_change_of_routes_counts_for_the_next_request(server):
    with model_server() as other:
        async with Inference(route(server.port)) as proxy:
            client = await proxy.open()
            await client.send(message(close=False))
            assert (await client.response())[0] == 200
            proxy.routes = Routes("2", (route(other.port),))
            proxy.reload('{"version": 1}')
            await client.send(message(close=False))
            assert (await client.response())[0] == 200
            client.close()
    assert (len(server.received), len(other.received)) == (1, 1)


@pytest.mark.parametrize("off", ["routes", "authority"])
async def test_without_a_context_the_tunnel_is_closed(server, off):
    made = Inference(None) if off == "routes" else Inference(route(server.port), ca=False)
    async with made as proxy:
        client = await proxy.tunnel("inference.local", 443)
        assert await client.rest() == b""
        client.close()
        (event,) = proxy.denials
    assert event.engine == "inference"


OTHER_PLACES = {
    "another port": b"CONNECT inference.local:8443 HTTP/1.1\r\nHost: inference.local:8443\r\n\r\n",
    "plain": b"GET http://inference.local/v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n",
    "plain on 443": b"GET http://inference.local:443/ HTTP/1.1\r\nHost: inference.local\r\n\r\n",
    "a name in front": b"CONNECT x.inference.local:443 HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("data", OTHER_PLACES.values(), ids=OTHER_PLACES.keys())
async def test_other_places_are_the_policys_affair(server, data):
    async with Inference(route(server.port)) as proxy:
        assert parse(await proxy.say(data))[0] == 403
    assert server.received == []


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1"])
async def test_a_route_to_the_host_itself_is_not_dialled(server, address):
    async with Inference(
        route(server.port, base_url=f"https://models.example:{server.port}/v1")
    ) as proxy:
        proxy.names.known["models.example"] = [address]
        status, _, _ = await proxy.ask()
    assert status == 503
    assert "never reachable" in proxy.calls[0].detail
    assert server.received == []


async def test_the_gateways_port_is_not_reached_by_the_alias(server):
    made = Inference(route(server.port))
    made.closed_ports = frozenset({server.port})
    async with made as proxy:
        assert (await proxy.ask())[0] == 503
    assert server.received == []


async def test_a_captured_connection_is_served(server):
    async with Inference(route(server.port)) as proxy:
        table = proxy.proxy._capture._names
        assert table.address_for("inference.local", RType.A) == "198.18.0.1"
        # The kernel would say 443.
        proxy.proxy._capture._is_own = lambda _address: False
        serve = proxy.proxy._capture.serve

        async def at_443(connection):
            connection.peers = replace(connection.peers, server=("198.18.0.1", 443))
            await serve(connection)

        proxy.proxy._capture.serve = at_443
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.capture_port)
        await writer.start_tls(proxy.client_tls(), server_hostname="inference.local")
        writer.write(message())
        answer = await reader.read()
        writer.close()
    assert parse(answer)[0] == 200


async def test_an_upstream_with_a_wrong_certificate_gets_nothing():
    async with (
        Upstream(tls_name="other.example") as wrong,
        Upstream(tls_name="models.example") as right,
        Upstream(tls_name="models.example", ca="stranger") as stranger,
    ):
        for up, wanted in ((right, 200), (wrong, 503), (stranger, 503)):
            url = f"https://models.example:{up.port}/v1"
            async with Inference(route(up.port, base_url=url)) as proxy:
                proxy.names.known["models.example"] = ["93.184.216.34"]
                dial_loopback(proxy)
                status, _, _ = await proxy.ask()
            assert status == wanted
            assert len(up.requests) == (1 if wanted == 200 else 0)


async def test_a_slow_body_gives_up_its_place(server):
    async with Inference(route(server.port), limits=Limits(body_idle_seconds=0.2)) as proxy:
        client = await proxy.open()
        head = message().partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        status, _, text = parse(await client.say(head + b"{"))
        client.close()
    assert (status, text) == (408, b"Request Timeout")
