"""An egress proxy on loopback with real sockets around it: scripted upstreams, raw clients.

The three host aliases lead to loopback, so they stand for three different hosts here; everything
else is the real thing except the identity of the client, which a test chooses.
"""

import asyncio
import contextlib
import datetime as dt
import json
import socket
import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address

from openshell.egress.ca import SandboxCA, client_context
from openshell.egress.credentials import Binding, BoundEndpoint, CredentialSet
from openshell.egress.destination import HostFacts
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.identity import Identity
from openshell.egress.limits import Limits
from openshell.egress.middleware import Middlewares
from openshell.egress.proxy import EgressProxy, Listeners
from openshell.ocsf import Action, to_line
from openshell.policy.compile import compile_policy
from openshell.policy.parse import parse_policy

A, B, C = "host.openshell.internal", "host.docker.internal", "host.containers.internal"
CURL = "/usr/bin/curl"
SECRET = "s3cret-value-of-the-test"
NOW = dt.datetime.now(dt.UTC)

_CAS = {}


def authority(name):
    """Make a CA once per name: keys cost time."""
    if name not in _CAS:
        _CAS[name] = SandboxCA(NOW)
    return _CAS[name]


class Names:
    """A resolver that knows what a test tells it."""

    def __init__(self):
        self.known = {}
        self.asked = []

    async def resolve(self, host):
        self.asked.append(host)
        try:
            return (ip_address(host),)
        except ValueError:
            return tuple(ip_address(text) for text in self.known.get(host, ()))

    def local(self, addresses):
        return frozenset(address for address in addresses if address.is_loopback)


@dataclass
class Program:
    """The identity of every client."""

    found: object = field(default_factory=lambda: Identity(CURL, 4242, ("/usr/bin/bash",)))
    asked: int = 0

    async def resolve(self, peers):
        self.asked += 1
        return self.found


