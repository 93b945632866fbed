"""One client connection's way to its upstream: held open between requests, reopened when it closed.

Wraps `upstream.Upstreams` for one route. A tunnel keeps its connection for itself; the connection of
plain proxy requests comes from the common pool and goes back to it, except after a 401: some servers
tie the identity they have just checked to the connection, and the next client may be another
program. Used for one exchange at a time.
"""

from openshell.egress.stream import Stream, TlsStream
from openshell.egress.upstream import UpstreamKey, UpstreamLease, Upstreams

__all__ = ["Link"]


class Link:
    """Keeps at most one connection to one destination."""

    __slots__ = ("_carried", "_key", "_pooled", "_reused", "_stream", "_tainted", "_upstreams")

    def __init__(self, upstreams: Upstreams, key: UpstreamKey, *, pooled: bool) -> None:
        self._upstreams = upstreams
        self._key = key
        self._pooled = pooled
        self._stream: Stream | None = None
        self._reused = False
        self._carried = False
        self._tainted = False

    @property
    def key(self) -> UpstreamKey:
        return self._key

    @property
    def pooled(self) -> bool:
        return self._pooled

    @property
    def may_be_stale(self) -> bool:
        """Whether the connection has carried a request before: the upstream may be closing it."""
        return self._reused or self._carried

    def ready(self) -> Stream | None:
        """Return the open connection if a request can go out on it at once."""
        stream = self._stream
        if stream is None or stream.has_input or stream.lost:
            return None
        if self._key.tls and not isinstance(stream, TlsStream):
            return None
        return stream

    def adopt(self, stream: Stream) -> None:
        """Take a plain connection that was dialled before it was known what the client speaks."""
        self._stream = stream

    async def open(self, *, fresh: bool = False) -> Stream:
        """Return a connection that a request can go out on. Raises `UpstreamFailed`."""
        stream = self._stream
        if stream is not None and not fresh and not stream.lost and not stream.has_input:
            if self._key.tls and not isinstance(stream, TlsStream):
                self._stream = None
                stream = self._stream = await self._upstreams.secure(stream, self._key.target)
            return stream
        self.drop()
        lease = await self._upstreams.open(self._key, fresh=fresh or not self._pooled)
        self._stream, self._reused = lease.stream, lease.reused
        self._carried = self._tainted = False
        return lease.stream

    def carried(self, status: int) -> None:
        """Note that an exchange ended cleanly with this status."""
        self._carried = True
        self._tainted = self._tainted or status == 401

    def take(self) -> Stream | None:
        """Give the connection away, for a raw copy."""
        stream, self._stream = self._stream, None
        return stream

    def drop(self) -> None:
        """Abandon the connection: its state is unknown or unwanted."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.partner = None
            stream.abort()

    def close(self) -> None:
        """Give the connection back, or end it."""
        stream = self.ready()
        if self._pooled and self._carried and not self._tainted and stream is not None:
            self._stream = None
            self._upstreams.release(UpstreamLease(self._key, stream, reused=True))
        else:
            self.drop()
