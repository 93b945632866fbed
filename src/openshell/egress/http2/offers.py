"""Which protocol a client and its upstream speak, settled before either handshake is answered.

HTTP/2 is offered to a client only where its upstream has just agreed to it, so that nothing is ever
translated between versions: what two versions frame differently is where requests are smuggled. So the
upstream is asked first, with what the client's hello offers. Loads nothing of the rest of this package.
"""

import asyncio
from typing import Final

from openshell.egress.stream import Stream
from openshell.egress.tls_hello import ClientHelloReader, HelloRejected

__all__ = ["H2", "HTTP1", "common", "read_offer"]

H2: Final = "h2"
HTTP1: Final = "http/1.1"


async def read_offer(stream: Stream, seconds: float) -> tuple[str, ...]:
    """Say which of our protocols a client offers, and put its hello back.

    Nothing for a hello that cannot be read: its handshake is answered, or fails, as it does today.
    """
    reader, seen = ClientHelloReader(), b""
    try:
        async with asyncio.timeout(seconds):
            while data := await stream.read():
                seen += data
                hello = reader.feed(data)
                if hello is not None:
                    return common(hello.alpn)
    except (HelloRejected, ConnectionError, TimeoutError):
        pass
    finally:
        stream.unread(seen)
    return ()


def common(offered: tuple[bytes, ...]) -> tuple[str, ...]:
    """Return what both of us speak, in our order."""
    return tuple(name for name in (H2, HTTP1) if name.encode() in offered)
