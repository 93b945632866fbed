"""Takes the body of a request for a model, whole and within its bounds.

It must be whole, because the model in it is replaced. Of bodies that are large only a few are held at
a time in one sandbox: a place is taken before the body is read and left when it has been sent.
"""

import asyncio

from openshell.egress.connection import ClientConnection
from openshell.egress.denials import Denial
from openshell.egress.holding import CONTINUE, is_large, is_waiting
from openshell.egress.http1 import BodyDecoder, Length, NoBody, RequestHead
from openshell.egress.inference.answers import plain
from openshell.egress.inference.limits import CHUNKS, REQUEST_BYTES
from openshell.egress.stream import Stream

__all__ = ["LargeBody", "receive_body"]


class LargeBody:
    """The place of one request among the large ones."""

    __slots__ = ("_has_place", "_places")

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._has_place = False

    async def take(self) -> None:
        await self._places.acquire()
        self._has_place = True

    def release(self) -> None:
        """Leave the place; may be called again."""
        if self._has_place:
            self._has_place = False
            self._places.release()


async def receive_body(
    connection: ClientConnection, head: RequestHead, seconds: float, large: LargeBody
) -> bytes | Denial:
    """The body without framing, or why it is not taken. Raises BodyRejected, ConnectionError."""
    framing, stream = head.framing, connection.stream
    if isinstance(framing, NoBody):
        return b""
    limit = REQUEST_BYTES - _size_of(head)
    if isinstance(framing, Length) and framing.octets > limit:
        return plain(413, "Payload Too Large")
    if is_large(head, limit):
        await large.take()
    if is_waiting(stream, head):
        stream.write(CONTINUE)
    try:
        async with asyncio.timeout(seconds):
            return await _collect(stream, BodyDecoder(framing), limit)
    except TimeoutError:
        return plain(408, "Request Timeout")


async def _collect(stream: Stream, decoder: BodyDecoder, limit: int) -> bytes | Denial:
    body = bytearray()
    while True:
        data = await stream.read()
        if not data:
            decoder.end_of_stream()
        part = decoder.feed(data)
        for piece in part.data:
            body += piece
        if len(body) > limit or decoder.chunks > CHUNKS:
            return plain(413, "Payload Too Large")
        if part.done:
            stream.unread(decoder.leftover)
            return bytes(body)


def _size_of(head: RequestHead) -> int:
    fields = sum(len(name) + len(value) + 4 for name, value in head.headers)
    return len(head.method) + len(head.target) + fields
