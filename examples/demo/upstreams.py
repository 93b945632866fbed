"""Two small servers that stand for services on the network: one HTTP, one HTTPS with its own CA."""

from __future__ import annotations

import http.server
import json
import ssl
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.certificates import make_certificates

ALIAS = "host.openshell.internal"


@dataclass(frozen=True)
class Seen:
    """One request as the upstream received it."""

    method: str
    path: str
    authorization: str


@dataclass
class Upstream:
    """A running server and what it has received."""

    server: http.server.ThreadingHTTPServer
    seen: list[Seen] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def start_http() -> Upstream:
    """A plain HTTP server on a free loopback port."""
    return _start(None)


def start_https(directory: Path) -> tuple[Upstream, Path]:
    """An HTTPS server for the host alias; answers with the path of its CA's certificate."""
    ca_path = directory / "upstream-ca.pem"
    key_path = directory / "upstream.pem"
    make_certificates(ca_path, key_path, ALIAS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key_path)
    return _start(context), ca_path


def _start(context: ssl.SSLContext | None) -> Upstream:
    seen: list[Seen] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            seen.append(Seen(self.command, self.path, self.headers.get("Authorization", "")))
            body = json.dumps({"method": self.command, "path": self.path}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: the demo tells the story."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return Upstream(server, seen)
