"""A WebSocket server of a library on loopback: it echoes, and remembers what reached it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve


@dataclass
class Echo:
    """The server's port, the paths that were opened and the messages that came."""

    port: int = 0
    paths: list[str] = field(default_factory=list)
    messages: list[str | bytes] = field(default_factory=list)


@contextlib.contextmanager
def echo_server() -> Iterator[Echo]:
    """Serve until the block ends."""
    echo = Echo()

    def answer(socket: ServerConnection) -> None:
        echo.paths.append(socket.request.path if socket.request else "")
        with contextlib.suppress(ConnectionClosed):
            for message in socket:
                echo.messages.append(message)
                socket.send(message)

    with serve(answer, "127.0.0.1", 0) as server:
        echo.port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield echo
        server.shutdown()
        thread.join()
