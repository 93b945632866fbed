"""Connections to upstreams: dialling pinned addresses, TLS with verification, and keeping them for reuse.

Only addresses are dialled, in the order of the plan (`racing`); a name is used for TLS alone. What the operator has
go through a corporate proxy is dialled by `corporate`. A connection is kept
under everything that decided about it (destination, TLS, credential epoch), so that one opened under other
addresses or other credentials is never taken. Which requests may go out, and whether a response left the
connection reusable, is the pipeline's business. The pool decides in one plain method that a test can call.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from openshell.egress.client_identity import BadIdentity, ClientIdentity, identity_context
from openshell.egress.corporate import CorporateTunnels, TunnelFailed
from openshell.egress.destination import Address, Plan
from openshell.egress.racing import dial_any
from openshell.egress.stream import Stream, StreamLost, TlsStream
from openshell.egress.tls_faults import explain_tls_error
from openshell.egress.tls_sessions import KeptSession, SessionCache, TlsTarget

__all__ = ["IdlePool", "UpstreamFailed", "UpstreamKey", "UpstreamLease", "Upstreams"]

# Kept connections of one sandbox; a client that needs more at once opens more, they are just not kept.
MAX_IDLE: Final = 64
_HTTP1: Final = ("http/1.1",)
# Contexts with a client certificate; each holds the roots once more, about 1 MB.
MAX_IDENTITIES: Final = 8
# Most servers close after 60 or 75 seconds; reusing a connection they are about to close fails requests.
IDLE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class UpstreamKey:
    """What must be equal for a connection to be used again."""

    host: str
    port: int
    addresses: tuple[Address, ...]
    tls: bool
    credential_epoch: int
    # Never through a corporate proxy.
    direct: bool = False
    # What the upstream is shown in the handshake.
    identity: ClientIdentity | None = None

    @property
    def target(self) -> TlsTarget:
        return TlsTarget(self.host, self.port, self.credential_epoch, self.identity)


class UpstreamFailed(Exception):
    """No connection could be made. `stage` is dial, proxy, tls or http2; `reason` is safe to show to the agent.

    `code` tells causes apart within a stage, where there are several.
    """

    def __init__(self, stage: str, reason: str, code: str = "") -> None:
        super().__init__(f"upstream {stage} failed: {reason}")
        self.stage = stage
        self.reason = reason
        self.code = code


@dataclass(frozen=True, slots=True)
class UpstreamLease:
    """A connection in use. A reused one may turn out to be closed: nothing was answered then."""

    key: UpstreamKey
    stream: Stream
    reused: bool


class IdlePool:
    """Connections nobody uses now. Synchronous: time comes in, connections to close come out."""

    __slots__ = ("_idle", "_limit", "_seconds")

    def __init__(self, *, limit: int = MAX_IDLE, seconds: float = IDLE_SECONDS) -> None:
        self._limit = limit
        self._seconds = seconds
        # Oldest first; the order of insertion is the order of expiry.
        self._idle: OrderedDict[Stream, tuple[UpstreamKey, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._idle)

    def put(self, key: UpstreamKey, stream: Stream, now: float) -> list[Stream]:
        """Keeps a connection; returns those that must be closed for it."""
        self._idle[stream] = (key, now)
        closing = self.expire(now)
        while len(self._idle) > self._limit:
            closing.append(self._idle.popitem(last=False)[0])
        return closing

    def take(self, key: UpstreamKey, now: float) -> tuple[Stream | None, list[Stream]]:
        """The connection used last for this key, if one is good; and those that must be closed."""
        closing = self.expire(now)
        for stream in [s for s, (kept, _) in reversed(self._idle.items()) if kept == key]:
            del self._idle[stream]
            # Bytes nobody asked for mean that the upstream and we disagree about where a response ended.
            if not stream.lost and not stream.at_eof and not stream.take():
                return stream, closing
            closing.append(stream)
        return None, closing

    def expire(self, now: float) -> list[Stream]:
        """Forgets and returns what was kept for too long or has ended."""
        old = [s for s, (_, since) in self._idle.items() if now - since > self._seconds or s.at_eof]
        for stream in old:
            del self._idle[stream]
        return old

    def drop(self, unwanted: Callable[[UpstreamKey], bool]) -> list[Stream]:
        """Forgets and returns connections whose key is unwanted."""
        found = [stream for stream, (key, _) in self._idle.items() if unwanted(key)]
        for stream in found:
            del self._idle[stream]
        return found


class Upstreams:
    """Opens connections for one sandbox and keeps them between requests."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        clock: Callable[[], float],
        dial_seconds: float,
        handshake_seconds: float,
        corporate: CorporateTunnels | None = None,
    ) -> None:
        """`context` verifies upstreams: system roots and the operator's, ALPN http/1.1."""
        self._context = context
        self._clock = clock
        self._dial_seconds = dial_seconds
        self._handshake_seconds = handshake_seconds
        self._corporate = corporate
        self._pool = IdlePool()
        self._sessions = SessionCache()
        self._contexts: OrderedDict[ClientIdentity, ssl.SSLContext] = OrderedDict()

    async def open(self, key: UpstreamKey, *, fresh: bool = False) -> UpstreamLease:
        """A kept connection, or a new one. Raises UpstreamFailed."""
        if not fresh:
            stream, closing = self._pool.take(key, self._clock())
            _close(closing)
            if stream is not None:
                return UpstreamLease(key, stream, reused=True)
        stream = await self.dial(Plan(key.host, key.port, key.addresses), direct=key.direct)
        if key.tls:
            stream = await self.secure(stream, key.target)
        return UpstreamLease(key, stream, reused=False)

    async def dial(self, plan: Plan, *, direct: bool = False) -> Stream:
        """A new plain connection to an address that answers, for tunnels. Raises UpstreamFailed."""
        addresses = plan.addresses
        if self._corporate is not None and not direct:
            addresses = self._corporate.proxy.bypassed(plan)
            if not addresses:
                return await self._tunnel(self._corporate, plan)
        try:
            return await dial_any(addresses, plan.port, self._dial_seconds)
        except TimeoutError:
            reason = "timed out"
        except OSError as error:
            reason = error.strerror or str(error)
        raise UpstreamFailed("dial", reason)

    async def _tunnel(self, corporate: CorporateTunnels, plan: Plan) -> Stream:
        try:
            return await corporate.open(plan)
        except TunnelFailed as failed:
            raise UpstreamFailed("proxy", failed.reason) from None

    def release(self, lease: UpstreamLease) -> None:
        """Keeps a connection whose response has been read to its end."""
        lease.stream.partner = None
        if lease.stream.lost or lease.stream.at_eof:
            lease.stream.abort()
            return
        _close(self._pool.put(lease.key, lease.stream, self._clock()))

    def drop_older(self, credential_epoch: int) -> None:
        """Closes kept connections of earlier credential epochs, and forgets their sessions and keys."""
        self._sessions.drop_older(credential_epoch)
        self._contexts.clear()
        _close(self._pool.drop(lambda key: key.credential_epoch < credential_epoch))

    def tidy(self) -> None:
        """Closes what was kept for too long; called now and then so that an idle sandbox holds nothing."""
        _close(self._pool.expire(self._clock()))

    def close(self) -> None:
        """Closes every kept connection; leases are their holders' to close."""
        _close(self._pool.drop(lambda _: True))

    async def secure(
        self, plain: Stream, target: TlsTarget, protocols: tuple[str, ...] = _HTTP1
    ) -> TlsStream:
        """TLS over a plain connection, verified for the host. Raises UpstreamFailed."""
        try:
            context = self._context_for(target.identity)
            kept = self._sessions.get(target, context, self._clock())
            # OpenSSL copies the list when a connection is made from the context, in the next line; a
            # context for each list would hold the roots twice.
            context.set_alpn_protocols(list(protocols))
            stream = TlsStream(
                plain, context, server_hostname=target.host, session=kept.session if kept else None
            )
        except BadIdentity as bad:
            plain.abort()
            raise UpstreamFailed("tls", str(bad), "client_certificate_unusable") from None
        except BaseException:
            plain.abort()
            raise
        try:
            await stream.handshake(self._handshake_seconds)
        except (StreamLost, OSError, ValueError) as error:
            # Errors of TLS and timeouts are OSErrors too.
            stream.abort()
            self._sessions.forget(target)
            failure = explain_tls_error(error, target.host)
            raise UpstreamFailed("tls", failure.reason, failure.cause.value) from None
        except BaseException:
            stream.abort()
            raise
        # A resumed session was verified when the first of its line was, however often it is renewed.
        verified = kept.verified if kept and stream.is_resumed else self._clock()
        stream.on_session = lambda session: self._sessions.put(
            target, KeptSession(session, context, verified)
        )
        return stream

    def _context_for(self, identity: ClientIdentity | None) -> ssl.SSLContext:
        if identity is None:
            return self._context
        context = self._contexts.get(identity)
        if context is None:
            context = self._contexts[identity] = identity_context(self._context, identity)
            while len(self._contexts) > MAX_IDENTITIES:
                self._contexts.popitem(last=False)
        return context


def _close(streams: list[Stream]) -> None:
    for stream in streams:
        stream.abort()
