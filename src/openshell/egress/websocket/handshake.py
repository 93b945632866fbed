"""The opening handshake (RFC 6455 4, `proxy.md` 13.1 and 13.2): what a client asks and a server grants.

A request that speaks of WebSocket in any field is either a handshake in full or a failed attempt;
which answer a failed one gets is the caller's decision. The answer of the server is checked whether
or not messages are inspected: a 101 that the client did not ask for would turn the connection into
something nobody judges.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from openshell.egress.http1 import NO_BODY, Length, RequestHead, ResponseHead
from openshell.egress.http1.fields import (
    Headers,
    connection_options,
    is_token,
    lowered,
    values,
)

__all__ = [
    "AnswerRejected",
    "Attempt",
    "Upgrade",
    "accept_of",
    "check_answer",
    "offering",
    "read_upgrade",
    "switching",
]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION: Final = b"13"
_KEY_BYTES: Final = 16
_DEFLATE: Final = b"permessage-deflate"
_CLIENT_ALONE: Final = b"client_no_context_takeover"
_SERVER_ALONE: Final = b"server_no_context_takeover"
_EXTENSIONS: Final = b"sec-websocket-extensions"
_FIELDS: Final = frozenset({b"sec-websocket-key", b"sec-websocket-version"})
_SPEAK_OF_IT: Final = _FIELDS | {b"upgrade"}
_EMPTY: Final = Length(0)
# What a server announces about its own side (RFC 7692 7.1.2.1); nobody but the client reads that.
_SERVER_WINDOW: Final = re.compile(rb"server_max_window_bits=(?:[89]|1[0-5])").fullmatch


class Attempt(Enum):
    NONE = "none"
    """An ordinary request."""
    FAILED = "failed"
    """It means to be a handshake and is none."""


class AnswerRejected(Exception):
    """A 101 that does not fit the handshake; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One valid handshake."""

    key: bytes
    protocols: tuple[bytes, ...]
    # Names of the extensions that the client offered, in lower case.
    extensions: frozenset[bytes]
    # What may be offered upstream so that every message can be read on its own; b"" for nothing.
    safe_offer: bytes


def read_upgrade(head: RequestHead) -> Upgrade | Attempt:
    """What a request has to do with WebSocket."""
    headers = head.headers
    names = set(lowered(headers))
    if names.isdisjoint(_SPEAK_OF_IT):
        return Attempt.NONE
    wants = b"websocket" in _listed(headers, b"upgrade")
    if not wants and names.isdisjoint(_FIELDS):
        return Attempt.NONE
    keys = values(headers, b"sec-websocket-key")
    protocols = _items(headers, b"sec-websocket-protocol")
    if (
        not wants
        or b"upgrade" not in connection_options(headers)
        or head.method != b"GET"
        or head.version != b"HTTP/1.1"
        or values(headers, b"sec-websocket-version") != (_VERSION,)
        or len(keys) != 1
        or not _is_key(keys[0])
        or not all(map(is_token, protocols))
        or len(set(protocols)) != len(protocols)
        # A server that switches at once would read the body as frames, which nobody had judged.
        or head.framing not in (NO_BODY, _EMPTY)
    ):
        return Attempt.FAILED
    return Upgrade(keys[0], protocols, _extension_names(headers), _safe_offer(headers))


def switching(headers: Headers) -> Headers:
    """The fields with those that ask for the switch or grant it; they are off every other head."""
    return (*headers, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


def offering(headers: Headers, offer: bytes) -> Headers:
    """The fields of a request with `offer` in place of what the client offered."""
    kept = tuple(pair for pair in headers if pair[0].lower() != _EXTENSIONS)
    return (*kept, (b"Sec-WebSocket-Extensions", offer)) if offer else kept


def accept_of(key: bytes) -> bytes:
    """The value of Sec-WebSocket-Accept that belongs to a key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def check_answer(upgrade: Upgrade, answer: ResponseHead, *, parsed: bool) -> bool:
    """Whether messages are compressed by what the server grants.

    `parsed` says that the safe offer was sent, else what the client offered itself. Raises
    `AnswerRejected` for a 101 that must not reach the client.
    """
    headers = answer.headers
    if _listed(headers, b"upgrade") != {b"websocket"}:
        raise AnswerRejected("it switched to another protocol than WebSocket")
    if b"upgrade" not in connection_options(headers):
        raise AnswerRejected("its Connection field does not say upgrade")
    if values(headers, b"sec-websocket-accept") != (accept_of(upgrade.key),):
        raise AnswerRejected("its Sec-WebSocket-Accept does not fit the key")
    chosen = values(headers, b"sec-websocket-protocol")
    if len(chosen) > 1 or not set(chosen) <= set(upgrade.protocols):
        raise AnswerRejected("it chose a subprotocol that was not offered")
    granted = _items(headers, _EXTENSIONS)
    if not granted:
        return False
    if not parsed:
        if not _extension_names(headers) <= upgrade.extensions:
            raise AnswerRejected("it chose an extension that was not offered")
        return False
    offered = upgrade.safe_offer
    if not offered or len(granted) != 1 or not _grants(granted[0], offered):
        raise AnswerRejected("it chose an extension that was not offered")
    return True


def _grants(granted: bytes, offered: bytes) -> bool:
    """A grant in the terms of the offer. The server may drop its own promise only if not asked."""
    name, *said = [part.strip(b" \t") for part in granted.split(b";")]
    windows = [part for part in said if _SERVER_WINDOW(part)]
    parameters = [part for part in said if part not in windows]
    asked = [part.strip(b" \t") for part in offered.split(b";")][1:]
    return (
        name.lower() == _DEFLATE
        and len(windows) <= 1
        and len(set(parameters)) == len(parameters)
        and _CLIENT_ALONE in parameters
        and set(asked) <= set(parameters) <= {_CLIENT_ALONE, _SERVER_ALONE}
    )


def _safe_offer(headers: Headers) -> bytes:
    """Compression of single messages, if the client offered it without further conditions."""
    for item in _items(headers, _EXTENSIONS):
        name, *parameters = [part.strip(b" \t") for part in item.split(b";")]
        if name != _DEFLATE:
            continue
        clean = len(set(parameters)) == len(parameters) and set(parameters) <= {
            _CLIENT_ALONE,
            _SERVER_ALONE,
        }
        if clean:
            server = [_SERVER_ALONE] if _SERVER_ALONE in parameters else []
            return b"; ".join([_DEFLATE, _CLIENT_ALONE, *server])
    return b""


def _extension_names(headers: Headers) -> frozenset[bytes]:
    items = _items(headers, _EXTENSIONS)
    return frozenset(item.partition(b";")[0].strip(b" \t").lower() for item in items)


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _items(headers: Headers, name: bytes) -> tuple[bytes, ...]:
    """The members of a list field; none that are empty."""
    found = (item.strip(b" \t") for value in values(headers, name) for item in value.split(b","))
    return tuple(item for item in found if item)


def _listed(headers: Headers, name: bytes) -> set[bytes]:
    return {item.lower() for item in _items(headers, name)}
