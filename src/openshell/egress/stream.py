"""Byte streams of the data plane: a plain one over a transport, and TLS over the same transport.

A stream has one buffer of unread bytes, so what was read too far by a parser is put back and nothing
is lost when a connection changes hands (from request heads to TLS, or to a raw copy). Reading takes
everything there is; writing never blocks and `drain` waits for a slow peer. There is one reader at
a time. TLS runs over memory buffers: the transport stays as it is, the bytes that were looked at to
recognise TLS are simply fed first.

No HTTP and no policy. Used by the pipeline's shells; the cores see only bytes.
"""

import asyncio
import contextlib
import fcntl
import socket
import ssl
import sys
import termios
from collections.abc import Callable
from typing import Final, cast

__all__ = [
    "RESET",
    "SILENT",
    "Stream",
    "StreamLost",
    "TlsStream",
    "dial",
    "keep_alive",
    "open_stream",
]

# Unread bytes at which the peer is made to wait. Several socket buffers, so that a fast download
# wakes us rarely; two streams of this size bound what one connection can make us hold.
_HIGH_WATER: Final = 256 * 1024
# Unsent bytes at which `drain` waits.
_WRITE_HIGH: Final = 256 * 1024
# One read of decrypted data; a TLS record has at most 16 KiB.
_RECORD: Final = 64 * 1024
# What a TLS peer may make us write (answers to key updates) while it does not read: nothing else bounds
# that, and nobody who reads changes keys a hundred times meanwhile.
_UNASKED: Final = 4 * 1024
# Size of a C int, as the kernel answers with.
_INT: Final = 4
# How long and how much is read from a client that was answered before its request had ended: closing
# at once would reset the connection and lose the answer.
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 1024 * 1024


# The reason of a stream that its peer ended without ending it properly.
RESET: Final = "the peer reset the connection"
# The reason of an upstream that was given up on.
SILENT: Final = "it did not answer in time"


class StreamLost(ConnectionError):
    """The connection is gone; nothing can be read or written any more."""


