"""WebSockets around the proxy under test: real servers, a client of single frames, and policies."""

import asyncio
import contextlib
import json

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Frame, Opcode

from integration.egress.harness import NOW, A, authority, rest
from openshell.egress.websocket.handshake import accept_of

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x01\x02\x03\x04"
TEXT, BINARY, CLOSE, PING, PONG, MORE = 1, 2, 8, 9, 10, 0


def frame(opcode, payload=b"", *, fin=True, rsv=0, masked=True):
    size, bit = len(payload), 0x80 if masked else 0
    if size <= 125:
        head = bytes([bit | size])
    elif size <= 0xFFFF:
        head = bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([bit | 127]) + size.to_bytes(8, "big")
    first = bytes([(0x80 if fin else 0) | rsv | opcode])
    if not masked:
        return first + head + payload
    key = MASK * (size // 4 + 1)
    return first + head + MASK + bytes(a ^ b for a, b in zip(payload, key, strict=False))


def handshake(path=b"/chat", host=None, fields=(), *, drop=(), method=b"GET", version=b"1.1"):
    """Write an opening handshake; `drop` leaves standard fields out, `fields` come behind."""
    standard = {
        b"Host": host,
        b"Connection": b"Upgrade",
        b"Upgrade": b"websocket",
        b"Sec-WebSocket-Key": KEY,
        b"Sec-WebSocket-Version": b"13",
    }
    lines = [b"%b: %b" % (k, v) for k, v in standard.items() if k not in drop]
    lines += [b"%b: %b" % pair for pair in fields]
    head = b"\r\n".join([b"%b %b HTTP/%b" % (method, path, version), *lines])
    return head + b"\r\n\r\n"


def granted(*fields, accept=None):
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + (accept_of(KEY) if accept is None else accept),
        *fields,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def read_frame(reader, *, masked=False):
    """Read one frame with a library's reader."""

    async with asyncio.timeout(10):
        step = Frame.parse(lambda n: (yield from _exactly(n)), mask=masked, max_size=None)
        wanted = next(step)
        while True:
            data = await reader.readexactly(wanted)
            try:
                wanted = step.send(data)
            except StopIteration as done:
                return done.value


def _exactly(count):
    return (yield count)


def closing(found):
    """Return code and reason of a close frame."""
    assert found.opcode is Opcode.CLOSE, found
    close = Close.parse(found.data)
    return close.code, close.reason


class Peer:
    """A server of single frames; it keeps what reached it after its 101, and how that ended."""

    def __init__(self, answer=None, *, behind=b"", echo=False, tls_name=None):
        self.answer = answer or granted()
        self.behind = behind
        self.heads = []
        self.received = b""
        self.opened = 0
        self.ended = asyncio.Event()
        self.got = asyncio.Event()
        self.writers = []
        self._echo = echo
        self._context = authority("upstream").server_context(tls_name, NOW) if tls_name else None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            self.opened += 1
            writer.write(self.answer + self.behind)
            while data := await reader.read(65536):
                self.received += data
                self.got.set()
        self.ended.set()
        writer.close()

    async def frames(self):
        """Return every frame that came, after the end."""
        async with asyncio.timeout(10):
            await self.ended.wait()
        reader = asyncio.StreamReader()
        reader.feed_data(self.received)
        reader.feed_eof()
        found = []
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                found.append(await read_frame(reader, masked=True))
        return found


@contextlib.asynccontextmanager
async def echoing(*, tls=False, **settings):
    """Run the library's own server; it echoes, and keeps what came."""
    seen = []

    async def echo(socket):
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                seen.append(message)
                await socket.send(message)

    context = authority("upstream").server_context(A, NOW) if tls else None
    async with serve(echo, "127.0.0.1", 0, ssl=context, **settings) as server:
        yield server.sockets[0].getsockname()[1], seen


def chat(port, *rules, **extra):
    """Write a websocket endpoint: handshakes on /chat, text as the rules say."""
    rules = rules or ({"method": "WEBSOCKET_TEXT", "path": "/chat"},)
    allow = [{"allow": {"method": "GET", "path": "/chat"}}, *({"allow": rule} for rule in rules)]
    endpoint = rest(A, port, protocol="websocket", rules=allow, **extra)
    del endpoint["access"]
    return endpoint


def policy(*endpoints):
    rule = {"endpoints": list(endpoints), "binaries": [{"path": "/usr/bin/curl"}]}
    return json.dumps({"version": 1, "network_policies": {"test": rule}})


async def opened(proxy, port, *, absolute=False, tls=False, fields=(), path=b"/chat", host=A):
    """Open a WebSocket with a client of single frames; its `answer` is the 101."""
    where = f"{host}:{port}".encode()
    if absolute:
        client, path = await proxy.connect(), b"http://" + where + path
    elif tls:
        client = await proxy.tls(host, port)
    else:
        client = await proxy.tunnel(host, port)
    await client.send(handshake(path, where, fields))
    client.answer = await client.head()
    assert client.answer.startswith(b"HTTP/1.1 101 "), client.answer
    return client
