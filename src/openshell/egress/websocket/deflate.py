"""Single compressed messages (RFC 7692) without context from the ones before, bounded in size."""

from __future__ import annotations

import zlib
from typing import Final

from openshell.egress.websocket.frames import MAX_TEXT, CloseCode, WebSocketFault

__all__ = ["deflate_message", "inflate_message"]

# Each message ends with a flush whose last four bytes do not travel.
_TAIL: Final = b"\x00\x00\xff\xff"
# A sender may end with a last block, and then pad it to a whole byte (RFC 7692 7.2.3.5).
_BEHIND_THE_LAST_BLOCK: Final = (b"", _TAIL, b"\x00" + _TAIL)
_RAW: Final = -zlib.MAX_WBITS


def inflate_message(payload: bytes) -> bytes:
    """The message behind a compressed payload. Raises `WebSocketFault` for what is no such thing."""
    inflater = zlib.decompressobj(_RAW)
    try:
        # One byte more than allowed tells a bomb from a message of exactly that size.
        message = inflater.decompress(payload + _TAIL, MAX_TEXT + 1)
    except zlib.error:
        raise WebSocketFault(CloseCode.PROTOCOL_ERROR, "a message that does not inflate") from None
    if len(message) > MAX_TEXT:
        raise WebSocketFault(CloseCode.TOO_BIG, "a message is too big when inflated")
    if inflater.unused_data not in _BEHIND_THE_LAST_BLOCK:
        # A second stream behind the first: another reader may read on where this one stopped.
        raise WebSocketFault(CloseCode.PROTOCOL_ERROR, "a message with bytes behind its end")
    return message


def deflate_message(message: bytes) -> bytes:
    """A payload that any receiver without context inflates to the message."""
    deflater = zlib.compressobj(wbits=_RAW)
    payload = deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return payload.removesuffix(_TAIL)
