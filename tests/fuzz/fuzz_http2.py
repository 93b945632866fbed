"""Invariants of HTTP/2: whatever bytes a peer sends, and however they are cut.

The gate gives the same bytes, notices or Flood each time, and what it passes is what was sent without GOAWAY
frames. A peer behind it answers with events or PeerBroken, nothing else. A header list is read or
MalformedFields; one that is read is written and read again unchanged.
"""

from __future__ import annotations

from openshell.egress.http1 import render_request_head
from openshell.egress.http2.fields import (
    Malformed,
    MalformedFields,
    read_request,
    read_response,
    read_trailers,
    write_request,
)
from openshell.egress.http2.gate import Flood, FrameGate, GoAway
from openshell.egress.http2.peer import Peer, PeerBroken

GOAWAY = 7
HEADER = 9


def _through(parts: list[bytes]) -> tuple[bytes, tuple[GoAway, ...], str]:
    gate, passed = FrameGate(), b""
    notices: tuple[GoAway, ...] = ()
    for part in parts:
        try:
            frames = gate.feed(part, 1.0)
        except Flood as flood:
            # What came before in the same piece is dropped with the connection.
            return b"", (), flood.code
        passed, notices = passed + frames.data, notices + frames.notices
    return passed, notices, ""


def fuzz_gate(data: bytes) -> None:
    cuts = ([data], [data[i : i + 1] for i in range(len(data))], [data[:11], data[11:]])
    results = [_through(parts) for parts in cuts]
    assert results[0] == results[1] == results[2]
    passed, notices, code = results[0]
    if code:
        return
    rest, position, count = b"", 0, 0
    while position + HEADER <= len(data):
        end = position + HEADER + int.from_bytes(data[position : position + 3], "big")
        if data[position + 3] == GOAWAY:
            count += end <= len(data)
        else:
            rest += data[position:end]
        position = end
    assert passed == rest
    assert len(notices) == count


class _Transport:
    """As much of a stream as a peer touches here."""

    must_drain = lost = False

    def write(self, data: bytes) -> None:
        pass


def fuzz_peer(data: bytes) -> None:
    """The first byte says which side reads."""
    client_side = bool(data[:1] and data[0] & 1)
    peer = Peer(
        _Transport(),  # type: ignore[arg-type]
        client_side=client_side,
        clock=lambda: 1.0,
        on_room=lambda: None,
    )
    peer.start()
    rest = data[1:]
    if not client_side:
        rest = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rest
    try:
        for start in range(0, len(rest), 50):
            peer.receive(rest[start : start + 50])
    except PeerBroken:
        peer.bye(1)
    peer.flush()


def fuzz_fields(data: bytes) -> None:
    """Lines of `name=value`."""
    fields = [
        (name, value) for name, _, value in (line.partition(b"=") for line in data.split(b"\n"))
    ]
    for read in (read_response, read_trailers):
        try:
            read(fields)
        except MalformedFields as malformed:
            assert malformed.reason in Malformed
    try:
        head = read_request(fields, ended=True, scheme="https")
    except MalformedFields:
        return
    written, body = write_request(render_request_head(head), head, "https")
    assert body == b""
    assert read_request(written, ended=True, scheme="https") == head
