"""Takes a request body whole, within a bound, for credentials to be put into it.

The only place of the proxy that keeps a body. A client that waits to be asked for it is asked; what is
larger than the bound or has trailers is refused, because it could not be sent in the same form.
Called by `exchange` when judging needs the body.
"""

from openshell.egress.connection import ClientConnection
from openshell.egress.credentials import BODY_LIMIT
from openshell.egress.http1 import BodyDecoder, Length, RequestHead
from openshell.egress.judging import Fault

__all__ = ["hold_body"]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def hold_body(
    connection: ClientConnection, head: RequestHead, idle_seconds: float
) -> bytes | Fault:
    """The body without framing, or why it cannot be held. Raises BodyRejected and ConnectionError."""
    framing = head.framing
    if isinstance(framing, Length) and framing.octets > BODY_LIMIT:
        return Fault.BODY_SIZE
    stream, decoder = connection.stream, BodyDecoder(framing)
    if _waits(head) and not stream.has_input:
        stream.write(_CONTINUE)
    pieces: list[bytes] = []
    room = BODY_LIMIT
    while True:
        connection.within(idle_seconds)
        data = await stream.read()
        if not data:
            decoder.end_of_stream()
        part = decoder.feed(data)
        # What counts is what was sent, so that framing cannot be used to send for ever.
        room -= sum(map(len, part.wire))
        if room < 0:
            return Fault.BODY_SIZE
        if decoder._trailers:
            return Fault.BODY_TRAILERS
        pieces += map(bytes, part.data)
        if part.done:
            break
    connection.deadline = None
    stream.unread(decoder.leftover)
    return b"".join(pieces)


def _waits(head: RequestHead) -> bool:
    return head.version == b"HTTP/1.1" and any(
        value.lower() == b"100-continue" for value in head.values(b"expect")
    )
