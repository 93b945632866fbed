"""Invariants of WebSocket: however a client's bytes are cut, the same texts are judged and the same fault
found; a second reader finds these texts, and no others, in what came and in what goes on. A message that
inflates does so to the same bytes elsewhere. Nothing but WebSocketFault or AnswerRejected is raised."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import Protocol, Side, State

from openshell.egress.http1 import HeadRejected, RequestHeadReader, ResponseHeadReader
from openshell.egress.websocket.deflate import deflate_message, inflate_message
from openshell.egress.websocket.frames import MAX_TEXT, WebSocketFault
from openshell.egress.websocket.handshake import (
    AnswerRejected,
    Attempt,
    Upgrade,
    accept_of,
    check_answer,
    read_upgrade,
)
from openshell.egress.websocket.messages import AssemblyBudget, ClientMessages, Refusal
from openshell.egress.websocket.server_side import ServerFrames

_BUDGET = 1 << 20
_ACCEPT = b"$ACCEPT"


@dataclass
class _Judge:
    seen: list[str] = field(default_factory=list)

    def text(self, text: str) -> str | Refusal:
        self.seen.append(text)
        return Refusal("no") if "refused" in text else text

    def binary(self) -> Refusal | None:
        return None


def _judged(parts: list[bytes], *, deflate: bool) -> tuple[list[str], str, bytes, int]:
    """Texts, the fault, what went on, and how many bytes had come when all was well."""
    judge, budget = _Judge(), AssemblyBudget(_BUDGET)
    messages = ClientMessages(judge, budget, deflate=deflate)
    sent, fault = bytearray(), ""
    try:
        for part in parts:
            for piece in messages.feed(part):
                sent += piece
    except WebSocketFault as found:
        fault = found.reason
    held = messages._reader.buffered
    messages.close()
    assert budget.take(_BUDGET), "not all of the budget is given back"
    return judge.seen, fault, bytes(sent), held


class _InflateTexts(PerMessageDeflate):
    """Binary messages go on as they are: nobody here inflates them, so they may be no streams at all."""

    is_binary = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.opcode is TheirOpcode.BINARY or (
            frame.opcode is TheirOpcode.CONT and self.is_binary
        ):
            self.is_binary = not frame.fin
            return replace(frame, rsv1=False)
        return super().decode(frame, max_size=max_size)


def _texts_there(data: bytes, *, deflate: bool) -> tuple[list[str], bool]:
    """What the library reads, and whether it refused."""
    peer = Protocol(Side.SERVER, state=State.OPEN, max_size=None)
    if deflate:
        peer.extensions = [_InflateTexts(True, True, 15, 15)]
    peer.receive_data(data)
    texts: list[str] = []
    open_message: list[bytes] | None = None
    for frame in peer.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode is TheirOpcode.TEXT:
            open_message = []
        elif frame.opcode is not TheirOpcode.CONT or open_message is None:
            continue
        open_message.append(bytes(frame.data))
        if frame.fin:
            texts.append(b"".join(open_message).decode(errors="replace"))
            open_message = None
    # A close frame in an unfinished message is a way to give it up; the library calls it incomplete.
    refused = peer.parser_exc is not None and "incomplete" not in str(peer.parser_exc)
    return texts, refused


def fuzz_client_frames(data: bytes) -> None:
    """The first byte says whether compression was agreed on."""
    deflate = bool(data[:1] and data[0] & 1)
    data = data[1:]
    cuts = ([data], [data[i : i + 1] for i in range(len(data))], [data[:5], data[5:]])
    results = [_judged(list(parts), deflate=deflate) for parts in cuts]
    texts, fault, sent, _ = results[0]
    assert all(result[:2] == (texts, fault) for result in results)
    # A refused message is judged and does not go on; what follows a fault is read by nobody here.
    passed = texts[:-1] if fault == "no" else texts
    there, refused = _texts_there(sent, deflate=deflate)
    assert there == passed
    assert not refused
    raw, refused = _texts_there(data, deflate=deflate)
    assert raw[: len(texts)] == texts or (refused and raw == texts[: len(raw)])
    if not fault:
        assert raw == texts


def fuzz_inflate(data: bytes) -> None:
    try:
        message = inflate_message(data)
    except WebSocketFault:
        return
    assert len(message) <= MAX_TEXT
    peer = PerMessageDeflate(True, True, 15, 15)
    frame = Frame(TheirOpcode.BINARY, data, rsv1=True)
    assert bytes(peer.decode(frame, max_size=None).data) == message
    assert inflate_message(deflate_message(message)) == message


def fuzz_server_frames(data: bytes) -> None:
    """Stops of `one` are where the library's frames end."""
    whole, parts, single = ServerFrames(), ServerFrames(), ServerFrames()
    assert whole.follow(data) == len(data)
    for index in range(len(data)):
        assert parts.follow(data[index : index + 1]) == 1
    assert whole.is_between_frames == parts.is_between_frames
    assert whole.has_closed == parts.has_closed
    at = 0
    while at < len(data):
        end = at + single.follow(data[at:], one=True)
        assert end > at
        if single.is_between_frames:
            assert _frame_there(data[at:end])
        else:
            assert end == len(data)
        at = end


def _frame_there(data: bytes) -> bool:
    """Whether the library reads exactly one frame, or refuses it for its content."""
    peer = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    peer.receive_data(data)
    return len(peer.events_received()) == 1 or peer.parser_exc is not None


def fuzz_handshake(data: bytes) -> None:
    """Fields of the request, an empty line of `--`, fields of the answer."""
    asked, _, answered = data.partition(b"\n--\n")
    try:
        head = RequestHeadReader(limit=4096, require_host=True).feed(
            b"GET / HTTP/1.1\r\nHost: a\r\n" + _lines(asked) + b"\r\n"
        )
        if head is None:
            return
        upgrade = read_upgrade(head)
        key = upgrade.key if isinstance(upgrade, Upgrade) else b""
        answer = ResponseHeadReader(limit=4096, request_method=b"GET").feed(
            b"HTTP/1.1 101 X\r\n" + _lines(answered).replace(_ACCEPT, accept_of(key)) + b"\r\n"
        )
    except HeadRejected:
        return
    if not isinstance(upgrade, Upgrade):
        assert upgrade in Attempt
        return
    assert head.values(b"sec-websocket-key") == (upgrade.key,)
    assert not upgrade.safe_offer or b"permessage-deflate" in upgrade.extensions
    if answer is None:
        return
    for parsed in (True, False):
        try:
            compressed = check_answer(upgrade, answer, parsed=parsed)
        except AnswerRejected:
            continue
        assert answer.values(b"sec-websocket-accept") == (accept_of(upgrade.key),)
        granted = b",".join(answer.values(b"sec-websocket-extensions")).lower()
        if compressed:
            assert parsed
            assert granted.count(b"permessage-deflate") == 1
            assert b"client_no_context_takeover" in granted
        elif parsed:
            assert not granted.strip(b" \t,")


def _lines(data: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in data.split(b"\n") if line)
