"""What a peer's frames say, once they were found to be in order. Made by `endpoint`, read by `session` and `far`."""

import msgspec

__all__ = [
    "DataCame",
    "FieldsCame",
    "GoAway",
    "Happening",
    "RoomCame",
    "SettingsCame",
    "StreamReset",
    "TrailersCame",
]

_Fields = list[tuple[bytes, bytes]]


class FieldsCame(msgspec.Struct, frozen=True):
    """A header list that begins a message, or one before it."""

    stream_id: int
    fields: _Fields
    ended: bool


class TrailersCame(msgspec.Struct, frozen=True):
    """The header list that ends a message."""

    stream_id: int
    fields: _Fields


class DataCame(msgspec.Struct):
    """Data of a stream: pieces that came together. They lie in what was read, which somebody keeps by them.

    `counted` is what they took of the stream's window, padding included.
    """

    stream_id: int
    pieces: list[memoryview | bytes]
    size: int
    counted: int
    ended: bool


class StreamReset(msgspec.Struct, frozen=True):
    """The stream has ended before its time; the peer did that, or made us do it."""

    stream_id: int
    error: int


class RoomCame(msgspec.Struct, frozen=True):
    """More may be sent: on one stream, or on all where `stream_id` is 0."""

    stream_id: int


class SettingsCame(msgspec.Struct, frozen=True):
    """The peer has announced what it wants; more or less may be sent on all streams."""


class GoAway(msgspec.Struct, frozen=True):
    """What a peer said before it goes; streams above `last_stream` were not looked at."""

    last_stream: int
    error: int


Happening = FieldsCame | TrailersCame | DataCame | StreamReset | RoomCame | SettingsCame | GoAway
