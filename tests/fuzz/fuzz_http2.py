"""Invariants of HTTP/2: whatever bytes a peer sends, and however they are cut.

The reader gives the same frames or PeerBroken each time. A peer behind it answers with happenings or
PeerBroken, nothing else. A header list is read or
MalformedFields; one that is read is written and read again unchanged.
"""

from __future__ import annotations

from openshell.egress.http1 import render_request_head
from openshell.egress.http2.codes import DATA, PREFACE, PeerBroken
from openshell.egress.http2.fields import (
    Malformed,
    MalformedFields,
    read_request,
    read_response,
    read_trailers,
    write_request,
)
from openshell.egress.http2.peer import Peer
from openshell.egress.http2.reader import Frame, FrameReader


def _read(parts: list[bytes]) -> tuple[list[tuple[object, ...]], str]:
    """What was read, with the pieces of data put together, and how it ended."""
    reader, frames = FrameReader(), list[Frame]()
    code = ""
    try:
        for part in parts:
            frames += reader.feed(part, 1.0)
    except PeerBroken as broken:
        # What came before in the same piece is dropped with the connection.
        return [], broken.code
    seen: list[list[object]] = []
    open_data = False
    for kind, flags, stream_id, payload, counted in frames:
        data = bytes(payload)
        if open_data and kind == DATA and not counted and data:
            seen[-1][1] = flags
            seen[-1][3] += data  # type: ignore[operator]
        else:
            seen.append([kind, flags, stream_id, data, counted])
        open_data = kind == DATA and len(seen[-1][3]) < seen[-1][4]  # type: ignore[arg-type, operator]
    return [tuple(one) for one in seen], code


def fuzz_frames(data: bytes) -> None:
    cuts = ([data], [data[i : i + 1] for i in range(len(data))], [data[:11], data[11:]])
    results = [_read(parts) for parts in cuts]
    assert results[0] == results[1] == results[2]


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
        rest = PREFACE + rest
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
