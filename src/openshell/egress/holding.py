"""Takes a request body whole, within a bound, for credentials to be put into it or for its digest.

The only place of the proxy that keeps a body. A client that waits to be asked for it is asked; what is
larger than the bound or has trailers is refused, because it could not be sent in the same form.
Called by `exchange` when judging needs the body.
"""

from typing import Final

from openshell.egress.connection import ClientConnection
from openshell.egress.credentials import BODY_LIMIT
from openshell.egress.http1 import BodyDecoder, Length, RequestHead
from openshell.egress.judging import Fault
from openshell.egress.stream import Stream

__all__ = ["CONTINUE", "LARGE_BODIES", "hold_body", "is_large", "is_waiting"]

# Bodies larger than those that placeholders are put into, held at the same time in one sandbox; more
# of them wait. An agent could otherwise make its supervisor hold ten megabytes a connection.
LARGE_BODIES: Final = 4

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def hold_body(
    connection: ClientConnection, head: RequestHead, idle_seconds: float, limit: int
) -> bytes | Fault:
    """The body without framing, or why it cannot be held. Raises BodyRejected and ConnectionError."""
    framing = head.framing
    if isinstance(framing, Length) and framing.octets > limit:
        return Fault.BODY_SIZE
    stream, decoder = connection.stream, BodyDecoder(framing)
    if is_waiting(stream, head):
        stream.write(CONTINUE)
    pieces: list[bytes] = []
    room = limit
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


def is_large(head: RequestHead, limit: int) -> bool:
    """Whether holding the body needs one of the few places; one beyond the limit is not held."""
    framing = head.framing
    return isinstance(framing, Length) and BODY_LIMIT < framing.octets <= limit


def is_waiting(stream: Stream, head: RequestHead) -> bool:
    """Whether the client holds its body back until it is asked for it."""
    if stream.has_input or head.version != b"HTTP/1.1":
        return False
    return any(value.lower() == b"100-continue" for value in head.values(b"expect"))
