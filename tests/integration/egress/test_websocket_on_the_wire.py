"""WebSockets through the proxy: each row of the contract's tables, with servers of other people's making."""

import asyncio
import contextlib
import zlib
from dataclasses import replace

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from integration.egress.harness import (
    SECRET,
    A,
    B,
    Proxy,
    Upstream,
    abort,
    bound,
    plain,
    problem,
    rest,
)
from integration.egress.test_capture import SYNTHETIC, Captured
from integration.egress.websockets_here import (
    BINARY,
    CLOSE,
    KEY,
    MASK,
    MORE,
    PING,
    TEXT,
    Peer,
    chat,
    closing,
    echoing,
    frame,
    granted,
    handshake,
    opened,
    policy,
    read_frame,
)
from openshell.egress.generation import Generation
from openshell.egress.limits import Limits
from openshell.egress.websocket.deflate import deflate_message
from openshell.egress.websocket.frames import MAX_BINARY_FRAME, MAX_TEXT
from openshell.egress.websocket.messages import AssemblyBudget
from openshell.policy.compile import compile_policy
from openshell.policy.parse import parse_policy

CLEAN = [ClientPerMessageDeflateFactory(client_max_window_bits=None)]

# Clients of the library

MODES = {
    "read": lambda port: chat(port),
    "rest": lambda port: rest(A, port),
    "no protocol": lambda port: plain(A, port),
}
OFFERS = {
    "compressed": {"extensions": CLEAN, "compression": None},
    "other offer": {},
    "uncompressed": {"compression": None},
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS.keys())
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("endpoint", MODES.values(), ids=MODES.keys())
async def test_a_library_speaks_to_a_library(endpoint, tls, offer):
    async with echoing(tls=tls) as (port, seen), Proxy(policy(endpoint(port))) as proxy:
        uri = f"{'wss' if tls else 'ws'}://{A}:{port}/chat"
        context = {"ssl": proxy.client_tls()} if tls else {}
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(uri, proxy=through, max_size=None, **context, **offer) as socket:
            messages = ["hello", "ü" * 70_000, b"\0" * 300_000, ""]
            for message in messages:
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(["in ", "many ", "pieces"])
            assert await socket.recv() == "in many pieces"
            await (await socket.ping())
        assert (socket.close_code, seen[0]) == (1000, "hello")
    assert proxy.denials == []


@pytest.mark.parametrize("reads", [True, False], ids=["read", "copied"])
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "other"])
async def test_which_compression_is_agreed_on(clean, reads):
    """A clean offer survives in both modes, another one only where nobody reads."""
    offer = OFFERS["compressed" if clean else "other offer"]
    endpoint = MODES["read" if reads else "rest"]
    async with echoing() as (port, _), Proxy(policy(endpoint(port))) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through, **offer) as socket:
            agreed = socket.response.headers.get("Sec-WebSocket-Extensions", "")
    assert agreed.startswith("permessage-deflate") is (clean or not reads)
    assert ("client_no_context_takeover" in agreed) is (clean and reads)


async def test_one_event_for_the_handshake_and_none_for_allowed_messages():
    async with echoing() as (port, _), Proxy(policy(chat(port))) as proxy:
        async with connect(
            f"ws://{A}:{port}/chat?token=x", proxy=f"http://127.0.0.1:{proxy.port}"
        ) as socket:
            for _ in range(20):
                await socket.send("x")
                await socket.recv()
        assert len(proxy.lines) == 2
        event = proxy.events[1]
    assert event.message == f"WEBSOCKET_L7_REQUEST allow_upgrade GET {A}:{port}/chat"
    assert (event.engine, event.path) == ("l7-websocket", "/chat")


async def test_a_copied_one_says_that_nobody_reads_it():
    async with echoing() as (port, _), Proxy(policy(rest(A, port))) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            await socket.send("x")
            await socket.recv()
        assert "L7_REQUEST allow_upgrade GET" in proxy.events[1].message
        assert "L7 enforcement no longer active" in proxy.events[2].message


async def test_a_refused_handshake():
    async with echoing() as (port, seen), Proxy(policy(chat(port))) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            await socket.send("works")
            await socket.recv()
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{A}:{port}/other", proxy=through)
        assert refused.value.response.status_code == 403
        assert proxy.denials[-1].message.startswith("WEBSOCKET_L7_REQUEST deny GET")
    assert seen == ["works"]


DOORS = ["tunnel", "absolute", "captured"]


