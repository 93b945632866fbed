"""A server on loopback whose answers never end: events over HTTP, ticks to whatever else begins to speak."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator

__all__ = ["stream_server"]

_TICK_SECONDS = 0.002


@contextlib.contextmanager
def stream_server() -> Iterator[int]:
    """Serve until the block ends; the port."""
    ended = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            if b" HTTP/1.1" in line:
                while self.rfile.readline() not in (b"\r\n", b""):
                    pass
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            with contextlib.suppress(OSError):
                while line and not ended.wait(_TICK_SECONDS):
                    self.wfile.write(b"data: tick\n")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