class Stream(asyncio.Protocol):
    """A connected byte stream."""

    __slots__ = (
        "_buffer",
        "_drainer",
        "_eof",
        "_loop",
        "_lost",
        "_reading_paused",
        "_reason",
        "_waiter",
        "_writing_paused",
        "partner",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        # The other side of an exchange: pointless to keep once this side is gone.
        self.partner: Stream | None = None
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._eof = False
        self._lost = False
        self._reason = ""
        self._reading_paused = False
        self._writing_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._drainer: asyncio.Future[None] | None = None

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else bytes(data)
        if len(self._buffer) >= _HIGH_WATER and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        # The other direction stays open: a client may end its request and still want the answer.
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._reason:
            # A reset is no end: what was read so far may be incomplete.
            self._reason = RESET
        self._lost = self._eof = True
        self._wake()
        if self._drainer is not None and not self._drainer.done():
            self._drainer.set_result(None)
        partner, self.partner = self.partner, None
        if partner is not None:
            partner.abort("the other side closed the connection")

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drainer is not None and not self._drainer.done():
            self._drainer.set_result(None)

    # Called by the pipeline.

    @property
    def at_eof(self) -> bool:
        """Whether the peer has ended its direction and everything it sent was read."""
        return self._eof and not self._buffer

    @property
    def has_input(self) -> bool:
        """Whether bytes or the end have arrived: on an idle upstream connection both spoil it."""
        return self._eof or bool(self._buffer)

    @property
    def lost(self) -> bool:
        return self._lost

    @property
    def reason(self) -> str:
        """Why `abort` was called, in our words; empty when the peer went away by itself."""
        return self._reason

    @property
    def must_drain(self) -> bool:
        return self._writing_paused or self._lost

    @property
    def unsent(self) -> int:
        """Count what the peer has not taken, 0 while the kernel has taken everything from us.

        The kernel's own queue is counted in: it empties long before the transport notices.
        """
        waiting = 0 if self._lost else self.transport.get_write_buffer_size()
        if not waiting:
            return 0
        raw = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, ValueError):
            queued = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(_INT))
            waiting += int.from_bytes(queued, sys.byteorder)
        return waiting

    async def read(self) -> bytes:
        """Return what has arrived, waiting for at least one byte; nothing means the end."""
        while not self._buffer:
            if self._eof:
                if self._reason:
                    raise StreamLost(self._reason)
                return b""
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    def take(self) -> bytes:
        """Return what has arrived without waiting."""
        data, self._buffer = self._buffer, b""
        if self._reading_paused:
            self._reading_paused = False
            if not self._lost:
                self.transport.resume_reading()
        return data

    def unread(self, data: bytes) -> None:
        """Put back bytes that belong to what follows."""
        if data:
            self._buffer = data + self._buffer

    def write(self, data: bytes | memoryview) -> None:
        if not self._lost:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has taken enough; raise when it is gone."""
        if self._lost:
            raise StreamLost(self._reason or "the peer closed the connection")
        if self._writing_paused:
            self._drainer = self._loop.create_future()
            try:
                await self._drainer
            finally:
                self._drainer = None
            if self._lost:
                raise StreamLost(self._reason or "the peer closed the connection")

    def write_eof(self) -> None:
        if not self._lost and not self.transport.is_closing():
            # A peer that has just reset the connection is no longer there to be told.
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def close(self) -> None:
        """Send what is written and close, without an end: for what is written see `flush`."""
        if not self._lost:
            self.transport.close()

    async def flush(self) -> None:
        """Wait until the kernel has all that was written, or the connection is gone.

        A peer that does not read keeps us here: the caller sees to it that somebody aborts.
        """
        if self._lost:
            return
        self.transport.set_write_buffer_limits(high=0)
        with contextlib.suppress(StreamLost):
            await self.drain()

    async def end(self) -> None:
        """Close after everything that was written has been sent."""
        self.write_eof()
        await self.flush()
        self.close()

    def abort(self, reason: str = "") -> None:
        """Drop the connection now; a waiting reader is told `reason`."""
        self._reason = self._reason or reason
        if not self._lost:
            self.transport.abort()

    async def finish(self) -> None:
        """Close so that a client which is still sending gets to read our last words.

        Waits for a client that reads slowly; as in `flush`, somebody must abort one that does not.
        """
        self.write_eof()
        taken = 0
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while taken < _LINGER_BYTES:
                    data = await self.read()
                    if not data:
                        break
                    taken += len(data)
        except (TimeoutError, ConnectionError):
            pass
        await self.end()

    async def detach(self) -> tuple[socket.socket, bytes]:
        """Give up the transport; return the socket, non-blocking, and the bytes not read yet."""
        self.transport.pause_reading()
        self.transport.set_write_buffer_limits(high=0)
        await self.drain()
        raw = self.transport.get_extra_info("socket")
        own = socket.socket(fileno=socket.dup(raw.fileno()))
        own.setblocking(False)
        data, self._buffer = self._buffer, b""
        # Closing the transport's descriptor leaves the connection open: ours refers to it too.
        self.transport.abort()
        return own, data

    def reset(self, reason: str = "refused") -> None:
        """End the connection with a reset, so that the client cannot take the end for one of an answer."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None and not self._lost:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort(reason)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_RESET_ON_CLOSE: Final = b"\1\0\0\0\0\0\0\0"
# Routers forget silent connections after a few minutes; databases keep theirs for hours.
_KEEPALIVE_SECONDS: Final = 60


