"""Reads the ClientHello of a TLS connection: which host it names, which protocols it offers.

Bytes in, a hello or a refusal out; nothing is decrypted, no version negotiated, no certificate chosen. Used
for connections that name their host nowhere else (captured ones) and to notice an encrypted hello. Strict
where a second reader could see another host: lengths must fit exactly, an extension comes once. RFC 8446
4.1.2, RFC 6066 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ClientHello", "ClientHelloReader", "HelloRejectReason", "HelloRejected"]

# Bounds what a silent peer can make us keep. Hellos with post-quantum key shares take 2 KiB.
HELLO_LIMIT = 16 * 1024
# Each record carries at least one byte of it; a client that cuts finer only costs us time.
MAX_RECORDS = 64

_SERVER_NAME, _ALPN, _ECH = 0, 16, 0xFE0D
# A name as in a certificate: labels of letters, digits, hyphen and underscore.
_NAME = re.compile(rb"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*)").fullmatch


class HelloRejectReason(StrEnum):
    """One member per rule."""

    NOT_HANDSHAKE = "not_a_handshake_record"
    RECORD_LENGTH = "record_length"
    TOO_LARGE = "hello_too_large"
    TOO_MANY_RECORDS = "too_many_records"
    NOT_CLIENT_HELLO = "not_a_client_hello"
    MALFORMED = "malformed_client_hello"
    EXTENSION_REPEATED = "extension_repeated"
    SERVER_NAME = "malformed_server_name"
    ALPN = "malformed_alpn"


class HelloRejected(Exception):
    """The bytes are no ClientHello we could read in only one way."""

    def __init__(self, reason: HelloRejectReason) -> None:
        super().__init__(f"TLS ClientHello rejected: {reason.value}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`sni` is lower case, None when absent. With `ech` the name that counts may be another, hidden one."""

    sni: str | None
    alpn: tuple[bytes, ...]
    ech: bool


class ClientHelloReader:
    """Collects records until the hello is complete; the bytes fed stay the caller's to replay."""

    __slots__ = ("_handshake", "_pending", "_records", "_refused")

    def __init__(self) -> None:
        self._pending = b""
        self._handshake = b""
        self._records = 0
        self._refused: HelloRejected | None = None

    def feed(self, chunk: bytes) -> ClientHello | None:
        """Takes bytes; returns the hello once complete. Raises HelloRejected, and from then on always."""
        if self._refused is not None:
            raise self._refused
        try:
            return self._advance(chunk)
        except HelloRejected as rejected:
            self._refused = rejected
            self._pending = self._handshake = b""
            raise

    def _advance(self, chunk: bytes) -> ClientHello | None:
        self._pending += chunk
        while self._pending:
            if self._pending[0] != 0x16 or (len(self._pending) > 1 and self._pending[1] != 3):
                raise HelloRejected(HelloRejectReason.NOT_HANDSHAKE)
            if len(self._pending) < 5:
                return None
            size = int.from_bytes(self._pending[3:5], "big")
            if not 1 <= size <= 1 << 14:
                raise HelloRejected(HelloRejectReason.RECORD_LENGTH)
            if len(self._pending) < 5 + size:
                return None
            self._records += 1
            if self._records > MAX_RECORDS:
                raise HelloRejected(HelloRejectReason.TOO_MANY_RECORDS)
            self._handshake += self._pending[5 : 5 + size]
            self._pending = self._pending[5 + size :]
            hello = self._hello()
            if hello is not None:
                return hello
        return None

    def _hello(self) -> ClientHello | None:
        data = self._handshake
        if data[0] != 1:
            raise HelloRejected(HelloRejectReason.NOT_CLIENT_HELLO)
        if len(data) < 4:
            return None
        size = int.from_bytes(data[1:4], "big")
        if size > HELLO_LIMIT:
            raise HelloRejected(HelloRejectReason.TOO_LARGE)
        if len(data) < 4 + size:
            return None
        # The client waits for our answer now: more handshake bytes in the same record are not a hello's.
        if len(data) > 4 + size:
            raise HelloRejected(HelloRejectReason.MALFORMED)
        return _parse(_Cursor(data[4 : 4 + size], HelloRejectReason.MALFORMED))


class _Cursor:
    """Takes length-prefixed parts from the front; running out is a refusal."""

    __slots__ = ("_at", "_data", "_reason")

    def __init__(self, data: bytes, reason: HelloRejectReason) -> None:
        self._data = data
        self._reason = reason
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise HelloRejected(self._reason)
        self._at += size
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, prefix: int) -> bytes:
        return self.take(self.number(prefix))

    def end(self) -> None:
        if not self.at_end:
            raise HelloRejected(self._reason)


def _parse(cursor: _Cursor) -> ClientHello:
    cursor.take(2 + 32)  # legacy version, random
    if len(cursor.vector(1)) > 32:
        raise HelloRejected(HelloRejectReason.MALFORMED)
    suites = cursor.vector(2)
    if not suites or len(suites) % 2 or not cursor.vector(1):
        raise HelloRejected(HelloRejectReason.MALFORMED)
    extensions: dict[int, bytes] = {}
    if not cursor.at_end:
        listed = _Cursor(cursor.vector(2), HelloRejectReason.MALFORMED)
        while not listed.at_end:
            kind = listed.number(2)
            content = listed.vector(2)
            if kind in extensions:
                raise HelloRejected(HelloRejectReason.EXTENSION_REPEATED)
            extensions[kind] = content
        cursor.end()
    return ClientHello(
        sni=_server_name(extensions.get(_SERVER_NAME)),
        alpn=_protocols(extensions.get(_ALPN)),
        ech=_ECH in extensions,
    )


def _server_name(content: bytes | None) -> str | None:
    if content is None:
        return None
    outer = _Cursor(content, HelloRejectReason.SERVER_NAME)
    names = _Cursor(outer.vector(2), HelloRejectReason.SERVER_NAME)
    outer.end()
    # RFC 6066: one name per type, and host_name is the only type there is.
    kind, name = names.number(1), names.vector(2)
    names.end()
    if kind != 0 or _NAME(name) is None:
        raise HelloRejected(HelloRejectReason.SERVER_NAME)
    return name.decode("ascii").lower()


def _protocols(content: bytes | None) -> tuple[bytes, ...]:
    if content is None:
        return ()
    outer = _Cursor(content, HelloRejectReason.ALPN)
    listed = _Cursor(outer.vector(2), HelloRejectReason.ALPN)
    outer.end()
    found: list[bytes] = []
    while not listed.at_end:
        protocol = listed.vector(1)
        if not protocol:
            raise HelloRejected(HelloRejectReason.ALPN)
        found.append(protocol)
    if not found:
        raise HelloRejected(HelloRejectReason.ALPN)
    return tuple(found)