@pytest.mark.parametrize("door", DOORS)
async def test_every_door_leads_there(door):
    async with Peer() as peer:
        text = policy(chat(peer.port))
        if door == "captured":
            box = Captured(text, (SYNTHETIC, peer.port), {SYNTHETIC: A})
        else:
            box = Proxy(text)
        async with box as proxy:
            if door == "captured":
                client = await proxy.connect_directly()
                await client.send(handshake(b"/chat", f"{A}:{peer.port}".encode()))
                assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            else:
                client = await opened(proxy, peer.port, absolute=door == "absolute")
            await client.send(frame(TEXT, b"hi") + frame(CLOSE, b"\x03\xe8"))
            client.writer.write_eof()
            assert [f.data for f in await peer.frames()] == [b"hi", b"\x03\xe8"]
        head = peer.heads[0].lower()
    assert head.startswith(b"get /chat http/1.1\r\n")
    for field in (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-key"):
        assert head.count(b"\r\n" + field) == 1
    assert (b"\r\nvia:" in head) is (door == "absolute")
    assert proxy.denials == []


# 13.1: what a handshake is

DROP, ADD = "drop", "fields"
FAILED = {
    "no upgrade": {DROP: [b"Upgrade"]},
    "no connection": {DROP: [b"Connection"]},
    "no key": {DROP: [b"Sec-WebSocket-Key"]},
    "short key": {DROP: [b"Sec-WebSocket-Key"], ADD: [(b"Sec-WebSocket-Key", b"c2hvcnQ=")]},
    "two keys": {ADD: [(b"Sec-WebSocket-Key", KEY)]},
    "other version": {DROP: [b"Sec-WebSocket-Version"], ADD: [(b"Sec-WebSocket-Version", b"8")]},
    "no version": {DROP: [b"Sec-WebSocket-Version"]},
    "subprotocol": {ADD: [(b"Sec-WebSocket-Protocol", b"a b")]},
    "method": {"method": b"POST", ADD: [(b"Content-Length", b"0")]},
    "a body": {ADD: [(b"Content-Length", b"3")]},
}


def reading(port):
    return rest(A, port, websocket_credential_rewrite=True)


KINDS = {
    "websocket": (chat, 403),
    "rest that reads": (reading, 400),
    "rest": (lambda port: rest(A, port), 200),
}


@pytest.mark.parametrize("change", FAILED.values(), ids=FAILED.keys())
@pytest.mark.parametrize(("kind", "expected"), KINDS.values(), ids=KINDS.keys())
async def test_what_is_no_handshake(kind, expected, change):
    async with Upstream() as up, Proxy(policy(kind(up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        tail = b"abc" if (b"Content-Length", b"3") in change.get(ADD, ()) else b""
        await client.send(handshake(b"/chat", f"{A}:{up.port}".encode(), **change) + tail)
        status, body = await client.response()
        assert status == expected
        if status == 200:
            assert up.requests[0].header(b"upgrade") is up.requests[0].header(b"connection") is None
            return
        assert up.requests == []
        assert len(proxy.denials) == 1
    if status == 403:
        assert b"websocket endpoint requires a valid WebSocket upgrade request" in body
    else:
        assert b"invalid_websocket_upgrade" in body


async def test_an_ordinary_request_to_a_websocket_endpoint():
    async with Upstream() as up, Proxy(policy(chat(up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        head = f"GET /chat HTTP/1.1\r\nHost: {A}:{up.port}\r\n\r\n".encode()
        status, answer = problem(await client.say(head))
    assert (status, answer["error"]) == (403, "policy_denied")
    assert up.requests == []


async def test_a_handshake_that_the_server_turns_down_is_an_ordinary_answer():
    async with Upstream() as up, Proxy(policy(rest(A, up.port), chat(up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        for _ in range(2):
            await client.send(handshake(b"/chat", f"{A}:{up.port}".encode()))
            assert await client.response() == (200, b"ok")
    assert up.connections == 1


# 13.2: what a server may answer

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"
ANSWERS = {
    "wrong accept": granted(accept=b"AAAA"),
    "no accept": granted().replace(b"Sec-WebSocket-Accept", b"X"),
    "another protocol": granted().replace(b"websocket\r\n", b"h2c\r\n"),
    "no upgrade": granted().replace(b"Upgrade: websocket\r\n", b""),
    "no connection": granted().replace(b"Connection: Upgrade\r\n", b""),
    "two accepts": granted(b"Sec-WebSocket-Accept: x"),
    "subprotocol": granted(b"Sec-WebSocket-Protocol: chat"),
    "extension": granted(b"Sec-WebSocket-Extensions: x-other"),
    "not asked to compress": granted(DEFLATE),
}


@pytest.mark.parametrize("absolute", [True, False], ids=["plain", "tunnel"])
@pytest.mark.parametrize("endpoint", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_that_does_not_fit(answer, endpoint, absolute):
    hidden = frame(TEXT, b"hidden", masked=False)
    async with (
        Peer(answer, behind=hidden) as peer,
        Proxy(policy(endpoint(peer.port))) as proxy,
    ):
        where = f"{A}:{peer.port}".encode()
        client = await (proxy.connect() if absolute else proxy.tunnel(A, peer.port))
        path = b"http://" + where + b"/chat" if absolute else b"/chat"
        told = await client.say(handshake(path, where))
        assert problem(told)[0] == 502
        assert b"hidden" not in told
        assert await peer.frames() == []


async def test_a_switch_that_nobody_asked_for():
    async with Peer() as peer, Proxy(policy(rest(A, peer.port))) as proxy:
        client = await proxy.tunnel(A, peer.port)
        told = await client.say(f"GET / HTTP/1.1\r\nHost: {A}:{peer.port}\r\n\r\n".encode())
    assert problem(told)[0] == 502


@pytest.mark.parametrize("endpoint", MODES.values(), ids=MODES.keys())
async def test_a_chosen_subprotocol_and_bytes_behind_the_head(endpoint):
    hello = frame(TEXT, b"hello", masked=False)
    answer = granted(b"Sec-WebSocket-Protocol: b")
    async with Peer(answer, behind=hello) as peer, Proxy(policy(endpoint(peer.port))) as proxy:
        client = await opened(proxy, peer.port, fields=[(b"Sec-WebSocket-Protocol", b"a, b")])
        assert b"\r\nSec-WebSocket-Protocol: b\r\n" in client.answer
        assert (await read_frame(client.reader)).data == b"hello"
        client.close()


async def test_a_server_that_never_answers_holds_nothing_once_the_client_goes():
    waiting = asyncio.Event()

    async def silent(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        waiting.set()
        try:
            assert await reader.read(1) == b""
        finally:
            gone.set()

    gone, limits = asyncio.Event(), Limits(half_closed_seconds=0.2)
    async with Upstream(script=silent) as up, Proxy(policy(chat(up.port)), limits=limits) as proxy:
        client = await proxy.tunnel(A, up.port)
        await client.send(handshake(b"/chat", f"{A}:{up.port}".encode()))
        await waiting.wait()
        client.close()
        async with asyncio.timeout(10):
            await gone.wait()


# 13.3: frames of a client

BROKEN = {
    "unmasked": (frame(TEXT, b"x", masked=False), 1002),
    "reserved opcode": (frame(3), 1002),
    "reserved bit": (frame(TEXT, rsv=0x20), 1002),
    "compressed, not agreed": (frame(TEXT, rsv=0x40), 1002),
    "long control frame": (frame(PING, b"x" * 126), 1002),
    "control frame in pieces": (frame(PING, fin=False), 1002),
    "text in text": (frame(TEXT, fin=False) + frame(TEXT), 1002),
    "length in too many bytes": (b"\x81\xfe\x00\x05" + MASK + b"12345", 1002),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
    "close code": (frame(CLOSE, b"\x03\xee"), 1002),
    "close reason": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "no UTF-8": (frame(TEXT, b"\xff"), 1007),
    "large text": (b"\x81\xff" + (MAX_TEXT + 1).to_bytes(8, "big") + MASK, 1009),
    "large binary": (b"\x82\xff" + (MAX_BINARY_FRAME + 1).to_bytes(8, "big") + MASK, 1009),
    "many pieces": (frame(TEXT, fin=False) + frame(MORE, fin=False) * 4096, 1009),
}


@pytest.mark.parametrize(("wire", "code"), BROKEN.values(), ids=BROKEN.keys())
async def test_what_ends_it_and_who_is_told(wire, code):
    async with Peer() as peer, Proxy(policy(chat(peer.port))) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(TEXT, b"before") + wire)
        assert closing(await read_frame(client.reader))[0] == code
        assert await client.rest() == b""
        first, last = await peer.frames()
        assert (first.data, closing(last)) == (b"before", (code, ""))
        assert len(proxy.denials) == 1
    assert proxy.denials[0].engine == "l7-websocket"


async def test_a_frame_after_close():
    async with Peer() as peer, Proxy(policy(chat(peer.port))) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"late"))
        assert closing(await read_frame(client.reader))[0] == 1002
        # The server has had its close frame.
        assert [f.data for f in await peer.frames()] == [b"\x03\xe8"]


async def test_a_bomb():
    bomb = deflate_message(b"a" * (MAX_TEXT + 1))
    offer = [(b"Sec-WebSocket-Extensions", b"permessage-deflate")]
    async with Peer(granted(DEFLATE)) as peer, Proxy(policy(chat(peer.port))) as proxy:
        client = await opened(proxy, peer.port, fields=offer)
        await client.send(frame(TEXT, bomb, rsv=0x40))
        assert closing(await read_frame(client.reader))[0] == 1009
        assert len(await peer.frames()) == 1


async def test_a_compressed_message_with_a_second_one_hidden_behind_it():
    hidden = zlib.compress(b"x", wbits=-15) + b"\x07hidden"
    offer = [(b"Sec-WebSocket-Extensions", b"permessage-deflate")]
    async with Peer(granted(DEFLATE)) as peer, Proxy(policy(chat(peer.port))) as proxy:
        client = await opened(proxy, peer.port, fields=offer)
        await client.send(frame(TEXT, hidden, rsv=0x40))
        assert closing(await read_frame(client.reader))[0] == 1002


async def test_frames_before_the_101_are_judged_after_it():
    go_on = asyncio.Event()

    async def slow(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        early.append(await asyncio.wait_for(go_on.wait(), 10))
        writer.write(granted())
        data = b""
        while chunk := await reader.read(1000):
            data += chunk
        early.append(data)
        done.set()

    early, done = [], asyncio.Event()
    async with (
        Upstream(script=slow) as up,
        Proxy(policy(chat(up.port, {"method": "GET"}))) as proxy,
    ):
        client = await proxy.tunnel(A, up.port)
        await client.send(
            handshake(b"/chat", f"{A}:{up.port}".encode()) + frame(TEXT, b"not allowed")
        )
        await asyncio.sleep(0.05)
        go_on.set()
        await client.head()
        assert closing(await read_frame(client.reader))[0] == 1008
        await client.rest()
        async with asyncio.timeout(10):
            await done.wait()
        assert b"not allowed" not in early[1]
        assert proxy.denials[0].method == "WEBSOCKET_TEXT"


SLOW = {
    "half a frame": frame(TEXT, b"hello")[:-1],
    "half a header": b"\x81",
    "half a message": frame(TEXT, b"hello", fin=False),
}


@pytest.mark.parametrize("wire", SLOW.values(), ids=SLOW.keys())
async def test_a_message_that_does_not_come_to_its_end(wire):
    limits = Limits(websocket_silent_seconds=0.2)
    async with Peer() as peer, Proxy(policy(chat(peer.port)), limits=limits) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(TEXT, b"x") + wire)
        assert closing(await read_frame(client.reader))[0] == 1002
        assert closing((await peer.frames())[-1])[0] == 1002


async def test_a_message_that_drips():
    limits = Limits(websocket_silent_seconds=5, websocket_message_seconds=0.3)
    async with Peer() as peer, Proxy(policy(chat(peer.port)), limits=limits) as proxy:
        client = await opened(proxy, peer.port)

        async def drip():
            with contextlib.suppress(ConnectionError):
                await client.send(frame(TEXT, fin=False))
                while True:
                    await client.send(frame(MORE, b".", fin=False) + frame(PING))
                    await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert closing(await read_frame(client.reader))[0] == 1002
        dripping.cancel()
        # Other messages of the same connection each have their own time.
        again = await opened(proxy, peer.port)
        for _ in range(10):
            await again.send(frame(TEXT, b"a", fin=False))
            await asyncio.sleep(0.05)
            await again.send(frame(MORE, b"b"))
        await asyncio.sleep(0.2)
        again.close()
    assert [denied.detail.rpartition(": ")[2] for denied in proxy.denials] == [
        "a message does not come to its end"
    ]


async def test_unfinished_messages_of_all_connections_are_bounded():
    async with Peer() as peer, Proxy(policy(chat(peer.port))) as proxy:
        object.__setattr__(proxy.proxy._services, "assemblies", AssemblyBudget(100_000))
        first, second = [await opened(proxy, peer.port) for _ in range(2)]
        await first.send(frame(TEXT, b"x" * 60_000, fin=False))
        await asyncio.sleep(0.05)
        await second.send(frame(TEXT, b"x" * 60_000, fin=False))
        assert closing(await read_frame(second.reader))[0] == 1013
        # What is given back is there for others.
        first.close()
        await asyncio.sleep(0.05)
        third = await opened(proxy, peer.port)
        peer.got.clear()
        await third.send(frame(TEXT, b"x" * 60_000, fin=False) + frame(MORE))
        await asyncio.wait_for(peer.got.wait(), 10)
        third.close()


# 13.4: messages and policy

WIDE = {"method": "*", "path": "/**"}


async def test_a_denied_message_ends_it_with_one_event():
    only_handshake = {"method": "GET", "path": "/chat"}
    async with echoing() as (port, seen), Proxy(policy(chat(port, only_handshake))) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            await socket.send("secret word")
            with pytest.raises(ConnectionClosedError) as ended:
                await socket.recv()
        assert ended.value.rcvd.code == 1008
        assert ended.value.rcvd.reason == "WEBSOCKET_TEXT /chat not permitted by policy"
        denied = proxy.denials
        assert len(denied) == 1
        assert (denied[0].method, denied[0].path) == ("WEBSOCKET_TEXT", "/chat")
        assert denied[0].message.startswith("WEBSOCKET_L7_REQUEST deny WEBSOCKET_TEXT")
        assert denied[0].refusal.suggestion
        assert "secret word" not in "".join(map(repr, proxy.events))
    assert seen == []


async def test_what_an_auditing_endpoint_would_refuse_is_recorded_once():
    only_handshake = {"method": "GET", "path": "/chat"}
    endpoint = chat(1, only_handshake) | {"enforcement": "audit"}
    async with echoing() as (port, seen), Proxy(policy(endpoint | {"port": port})) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            for _ in range(5):
                await socket.send("x")
                await socket.recv()
        audited = [e for e in proxy.events if getattr(e, "method", "") == "WEBSOCKET_TEXT"]
        assert [e.message.split()[:2] for e in audited] == [["WEBSOCKET_L7_REQUEST", "audit"]]
    assert seen == ["x"] * 5


QUERIES = {
    "init": ('{"type": "connection_init"}', True),
    "allowed": (
        '{"type": "subscribe", "id": "1", "payload": {"query": "{ user { name } }"}}',
        True,
    ),
    "mutation": (
        '{"type": "subscribe", "id": "1", "payload": {"query": "mutation { drop }"}}',
        False,
    ),
    "no id": ('{"type": "subscribe", "payload": {"query": "{ user }"}}', False),
    "other type": ('{"type": "next", "id": "1"}', False),
    "no JSON": ("hello", False),
    "twice the key": ('{"type": "ping", "type": "subscribe"}', False),
}


@pytest.mark.parametrize(("message", "passes"), QUERIES.values(), ids=QUERIES.keys())
async def test_graphql_over_websocket(message, passes):
    rule = {"operation_type": "query", "fields": ["user"]}
    async with echoing() as (port, seen), Proxy(policy(chat(port, rule))) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            await socket.send(message)
            if passes:
                assert await socket.recv() == message
            else:
                with pytest.raises(ConnectionClosedError) as ended:
                    await socket.recv()
                assert ended.value.rcvd.code == 1008
    assert seen == ([message] if passes else [])
    assert len(proxy.denials) == (not passes)


# 12.4 and 13.4: credentials

PLACEHOLDER = "openshell:resolve:env:v1_TOKEN"


class Held(Proxy):
    """A proxy that holds a credential for one endpoint."""

    def __init__(self, endpoint, *, host=A, **extra):
        bindings = bound(host, endpoint["port"])
        super().__init__(
            policy(endpoint), environment={"TOKEN": SECRET}, bindings=bindings, **extra
        )

    def renew(self, value, revision):
        held = type(self._credentials)
        self._credentials = held.build(
            revision,
            {"TOKEN": value},
            self._credentials._bindings,
            previous=self._credentials,
        )
        self.reload(self._policy)


REWRITING = {
    "websocket": lambda port: chat(port, websocket_credential_rewrite=True),
    "rest": reading,
}
FORMS = {
    "text": (f"auth {PLACEHOLDER}", f"auth {SECRET}"),
    "JSON": (f'{{"auth": "{PLACEHOLDER}", "n": 1}}', f'{{"auth": "{SECRET}", "n": 1}}'),
    "none": ("nothing here", "nothing here"),
}


@pytest.mark.parametrize("offer", [OFFERS["compressed"], OFFERS["uncompressed"]], ids=["z", "-"])
@pytest.mark.parametrize("endpoint", REWRITING.values(), ids=REWRITING.keys())
@pytest.mark.parametrize(("said", "heard"), FORMS.values(), ids=FORMS.keys())
async def test_credentials_in_messages(said, heard, endpoint, offer):
    async with echoing(tls=True) as (port, seen), Held(endpoint(port)) as proxy:
        async with connect(
            f"wss://{A}:{port}/chat",
            proxy=f"http://127.0.0.1:{proxy.port}",
            ssl=proxy.client_tls(),
            **offer,
        ) as socket:
            await socket.send(said)
            await socket.recv()
        assert SECRET not in "".join(map(repr, proxy.events))
    assert seen == [heard]


async def test_a_credential_in_the_handshake():
    async with Peer() as peer, Held(chat(peer.port)) as proxy:
        fields = [(b"Authorization", f"Bearer {PLACEHOLDER}".encode())]
        client = await opened(proxy, peer.port, fields=fields)
        client.close()
    assert f"Bearer {SECRET}".encode() in peer.heads[0]


UNPLACED = {
    "no opt-in": (lambda port: chat(port), PLACEHOLDER, "a credential placeholder stands in"),
    "unknown": (REWRITING["websocket"], PLACEHOLDER.replace("TOKEN", "OTHER"), "could not be"),
    "in a name": (REWRITING["websocket"], f'{{"{PLACEHOLDER}": 1}}', "could not be resolved"),
    "malformed": (REWRITING["websocket"], "openshell:resolve:env:", "could not be resolved"),
}


@pytest.mark.parametrize(("endpoint", "said", "why"), UNPLACED.values(), ids=UNPLACED.keys())
async def test_a_placeholder_that_is_not_replaced(endpoint, said, why):
    async with Peer() as peer, Held(endpoint(peer.port)) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(TEXT, b"before") + frame(TEXT, said.encode()))
        code, reason = closing(await read_frame(client.reader))
        assert (code, why in reason) == (1008, True)
        # The server is told nothing.
        assert [f.data for f in await peer.frames()] == [b"before"]
        assert [e.engine for e in proxy.denials if hasattr(e, "engine")] == ["credentials"]


async def test_a_credential_of_another_endpoint():
    async with Peer() as peer, Held(REWRITING["websocket"](peer.port), host=B) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(TEXT, PLACEHOLDER.encode()))
        assert closing(await read_frame(client.reader)) == (1008, "credential endpoint mismatch")
        assert await peer.frames() == []
        assert len([line for line in proxy.lines if line.startswith("FINDING:")]) == 1


async def test_no_credential_in_clear_text_where_tls_belongs():
    endpoint = chat(1, websocket_credential_rewrite=True) | {"tls": "terminate"}
    async with Peer() as peer, Held(endpoint | {"port": peer.port}) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(TEXT, PLACEHOLDER.encode()))
        assert closing(await read_frame(client.reader))[0] == 1008
        assert await peer.frames() == []


async def test_the_next_message_carries_the_new_credential():
    endpoint = REWRITING["websocket"]
    async with echoing() as (port, seen), Held(endpoint(port)) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            for revision, value in ((2, "second"), (3, "third")):
                await socket.send(f"openshell:resolve:env:v{revision - 1}_TOKEN")
                await socket.recv()
                proxy.renew(value, revision)
                await socket.send(f"openshell:resolve:env:v{revision}_TOKEN")
                await socket.recv()
        assert proxy.denials == []
    assert seen == [SECRET, "second", "second", "third"]


class Credentialed(Held):
    """An endpoint that a provider's layer has marked as carrying credentials."""

    def _generation(self, number, text):
        parsed = parse_policy(text, source="test")
        rule = parsed.network_policies["test"]
        marked = tuple(replace(e, provider_credentialed=True) for e in rule.endpoints)
        rules = {"test": replace(rule, endpoints=marked)}
        compiled = compile_policy(replace(parsed, network_policies=rules), generation=number)
        return Generation(number, compiled, self._credentials)


async def test_binary_messages_to_a_credentialed_endpoint():
    async with Peer() as peer, Credentialed(rest(A, peer.port)) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(TEXT, b"fine") + frame(BINARY, b"x" * 100))
        code, reason = closing(await read_frame(client.reader))
        assert (code, reason) == (1008, "binary messages cannot be inspected for credentials")
        assert [f.data for f in await peer.frames()] == [b"fine"]
        assert len(proxy.denials) == 1
    endpoint = rest(A, peer.port, allow_uninspected_credentials=True)
    async with Peer() as peer, Credentialed(endpoint | {"port": peer.port}) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(BINARY, b"x" * 100))
        await asyncio.wait_for(peer.got.wait(), 10)
        client.close()
    assert proxy.denials == []


async def test_a_placeholder_to_a_credentialed_endpoint_whose_credential_is_gone():
    async with Peer() as peer, Credentialed(chat(peer.port)) as proxy:
        client = await opened(proxy, peer.port)
        proxy._credentials = proxy._credentials.revoked()
        proxy.reload(proxy._policy)
        await client.send(frame(TEXT, b"fine") + frame(TEXT, PLACEHOLDER.encode()))
        assert closing(await read_frame(client.reader))[0] == 1008
        assert [f.data for f in await peer.frames()] == [b"fine"]


SUBSCRIBE = '{"type": "subscribe", "id": "1", "payload": {"query": "%s", "variables": {"k": "%s"}}}'
OPERATIONS = {
    "in a variable": (SUBSCRIBE % ("{ user }", PLACEHOLDER), SECRET, True),
    "in a string of the operation": (
        SUBSCRIBE % (f'{{ user(key: \\"{PLACEHOLDER}\\") }}', ""),
        SECRET,
        True,
    ),
    "a value that makes another operation": (
        SUBSCRIBE % (f'{{ user(key: \\"{PLACEHOLDER}\\") }}', ""),
        'x") } mutation m { drop(key: "y',
        False,
    ),
}


@pytest.mark.parametrize(("said", "value", "passes"), OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_a_credential_in_an_operation_leaves_it_the_operation_it_was(said, value, passes):
    rule = {"operation_type": "query", "fields": ["user"]}
    async with echoing() as (port, seen):
        endpoint = chat(port, rule, websocket_credential_rewrite=True)
        async with Held(endpoint) as proxy:
            proxy.renew(value, 2)
            through = f"http://127.0.0.1:{proxy.port}"
            async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
                await socket.send(said.replace("v1_", "v2_"))
                if passes:
                    await socket.recv()
                else:
                    with pytest.raises(ConnectionClosedError):
                        await socket.recv()
            assert value not in "".join(map(repr, proxy.events))
    assert [value in message for message in seen] == ([True] if passes else [])


# Reloads

CHANGES = {
    "still allowed": (lambda port: chat(port, WIDE), None),
    "handshake gone": (lambda port: chat(port) | {"rules": [], "access": "full", "host": B}, 1012),
    "denied now": (
        lambda port: chat(port, deny_rules=[{"method": "GET", "path": "/chat"}]),
        1012,
    ),
    "rest now": (lambda port: rest(A, port), None),
    "messages denied now": (lambda port: chat(port, {"method": "GET", "path": "/chat"}), 1008),
}


@pytest.mark.parametrize(("change", "code"), CHANGES.values(), ids=CHANGES.keys())
async def test_a_reload_ends_only_what_is_not_allowed(change, code):
    async with Peer() as peer, Proxy(policy(chat(peer.port))) as proxy:
        client = await opened(proxy, peer.port)
        await client.send(frame(TEXT, b"one"))
        await asyncio.wait_for(peer.got.wait(), 10)
        proxy.reload(policy(change(peer.port)))
        if code != 1012:
            await client.send(frame(TEXT, b"two"))
        if code is None:
            client.writer.write_eof()
            assert [f.data for f in await peer.frames()] == [b"one", b"two"]
            assert proxy.denials == []
        else:
            assert closing(await read_frame(client.reader))[0] == code
            assert await client.rest() == b""
            first, last = await peer.frames()
            assert (first.data, closing(last)[0]) == (b"one", code)
            assert len(proxy.denials) == 1
    if code == 1012:
        assert "NET:CLOSE [MED] DENIED" in proxy.lines[-1]


async def test_both_sides_are_told_over_tls():
    async with (
        Peer(tls_name=A) as peer,
        Proxy(policy(chat(peer.port))) as proxy,
    ):
        client = await opened(proxy, peer.port, tls=True)
        await client.send(frame(TEXT, b"one"))
        await asyncio.wait_for(peer.got.wait(), 10)
        proxy.reload(policy())
        assert closing(await read_frame(client.reader))[0] == 1012
        assert await client.rest() == b""
        assert closing((await peer.frames())[-1])[0] == 1012


async def test_a_copied_one_ends_when_its_messages_would_be_read():
    async with Peer() as peer, Proxy(policy(rest(A, peer.port))) as proxy:
        client = await opened(proxy, peer.port)
        proxy.reload(policy(rest(A, peer.port), plain("other.example", 1)))
        await client.send(frame(TEXT, b"one"))
        await asyncio.wait_for(peer.got.wait(), 10)
        proxy.reload(policy(chat(peer.port, WIDE)))
        assert await client.rest() == b""
        assert len(await peer.frames()) == 1
        assert "would be inspected now" in proxy.denials[0].detail


async def test_a_close_of_ours_stands_between_two_frames_of_the_server():
    """A close frame inside a frame of the server would be payload to the client."""
    async with Peer() as peer, Proxy(policy(chat(peer.port))) as proxy:
        client = await opened(proxy, peer.port)
        whole = frame(BINARY, b"y" * 1000, masked=False)
        peer.writers[0].write(whole[:500])
        assert await client.reader.readexactly(100) == whole[:100]
        proxy.reload(policy())
        await asyncio.sleep(0.1)
        peer.writers[0].write(whole[500:] + frame(TEXT, b"too late", masked=False))
        assert await client.reader.readexactly(len(whole) - 100) == whole[100:]
        assert closing(await read_frame(client.reader))[0] == 1012
        assert await client.rest() == b""


async def test_many_reloads_disturb_nobody():
    async with echoing() as (port, seen), Proxy(policy(chat(port))) as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            for number in range(60):
                proxy.reload(policy(chat(port), plain(f"other{number}.example", 443)))
                await socket.send(str(number))
                assert await socket.recv() == str(number)
    assert len(seen) == 60
    assert proxy.denials == []


# Ends and pressure


@pytest.mark.parametrize("endpoint", MODES.values(), ids=MODES.keys())
async def test_either_side_may_end_its_direction_first(endpoint):
    async def half(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(granted())
        received.append(await reader.read())
        writer.write(frame(TEXT, b"last words", masked=False))

    received = []
    async with Upstream(script=half) as up, Proxy(policy(endpoint(up.port))) as proxy:
        client = await opened(proxy, up.port)
        await client.send(frame(TEXT, b"bye"))
        client.writer.write_eof()
        assert (await read_frame(client.reader)).data == b"last words"
        assert await client.rest() == b""
    assert received == [frame(TEXT, b"bye")]
    async with Peer() as peer, Proxy(policy(endpoint(peer.port))) as proxy:
        client = await opened(proxy, peer.port)
        peer.writers[0].write_eof()
        assert await client.rest() == b""
        await client.send(frame(TEXT, b"still"))
        client.writer.write_eof()
        assert [f.data for f in await peer.frames()] == [b"still"]


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("endpoint", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("who", ["client", "server", "proxy"])
async def test_an_abrupt_end_reaches_the_other_side(endpoint, who, tls):
    async with (
        Peer(tls_name=A if tls else None) as peer,
        Proxy(policy(endpoint(peer.port))) as proxy,
    ):
        client = await opened(proxy, peer.port, tls=tls)
        await client.send(frame(TEXT, b"half a message", fin=False))
        if who == "client":
            abort(client.writer)
        elif who == "server":
            abort(peer.writers[0])
        else:
            await proxy.proxy.close()
        async with asyncio.timeout(10):
            await peer.ended.wait()
        assert await client.rest() == b""
        client.close()
        for _ in range(100):
            if not proxy.proxy.connections:
                break
            await asyncio.sleep(0.02)
        assert proxy.proxy.connections == 0
        assert proxy.proxy._services.assemblies._left == AssemblyBudget()._left
        assert proxy.denials == []


class Plugged(Peer):
    """A server that does not read at first."""

    def __init__(self):
        super().__init__()
        self.unplug = asyncio.Event()

    async def _serve(self, reader, writer):
        self.writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(granted())
        await self.unplug.wait()
        while data := await reader.read(65536):
            self.received += data
        self.ended.set()


@pytest.mark.parametrize("endpoint", MODES.values(), ids=MODES.keys())
async def test_a_server_that_does_not_read_makes_the_client_wait(endpoint):
    size = 512 * 1024
    async with Plugged() as peer, Proxy(policy(endpoint(peer.port))) as proxy:
        client = await opened(proxy, peer.port)
        piece, sent = frame(BINARY, b"x" * size), 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while sent < 200:
                    await client.send(piece)
                    sent += 1
        # Buffers of the kernel on the way hold some megabytes; the proxy itself under one.
        assert sent < 100
        peer.unplug.set()
        client.writer.write_eof()
        found = await peer.frames()
        assert {len(f.data) for f in found} == {size}
        assert len(found) in (sent, sent + 1)


async def test_a_server_that_never_reads_is_given_up():
    limits = Limits(websocket_forward_seconds=0.3)
    async with Plugged() as peer, Proxy(policy(chat(peer.port)), limits=limits) as proxy:
        client = await opened(proxy, peer.port)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while True:
                    await client.send(frame(BINARY, b"x" * 512 * 1024))
        assert "the server does not read" in proxy.events[-1].message
        peer.unplug.set()


@pytest.mark.parametrize("endpoint", MODES.values(), ids=MODES.keys())
async def test_a_client_that_does_not_read_makes_the_server_wait(endpoint):
    sent = []

    async def flood(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(granted())
        while len(sent) < 200:
            writer.write(frame(BINARY, b"x" * 512 * 1024, masked=False))
            await writer.drain()
            sent.append(1)

    async with Upstream(script=flood) as up, Proxy(policy(endpoint(up.port))) as proxy:
        client = await opened(proxy, up.port)
        await asyncio.sleep(1)
        assert len(sent) < 100
        for _ in range(200):
            assert len((await read_frame(client.reader)).data) == 512 * 1024
        assert await client.rest() == b""


async def test_thousands_of_tiny_messages_do_not_keep_others_waiting():
    async with (
        echoing() as (port, _),
        Peer() as peer,
        Proxy(policy(chat(port), chat(peer.port))) as proxy,
    ):
        busy = await opened(proxy, peer.port)
        through = f"http://127.0.0.1:{proxy.port}"
        async with connect(f"ws://{A}:{port}/chat", proxy=through) as socket:
            await busy.send(frame(TEXT, b"x") * 30_000)
            loop = asyncio.get_running_loop()
            before = loop.time()
            await socket.send("now")
            assert await socket.recv() == "now"
            assert loop.time() - before < 2
        busy.writer.write_eof()
        assert len(await peer.frames()) == 30_000
