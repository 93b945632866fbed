"""What one sandbox may make its proxy hold and for how long; one frozen group, passed in."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of the data plane. Sizes of heads and bodies live beside their parsers."""

    # Open client connections of one sandbox; more of them wait in the kernel's queue. A browser
    # opens a few hundred, a supervisor may hold a few thousand descriptors.
    max_connections: int = 1024
    # A head that has begun must end by then, a request's and a response's: a peer that drips bytes only
    # holds its connection.
    head_seconds: float = 30.0
    # A kept-alive connection without a request; common servers use 60 to 75, clients reopen.
    idle_seconds: float = 300.0
    # A client that says nothing on an opened tunnel, before we know what it speaks.
    silent_seconds: float = 60.0
    # From the first byte of a tunnel, how long it may take to become recognisable.
    peek_seconds: float = 0.1
    # The same for a captured connection: a client that waits for the server to begin would otherwise
    # hang until its own timeout, and such protocols are refused anyway.
    captured_silent_seconds: float = 5.0
    # On a refused captured connection, how long we wait to learn whether it speaks HTTP.
    refusal_peek_seconds: float = 1.0
    # A raw tunnel of which one direction has ended and the other is silent.
    tunnel_half_closed_seconds: float = 300.0
    # One pinned address; the next one is tried after that.
    dial_seconds: float = 10.0
    handshake_seconds: float = 15.0
    # A request body that stops coming, or that the upstream stops taking.
    body_idle_seconds: float = 300.0
    # A client that takes nothing of what we hold for it, while a response runs or after its last one.
    # As long as for requests: a debugger or a pager may well pause a download. Reading slowly is fine.
    stalled_reader_seconds: float = 300.0
    # An upstream from which nothing comes, before its response or in it, while nothing goes up either;
    # event streams may be silent. Squid's number: clients of language models wait ten minutes.
    silent_upstream_seconds: float = 900.0
    # A response that ends only by closing and stops coming (none for event streams): the client
    # sees a reset, never an end that it could take for complete.
    close_framed_idle_seconds: float = 60.0
    # A client's text message of which some has come: silence in it, and all of it. The contract's numbers.
    websocket_silent_seconds: float = 30.0
    websocket_message_seconds: float = 120.0
    # A server that takes nothing of a WebSocket whose messages are read; the contract's number.
    websocket_forward_seconds: float = 120.0
    # A client that ended its direction and waits for an answer from which nothing comes.
    half_closed_seconds: float = 300.0
