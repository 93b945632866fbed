"""The answer of a model on its way back: held whole, or passed on as it comes.

An answer is held where its client waits for all of it anyway, so that whatever goes wrong meanwhile
can still be told; a stream is passed on chunk by chunk, and one that breaks ends with an event that
says so. Framing is ours in both cases. What an exception means to the client is `call`'s part.
"""

import asyncio
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from openshell.egress.http1 import (
    RESPONSE_HEAD_LIMIT,
    BodyDecoder,
    BodyRejected,
    Headers,
    RequestHead,
    ResponseHead,
    ResponseHeadReader,
    UntilClose,
    end_to_end,
    render_response_head,
)
from openshell.egress.inference.answers import stream_error
from openshell.egress.inference.limits import ANSWER_BYTES, HELD_BYTES, IDLE_SECONDS
from openshell.egress.inference.patterns import Dialect
from openshell.egress.inference.usage import StreamUsage, Usage, usage_of
from openshell.egress.stream import Stream

__all__ = ["BrokenAnswer", "HeldAnswers", "NoAnswer", "Relay", "Relayed", "read_head"]

# Interim heads before an answer: a few servers send one.
_MAX_INTERIM: Final = 8
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"trailer", b"te"})
_CLOSE: Final = (b"Connection", b"close")
_CHUNKED: Final = (b"Transfer-Encoding", b"chunked")
_LAST_CHUNK: Final = b"0\r\n\r\n"


class NoAnswer(Exception):
    """The upstream closed before the first byte of an answer."""


class BrokenAnswer(Exception):
    """The upstream sent no answer that can be passed on."""


class HeldAnswers:
    """Bounds what all held answers of one sandbox take together."""

    __slots__ = ("_left",)

    def __init__(self, limit: int = HELD_BYTES) -> None:
        self._left = limit

    def take(self, size: int) -> bool:
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        self._left += size


@dataclass(frozen=True, slots=True)
class Relayed:
    """What came of an answer. `cut`: why it is not whole, in the contract's words."""

    status: int
    usage: Usage
    is_reusable: bool
    cut: str = ""
    is_ended: bool = True
    """Whether the client was told the end, so that its connection may go on."""
    size: int = 0
    """Bytes of the answer."""
    events: int = 0
    """Of a stream."""


async def read_head(upstream: Stream, method: bytes) -> tuple[ResponseHead, bytes]:
    """Read the final head and what came behind it. Raises NoAnswer, BrokenAnswer, HeadRejected."""
    data, nothing_yet = b"", True
    for _ in range(_MAX_INTERIM):
        reader = ResponseHeadReader(limit=RESPONSE_HEAD_LIMIT, request_method=method)
        head = reader.feed(data) if data else None
        while head is None:
            try:
                data = await upstream.read()
            except ConnectionError:
                data = b""
            if not data:
                if nothing_yet:
                    raise NoAnswer
                raise BrokenAnswer("it closed in the middle of a head")
            nothing_yet = False
            head = reader.feed(data)
        if head.status == 101:
            raise BrokenAnswer("it switched protocols without being asked")
        if not head.is_interim:
            return head, reader.leftover
        data = reader.leftover
    raise BrokenAnswer("it sent too many interim responses")


