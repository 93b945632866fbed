"""A small HTTP or HTTPS server on loopback that remembers what reached it."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ALIAS = "host.openshell.internal"


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Upstream:
    """The server's port and what it received, in order."""

    port: int
    received: list[Received] = field(default_factory=list)
    # Path to the Location it is redirected to.
    redirects: dict[str, str] = field(default_factory=dict)
    # Accepted connections: also those that brought no request.
    connections: int = 0
    # Common names of the certificates that clients showed, one for each request.
    clients: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [item.path for item in self.received]


@contextlib.contextmanager
def http_upstream(certificate: Path | None = None, *, client_ca: str = "") -> Iterator[Upstream]:
    """Serves until the block ends; with a certificate over TLS.

    With `client_ca` (PEM) only to clients with a certificate of that authority; whose, is remembered.
    """
    upstream = Upstream(0)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are two writes: the second must not wait until the first is acknowledged.
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            upstream.received.append(
                Received(self.command, self.path, dict(self.headers.items()), body)
            )
            if client_ca:
                peer = self.connection.getpeercert() or {}
                upstream.clients.append(dict(part[0] for part in peer["subject"])["commonName"])
            answer = f"{self.command} {self.path}".encode()
            location = upstream.redirects.get(self.path)
            self.send_response(307 if location else 200)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256

        def verify_request(self, request: object, client_address: object) -> bool:
            upstream.connections += 1
            return True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=client_ca)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    upstream.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield upstream
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
