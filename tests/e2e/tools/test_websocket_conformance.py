"""What a WebSocket does with odd and broken frames is the same with us between as without.

The cases follow the chapters of the Autobahn suite (framing, pings, reserved bits, opcodes, fragments, UTF-8,
closing), which no longer runs on a Python that is supported. Each is sent twice to the echo server of a library:
straight to it, and from a sandbox through the proxy, which reads every message. Where frames are broken
both must end the connection with the same code.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from support.echo_server import Echo
from support.private_gateway import PYTHON
from support.tool_box import ToolBox
from support.upstream import ALIAS

# Sends the frames of each case on a connection of its own; prints what came back.
CLIENT = """
import json, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
def exactly(file, size):
    data = file.read(size)
    if len(data) < size: raise EOFError
    return data
def talk(frames, heard):
    s = socket.create_connection((host, port), 10)
    file = s.makefile("rb")
    s.sendall(f"GET /chat HTTP/1.1\\r\\nHost: {host}:{port}\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n"
        "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\n\\r\\n".encode())
    if b" 101 " not in file.readline(): heard.append("refused"); return
    while file.readline() != b"\\r\\n": pass
    def hear():
        first, second = exactly(file, 2)
        size = second & 127
        if size > 125: size = int.from_bytes(exactly(file, 2 if size == 126 else 8), "big")
        payload = exactly(file, size)
        # The reason of a close is each side's own words.
        heard.append(["close", int.from_bytes(payload[:2], "big")] if first & 15 == 8 else
            [first, len(payload), payload[:40].hex()])
        return first & 15
    try:
        for frame in frames[:-1]: s.sendall(bytes.fromhex(frame))
        # An answer to a message may be dropped once the close has come.
        if any(int(frame[1], 16) < 8 for frame in frames[:-1]):
            while hear() > 2: pass
        s.sendall(bytes.fromhex(frames[-1]))
        while hear() != 8: pass
    except (EOFError, OSError): heard.append("dropped")
    s.close()