class Relay:
    """One answer to one client."""

    def __init__(
        self,
        client: Stream,
        upstream: Stream,
        request: RequestHead,
        dialect: Dialect,
        held: HeldAnswers,
        *,
        idle_seconds: float = IDLE_SECONDS,
        limit: int = ANSWER_BYTES,
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._request = request
        self._dialect = dialect
        self._held = held
        self._idle_seconds = idle_seconds
        self._limit = limit
        self.has_begun = False

    async def hold(self, head: ResponseHead, rest: bytes) -> Relayed:
        """Take all of the answer, then send it. Raises BrokenAnswer, BodyRejected, ConnectionError."""
        decoder, body, taken = BodyDecoder(head.framing), bytearray(), 0
        try:
            data = rest
            while True:
                for piece in decoder.feed(data).data:
                    if len(body) + len(piece) > self._limit or not self._held.take(len(piece)):
                        raise BrokenAnswer("it is too large")
                    taken += len(piece)
                    body += piece
                if decoder.done:
                    break
                data = await self._upstream.read()
                if not data:
                    decoder.end_of_stream()
            headers = self._fields(head)
            if head.status not in {204, 304}:
                headers = (*headers, (b"Content-Length", b"%d" % len(body)))
            self._begin(head, headers, bytes(body))
            await self._drain()
        finally:
            self._held.give(taken)
        usage = usage_of(bytes(body)) if _is_plain(head) else Usage()
        return Relayed(head.status, usage, _is_reusable(head, decoder), size=len(body))

    async def stream(self, head: ResponseHead, rest: bytes) -> Relayed:
        """Pass the answer on as it comes."""
        is_chunked = self._request.version == b"HTTP/1.1"
        fields = self._fields(head)
        self._begin(head, (*fields, _CHUNKED) if is_chunked else fields, b"")
        decoder, counter = BodyDecoder(head.framing), StreamUsage()
        sent, cut, data = 0, "", rest
        while not cut:
            try:
                pieces = decoder.feed(data).data
            except BodyRejected:
                cut = "upstream read error"
                break
            size = sum(map(len, pieces))
            if sent + size > self._limit:
                cut = "exceeded maximum streaming body size"
                break
            sent += size
            self._write(pieces, size, is_chunked=is_chunked)
            counter.feed(pieces)
            if self._client.must_drain:
                await self._client.drain()
            if decoder.done:
                break
            data, cut = await self._next(decoder)
        usage = counter.usage if _is_plain(head) else Usage()
        relayed = await self._finish(head, decoder, usage, cut, is_chunked=is_chunked)
        return replace(relayed, size=sent, events=counter.events)

    async def _next(self, decoder: BodyDecoder) -> tuple[bytes, str]:
        """What came next, or why nothing does."""
        try:
            async with asyncio.timeout(self._idle_seconds):
                data = await self._upstream.read()
            if not data:
                decoder.end_of_stream()
        except TimeoutError:
            return b"", "chunk idle timeout exceeded"
        except (ConnectionError, BodyRejected):
            return b"", "upstream read error"
        return data, ""

    async def _finish(
        self,
        head: ResponseHead,
        decoder: BodyDecoder,
        usage: Usage,
        cut: str,
        *,
        is_chunked: bool,
    ) -> Relayed:
        if self._client.lost:
            return Relayed(head.status, usage, False, "the client went away", is_ended=False)
        if cut and not (head.is_event_stream and _is_plain(head)):
            # Nothing that is added could be told from the answer: only a reset is honest.
            self._client.abort("the answer was cut")
            return Relayed(head.status, usage, False, cut, is_ended=False)
        if cut:
            event = stream_error(cut, self._dialect)
            self._write((event,), len(event), is_chunked=is_chunked)
        if is_chunked:
            self._client.write(_LAST_CHUNK)
        await self._drain()
        reusable = not cut and _is_reusable(head, decoder)
        return Relayed(head.status, usage, reusable, cut)

    def _begin(self, head: ResponseHead, headers: Headers, body: bytes) -> None:
        self.has_begun = True
        reason = head.reason or _phrase(head.status)
        shown = ResponseHead(b"HTTP/1.1", head.status, reason, headers, head.framing)
        self._client.write(render_response_head(shown) + body)

    def _fields(self, head: ResponseHead) -> Headers:
        kept = [pair for pair in end_to_end(head.headers) if pair[0].lower() not in _FRAMING]
        if not _stays_open(self._request):
            kept.append(_CLOSE)
        return tuple(kept)

    def _write(
        self, pieces: tuple[bytes | memoryview, ...], size: int, *, is_chunked: bool
    ) -> None:
        if not size:
            return
        if is_chunked:
            self._client.write(b"".join((b"%x\r\n" % size, *pieces, b"\r\n")))
        else:
            self._client.write(b"".join(pieces))

    async def _drain(self) -> None:
        if self._client.must_drain:
            await self._client.drain()


def _stays_open(request: RequestHead) -> bool:
    return request.version == b"HTTP/1.1" and request.keep_alive


def _is_reusable(head: ResponseHead, decoder: BodyDecoder) -> bool:
    # Bytes behind the answer mean that the upstream and we read it differently.
    return (
        not isinstance(head.framing, UntilClose)
        and head.keep_alive
        and decoder.done
        and not decoder.leftover
    )


def _is_plain(head: ResponseHead) -> bool:
    """Whether the body is not compressed."""
    return all(value.lower() == b"identity" for value in head.values(b"content-encoding"))


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
