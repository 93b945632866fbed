"""Frames of a client: every row of the contract's table, splits anywhere, bombs and budgets."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.streams import StreamReader

from openshell.egress.websocket.deflate import deflate_message, inflate_message
from openshell.egress.websocket.frames import (
    MAX_BINARY_FRAME,
    MAX_TEXT,
    CloseCode,
    Opcode,
    WebSocketFault,
    mask,
    render_close,
    render_text,
)
from openshell.egress.websocket.messages import AssemblyBudget, ClientMessages, Refusal

KEY = b"\x01\x02\x03\x04"
TEXT, MORE, BINARY = int(Opcode.TEXT), int(Opcode.CONTINUATION), int(Opcode.BINARY)


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    first = (0x80 if fin else 0) | rsv | opcode
    bit = 0x80 if masked else 0
    size = len(payload)
    if size <= 125:
        head = bytes((first, bit | size))
    elif size <= 0xFFFF:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return head + (KEY + mask(payload, KEY) if masked else payload)


class Judge:
    def __init__(self, allow_binary: bool = True) -> None:
        self.seen: list[str] = []
        self._allow_binary = allow_binary

    def text(self, text: str) -> str | Refusal:
        self.seen.append(text)
        if "forbidden" in text:
            return Refusal("not allowed", credential="secret" in text)
        return text.replace("PLACEHOLDER", "value")

    def binary(self) -> Refusal | None:
        return None if self._allow_binary else Refusal("no binary", credential=True)


class Fed(ClientMessages):
    """Takes everything that a call gives at once."""

    def feed(self, data: bytes) -> list[bytes]:  # type: ignore[override]
        return list(super().feed(data))


def client(
    *, deflate: bool = False, allow_binary: bool = True, budget: int = 1 << 30
) -> tuple[Fed, list[str]]:
    judge = Judge(allow_binary)
    return Fed(judge, AssemblyBudget(budget), deflate=deflate), judge.seen


def texts(wire: bytes) -> list[str]:
    """What an independent reader finds in frames."""
    reader = StreamReader()
    reader.feed_data(wire)
    found: list[str] = []
    while True:
        step = Frame.parse(reader.read_exact, mask=True, max_size=None)
        try:
            next(step)
        except StopIteration as done:
            if done.value.opcode is TheirOpcode.TEXT:
                found.append(bytes(done.value.data).decode())
        else:
            return found


def test_what_nobody_changes_goes_on_as_it_came() -> None:
    messages, seen = client()
    sent = [frame(TEXT, b"hello"), frame(9, b"p"), frame(BINARY, b"\x00" * 70_000), frame(10)]
    assert b"".join(messages.feed(b"".join(sent))) == b"".join(sent)
    assert seen == ["hello"]
    assert not messages.is_assembling


def test_fragments_and_what_stands_between_them() -> None:
    messages, seen = client()
    ping = frame(9, b"x")
    out = messages.feed(frame(TEXT, b"a", fin=False) + ping + frame(MORE, b"b", fin=False))
    assert out == [ping]
    assert messages.is_assembling
    out = messages.feed(frame(MORE, b"c"))
    assert texts(b"".join(out)) == seen == ["abc"]


def test_a_changed_message_is_a_new_frame() -> None:
    messages, _ = client()
    assert texts(b"".join(messages.feed(frame(TEXT, b"x PLACEHOLDER y")))) == ["x value y"]


def test_compressed_messages_are_read_and_compressed_again() -> None:
    messages, seen = client(deflate=True)
    out = b"".join(messages.feed(frame(TEXT, deflate_message(b"a PLACEHOLDER"), rsv=0x40)))
    assert seen == ["a PLACEHOLDER"]
    assert out[0] == 0xC1
    assert inflate_message(mask(out[6:], out[2:6])) == b"a value"
    # An uncompressed message on the same connection stays uncompressed.
    assert messages.feed(frame(TEXT, b"plain")) == [frame(TEXT, b"plain")]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(frame(TEXT, b"x", masked=False), 1002, id="unmasked"),
        pytest.param(frame(3), 1002, id="reserved data opcode"),
        pytest.param(frame(11), 1002, id="reserved control opcode"),
        pytest.param(frame(TEXT, rsv=0x40), 1002, id="RSV1 without deflate"),
        pytest.param(frame(TEXT, rsv=0x20), 1002, id="RSV2"),
        pytest.param(frame(9, rsv=0x40), 1002, id="RSV1 on a control frame"),
        pytest.param(frame(9, b"x" * 126), 1002, id="long control frame"),
        pytest.param(frame(9, fin=False), 1002, id="control frame in fragments"),
        pytest.param(frame(MORE), 1002, id="continuation of nothing"),
        pytest.param(frame(TEXT, fin=False) + frame(TEXT), 1002, id="text inside text"),
        pytest.param(frame(TEXT, fin=False) + frame(BINARY), 1002, id="binary inside text"),
        pytest.param(b"\x81\xfe\x00\x05" + KEY + b"12345", 1002, id="16-bit length for 5"),
        pytest.param(b"\x81\xff" + (200).to_bytes(8, "big") + KEY, 1002, id="64-bit for 200"),
        pytest.param(b"\x81\xff" + (1 << 63).to_bytes(8, "big") + KEY, 1002, id="top bit"),
        pytest.param(frame(8, b"\x03"), 1002, id="half a close code"),
        pytest.param(frame(8, b"\x03\xee"), 1002, id="close code 1006"),
        pytest.param(frame(8, b"\x07\xd0"), 1002, id="close code 2000"),
        pytest.param(frame(8, b"\x03\xe8\xff"), 1007, id="close reason not UTF-8"),
        pytest.param(frame(8) + frame(9), 1002, id="a frame after close"),
        pytest.param(frame(TEXT, b"\xff"), 1007, id="text not UTF-8"),
        pytest.param(frame(TEXT, b"\xe2\x82", fin=False) + frame(MORE, b"\x41"), 1007,
                     id="UTF-8 broken across fragments"),
        pytest.param(frame(TEXT, b"forbidden"), 1008, id="refused"),
        pytest.param(b"\x81\xff" + (MAX_TEXT + 1).to_bytes(8, "big") + KEY, 1009, id="text size"),
        pytest.param(b"\x82\xff" + (MAX_BINARY_FRAME + 1).to_bytes(8, "big") + KEY, 1009,
                     id="binary size"),
        pytest.param(frame(TEXT, fin=False) + frame(MORE, fin=False) * 4096, 1009,
                     id="fragments"),
    ],
)  # fmt: skip
def test_what_ends_a_connection(wire: bytes, code: int) -> None:
    messages, _ = client()
    with pytest.raises(WebSocketFault) as fault:
        messages.feed(wire)
    assert fault.value.code == code
    assert fault.value.upstream_too


def test_credential_causes_are_not_told_to_the_server() -> None:
    messages, _ = client()
    with pytest.raises(WebSocketFault) as fault:
        messages.feed(frame(TEXT, b"forbidden secret"))
    assert not fault.value.upstream_too
    messages, _ = client(allow_binary=False)
    with pytest.raises(WebSocketFault) as fault:
        messages.feed(frame(BINARY, b"x"))
    assert (fault.value.code, fault.value.upstream_too) == (CloseCode.POLICY, False)


def test_a_message_of_many_frames_is_bounded_in_all() -> None:
    messages, _ = client()
    half = b"x" * (MAX_TEXT // 2 + 1)
    messages.feed(frame(TEXT, half, fin=False))
    with pytest.raises(WebSocketFault) as fault:
        messages.feed(frame(MORE, half))
    assert fault.value.code == CloseCode.TOO_BIG


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        pytest.param(b"\xff\xff\xff", 1002, id="no deflate"),
        pytest.param(deflate_message(b"a" * (MAX_TEXT + 1)), 1009, id="bomb"),
        pytest.param(zlib.compress(b"x", wbits=-15) + b"\x07trailing", 1002, id="second stream"),
    ],
)
def test_what_does_not_inflate(payload: bytes, code: int) -> None:
    messages, _ = client(deflate=True)
    with pytest.raises(WebSocketFault) as fault:
        messages.feed(frame(TEXT, payload, rsv=0x40))
    assert fault.value.code == code


def test_a_last_block_and_an_empty_message_inflate() -> None:
    assert inflate_message(zlib.compress(b"x", wbits=-15)) == b"x"
    assert inflate_message(deflate_message(b"")) == b""
    assert len(inflate_message(deflate_message(b"a" * MAX_TEXT))) == MAX_TEXT


def test_what_was_allowed_goes_on_before_what_is_not() -> None:
    messages = ClientMessages(Judge(), AssemblyBudget(), deflate=False)
    out = messages.feed(frame(TEXT, b"one") + frame(TEXT, b"forbidden"))
    assert next(out) == frame(TEXT, b"one")
    with pytest.raises(WebSocketFault):
        next(out)


def test_what_the_server_has_of_a_binary_frame() -> None:
    messages, _ = client()
    wire = frame(BINARY, b"x" * 100)
    assert b"".join(messages.feed(wire[:50])) == wire[:50]
    assert not messages.is_between_frames
    # Nothing is held, so nothing has to come to its end in time.
    assert not messages.is_assembling
    assert b"".join(messages.feed(wire[50:])) == wire[50:]
    assert messages.is_between_frames


def test_unfinished_messages_share_a_budget() -> None:
    budget = AssemblyBudget(1000)
    first, second = (Fed(Judge(), budget, deflate=False) for _ in "12")
    first.feed(frame(TEXT, b"x" * 600, fin=False))
    with pytest.raises(WebSocketFault) as fault:
        # Not even a frame that never ends may hold more.
        second.feed(frame(TEXT, b"x" * 600)[:500])
    assert fault.value.code == CloseCode.TRY_AGAIN
    first.close()
    assert second.feed(b"") == []


def test_close_frames_are_whole() -> None:
    wire = render_close(CloseCode.POLICY, "é" * 100, masked=False)
    assert len(wire) <= 127
    assert wire[4:].decode() == "é" * ((wire[1] - 2) // 2)


@given(
    st.lists(st.text(max_size=200), min_size=1, max_size=5),
    st.booleans(),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 60),
)
def test_splits_make_no_difference(
    sent: list[str], compress: bool, cuts: list[int], fragment: int
) -> None:
    wire = b"".join(_fragmented(text.encode(), compress, fragment) for text in sent)
    messages, seen = client(deflate=True)
    out = b"".join(b"".join(messages.feed(piece)) for piece in _pieces(wire, cuts))
    assert seen == sent
    assert not messages.is_assembling
    if not compress:
        assert texts(out) == [text.replace("PLACEHOLDER", "value") for text in sent]


def _fragmented(payload: bytes, compress: bool, size: int) -> bytes:
    if compress:
        payload = deflate_message(payload)
    parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    return b"".join(
        frame(
            MORE if position else TEXT,
            part,
            fin=position == len(parts) - 1,
            rsv=0x40 if compress and not position else 0,
        )
        for position, part in enumerate(parts)
    )


def _pieces(wire: bytes, cuts: list[int]) -> Iterable[bytes]:
    at, turn = 0, 0
    while at < len(wire):
        yield wire[at : at + cuts[turn % len(cuts)]]
        at += cuts[turn % len(cuts)]
        turn += 1


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_go_on_or_end_it(wire: bytes, deflate: bool) -> None:
    """What passes here is no protocol error to an independent reader."""
    messages, _ = client(deflate=deflate)
    try:
        out = b"".join(messages.feed(wire))
    except WebSocketFault:
        return
    if deflate or any(byte & 0x0F == BINARY for byte in out[:1]):
        return
    try:
        texts(out)
    except ProtocolError as error:
        raise AssertionError(out) from error


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking_twice_is_nothing(payload: bytes, key: bytes) -> None:
    assert mask(mask(payload, key), key) == payload
    assert mask(payload, key) == bytes(b ^ key[i % 4] for i, b in enumerate(payload))


def test_rendered_text_is_masked_anew() -> None:
    assert render_text(b"same", compressed=False) != render_text(b"same", compressed=False)
