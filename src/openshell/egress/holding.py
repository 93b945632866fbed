"""Takes a request body whole, within a bound: to be judged, for credentials in it, or for its digest.

The only place of the proxy that keeps a body. A client that waits to be asked for it is asked; what is
larger than the bound or has trailers is refused, because it could not be sent in the same form.
Called by `exchange` when judging needs the body.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from openshell.egress.body_faults import BodyFault
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.credentials import BODY_LIMIT
from openshell.egress.http1 import BodyDecoder, Chunked, Length, RequestHead
from openshell.egress.judging import Judgement
from openshell.egress.route import Pending, Route
from openshell.egress.stream import Stream

__all__ = ["CONTINUE", "LARGE_BODIES", "hold_body", "is_large", "is_waiting", "read_in_turn"]

# Bodies that may be larger than those that placeholders are put into, held at the same time in one
# sandbox; more of them wait. An agent could otherwise make its supervisor hold ten megabytes a connection.
LARGE_BODIES: Final = 4

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def hold_body(
    connection: ClientConnection, head: RequestHead, seconds: float, limit: int, wire_limit: int
) -> bytes | BodyFault:
    """The body without framing, or why it cannot be held. Raises BodyRejected and ConnectionError.

    `wire_limit` counts what was sent, so that framing cannot be used to send for ever.
    """
    framing = head.framing
    if isinstance(framing, Length) and framing.octets > limit:
        return BodyFault.SIZE
    stream = connection.stream
    if is_waiting(stream, head):
        stream.write(CONTINUE)
    # Dripping bytes buys no time: the timeout is for the whole body.
    connection.deadline = None
    try:
        async with asyncio.timeout(seconds):
            return await _collect(stream, BodyDecoder(framing), limit, wire_limit)
    except TimeoutError:
        return BodyFault.TIME


async def _collect(
    stream: Stream, decoder: BodyDecoder, limit: int, wire_limit: int
) -> bytes | BodyFault:
    body = bytearray()
    while True:
        data = await stream.read()
        if not data:
            decoder.end_of_stream()
        part = decoder.feed(data)
        wire_limit -= sum(map(len, part.wire))
        for piece in part.data:
            body += piece
        # Trailers are data to scanners: looked at before the size, which they would add to.
        if decoder._trailers:
            return BodyFault.TRAILERS
        if len(body) > limit or wire_limit < 0:
            return BodyFault.SIZE
        if part.done:
            stream.unread(decoder.leftover)
            return bytes(body)


async def read_in_turn(
    services: Services, route: Route, pending: Pending, judge: Callable[[], Judgement]
) -> Judgement:
    """Judge; where content has to be read for it, one request at a time.

    Reading may take a fifth of a second: everything else that is ready moves in between, however
    many requests wait to be read.
    """
    if not route.reads_content or pending.content is not None:
        return judge()
    async with services.reading:
        await asyncio.sleep(0)
        return judge()


def is_large(head: RequestHead, limit: int) -> bool:
    """Whether holding the body needs one of the few places; one beyond the limit is not held."""
    framing = head.framing
    if isinstance(framing, Chunked):
        return limit > BODY_LIMIT
    return isinstance(framing, Length) and BODY_LIMIT < framing.octets <= limit


def is_waiting(stream: Stream, head: RequestHead) -> bool:
    """Whether the client holds its body back until it is asked for it."""
    if stream.has_input or head.version != b"HTTP/1.1":
        return False
    return any(value.lower() == b"100-continue" for value in head.values(b"expect"))
