"""What a gateway and its zygote say to each other: one JSON object per datagram.

The socket keeps message boundaries (SOCK_SEQPACKET), so there is no framing. A request gets one
reply, in order; `Exited` comes unasked, to every connection. The pidfd of a launched supervisor
travels with its reply (SCM_RIGHTS), taken before anyone could have reaped it.

Shared by the client here and the zygote in `openshell.supervisor`.
"""

import hashlib
import os
from typing import TypeAlias, TypeVar

import msgspec

__all__ = [
    "MAX_DATAGRAM",
    "Exited",
    "Failed",
    "Launch",
    "Launched",
    "ListSupervisors",
    "Ping",
    "Pong",
    "Reply",
    "Request",
    "Running",
    "Shutdown",
    "Supervisors",
    "build_fingerprint",
    "decode_reply",
    "decode_request",
    "encode",
]

# Requests carry paths, replies a list of supervisors: 1,000 take 80 KiB.
MAX_DATAGRAM = 128 << 10


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ping"):
    """Ask for pid and code."""


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="launch"):
    """Fork a supervisor for this sandbox; its plan lies in its directory."""

    sandbox_id: str


class ListSupervisors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="list"):
    """Ask for the supervisors that live."""


class Shutdown(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="shutdown"):
    """End; supervisors live on."""


class Pong(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pong"):
    pid: int
    fingerprint: str


class Launched(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="launched"):
    pid: int
    start_ticks: int


class Running(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sandbox_id: str
    pid: int
    start_ticks: int


class Supervisors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="supervisors"):
    running: tuple[Running, ...]


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="failed"):
    """The request was not done; one sentence."""

    message: str


class Exited(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="exited"):
    """A supervisor ended: its exit status, or 128 + the signal."""

    sandbox_id: str
    pid: int
    start_ticks: int
    code: int


_T = TypeVar("_T")

Request: TypeAlias = Ping | Launch | ListSupervisors | Shutdown
Reply: TypeAlias = Pong | Launched | Supervisors | Failed | Exited

_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_replies: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    return msgspec.json.encode(message)


def decode_request(data: bytes) -> Request:
    """Raises msgspec.DecodeError."""
    return _decode(_requests, data)


def decode_reply(data: bytes) -> Reply:
    """Raises msgspec.DecodeError."""
    return _decode(_replies, data)


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except UnicodeDecodeError as error:
        # Of text that is no UTF-8, which the library lets through as it is.
        raise msgspec.DecodeError(str(error)) from None


def build_fingerprint(executable: str) -> str:
    """Names the code that a zygote holds in memory: a gateway never uses one of other code."""
    # The package's root: openshell/drivers/local/ is three levels below it.
    root = os.path.abspath(__file__)
    for _ in range(3):
        root = os.path.dirname(root)
    # The gateway's own may have been called by a relative path, the zygote's never is.
    digest = hashlib.sha256(os.fsencode(os.path.abspath(executable)))
    for directory, _, names in sorted(os.walk(root)):
        for name in sorted(names):
            if name.endswith(".py"):
                status = os.stat(os.path.join(directory, name))
                digest.update(
                    f"{directory}/{name}\0{status.st_mtime_ns}\0{status.st_size}\n".encode()
                )
    return digest.hexdigest()[:32]