told = {}
for name, frames in json.load(sys.stdin).items(): talk(frames, told.setdefault(name, []))
print(json.dumps(told))
"""


def frame(
    first: int, payload: bytes = b"", *, masked: bool = True, size: bytes | None = None
) -> str:
    """One frame in hexadecimal; the mask is one that shows."""
    length = size or (
        bytes([len(payload)])
        if len(payload) < 126
        else b"\x7e" + len(payload).to_bytes(2, "big")
        if len(payload) < 1 << 16
        else b"\x7f" + len(payload).to_bytes(8, "big")
    )
    if not masked:
        return (bytes([first]) + length + payload).hex()
    key = b"\x37\xfa\x21\x3d"
    hidden = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return (bytes([first, length[0] | 0x80]) + length[1:] + key + hidden).hex()


TEXT, BINARY, CLOSE, PING, PONG, MORE = 0x81, 0x82, 0x88, 0x89, 0x8A, 0x80
END = frame(CLOSE, b"\x03\xe8")


def close(code: int, reason: bytes = b"") -> str:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


GOOD = {
    **{f"1.1 text of {n}": [frame(TEXT, b"*" * n), END] for n in (0, 125, 126, 127, 128, 65535, 65536)},
    **{f"1.2 binary of {n}": [frame(BINARY, b"\xfe" * n), END] for n in (0, 125, 126, 65535, 65536)},
    "2.1 ping": [frame(PING), END],
    "2.4 ping of 125": [frame(PING, b"\xfe" * 125), END],
    "2.7 unasked pong": [frame(PONG, b"x"), frame(TEXT, b"a"), END],
    "2.10 ten pings": [*(frame(PING, b"%d" % n) for n in range(10)), END],
    "5.3 two fragments": [frame(0x01, b"frag"), frame(MORE, b"ment"), END],
    "5.6 ping between": [frame(0x01, b"frag"), frame(PING, b"p"), frame(MORE, b"ment"), END],
    "5.19 fragments and pings": [
        frame(0x01, b"a"), frame(0x00, b"b"), frame(PING, b"1"), frame(0x00, b"c"), frame(PING, b"2"), frame(MORE, b"d"), END,
    ],
    "5.x empty fragments": [frame(0x01), frame(0x00), frame(MORE), END],
    "6.1 empty fragments of text": [frame(0x01), frame(0x00, b"x"), frame(MORE), END],
    "6.2 split inside a character": [frame(0x01, "κόσμε".encode()[:3]), frame(MORE, "κόσμε".encode()[3:]), END],
    "6.7 U+0000 and U+10FFFF": [frame(TEXT, "\0\U0010ffff".encode()), END],
    "7.1 text, then close": [frame(TEXT, b"hello"), END],
    "7.3 close without code": [frame(CLOSE)],
    "7.3 close with reason": [close(1000, b"bye")],
    **{f"7.7 code {code}": [close(code)] for code in (1001, 1002, 1007, 1011, 3000, 4999)},
}  # fmt: skip
BAD = {
    "2.5 ping of 126": [frame(PING, b"x" * 126)],
    **{f"3 reserved bit {bit:#x}": [frame(TEXT | bit, b"x")] for bit in (0x10, 0x20, 0x40)},
    **{f"4.1 opcode {code}": [frame(0x80 | code)] for code in (3, 7)},
    **{f"4.2 opcode {code}": [frame(0x80 | code)] for code in (11, 15)},
    "5.1 fragmented ping": [frame(0x09, b"x")],
    "5.9 nothing to go on with": [frame(MORE, b"x")],
    "5.18 text within text": [frame(0x01, b"a") + frame(TEXT, b"b")],
    **{
        f"6 {what}": [frame(TEXT, data)]
        for what, data in {
            "cut": b"\xce", "overlong": b"\xc0\xaf", "surrogate": b"\xed\xa0\x80", "too high": b"\xf4\x90\x80\x80",
            "lone": b"\x80", "fe": b"\xfe",
        }.items()
    },
    "6 in the second fragment": [frame(0x01, b"ok") + frame(MORE, b"\xff")],
    "7.3 close of one byte": [frame(CLOSE, b"\x03")],
    "7.5 reason that is not UTF-8": [close(1000, b"\xff")],
    **{f"7.9 code {code}": [close(code)] for code in (0, 999, 1004, 1005, 1006, 1016, 2999)},
    "no mask": [frame(TEXT, b"x", masked=False)],
}  # fmt: skip
CASES = {**GOOD, **BAD}


@pytest.fixture(scope="module")
def heard(box: ToolBox, echo: Echo) -> dict[str, dict[str, list[object]]]:
    """What the same client hears of every case, by the way it went."""
    box.follow(
        f"network_policies:\n  chat:\n    endpoints:\n      - {{host: {ALIAS}, port: {echo.port}, protocol: websocket,"
        " enforcement: enforce, rules: [{allow: {method: GET, path: /chat}},"
        f" {{allow: {{method: WEBSOCKET_TEXT, path: /chat}}}}]}}\n    binaries: [{{path: {PYTHON}}}]\n"
    )
    cases = json.dumps(CASES)
    inside = box.run(PYTHON, "-c", CLIENT, ALIAS, str(echo.port), stdin=cases.encode())
    assert inside.exit_code == 0, inside.stderr
    outside = subprocess.run(
        [PYTHON, "-c", CLIENT, "127.0.0.1", str(echo.port)],
        input=cases, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return {"through us": json.loads(inside.stdout), "straight": json.loads(outside.stdout)}


@pytest.mark.parametrize("case", CASES)
def test_it_is_as_without_us(heard: dict[str, dict[str, list[object]]], case: str) -> None:
    straight = heard["straight"][case]
    assert heard["through us"][case] == straight
    assert straight != ["refused"]
