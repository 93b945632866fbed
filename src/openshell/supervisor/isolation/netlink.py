"""Writing and reading netlink messages: bytes in, bytes out, and one small socket.

Knows headers, attributes and acknowledgements, nothing of routes or rules (network.py,
nftables.py). Written for one millisecond at start; pyroute2 checks it in the tests.
"""

from __future__ import annotations

import errno as errno_module
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = [
    "NETLINK_NETFILTER",
    "NETLINK_ROUTE",
    "NETLINK_SOCK_DIAG",
    "Message",
    "NetlinkError",
    "attribute",
    "attributes_of",
    "encode",
    "messages_of",
    "nested",
    "netlink_socket",
    "transact",
]

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4
NETLINK_NETFILTER = 12

FLAG_REQUEST = 0x1
FLAG_ACK = 0x4
FLAG_EXCLUSIVE = 0x200
FLAG_CREATE = 0x400
FLAG_APPEND = 0x800
FLAG_DUMP = 0x300

_NESTED = 0x8000
_ERROR = 2
_DONE = 3
_HEADER = struct.Struct("=IHHII")
# Larger than any reply we ask for: acknowledgements echo at most one small request each.
_RECEIVE_BYTES = 65536
_REPLY_TIMEOUT_S = 5.0


class NetlinkError(OSError):
    """The kernel refused a message; `label` is the name its writer gave it."""

    def __init__(self, label: str, errno: int) -> None:
        super().__init__(errno, f"{label}: {os.strerror(errno)}")
        self.label = label


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its kind, flags, body and a name for errors."""

    label: str
    kind: int
    flags: int
    body: bytes


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def attribute(kind: int, payload: bytes) -> bytes:
    return _padded(struct.pack("=HH", 4 + len(payload), kind) + payload)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def encode(messages: Sequence[Message], first_sequence: int = 1) -> bytes:
    """Join messages into one datagram, numbered from `first_sequence`."""
    return b"".join(
        _HEADER.pack(16 + len(message.body), message.kind, message.flags, number, 0)
        + _padded(message.body)
        for number, message in enumerate(messages, first_sequence)
    )


def messages_of(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (kind, sequence, body) of each message in one received datagram."""
    position = 0
    while position + 16 <= len(data):
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, position)
        if not 16 <= length <= len(data) - position:
            return
        yield kind, sequence, data[position + 16 : position + length]
        position += (length + 3) & ~3


def attributes_of(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message body after its fixed part."""
    found: dict[int, bytes] = {}
    position = 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        if not 4 <= length <= len(data) - position:
            break
        found[kind & 0x3FFF] = data[position + 4 : position + length]
        position += (length + 3) & ~3
    return found


def netlink_socket(protocol: int) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    made.bind((0, 0))
    return made


def transact(
    sock: socket.socket, messages: Sequence[Message], datagram: bytes | None = None
) -> list[NetlinkError]:
    """Send messages in one datagram and wait for every acknowledgement asked for.

    Returns the refusals in order of arrival; what each of them means is the caller's affair.
    """
    waiting = {n for n, m in enumerate(messages, 1) if m.flags & FLAG_ACK}
    refused: list[NetlinkError] = []
    sock.settimeout(_REPLY_TIMEOUT_S)
    sock.send(encode(messages) if datagram is None else datagram)
    while waiting:
        for kind, sequence, body in messages_of(sock.recv(_RECEIVE_BYTES)):
            if kind != _ERROR:
                continue
            code = -struct.unpack_from("=i", body)[0]
            if code:
                index = sequence - 1
                label = messages[index].label if 0 <= index < len(messages) else "netlink"
                refused.append(NetlinkError(label, code))
            if code and sequence not in waiting:
                # A batch refused as a whole is answered once, for its first message.
                waiting.clear()
            waiting.discard(sequence)
    return refused


def request(sock: socket.socket, message: Message) -> list[bytes]:
    """Send one request without acknowledgement and return the bodies of its replies."""
    sock.settimeout(_REPLY_TIMEOUT_S)
    sock.send(encode([message]))
    bodies: list[bytes] = []
    while True:
        for kind, _sequence, body in messages_of(sock.recv(_RECEIVE_BYTES)):
            if kind == _DONE:
                return bodies
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    raise NetlinkError(message.label, code)
                return bodies
            bodies.append(body)
        if not message.flags & FLAG_DUMP:
            if not bodies:
                raise NetlinkError(message.label, errno_module.ENODATA)
            return bodies
