"""One direction of one stream: data from the peer that sends it to the peer that takes it.

What the taker has no room for waits here, and the sender's window is opened again only for what has gone
on: one stream holds at most its window, and other streams do not notice. A window grows while its data is
taken as fast as it comes. Also carries answers of our own, which have no sender.

No judging and no policy. Driven by `request`; never waits.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from hpack import HeaderTuple

from openshell.egress.http2.peer import Peer
from openshell.egress.http2.shares import FIRST_WINDOW, LARGEST_WINDOW, Shares

__all__ = ["TURN", "Half"]

# What one stream sends before others get their turn. A quarter of what a transport takes at once.
TURN: Final = 64 * 1024
# Pieces that are copied together when they wait.
_SMALL: Final = 16 * 1024


class Half:
    """Data on its way to stream `target_id` of `target`."""

    __slots__ = (
        "_fresh",
        "_granted",
        "_keeps_up",
        "_shares",
        "_source",
        "_target",
        "_trailers",
        "_waiting",
        "_window",
        "ended",
        "finished",
        "held",
        "moved",
    )

    def __init__(
        self, target: tuple[Peer, int], source: tuple[Peer, int] | None, shares: Shares
    ) -> None:
        self._target = target
        self._source = source
        self._shares = shares
        self._waiting: deque[bytes | memoryview] = deque()
        # How many of them, at the end, lie in buffers that are not ours.
        self._fresh = 0
        self._window = FIRST_WINDOW
        # What has gone on and was not granted again yet.
        self._granted = 0
        # Whether the taker has taken all there was when it was last asked.
        self._keeps_up = True
        self._trailers: list[HeaderTuple] | None = None
        # Bytes that wait for the taker.
        self.held = 0
        # Bytes that have gone on; whoever watches for a standstill compares.
        self.moved = 0
        # The sender has ended; its end, too, has gone on.
        self.ended = False
        self.finished = False

    def push(self, pieces: Sequence[bytes | memoryview], counted: int = 0) -> None:
        """Take data; `counted` is what it took of the sender's window, padding included.

        Pieces may lie in a larger buffer: what `pump` cannot send is copied out of it.
        """
        size = sum(map(len, pieces))
        if size and not self.finished:
            self._fresh += len(pieces)
            self._waiting += pieces
            self.held += size
        # Padding, and what nobody takes any more, is gone at once.
        self._grant(counted - size if not self.finished else counted)

    def end(self, trailers: list[HeaderTuple] | None = None) -> None:
        self.ended = True
        self._trailers = trailers

    def pump(self, most: int = TURN) -> bool:
        """Send a turn's worth of what can be sent; say whether there may be room for more."""
        peer, stream_id = self._target
        while self._waiting:
            room = peer.room(stream_id)
            if room <= 0:
                self._keeps_up = False
                self._own()
                return False
            if most <= 0:
                return True
            pieces, size = self._take(min(room, most))
            self.held -= size
            self.moved += size
            most -= size
            last = self.ended and not self._waiting and self._trailers is None
            peer.send_data(stream_id, pieces, end=last)
            self.finished = self.finished or last
            self._grant(size)
        self._fresh = 0
        self._keeps_up = True
        if self.ended and not self.finished:
            self.finished = True
            if self._trailers:
                peer.send_headers(stream_id, self._trailers, end=True)
            else:
                peer.send_data(stream_id, (), end=True)
        return False

    def _take(self, room: int) -> tuple[list[bytes | memoryview], int]:
        """Take up to `room` bytes."""
        pieces, size = list[bytes | memoryview](), 0
        while self._waiting and size < room:
            piece = self._waiting.popleft()
            if size + len(piece) > room:
                view = memoryview(piece)
                self._waiting.appendleft(view[room - size :])
                piece = view[: room - size]
            pieces.append(piece)
            size += len(piece)
        return pieces, size

    def _own(self) -> None:
        """Copy what came last out of the buffers that it lies in, and small pieces together.

        So what waits takes as much memory as it has bytes, in however many frames it came.
        """
        fresh = min(self._fresh, len(self._waiting))
        self._fresh = 0
        if not fresh:
            return
        pieces = [self._waiting.pop() for _ in range(fresh)]
        if self._waiting and len(self._waiting[-1]) < _SMALL:
            pieces.append(self._waiting.pop())
        self._waiting.append(b"".join(reversed(pieces)))

    def drop(self) -> None:
        """Forget what waits: nobody takes it any more."""
        self._waiting.clear()
        self._fresh = self.held = 0
        self.finished = True
        self._shares.return_window(self._window - FIRST_WINDOW)
        self._window = FIRST_WINDOW

    def _grant(self, octets: int) -> None:
        if self._source is None or octets <= 0 or self.ended:
            return
        self._granted += octets
        if self._granted * 2 < self._window:
            return
        more = 0
        if (
            self._keeps_up
            and not self.finished
            and self._window < LARGEST_WINDOW
            and self._shares.take_window(self._window)
        ):
            more = self._window
            self._window += more
        peer, stream_id = self._source
        peer.open_window(stream_id, self._granted + more)
        self._granted = 0