class TlsStream(Stream):
    """TLS over the transport of a plain stream, which must not be used any more."""

    __slots__ = ("_incoming", "_outgoing", "_shaken", "_tls", "_unasked", "fault", "on_session")

    def __init__(
        self,
        plain: Stream,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._unasked = 0
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
            session=session,
        )
        # Told once, when the peer has first sent data: TLS 1.3 brings sessions after the handshake.
        self.on_session: Callable[[ssl.SSLSession], None] | None = None
        # Why TLS failed after the handshake: where servers of TLS 1.3 say what they think of a client.
        self.fault: ssl.SSLError | None = None
        self._shaken: asyncio.Future[None] | None = self._loop.create_future()
        self.transport = plain.transport
        early = plain.take()
        self._eof, self._lost, self._reason = plain.at_eof, plain.lost, plain.reason
        if not self._lost:
            self.transport.set_protocol(self)
            self._handshake()
            if early:
                self.data_received(early)

    @property
    def alpn(self) -> str | None:
        """The protocol that both sides agreed on, after the handshake."""
        return self._tls.selected_alpn_protocol()

    @property
    def is_resumed(self) -> bool:
        """Whether the handshake continued an earlier session, without certificates."""
        return bool(self._tls.session_reused)

    async def handshake(self, timeout: float) -> None:
        """Wait until both sides agree. Raises `ssl.SSLError`, `StreamLost` or `TimeoutError`."""
        if self._shaken is not None:
            if self._eof:
                self._fail(StreamLost("the peer closed during the TLS handshake"))
            async with asyncio.timeout(timeout):
                await self._shaken

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._shaken is not None and not self._handshake():
            return
        self._decrypt()

    def eof_received(self) -> bool:
        if self._shaken is not None:
            self._fail(StreamLost("the peer closed during the TLS handshake"))
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._shaken is not None:
            lost = "the connection was lost during the TLS handshake"
            self._fail(StreamLost(lost if exc is None else RESET))
        super().connection_lost(exc)

    def write(self, data: bytes | memoryview) -> None:
        if self._lost or not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.abort("the TLS connection failed")
            return
        self.transport.write(self._outgoing.read())

    def write_eof(self) -> None:
        if self._lost:
            return
        # It always raises, because the peer's own notice has not come yet; ours is in the buffer.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        self.write_eof()
        super().close()

    def _handshake(self) -> bool:
        shaken = self._shaken
        if shaken is None:
            return True
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except (ssl.SSLError, ValueError) as error:
            # The alert that tells the peer why is in the buffer.
            self._flush()
            self._fail(error)
            return False
        self._flush()
        self._shaken = None
        if not shaken.done():
            shaken.set_result(None)
        return True

    def _fail(self, error: Exception) -> None:
        if self._shaken is not None and not self._shaken.done():
            self._shaken.set_exception(error)
            # Marks the exception as seen: nobody waits when the connection is being torn down.
            self._shaken.exception()

    def _decrypt(self) -> None:
        parts: list[bytes] = []
        try:
            while part := self._tls.read(_RECORD):
                parts.append(part)
            self._eof = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.fault = error
            self.abort("the TLS connection failed")
            self._eof = True
        if self._writing_paused:
            self._unasked += self._outgoing.pending
            if self._unasked > _UNASKED:
                self.abort("the peer makes us write and does not read")
        self._flush()
        if parts:
            if self.on_session is not None:
                self._offer_session(self.on_session)
            super().data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        elif self._eof:
            self._wake()

    def _offer_session(self, take: Callable[[ssl.SSLSession], None]) -> None:
        self.on_session = None
        session = self._tls.session
        # Without a ticket TLS 1.3 has nothing to resume with; older versions may have an id.
        if session is not None and (session.has_ticket or self._tls.version() != "TLSv1.3"):
            take(session)

    def _flush(self) -> None:
        if self._outgoing.pending and not self._lost:
            self.transport.write(self._outgoing.read())


async def open_stream(sock: socket.socket) -> Stream:
    """Wrap a connected socket."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    loop = asyncio.get_running_loop()
    _, stream = await loop.connect_accepted_socket(Stream, sock)
    return stream


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel ask a silent peer whether it is there, so that a dead one is noticed."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)


async def dial(host: str, port: int, timeout: float) -> Stream:
    """Connect to an address (never a name) and return the stream; raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return await open_stream(sock)
    except BaseException:
        sock.close()
        raise
