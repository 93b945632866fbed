"""What three readers make of one stream of HTTP/1: ours, h11, and llhttp (through httptools).

Each gives the messages that it read to their end, and how it went on. Ours also gives what would be
forwarded, written as the proxy writes it. For the fuzz targets of `fuzz_http1_peers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import h11
import httptools

from openshell.egress.http1 import (
    BodyDecoder,
    BodyRejected,
    HeadRejected,
    RequestHeadReader,
    ResponseHeadReader,
    UntilClose,
    end_to_end,
    render_request_head,
    render_response_head,
)

LIMIT = 16 * 1024
Fields = list[tuple[bytes, bytes]]


@dataclass
class Message:
    """One message: `first` is method and target, or the status."""

    first: tuple[bytes, ...]
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    is_whole: bool = False
    # It asks for another protocol behind it; readers disagree whether its body comes before the switch.
    # The proxy never sends such a body together with the question.
    switches: bool = False


@dataclass
class Read:
    messages: list[Message] = field(default_factory=list)
    refused: str = ""
    # Of ours only: bytes up to the end of the last whole message, and what is sent on.
    taken: int = 0
    sent: bytes = b""
    # Nothing behind the last message is HTTP/1 any more, or nobody reads it.
    has_ended: bool = False

    @property
    def whole(self) -> list[Message]:
        return [message for message in self.messages if message.is_whole]

    @property
    def forwarded(self) -> list[Message]:
        """The messages without the fields of this hop; so nobody is asked to switch, but by CONNECT."""
        return [
            replace(
                message,
                fields=list(end_to_end(tuple(message.fields))),
                switches=message.first[0] == b"CONNECT",
            )
            for message in self.messages
        ]


def read_requests(data: bytes) -> Read:
    """As the proxy reads a connection: a head, its body, the next head."""
    read, rest = Read(), data
    while rest and not read.has_ended:
        reader = RequestHeadReader(limit=LIMIT, require_host=True)
        try:
            head = reader.feed(rest)
        except HeadRejected as rejected:
            read.refused = rejected.reason
            return read
        if head is None:
            return read
        message = Message((head.method, head.target), _lower(head.headers))
        read.messages.append(message)
        read.sent += render_request_head(head.with_headers(end_to_end(head.headers)))
        message.switches = head.method == b"CONNECT" or bool(head.upgrade_tokens())
        read.has_ended = message.switches or not head.keep_alive
        left = _read_body(read, message, BodyDecoder(head.framing), reader.leftover)
        if left is None:
            return read
        rest = left
        read.taken = len(data) - len(rest)
    return read


def read_responses(data: bytes, method: bytes) -> Read:
    """As the proxy reads the answer to one request, interim heads included."""
    read, rest = Read(), data
    while rest and not read.has_ended:
        reader = ResponseHeadReader(limit=LIMIT, request_method=method)
        try:
            head = reader.feed(rest)
        except HeadRejected as rejected:
            read.refused = rejected.reason
            return read
        if head is None:
            return read
        message = Message((b"%d" % head.status,), _lower(head.headers))
        read.messages.append(message)
        read.sent += render_response_head(head.with_headers(end_to_end(head.headers)))
        read.has_ended = not head.is_interim
        decoder = BodyDecoder(head.framing)
        left = _read_body(read, message, decoder, reader.leftover)
        if isinstance(head.framing, UntilClose):
            decoder.end_of_stream()
            message.is_whole, left = decoder.done, b""
        if left is None:
            return read
        rest = left
        read.taken = len(data) - len(rest)
    return read


def _read_body(read: Read, message: Message, decoder: BodyDecoder, rest: bytes) -> bytes | None:
    """Follow a body; what is behind it, or None while it has not ended."""
    try:
        part = decoder.feed(rest)
    except BodyRejected as rejected:
        read.refused = rejected.reason
        return None
    read.sent += b"".join(part.wire)
    message.body = b"".join(part.data)
    message.is_whole = decoder.done
    return decoder.leftover if decoder.done else None


def h11_requests(data: bytes) -> Read:
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    read = Read()
    peer.receive_data(data)
    while _follow_h11(peer, read):
        try:
            peer.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            peer.send(h11.EndOfMessage())
            peer.start_next_cycle()
        except h11.LocalProtocolError:
            # The connection is to be closed, or has switched.
            read.has_ended = True
            return read
    return read


def h11_responses(data: bytes, method: bytes) -> Read:
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    peer.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    peer.send(h11.EndOfMessage())
    read = Read()
    peer.receive_data(data)
    peer.receive_data(b"")
    _follow_h11(peer, read)
    return read


def _follow_h11(peer: h11.Connection, read: Read) -> bool:
    """Take the events of one message; whether it came to its end."""
    while True:
        try:
            event = peer.next_event()
        except h11.RemoteProtocolError as error:
            read.refused = str(error)
            return False
        match event:
            case h11.Request():
                read.messages.append(Message((event.method, event.target), list(event.headers)))
            case h11.InformationalResponse() | h11.Response():
                status = (b"%d" % event.status_code,)
                is_interim = isinstance(event, h11.InformationalResponse)
                message = Message(status, list(event.headers), is_whole=is_interim)
                read.messages.append(message)
            case h11.Data():
                read.messages[-1].body += event.data
            case h11.EndOfMessage():
                read.messages[-1].body += b"".join(b"%b:%b\n" % pair for pair in event.headers)
                read.messages[-1].is_whole = True
                return True
            case _:
                return False


class _Events:
    """What httptools calls back; the parser is asked for what it does not hand over."""

    def __init__(self) -> None:
        self.read = Read()
        self.parser: httptools.HttpRequestParser | httptools.HttpResponseParser | None = None
        self._target = b""
        self._pairs: Fields = []
        self._in_head = False

    def on_message_begin(self) -> None:
        self._target, self._pairs, self._in_head = b"", [], True

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._pairs.append((name.lower(), value))
        else:
            self.read.messages[-1].body += b"%b:%b\n" % (name.lower(), value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser = self.parser
        if isinstance(parser, httptools.HttpRequestParser):
            first: tuple[bytes, ...] = (parser.get_method(), self._target)
        else:
            assert isinstance(parser, httptools.HttpResponseParser)
            first = (b"%d" % parser.get_status_code(),)
        self.read.messages.append(Message(first, self._pairs))

    def on_body(self, part: bytes) -> None:
        self.read.messages[-1].body += part

    def on_message_complete(self) -> None:
        self.read.messages[-1].is_whole = True


def llhttp_requests(data: bytes) -> Read:
    events = _Events()
    events.parser = httptools.HttpRequestParser(events)
    return _follow_llhttp(events, data)


def llhttp_responses(data: bytes) -> Read:
    events = _Events()
    events.parser = httptools.HttpResponseParser(events)
    return _follow_llhttp(events, data)


def _follow_llhttp(events: _Events, data: bytes) -> Read:
    assert events.parser is not None
    try:
        events.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        events.read.has_ended = True
    except httptools.HttpParserError as error:
        events.read.refused = str(error) or type(error).__name__
    return events.read


def _lower(headers: tuple[tuple[bytes, bytes], ...]) -> Fields:
    return [(name.lower(), value) for name, value in headers]
