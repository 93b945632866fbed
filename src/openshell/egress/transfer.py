"""The two halves of an exchange: a request body on its way up, a response on its way back.

Both follow the framing, forward what arrives and keep nothing. What a peer breaks is an exception
here, because the half cannot go on; `exchange` turns it into an answer, an event and an end.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.credentials import MarkerScanner
from openshell.egress.http1 import (
    RESPONSE_HEAD_LIMIT,
    BodyDecoder,
    BodyPart,
    RequestHead,
    ResponseHead,
    ResponseHeadReader,
    UntilClose,
    end_to_end,
    render_response_head,
)
from openshell.egress.stream import RESET, Stream

__all__ = ["BadAnswer", "MarkerInBody", "NoAnswer", "OnSwitch", "RequestBody", "Response"]

# Serves what follows a 101, to its end; raises BadAnswer where that is none to pass on.
OnSwitch: TypeAlias = Callable[[ResponseHead, bytes], Awaitable[None]]

_CLOSE: Final = (b"Connection", b"close")
# Interim heads before one response. Servers send one or two (100, 103), a few keep a slow answer alive
# with a 102 every 20 seconds; an upstream that sends more gets its connection dropped (502).
_MAX_INTERIM: Final = 32


class NoAnswer(Exception):
    """The upstream closed before the first byte of a response."""


class BadAnswer(Exception):
    """The upstream sent something that is no response we accept."""


class MarkerInBody(Exception):
    """A credential placeholder stands in the body, where nothing replaces it."""


class RequestBody:
    """The request body on its way: framing followed, markers watched for, nothing kept."""

    __slots__ = ("_decoder", "early", "scanner")

    def __init__(self, head: RequestHead, scan: bool) -> None:
        self._decoder = BodyDecoder(head.framing)
        self.scanner = MarkerScanner() if scan and not self._decoder.done else None
        # What arrived together with the head; kept until the head has gone out.
        self.early: tuple[bytes | memoryview, ...] = ()

    @property
    def done(self) -> bool:
        return self._decoder.done

    def begin(self, client: Stream) -> None:
        """Take the part of the body that came with the head."""
        if not self._decoder.done:
            arrived = client.take()
            if arrived:
                self.early = self._feed(arrived, client).wire

    def take(self, data: bytes, client: Stream) -> tuple[bytes | memoryview, ...]:
        """Take what came later; nothing is the end of the client's direction."""
        if not data:
            self._decoder.end_of_stream()
            return ()
        return self._feed(data, client).wire

    def _feed(self, data: bytes, client: Stream) -> BodyPart:
        part = self._decoder.feed(data)
        if self.scanner is not None and part.data:
            # One look at all that came in one read: chunks of single bytes would cost a look each.
            pieces = part.data
            if self.scanner.feed(pieces[0] if len(pieces) == 1 else b"".join(pieces)):
                raise MarkerInBody
        if part.done:
            client.unread(self._decoder.leftover)
        return part


class Response:
    """The response on its way back."""

    __slots__ = (
        "_connection",
        "_on_switch",
        "_request",
        "_sent",
        "_services",
        "has_begun",
        "status",
        "upstream_reusable",
    )

    def __init__(
        self,
        connection: ClientConnection,
        request: RequestHead,
        sent: RequestBody,
        services: Services,
        on_switch: OnSwitch | None = None,
    ) -> None:
        """`sent` is the body on its way, `on_switch` is there for a request that asked for another protocol."""
        self._connection = connection
        self._on_switch = on_switch
        self._request = request
        self._sent = sent
        self._services = services
        self.has_begun = False
        self.status = 0
        self.upstream_reusable = False

    async def relay(self, client: Stream, upstream: Stream) -> bool:
        """Relay the response; say whether the client connection stays open after it."""
        head, rest = await self._head(client, upstream)
        self.status = head.status
        if head.status == 101:
            if self._on_switch is None:
                raise BadAnswer("it switched protocols without being asked")
            self._connection.upstream_due = None
            await self._on_switch(head, rest)
            return False
        # A server that answers before it has the request may take the rest of it for another one.
        was_sent = self._sent.done
        until_close = isinstance(head.framing, UntilClose)
        keep = (
            was_sent
            and not until_close
            and head.version == b"HTTP/1.1"
            and self._request.version == b"HTTP/1.1"
            and self._request.keep_alive
        )
        headers = end_to_end(head.headers)
        shown = head.with_headers(headers if keep else (*headers, _CLOSE))
        body = BodyDecoder(head.framing)
        first = body.feed(rest).wire if rest else ()
        self.has_begun = True
        client.write(b"".join((render_response_head(shown), *first)))
        if not body.done:
            await self._body(body, client, upstream, head)
        self._connection.upstream_due = None
        # Bytes behind the response mean that the upstream and we read it differently.
        self.upstream_reusable = (
            was_sent and not until_close and head.keep_alive and not body.leftover
        )
        if client.must_drain:
            await client.drain()
        return keep

    async def _body(
        self, body: BodyDecoder, client: Stream, upstream: Stream, head: ResponseHead
    ) -> None:
        """Relay what comes until the response ends."""
        connection, limits = self._connection, self._services.limits
        seconds: float | None = limits.silent_upstream_seconds
        if head.is_event_stream:
            seconds = None
        elif isinstance(head.framing, UntilClose):
            seconds = limits.close_framed_idle_seconds
        while not body.done:
            if client.must_drain:
                # Now the client is waited for.
                connection.upstream_due = None
                await client.drain()
            connection.progress = now = self._services.clock()
            connection.upstream_due = None if seconds is None else now + seconds
            data = await upstream.read()
            if not data:
                body.end_of_stream()
                break
            for piece in body.feed(data).wire:
                client.write(piece)

    async def _head(self, client: Stream, upstream: Stream) -> tuple[ResponseHead, bytes]:
        """Read the final head; interim ones go on as they come."""
        method = self._request.method
        reader = ResponseHeadReader(limit=RESPONSE_HEAD_LIMIT, request_method=method)
        nothing_yet, has_begun, interim = True, False, 0
        connection, limits = self._connection, self._services.limits
        connection.upstream_within(limits.silent_upstream_seconds)
        while True:
            try:
                data = await upstream.read()
            except ConnectionError:
                if nothing_yet and upstream.reason == RESET and not client.lost:
                    raise NoAnswer from None
                raise
            if not data:
                if nothing_yet:
                    raise NoAnswer
                reader.end_of_stream()
                raise BadAnswer("it closed after an interim response")
            nothing_yet = False
            while data:
                head = reader.feed(data)
                if head is None:
                    if not has_begun:
                        # From the first byte on the whole head must come.
                        has_begun = True
                        connection.upstream_within(limits.head_seconds)
                    break
                if not head.is_interim:
                    return head, reader.leftover
                interim += 1
                if interim > _MAX_INTERIM:
                    raise BadAnswer("it sent too many interim responses")
                if self._request.version == b"HTTP/1.1":
                    client.write(render_response_head(head.with_headers(end_to_end(head.headers))))
                    if client.must_drain:
                        await client.drain()
                has_begun = False
                connection.upstream_within(limits.silent_upstream_seconds)
                data = reader.leftover
                reader = ResponseHeadReader(limit=RESPONSE_HEAD_LIMIT, request_method=method)
