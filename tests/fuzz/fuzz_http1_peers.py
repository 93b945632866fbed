"""Invariant: what we read of a stream of HTTP/1, h11 and llhttp read alike: as many messages, with the same
targets, fields and bodies. They refuse what we take for reasons that are listed, never find more in it or
something else; and in what we would send on there is never more than we have read, not even when we have
refused the rest."""

from __future__ import annotations

from fuzz.http1_peers import (
    Message,
    Read,
    h11_requests,
    h11_responses,
    llhttp_requests,
    llhttp_responses,
    read_requests,
    read_responses,
)

# Why a peer may refuse what we take whole. None of these is about where a message ends but the
# repeated length, and what goes on holds one only.
KNOWN_REFUSALS = (
    "Invalid method encountered",  # llhttp knows a list; any token is a method
    "Expected space after method",  # the same
    "Expected HTTP/2 Connection Preface",  # PRI, for llhttp
    "Duplicate Content-Length",  # twice the same, for llhttp
    "Unexpected char in url",
    "Unexpected start char in url",  # targets that the pipeline refuses once it reads them
    "illegal request line",  # the same for h11: bytes outside ASCII
    "Data after `Connection: close`",  # llhttp, behind an interim response; we hand such a field to nobody
    "Received server _SWITCH_UPGRADE event",  # a 101 that nobody asked for is refused by the exchange
)
METHODS = (b"GET", b"HEAD", b"POST", b"CONNECT")


def fuzz_requests_and_peers(data: bytes) -> None:
    ours = read_requests(data)
    for peer in (h11_requests, llhttp_requests):
        _agree(ours.whole, peer(data[: ours.taken]))
        sent = peer(ours.sent)
        _agree(ours.forwarded, sent)
        assert len(sent.whole) <= len(ours.whole)


def fuzz_responses_and_peers(data: bytes) -> None:
    """The first byte chooses the method of the request."""
    method = METHODS[data[0] % 3] if data else b"GET"
    data = data[1:]
    ours = read_responses(data, method)
    _agree(ours.whole, h11_responses(data[: ours.taken], method))
    _agree(ours.forwarded, h11_responses(ours.sent, method))
    # llhttp is not told of the method here, and reads no response without a body where GET would have one.
    if method != b"HEAD":
        _agree(ours.whole, llhttp_responses(data[: ours.taken]))
        _agree(ours.forwarded, llhttp_responses(ours.sent))


def _agree(ours: list[Message], peer: Read) -> None:
    assert len(peer.messages) <= len(ours), "a peer finds more messages"
    if len(peer.messages) < len(ours):
        assert peer.refused or peer.has_ended, "a peer waits for more of what we have read"
    if peer.refused and len(peer.whole) < sum(message.is_whole for message in ours):
        assert peer.refused.startswith(KNOWN_REFUSALS), peer.refused
    for own, other in zip(ours, peer.messages, strict=False):
        assert own.first == other.first
        assert _comparable(own) == _comparable(other)
        if own.switches:
            continue
        if own.is_whole and other.is_whole:
            assert _same_body(own.body, other.body)
        elif own.is_whole and not (peer.refused or peer.has_ended):
            # What runs until the close has no end for a reader that is not told of the close.
            assert own.body == other.body


def _comparable(message: Message) -> list[tuple[bytes, bytes]]:
    """h11 writes the coding's name small and drops the same length said again; llhttp keeps blanks behind a
    length; we drop a framing that may not be declared where no body can follow."""
    found = []
    has_no_framing = len(message.first) == 1 and message.first[0][:1] == b"1"
    has_no_framing |= message.first == (b"204",)
    for name, value in message.fields:
        if has_no_framing and name in (b"content-length", b"transfer-encoding"):
            continue
        value = value.rstrip(b" \t")
        pair = (name, value.lower() if name == b"transfer-encoding" else value)
        if name != b"content-length" or pair not in found:
            found.append(pair)
    return found


def _same_body(own: bytes, other: bytes) -> bool:
    """Peers give trailers apart; ours has their lines behind the data."""
    return own == other or _squeezed(own) == _squeezed(other)


def _squeezed(body: bytes) -> bytes:
    return body.translate(None, b" \t\r\n").lower()
