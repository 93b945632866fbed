"""SETTINGS of both ends: what we announce, and what a peer announces, checked (RFC 9113 6.5).

Pure. Called by `endpoint`.
"""

from struct import Struct
from typing import Final

import msgspec

from openshell.egress.http2.codes import LARGEST_NUMBER, ErrorCode, PeerBroken, Setting
from openshell.egress.http2.fields import LIST_LIMIT
from openshell.egress.http2.reader import MAX_FRAME
from openshell.egress.http2.shares import FIRST_WINDOW

__all__ = ["MAX_STREAMS", "RemoteSettings", "announced", "read_settings"]

# Streams that one connection may have open; the usual number of servers and gRPC's default.
MAX_STREAMS: Final = 100

_ITEM: Final = Struct(">HI")
_SMALLEST_FRAME: Final = 2**14
_LARGEST_FRAME: Final = 2**24 - 1


class RemoteSettings(msgspec.Struct, frozen=True):
    """What a peer announces, with what holds until it does (RFC 9113 6.5.2)."""

    header_table: int = 4096
    max_streams: int = LARGEST_NUMBER
    initial_window: int = 65_535
    max_frame: int = _SMALLEST_FRAME


# WebSocket over HTTP/2 (RFC 8441) is not among them: a client that is not offered it does not ask.
def announced(*, client_side: bool) -> bytes:
    """Our settings, as the payload of a frame."""
    settings = {
        Setting.MAX_CONCURRENT_STREAMS: 0 if client_side else MAX_STREAMS,
        Setting.INITIAL_WINDOW_SIZE: FIRST_WINDOW,
        Setting.MAX_FRAME_SIZE: MAX_FRAME,
        Setting.MAX_HEADER_LIST_SIZE: LIST_LIMIT,
    }
    if client_side:
        settings[Setting.ENABLE_PUSH] = 0
    return b"".join(_ITEM.pack(name, value) for name, value in settings.items())


def read_settings(
    known: RemoteSettings, payload: bytes | memoryview | bytearray, *, from_server: bool
) -> RemoteSettings:
    """Add what a peer announces to what is known of it; the last word counts. Raises PeerBroken."""
    if len(payload) % _ITEM.size:
        raise PeerBroken("http2_protocol_error", ErrorCode.FRAME_SIZE)
    table, streams = known.header_table, known.max_streams
    window, frame = known.initial_window, known.max_frame
    for name, value in _ITEM.iter_unpack(payload):
        match name:
            case Setting.HEADER_TABLE_SIZE:
                table = value
            case Setting.ENABLE_PUSH:
                # A server that pushes is none we asked.
                _check(value <= (0 if from_server else 1), ErrorCode.PROTOCOL)
            case Setting.MAX_CONCURRENT_STREAMS:
                streams = value
            case Setting.INITIAL_WINDOW_SIZE:
                _check(value <= LARGEST_NUMBER, ErrorCode.FLOW_CONTROL)
                window = value
            case Setting.MAX_FRAME_SIZE:
                _check(_SMALLEST_FRAME <= value <= _LARGEST_FRAME, ErrorCode.PROTOCOL)
                frame = value
    return RemoteSettings(table, streams, window, frame)


def _check(condition: bool, error: ErrorCode) -> None:
    if not condition:
        raise PeerBroken("http2_protocol_error", error)
