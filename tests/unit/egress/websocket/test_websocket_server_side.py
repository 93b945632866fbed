"""Where a server's frames end, however its bytes are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from openshell.egress.websocket.server_side import ServerFrames

SIZES = st.lists(st.sampled_from([0, 1, 125, 126, 200, 65_535, 65_536]), min_size=1, max_size=4)


def written(sizes: list[int], *, masked: bool = False) -> list[bytes]:
    return [Frame(Opcode.BINARY, b"x" * size).serialize(mask=masked) for size in sizes]


@given(SIZES, st.booleans(), st.integers(1, 30))
def test_ends_are_found_whatever_the_cuts(sizes: list[int], masked: bool, step: int) -> None:
    frames, wire = ServerFrames(), b"".join(written(sizes, masked=masked))
    # Only around the borders do cuts matter; the rest goes in large pieces.
    at = 0
    ends = set()
    while at < len(wire):
        piece = wire[at : at + (step if at % 3 else 4096)]
        assert frames.follow(piece) == len(piece)
        at += len(piece)
        if frames.is_between_frames:
            ends.add(at)
    whole = {sum(map(len, written(sizes[: n + 1], masked=masked))) for n in range(len(sizes))}
    assert ends <= whole
    assert frames.is_between_frames


@given(SIZES, st.integers(0, 20))
def test_one_stops_at_the_next_end(sizes: list[int], known: int) -> None:
    first, *others = written(sizes)
    frames = ServerFrames()
    known = min(known, len(first) - 1)
    frames.follow(first[:known])
    wire = first[known:] + b"".join(others)
    assert frames.follow(wire, one=True) == len(first) - known
    assert frames.is_between_frames


def test_a_close_frame_is_noticed() -> None:
    frames = ServerFrames()
    frames.follow(Frame(Opcode.TEXT, b"x").serialize(mask=False))
    assert not frames.has_closed
    frames.follow(Frame(Opcode.CLOSE, b"").serialize(mask=False)[:1])
    assert not frames.has_closed
    frames.follow(b"\x00")
    assert frames.has_closed
