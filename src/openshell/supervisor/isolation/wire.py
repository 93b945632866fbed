"""The conversation between a supervisor and its process 1, over one SEQPACKET pair.

Each datagram is one msgpack message with its descriptors beside it (SCM_RIGHTS). A body too large
for a datagram travels in a memory file as the first descriptor. Both ends are our own code, the
same version: no negotiation, and what does not decode is a broken promise.
"""

from __future__ import annotations

import array
import os
import socket

import msgspec

__all__ = [
    "Exited",
    "Failed",
    "Go",
    "OpenSocket",
    "Opened",
    "PhaseRecord",
    "Ready",
    "Refused",
    "Reply",
    "Request",
    "ServeFiles",
    "Signal",
    "Sources",
    "Spawn",
    "Spawned",
    "decode",
    "encode",
    "receive",
    "send",
]

# Below every kernel's default send buffer (212,992 with its bookkeeping).
_INLINE_BYTES = 48 * 1024
# The kernel's own bound for argv and environment is a quarter of the stack limit, 2 MiB.
_MOST_BYTES = 4 * 1024 * 1024
# The kernel carries at most 253 descriptors in one message.
_MOST_DESCRIPTORS = 253
_INLINE, _IN_FILE = b"\0", b"\1"


class Go(msgspec.Struct, tag="go", frozen=True):
    """The identity maps are written: begin."""


class Sources(msgspec.Struct, tag="sources", frozen=True):
    """Detached trees made outside, one descriptor per place inside, in this order."""

    paths: list[str]


class Spawn(msgspec.Struct, tag="spawn", frozen=True):
    """Start a program; with a terminal size no descriptors come along, else stdin, out, err."""

    id: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    terminal: tuple[int, int] | None = None


class ServeFiles(msgspec.Struct, tag="serve_files", frozen=True):
    """Serve SFTP on the descriptors that come along: stdin, out, err. Answered like Spawn."""

    id: int
    cwd: str
    home: str


class Signal(msgspec.Struct, tag="signal", frozen=True):
    pid: int
    number: int
    group: bool = False


class OpenSocket(msgspec.Struct, tag="open_socket", frozen=True):
    """Make a socket in the sandbox's network; the supervisor connects it (forwards)."""

    id: int
    family: int
    kind: int


class PhaseRecord(msgspec.Struct, array_like=True, frozen=True):
    name: str
    started_ns: int
    ended_ns: int


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """Everything holds. Descriptors: writers of the CA files, then `sockets` in order."""

    phases: list[PhaseRecord]
    layers: list[tuple[str, str, str]]
    sockets: list[str]


class Failed(msgspec.Struct, tag="failed", frozen=True):
    step: str
    errno: int
    message: str


class Spawned(msgspec.Struct, tag="spawned", frozen=True):
    """The program runs as `pid` (inside); the terminal's master comes along, if any."""

    id: int
    pid: int


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """A request was not carried out; for a program with the exit code a shell would give."""

    id: int
    code: str
    exit_code: int
    message: str


class Exited(msgspec.Struct, tag="exited", frozen=True):
    pid: int
    exit_code: int
    signal: int


class Opened(msgspec.Struct, tag="opened", frozen=True):
    id: int


Request = Go | Sources | Spawn | ServeFiles | Signal | OpenSocket
Reply = Ready | Failed | Spawned | Refused | Exited | Opened

# Built once, in the zygote: a decoder takes a millisecond to make.
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Request | Reply] = msgspec.msgpack.Decoder(Request | Reply)


def encode(message: Request | Reply) -> bytes:
    return _ENCODER.encode(message)


def decode(body: bytes) -> Request | Reply:
    return _DECODER.decode(body)


def send(sock: socket.socket, message: Request | Reply, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message; the descriptors stay the caller's to close."""
    body = encode(message)
    spill = -1
    try:
        payload = _INLINE + body
        if len(body) > _INLINE_BYTES:
            if len(body) > _MOST_BYTES:
                raise ValueError("arguments and environment are larger than the kernel accepts")
            spill = os.memfd_create("message", os.MFD_CLOEXEC)
            written = 0
            while written < len(body):
                written += os.pwrite(spill, body[written:], written)
            payload, descriptors = _IN_FILE, (spill, *descriptors)
        ancillary = []
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        sock.sendmsg([payload], ancillary)
    finally:
        if spill >= 0:
            os.close(spill)


def receive(sock: socket.socket) -> tuple[Request | Reply, list[int]] | None:
    """Receive one message and its descriptors; None when the other end is gone."""
    data, ancillary, flags, _ = sock.recvmsg(
        _INLINE_BYTES + 1,
        socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4),
        socket.MSG_CMSG_CLOEXEC,
    )
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % 4])
    received = descriptors.tolist()
    if not data:
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ValueError("a message from the other end was cut")
    if data[:1] == _INLINE:
        return decode(data[1:]), received
    spill = received.pop(0)
    try:
        size = os.fstat(spill).st_size
        if size > _MOST_BYTES:
            raise ValueError("a message from the other end is too large")
        return decode(os.pread(spill, size, 0)), received
    finally:
        os.close(spill)
