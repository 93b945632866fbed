"""What all HTTP/2 connections of one sandbox may have in flight together.

Each stream may be sent a first window of bytes that nobody has taken yet; windows grow, for throughput,
out of one common stock. So an agent that opens many streams and reads from none makes its supervisor
hold a known amount, whatever it asks for. Plain counting, on one event loop, without I/O.
"""

from typing import Final

__all__ = ["FIRST_WINDOW", "LARGEST_WINDOW", "STREAMS", "Shares"]

# What a peer may send on a stream before anything of it went on: the protocol's own initial value.
FIRST_WINDOW: Final = 65_535
# A stream whose data is taken as fast as it comes grows to this: 160 Mbit/s at 50 ms. Browsers offer 6 MiB,
# curl 10, for networks that are farther away.
LARGEST_WINDOW: Final = 1024 * 1024
# Streams of one sandbox, both directions of 64 KiB each: 128 MiB at the very worst, less than the
# connections of HTTP/1 may hold. A client sees REFUSED_STREAM and may try again.
STREAMS: Final = 1024
# The common stock for windows beyond the first.
_STOCK: Final = 32 * 1024 * 1024


class Shares:
    """The counters of one sandbox."""

    __slots__ = ("_stock", "_streams")

    def __init__(self, *, streams: int = STREAMS, stock: int = _STOCK) -> None:
        self._streams = streams
        self._stock = stock

    def take_stream(self) -> bool:
        """Say whether there is room for one more stream, and count it."""
        if not self._streams:
            return False
        self._streams -= 1
        return True

    def return_stream(self) -> None:
        self._streams += 1

    def take_window(self, octets: int) -> bool:
        if octets > self._stock:
            return False
        self._stock -= octets
        return True

    def return_window(self, octets: int) -> None:
        self._stock += octets
