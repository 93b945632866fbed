"""What a client has sent of one request's body before the request goes out.

Frames arrive whenever they like; judging may need the whole body, within a bound. What comes after the
request went out does not pass here. The client's window is opened again only for what was taken.

Filled by `request` for the client's frames, emptied by `asking` (a body that is judged) or by `request`
(a body that is streamed).
"""

import asyncio
from collections.abc import Sequence

from openshell.egress.body_faults import BodyFault
from openshell.egress.credentials import find_marker
from openshell.egress.http1 import Headers, Length, RequestHead
from openshell.egress.http2.fields import write_response
from openshell.egress.http2.peer import Peer

__all__ = ["Intake"]


class Intake:
    """The body of stream `stream_id` of a client."""

    __slots__ = (
        "_counted",
        "_head",
        "_peer",
        "_stream_id",
        "arrived",
        "early",
        "ended",
        "received",
        "trailers",
    )

    def __init__(self, peer: Peer, stream_id: int, head: RequestHead) -> None:
        self._peer = peer
        self._stream_id = stream_id
        self._head = head
        # What came before the request went out, and what it took of the window.
        self.early = bytearray()
        self._counted = 0
        # Set whenever anything has come.
        self.arrived = asyncio.Event()
        # Bytes of all of the body, also of what did not wait here.
        self.received = 0
        self.ended = False
        self.trailers: Headers = ()

    def keep(self, pieces: Sequence[bytes | memoryview], counted: int) -> None:
        for piece in pieces:
            self.early += piece
        self._counted += counted
        self.arrived.set()

    def take(self) -> tuple[bytes, int]:
        """Take what waits, and what it took of the window."""
        taken = bytes(self.early), self._counted
        self.drop()
        return taken

    def drop(self) -> None:
        self.early, self._counted = bytearray(), 0

    def end(self, trailers: Headers) -> None:
        self.ended, self.trailers = True, trailers
        self.arrived.set()

    @property
    def has_declared_length(self) -> bool:
        """Whether the body, which has ended, is as long as its head says."""
        framing = self._head.framing
        return not isinstance(framing, Length) or framing.octets == self.received

    @property
    def has_marked_trailers(self) -> bool:
        return any(find_marker(name) or find_marker(value) for name, value in self.trailers)

    def ask(self) -> None:
        """Ask a client for its body that waits to be asked."""
        waits = any(v.lower() == b"100-continue" for v in self._head.values(b"expect"))
        if waits and not (self.received or self.ended):
            self._peer.send_headers(self._stream_id, write_response(100, ()))

    async def hold(self, limit: int, seconds: float) -> bytes | BodyFault:
        """Take the whole body, within a bound of bytes and of time."""
        framing = self._head.framing
        if isinstance(framing, Length) and framing.octets > limit:
            return BodyFault.SIZE
        self.ask()
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    data, counted = self.take()
                    body += data
                    if not self.ended:
                        self._peer.open_window(self._stream_id, counted)
                    if len(body) > limit:
                        return BodyFault.SIZE
                    if self.ended:
                        return BodyFault.TRAILERS if self.trailers else bytes(body)
                    self._peer.flush()
                    self.arrived.clear()
                    await self.arrived.wait()
        except TimeoutError:
            return BodyFault.TIME