@dataclass
class Request:
    head: bytes
    body: bytes

    @property
    def line(self):
        return self.head.partition(b"\r\n")[0]

    def header(self, name):
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name.lower():
                return value.strip()
        return None


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Upstream:
    """A server that records what it got and answers as told."""

    def __init__(self, answer=OK, *, script=None, tls_name=None, ca="upstream"):
        self.answer = answer
        self.requests = []
        self.connections = 0
        self.received = b""
        self._script = script
        self._context = authority(ca).server_context(tls_name, NOW) if tls_name else None
        self._server = None
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._context, limit=1 << 20
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self._writers:
            abort(writer)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.add(writer)
        try:
            if self._script is not None:
                await self._script(reader, writer)
            else:
                await self._answer_all(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    async def _answer_all(self, reader, writer):
        while request := await read_request(reader):
            self.requests.append(request)
            answer = self.answer(request) if callable(self.answer) else self.answer
            writer.write(answer)
            await writer.drain()


async def read_request(reader):
    """Read one request whole; None at the end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    except asyncio.IncompleteReadError:
        return None
    request = Request(head, b"")
    if length := request.header(b"content-length"):
        request.body = await reader.readexactly(int(length))
    elif request.header(b"transfer-encoding"):
        while True:
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            chunk = await reader.readexactly(size + 2)
            request.body += chunk[:-2]
            if size == 0:
                break
    return request


class Proxy:
    """The proxy under test and what is around it."""

    def __init__(
        self, policy, *, limits=None, environment=None, bindings=None, ca=True, revision=1
    ):
        self.events = []
        self.names = Names()
        self.program = Program()
        self.limits = limits or Limits()
        self.ca = authority("sandbox") if ca else None
        self._policy = policy
        self._credentials = CredentialSet()
        if environment:
            bindings = bindings or {}
            rest = tuple(key for key in environment if key not in bindings)
            self._credentials = CredentialSet.build(
                revision, environment, bindings, non_secret_keys=rest
            )
        self.closed_ports = frozenset()
        self.relaxed = False
        self.local = ()
        self.may_propose = lambda: False
        self.capture = None
        self.corporate = None
        self.implementations = {}

    async def __aenter__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        capture = socket.create_server(("0.0.0.0", 0))
        self.port = listener.getsockname()[1]
        self.capture_port = capture.getsockname()[1]
        self.holder = GenerationHolder(self._generation(1, self._policy))
        self.proxy = EgressProxy(
            Listeners(proxy=(listener,), capture=(capture,)),
            self.holder,
            self.program,
            resolver=self.names,
            ca=self.ca,
            upstream_tls=client_context(authority("upstream").certificate_pem),
            events=self.events.append,
            facts=HostFacts((ip_address("127.0.0.1"),), self.closed_ports),
            sandbox="box",
            limits=self.limits,
            relaxed_identity=self.relaxed,
            local=self.local,
            may_propose=self.may_propose,
            corporate=self.corporate,
        )
        await self.proxy.start()
        assert self.lines == ["NET:LISTEN [INFO] [msg:the egress proxy accepts connections]"]
        self.events.clear()
        return self

    async def __aexit__(self, *_):
        await self.proxy.close()

    def _generation(self, number, policy):
        parsed = parse_policy(policy, source="test")
        compiled = compile_policy(parsed, generation=number)
        middleware = None
        if parsed.network_middlewares:
            middleware = Middlewares(parsed.network_middlewares, self.implementations)
        return Generation(number, compiled, self._credentials, middleware=middleware)

    def reload(self, policy):
        self.holder.swap(self._generation(self.holder.current.number + 1, policy))

    @property
    def lines(self):
        return [to_line(event) for event in self.events]

    @property
    def denials(self):
        return [e for e in self.events if getattr(e, "action", None) is Action.DENIED]

    async def connect(self):
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))

    async def say(self, data):
        """Send bytes on a new connection and return everything that comes back."""
        client = await self.connect()
        try:
            return await client.say(data)
        finally:
            client.close()

    async def tunnel(self, host, port):
        """Open a tunnel and return its client, or fail with the answer."""
        client = await self.connect()
        await client.send(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = await client.head()
        assert answer.startswith(b"HTTP/1.1 200 "), answer + await client.rest()
        return client

    async def tls(self, host, port, *, server_name=None):
        client = await self.tunnel(host, port)
        await client.start_tls(self.client_tls(), server_name or host)
        return client

    def client_tls(self):
        return client_context(authority("sandbox").certificate_pem)


class Client:
    """A client that sends exactly the bytes it is told to."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def start_tls(self, context, server_name):
        await self.writer.start_tls(context, server_hostname=server_name)

    async def head(self):
        async with asyncio.timeout(10):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self):
        """Read until the end, also when the end is a reset."""
        data = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            async with asyncio.timeout(10):
                while chunk := await self.reader.read(65536):
                    data += chunk
        return data

    async def say(self, data):
        with contextlib.suppress(ConnectionError):
            await self.send(data)
        return await self.rest()

    async def response(self):
        """Read one response with a Content-Length; returns status and body."""
        head = await self.head()
        status = int(head.split(b" ", 2)[1])
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        async with asyncio.timeout(10):
            body = await self.reader.readexactly(length)
        return status, body

    async def request(self, data):
        await self.send(data)
        return await self.response()

    def close(self):
        abort(self.writer)


def parse(answer):
    """Split a whole response into status, headers and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    headers = {
        name.strip().lower().decode(): value.strip().decode()
        for name, _, value in (line.partition(b":") for line in lines[1:])
    }
    return int(lines[0].split(b" ", 2)[1]), headers, body


def problem(answer):
    """Return status and JSON body of a refusal, checking its shape."""
    status, headers, body = parse(answer)
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    return status, json.loads(body)


def rest_policy(*endpoints, binary=CURL):
    """Write a policy with one rule; each endpoint is a mapping."""
    rule = {"name": "test", "endpoints": list(endpoints), "binaries": [{"path": binary}]}
    return json.dumps({"version": 1, "network_policies": {"test": rule}})


def rest(host, port, **extra):
    return {
        "host": host,
        "port": port,
        "protocol": "rest",
        "enforcement": "enforce",
        "access": "full",
        **extra,
    }


def plain(host, port, **extra):
    return {"host": host, "port": port, **extra}


def bound(host, port, path=""):
    return {"TOKEN": Binding((BoundEndpoint(host, port, path),), "provider-1")}


PLACEHOLDER = "openshell:resolve:env:v1_TOKEN"


def abort(writer):
    """End a connection at once; older Pythons stumble over a TLS transport that has ended already."""
    with contextlib.suppress(AttributeError):
        writer.transport.abort()
