"""Invariant: however a chunked body is cut, the same bytes are forwarded, the same data seen, the same end
reached; what is forwarded is a prefix of what came, and forwarded and left over together are all of it."""

from __future__ import annotations

from openshell.egress.http1 import CHUNKED, BodyDecoder, BodyRejected, BodyRejectReason

Outcome = tuple[bytes, bytes, bool, bytes, BodyRejectReason | None]


def follow(parts: list[bytes]) -> Outcome:
    decoder = BodyDecoder(CHUNKED)
    wire, data = bytearray(), bytearray()
    for part in parts:
        try:
            step = decoder.feed(part)
        except BodyRejected as rejected:
            return bytes(wire), bytes(data), False, b"", rejected.reason
        for piece in step.wire:
            wire += piece
        for piece in step.data:
            data += piece
    return bytes(wire), bytes(data), decoder.done, decoder.leftover, None


def fuzz_chunked_body(data: bytes) -> None:
    one = follow([data])
    two = follow([data[i : i + 1] for i in range(len(data))])
    assert one[4] == two[4]
    assert data.startswith(one[0])
    assert data.startswith(two[0])
    if one[4] is None:
        assert one == two
    if one[2]:
        assert one[0] + one[3] == data
