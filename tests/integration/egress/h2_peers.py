"""Peers that speak HTTP/2: a client that sends what it is told, a server that is scripted, and nginx.

Both own peers stand on the `h2` library with its checks switched off, so that they can break rules.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import Settings

from integration.egress.harness import NOW, authority
from openshell.egress.ca import client_context


def frame(kind, payload=b"", *, flags=0, stream=0):
    """Write a frame by hand."""
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


@dataclass
class Answer:
    """What came back on a stream."""

    status: int = 0
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    trailers: dict = field(default_factory=dict)
    interim: list = field(default_factory=list)
    ended: bool = False
    reset: int | None = None


def _texts(headers):
    return {name.decode(): value.decode() for name, value in headers}


class H2Client:
    """A client inside a tunnel."""

    def __init__(self, client, host, port):
        self._client = client
        self.authority = f"{host}:{port}"
        config = H2Configuration(
            client_side=True,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.conn = H2Connection(config)
        self.answers = {}
        self.goaway = None
        self.ended = False
        # Whether windows are opened again for what arrives.
        self.reads = True
        self._changed = asyncio.Event()
        self._reader = None

    @classmethod
    async def open(cls, proxy, host, port, *, protocols=("h2",)):
        client = await proxy.tunnel(host, port)
        context = client_context(authority("sandbox").certificate_pem)
        context.set_alpn_protocols(list(protocols))
        await client.start_tls(context, host)
        chosen = client.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == "h2", chosen
        self = cls(client, host, port)
        self.conn.initiate_connection()
        await self.flush()
        self._reader = asyncio.create_task(self._read())
        return self

    async def flush(self):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self._client.send(self.conn.data_to_send())

    async def raw(self, data):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self._client.send(data)

    def fields(self, path="/", method="GET", *extra, scheme="https", host=None):
        return [
            (":method", method),
            (":scheme", scheme),
            (":authority", host or self.authority),
            (":path", path),
            *extra,
        ]

    async def open_stream(self, fields, *, end=True):
        stream = self.conn.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.conn.send_headers(stream, fields, end_stream=end)
        await self.flush()
        return stream

    async def get(self, path="/", method="GET", *extra, **more):
        return await self.answer(await self.open_stream(self.fields(path, method, *extra, **more)))

    async def send(self, stream, data, *, end=False):
        """Send data as the windows allow."""
        while data or end:
            room = min(self.conn.local_flow_control_window(stream), 16_384)
            if data and room <= 0:
                self._changed.clear()
                await asyncio.wait_for(self._changed.wait(), 5)
                continue
            piece, data = data[:room], data[room:]
            last = end and not data
            self.conn.send_data(stream, piece, end_stream=last)
            end = end and not last
            await self.flush()

    async def answer(
        self, stream, *, until=lambda answer: answer.ended or answer.reset is not None
    ):
        """Wait for an answer, whole unless told otherwise."""
        return await self.wait(lambda: until(self.answers[stream]), self.answers[stream])

    async def wait(self, condition, result=None):
        async with asyncio.timeout(10):
            while not condition():
                if self.ended:
                    raise AssertionError(f"the connection ended: {self.goaway}, {self.answers}")
                self._changed.clear()
                await self._changed.wait()
        return result

    async def wait_end(self):
        async with asyncio.timeout(10):
            while not self.ended:
                self._changed.clear()
                await self._changed.wait()

    async def _read(self):
        try:
            while data := await self._client.reader.read(65536):
                for event in self.conn.receive_data(data):
                    self._note(event)
                await self.flush()
                self._changed.set()
        except (ConnectionError, ssl.SSLError, ProtocolError):
            pass
        finally:
            self.ended = True
            self._changed.set()

    def _note(self, event):
        if isinstance(event, ConnectionTerminated):
            self.goaway = int(event.error_code)
        answer = self.answers.get(getattr(event, "stream_id", None))
        if answer is None:
            return
        match event:
            case InformationalResponseReceived():
                answer.interim.append(_texts(event.headers))
            case ResponseReceived():
                answer.headers = _texts(event.headers)
                answer.status = int(answer.headers[":status"])
            case DataReceived():
                answer.body += event.data
                if self.reads and event.flow_controlled_length:
                    with contextlib.suppress(ProtocolError):
                        self.conn.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
            case TrailersReceived():
                answer.trailers = _texts(event.headers)
            case StreamEnded():
                answer.ended = True
            case StreamReset():
                answer.reset = int(event.error_code)

    def close(self):
        if self._reader is not None:
            self._reader.cancel()
        self._client.close()


class ServerStream:
    """One request at a scripted server."""

    def __init__(self, server, conn, writer, stream, headers):
        self.conn, self.id, self._server, self._writer = conn, stream, server, writer
        self.fields = [(name.decode(), value.decode()) for name, value in headers]
        self.headers = dict(self.fields)
        self.body = b""
        self.trailers = None
        self.ended = False
        self.reset = None
        self.reads = True
        self.changed = asyncio.Event()

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

    async def whole(self):
        await self.until(lambda s: s.ended or s.reset is not None)
        return self.body

    async def head(self, *fields, status=200, end=False):
        self.conn.send_headers(self.id, [(":status", str(status)), *fields], end_stream=end)
        await self.flush()

    async def send(self, data, *, end=False):
        while data or end:
            room = min(self.conn.local_flow_control_window(self.id), 16_384)
            if data and room <= 0:
                self.changed.clear()
                await self.changed.wait()
                continue
            piece, data = data[:room], data[room:]
            last = end and not data
            self.conn.send_data(self.id, piece, end_stream=last)
            end = end and not last
            await self.flush()

    async def end(self, *trailers):
        self.conn.send_headers(self.id, list(trailers), end_stream=True)
        await self.flush()

    async def raw(self, data):
        self._writer.write(data)
        await self._writer.drain()

    async def flush(self):
        await self.raw(self.conn.data_to_send())


async def answer_ok(stream):
    await stream.head(("content-length", "2"))
    await stream.send(b"ok", end=True)


class H2Server:
    """An upstream whose script gets every request."""

    def __init__(self, name, script=answer_ok, *, protocols=("h2",), settings=None):
        self._script = script
        self._context = authority("upstream").server_context(name, NOW)
        self._context.set_alpn_protocols(list(protocols))
        self._settings = settings or {}
        self.streams = []
        self.connections = 0
        self.writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        # Contexts are shared by all tests of the process.
        self._context.set_alpn_protocols(["http/1.1"])
        for writer in self.writers:
            with contextlib.suppress(AttributeError):
                writer.transport.abort()

    async def _serve(self, reader, writer):
        self.connections += 1
        self.writers.add(writer)
        config = H2Configuration(
            client_side=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        conn = H2Connection(config)
        conn.local_settings = Settings(client=False, initial_values=self._settings)
        conn.initiate_connection()
        writer.write(conn.data_to_send())
        mine, tasks = {}, set()
        try:
            while data := await reader.read(65536):
                for event in conn.receive_data(data):
                    self._note(event, conn, writer, mine, tasks)
                writer.write(conn.data_to_send())
        except (ConnectionError, ssl.SSLError, ProtocolError):
            pass
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Exception):
                writer.close()

    def _note(self, event, conn, writer, mine, tasks):
        if isinstance(event, RequestReceived):
            stream = ServerStream(self, conn, writer, event.stream_id, event.headers)
            mine[event.stream_id] = stream
            self.streams.append(stream)
            tasks.add(asyncio.create_task(self._script(stream)))
            return
        if isinstance(event, WindowUpdated):
            for stream in mine.values():
                stream.changed.set()
        stream = mine.get(getattr(event, "stream_id", None))
        if stream is None:
            return
        match event:
            case DataReceived():
                stream.body += event.data
                if stream.reads and event.flow_controlled_length:
                    with contextlib.suppress(ProtocolError):
                        conn.acknowledge_received_data(event.flow_controlled_length, stream.id)
            case TrailersReceived():
                stream.trailers = _texts(event.headers)
            case StreamEnded():
                stream.ended = True
            case StreamReset():
                stream.reset = int(event.error_code)
        stream.changed.set()


class Nginx:
    """nginx with HTTP/2 over TLS."""

    def __init__(self, folder, name, *, http2=True):
        self._folder = folder
        self._name = name
        self._http2 = " http2" if http2 else ""

    async def __aenter__(self):
        folder, ca = self._folder, authority("upstream")
        (folder / "key.pem").write_bytes(ca._leaf_key_pem)
        (folder / "leaf.pem").write_bytes(ca._sign_leaf(self._name, NOW))
        (folder / "www").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        user = "user root;" if os.geteuid() == 0 else ""
        places = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log; {user}"
            f"worker_processes 1; events {{}} http {{ access_log {folder}/access.log; {places}"
            f"keepalive_requests 5; server {{ listen 127.0.0.1:{self.port} ssl{self._http2};"
            f"ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/key.pem;"
            f"root {folder}/www; location /echo {{"
            'return 200 "$request_method $server_protocol $http_x_key"; } } }'
        )
        self._process = await asyncio.create_subprocess_exec(
            "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")
        )
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return self
                await asyncio.sleep(0.02)

    async def __aexit__(self, *_):
        self._process.terminate()
        await self._process.wait()


async def curl(proxy, folder, *arguments):
    """Run curl through the proxy; returns what it prints."""
    roots = folder / "sandbox.pem"
    roots.write_bytes(authority("sandbox").certificate_pem)
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-q", "-m", "20", "--cacert", str(roots),
        "-x", f"http://127.0.0.1:{proxy.port}", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={},
    )  # fmt: skip
    out, err = await process.communicate()
    return out.decode(), err.decode()
