"""The bytes of SFTP version 3: reading requests strictly, writing answers. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

__all__ = [
    "MAX_PACKET",
    "MAX_READ",
    "MAX_WRITE",
    "Attributes",
    "Fields",
    "Malformed",
    "Request",
    "Status",
    "attributes_reply",
    "data_reply",
    "extended_reply",
    "frame",
    "handle_reply",
    "names_reply",
    "read_attributes",
    "status_reply",
    "string",
    "version_reply",
]

MAX_PACKET: Final = 256 * 1024
"""Bytes of one packet, either way; what OpenSSH takes."""
MAX_READ: Final = MAX_PACKET - 1024
"""Bytes of one answer to a read: a packet without its head."""
MAX_WRITE: Final = MAX_PACKET - 1024
VERSION: Final = 3


class Malformed(Exception):
    """The bytes are no request; the conversation is over."""


class Request(IntEnum):
    INIT = 1
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    EXTENDED = 200


class Status(IntEnum):
    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    OP_UNSUPPORTED = 8


_VERSION, _STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201
_SIZE, _IDS, _MODE, _TIMES, _EXTENSIONS = 1, 2, 4, 8, 0x8000_0000


@dataclass(frozen=True, slots=True)
class Attributes:
    """Those of a file that a packet carries; None is absent. Times are whole seconds."""

    size: int | None = None
    ids: tuple[int, int] | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None

    def encode(self) -> bytes:
        flags, parts = 0, []
        if self.size is not None:
            flags |= _SIZE
            parts.append(struct.pack(">Q", self.size))
        if self.ids is not None:
            flags |= _IDS
            parts.append(struct.pack(">II", *self.ids))
        if self.mode is not None:
            flags |= _MODE
            parts.append(struct.pack(">I", self.mode))
        if self.times is not None:
            flags |= _TIMES
            parts.append(struct.pack(">II", *(max(0, min(t, 0xFFFF_FFFF)) for t in self.times)))
        return struct.pack(">I", flags) + b"".join(parts)


class Fields:
    """Reads one packet's fields in order; a field that is not there is `Malformed`."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._body):
            raise Malformed("a packet is shorter than its fields")
        taken, self._at = self._body[self._at : end], end
        return taken

    def byte(self) -> int:
        return self._take(1)[0]

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        return self._take(self.uint32())

    def path(self) -> bytes:
        """A file's name; empty means the directory where the conversation began."""
        name = self.string()
        if b"\0" in name:
            raise Malformed("a path has a NUL in it")
        return name or b"."


def read_attributes(fields: Fields) -> Attributes:
    flags = fields.uint32()
    made = Attributes(
        size=fields.uint64() if flags & _SIZE else None,
        ids=(fields.uint32(), fields.uint32()) if flags & _IDS else None,
        mode=fields.uint32() if flags & _MODE else None,
        times=(fields.uint32(), fields.uint32()) if flags & _TIMES else None,
    )
    if flags & _EXTENSIONS:
        for _ in range(fields.uint32()):
            fields.string()
            fields.string()
    return made


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def version_reply(extensions: Iterable[tuple[bytes, bytes]]) -> bytes:
    listed = b"".join(string(name) + string(version) for name, version in extensions)
    return struct.pack(">BI", _VERSION, VERSION) + listed


def status_reply(number: int, status: Status, message: str = "") -> bytes:
    head = struct.pack(">BII", _STATUS, number, status)
    return head + string(message.encode()) + string(b"en")


def handle_reply(number: int, handle: bytes) -> bytes:
    return struct.pack(">BI", _HANDLE, number) + string(handle)


def data_reply(number: int, data: bytes) -> bytes:
    return struct.pack(">BI", _DATA, number) + string(data)


def names_reply(number: int, names: Iterable[tuple[bytes, bytes, Attributes]]) -> bytes:
    """Name, the line that `ls -l` would print, attributes."""
    parts = [string(name) + string(line) + attrs.encode() for name, line, attrs in names]
    return struct.pack(">BII", _NAME, number, len(parts)) + b"".join(parts)


def attributes_reply(number: int, attributes: Attributes) -> bytes:
    return struct.pack(">BI", _ATTRS, number) + attributes.encode()


def extended_reply(number: int, body: bytes) -> bytes:
    return struct.pack(">BI", _EXTENDED_REPLY, number) + body
