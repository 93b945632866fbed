"""States of the streams of one connection (RFC 9113 5.1), and what is remembered of those that have ended.

Plain bookkeeping for `endpoint`, which decides what a frame in a state means.
"""

from typing import Final

from openshell.egress.http2.codes import LARGEST_NUMBER, ErrorCode, PeerBroken
from openshell.egress.http2.shares import FIRST_WINDOW

__all__ = ["StreamState", "Streams"]

# Ended streams remembered to tell late frames from wrong ones.
_REMEMBERED: Final = 1024
# What a peer allows before it says otherwise.
_FIRST_REMOTE: Final = 65_535


class StreamState:
    """A stream that is open on one side at least."""

    __slots__ = ("is_begun", "local_ended", "receive_window", "remote_ended", "send_window")

    def __init__(self, send_window: int) -> None:
        self.send_window = send_window
        self.receive_window = FIRST_WINDOW
        self.local_ended = False
        self.remote_ended = False
        # The peer's final header list has come.
        self.is_begun = False


class Streams:
    """The streams of one connection."""

    __slots__ = ("_ended", "_initial", "client_side", "highest", "open")

    def __init__(self, *, client_side: bool) -> None:
        """On the client's side all streams are ours, else all are the peer's: nobody pushes."""
        self.client_side = client_side
        self.open: dict[int, StreamState] = {}
        # The largest number that was used.
        self.highest = 0
        # Those that have ended, the oldest first, and whether late frames of them are to be expected.
        self._ended: dict[int, bool] = {}
        self._initial = _FIRST_REMOTE

    def begin(self, stream_id: int) -> StreamState:
        self.highest = stream_id
        state = self.open[stream_id] = StreamState(self._initial)
        return state

    def is_idle(self, stream_id: int) -> bool:
        """Whether the number was never used, as far as both know."""
        return stream_id > self.highest or not stream_id & 1

    def end_local(self, stream_id: int, state: StreamState) -> None:
        state.local_ended = True
        if state.remote_ended:
            self._end(stream_id, expects_more=False)

    def end_remote(self, stream_id: int, state: StreamState) -> None:
        state.remote_ended = True
        if state.local_ended:
            self._end(stream_id, expects_more=False)

    def drop(self, stream_id: int, *, by_us: bool) -> None:
        """End a stream by a reset. Of what we reset the peer may send for a while yet."""
        if stream_id in self.open:
            self._end(stream_id, expects_more=by_us)

    def _end(self, stream_id: int, *, expects_more: bool) -> None:
        del self.open[stream_id]
        self._ended[stream_id] = expects_more
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def expects_more(self, stream_id: int) -> bool:
        """Whether late frames of a stream that has ended are nobody's fault."""
        return self._ended.get(stream_id, False)

    def change_initial(self, octets: int) -> None:
        """Let the peer's new initial window count for all streams (RFC 9113 6.9.2). Raises PeerBroken."""
        change, self._initial = octets - self._initial, octets
        for state in self.open.values():
            state.send_window += change
            if state.send_window > LARGEST_NUMBER:
                raise PeerBroken("http2_protocol_error", ErrorCode.FLOW_CONTROL)
