"""The steps that every client connection shares, whichever door it came through.

Two doors lead here: `explicit` (CONNECT and plain proxy requests) and `capture` (connections that
ignore the proxy). Both run the same sequence: identity, connection policy, destination, credential
guard, TLS, requests (`exchange`). A refusal is answered where HTTP is spoken and is a reset
elsewhere; it has one event. Nothing falls back to a weaker treatment: what can be neither inspected
nor copied raw is refused.
"""

import asyncio
import ssl

from openshell.egress.admission import Admitted, NotAdmitted, is_guarded
from openshell.egress.connection import ClientConnection, RawAs, Services
from openshell.egress.denials import Denial, bare
from openshell.egress.exchange import Exchanges
from openshell.egress.http1 import (
    TUNNEL_HEAD_LIMIT,
    HeadRejected,
    RequestHead,
    RequestHeadReader,
)
from openshell.egress.http2.offers import H2, HTTP1, read_offer
from openshell.egress.link import Link
from openshell.egress.local_names import LocalName, LocalNames
from openshell.egress.peek import FirstBytes, classify
from openshell.egress.relay import Relay
from openshell.egress.route import Route
from openshell.egress.staging import refuse_unseen
from openshell.egress.stream import Stream, TlsStream, keep_alive
from openshell.egress.tls_sessions import TlsTarget
from openshell.egress.upstream import UpstreamFailed, UpstreamKey
from openshell.ocsf import HostPort, Refusal, Severity

__all__ = ["Pipeline", "say"]


class Pipeline:
    """The shared steps, for the connections of one sandbox."""

    def __init__(self, services: Services, local: LocalNames) -> None:
        self.services = services
        self._services = services
        self.local = local

    def tunnel_refusal(self, connection: ClientConnection, admitted: Admitted) -> Denial | None:
        """Refuse what could not be treated as the policy demands, before anything is opened."""
        services, request, decision = self._services, admitted.request, admitted.decision
        ancestors = connection.actor.ancestors
        if not decision.is_opaque and services.ca is None:
            services.log.connection_denied(
                connection.actor,
                HostPort(request.host, request.port),
                engine="tls",
                policy=decision.matched_policy,
                reason="the sandbox has no certificate authority",
                severity=Severity.HIGH,
                refusal=Refusal(
                    "tls_termination_unavailable",
                    stage="connect-tls-termination-unavailable",
                    ancestors=ancestors,
                ),
            )
            return services.denials.tls_unavailable()
        if is_guarded(decision):
            services.log.connection_denied(
                connection.actor,
                HostPort(request.host, request.port),
                engine="credentials",
                policy=decision.matched_policy,
                reason="a credentialed endpoint requires L7 inspection",
                severity=Severity.HIGH,
                refusal=Refusal(
                    "uninspected_credentials",
                    stage="connect-uninspected-credentials",
                    ancestors=ancestors,
                ),
            )
            services.log.finding(
                "openshell.credentials.traffic_uninspectable",
                "Credentialed traffic cannot be inspected",
                f"{HostPort(request.host, request.port)} carries credentials and would be a raw tunnel",
            )
            return services.denials.uninspected_credentials(request.host, request.port)
        return refuse_unseen(services, connection, admitted) if decision.is_opaque else None

    async def terminate(
        self, connection: ClientConnection, admitted: Admitted, upstream: Stream | None
    ) -> None:
        """Answer the client's TLS as the host it wanted, then serve its requests."""
        services, host = self._services, admitted.request.host
        upstream, speaks_h2 = await self._agree(connection, admitted, upstream)
        context = services.server_context(host.rstrip("."), h2=speaks_h2)
        if context is None:
            # Only possible when a reload turned inspection on while the tunnel was being opened.
            if upstream is not None:
                upstream.abort()
            connection.stream.reset()
            return
        secure = TlsStream(connection.stream, context)
        connection.stream = secure
        connection.deadline = None
        try:
            await secure.handshake(services.limits.handshake_seconds)
        except (ssl.SSLError, OSError, TimeoutError) as error:
            reason = getattr(error, "reason", None) or "ended"
            dst = HostPort(host, admitted.request.port)
            services.log.connection_failed(
                connection.actor, dst, f"the client's TLS handshake failed: {reason}"
            )
            if upstream is not None:
                upstream.abort()
            secure.close()
            return
        if secure.alpn == H2:
            # Loaded by the first client that needs it: the library costs a sandbox 1.4 MB.
            from openshell.egress.http2.session import serve  # noqa: PLC0415

            await serve(services, connection, admitted, upstream)
        else:
            await self.requests(connection, admitted, "https", upstream)

    async def _agree(
        self, connection: ClientConnection, admitted: Admitted, upstream: Stream | None
    ) -> tuple[Stream | None, bool]:
        """Ask the upstream for HTTP/2 where the client offers it; say whether it is offered back."""
        limits, upstreams = self._services.limits, self._services.upstreams
        connection.deadline = None
        offered = await read_offer(connection.stream, limits.handshake_seconds)
        if H2 not in offered:
            return upstream, False
        request, credentials = admitted.request, self._services.holder.current.credentials
        host = request.host.rstrip(".")
        if credentials.client_identity(host, request.port) is not None:
            # It is shown when policy has allowed a request, and there is none yet: HTTP/2 is for
            # clients that speak nothing else.
            if HTTP1 in offered:
                return upstream, False
            if upstream is not None:
                upstream.abort()
            return None, True
        try:
            if upstream is None:
                upstream = await upstreams.dial(admitted.plan)
            target = TlsTarget(host, request.port, credentials.epoch)
            secure = await upstreams.secure(upstream, target, offered)
        except UpstreamFailed:
            # Told in answer to the first request, in a protocol that the client speaks.
            return None, HTTP1 not in offered
        if secure.alpn != H2 and HTTP1 not in offered:
            secure.abort()
            return None, True
        return secure, secure.alpn == H2

    async def requests(
        self,
        connection: ClientConnection,
        admitted: Admitted,
        scheme: str,
        upstream: Stream | None,
    ) -> None:
        """Serve the requests inside a tunnel or on a captured connection, one after the other."""
        exchanges = self.exchanges(connection, admitted, scheme, absolute=False, adopt=upstream)
        dst = HostPort(admitted.request.host, admitted.request.port)
        try:
            while True:
                head = await self.next_head(connection, TUNNEL_HEAD_LIMIT, dst)
                if head is None or not await exchanges.serve(head):
                    return
        finally:
            exchanges.close()

    async def serve_local(self, connection: ClientConnection, name: LocalName) -> None:
        """Serve a captured connection that leads to a name of ours."""
        if name.take is not None:
            await name.take(connection)
            return
        place = HostPort(name.host, name.port)
        while True:
            head = await self.next_head(connection, TUNNEL_HEAD_LIMIT, place)
            if head is None or name.serve is None:
                return
            if not await name.serve(self._services, connection, head):
                return

    def exchanges(
        self,
        connection: ClientConnection,
        admitted: Admitted,
        scheme: str,
        *,
        absolute: bool,
        adopt: Stream | None = None,
    ) -> Exchanges:
        services, request = self._services, admitted.request
        host, credentials = request.host.rstrip("."), services.holder.current.credentials
        key = UpstreamKey(
            host,
            request.port,
            admitted.plan.addresses,
            scheme == "https",
            credentials.epoch,
            direct=absolute,
            identity=credentials.client_identity(host, request.port),
        )
        link = Link(services.upstreams, key, pooled=absolute)
        if adopt is not None:
            link.adopt(adopt)
        return Exchanges(services, connection, Route(admitted, scheme, absolute), link)

    async def copy(
        self, connection: ClientConnection, admitted: Admitted, upstream: Stream
    ) -> None:
        """Copy bytes both ways without looking at them."""
        connection.deadline = None
        if connection.raw_as is None:
            is_opaque = admitted.decision.is_opaque
            connection.raw_as = RawAs.OPAQUE if is_opaque else RawAs.UNKNOWN
        try:
            client_socket, to_upstream = await connection.stream.detach()
        except BaseException:
            # The client has gone while the upstream was being dialled.
            upstream.abort()
            raise
        try:
            upstream_socket, to_client = await upstream.detach()
        except BaseException:
            client_socket.close()
            raise
        keep_alive(upstream_socket)
        relay = Relay(
            client_socket,
            upstream_socket,
            to_upstream=to_upstream,
            to_client=to_client,
            idle_seconds=None,
            half_closed_seconds=self._services.limits.tunnel_half_closed_seconds,
        )
        connection.relay = relay
        # A reload between the decision and this line was missed by everybody else.
        connection.reevaluate(self._services.holder.current)
        if connection.admitted is None:
            relay.close("the policy changed")
        await relay.run()

    async def next_head(
        self, connection: ClientConnection, limit: int, dst: HostPort | None
    ) -> RequestHead | None:
        """Read the next request head; None when the client has ended or was told off.

        `dst` is where the tunnel leads; None stands for the proxy itself, where the target names
        the host and a Host field may be missing.
        """
        stream, limits = connection.stream, self._services.limits
        reader = RequestHeadReader(
            limit=limit, require_host=dst is not None, memory=connection.field_memory
        )
        connection.within(limits.idle_seconds)
        try:
            data = await stream.read()
            # From the first byte on the whole head must come: dripping bytes buys no time.
            connection.within(limits.head_seconds)
            while data:
                head = reader.feed(data)
                if head is not None:
                    stream.unread(reader.leftover)
                    connection.deadline = None
                    return head
                data = await stream.read()
            reader.end_of_stream()
        except HeadRejected as rejected:
            self.unparsable(connection, dst, rejected)
            await say(connection, bare(rejected.status), None)
        except ConnectionError:
            pass
        return None

    async def first_bytes(
        self, connection: ClientConnection, silent_seconds: float
    ) -> FirstBytes | None:
        """Classify what the client begins with and put it back; None when it says nothing.

        The time for a decision counts from the first byte: a slow client is not an unknown one.
        """
        stream = connection.stream
        seen = b""
        try:
            async with asyncio.timeout(silent_seconds):
                seen = await stream.read()
            kind = classify(seen)
            async with asyncio.timeout(self._services.limits.peek_seconds):
                while kind is FirstBytes.MORE:
                    data = await stream.read()
                    if not data:
                        return FirstBytes.UNKNOWN if seen else None
                    seen += data
                    kind = classify(seen)
            return kind
        except TimeoutError:
            return FirstBytes.UNKNOWN if seen else None
        except ConnectionError:
            return None
        finally:
            stream.unread(seen)

    def current(self, admitted: Admitted) -> Admitted | NotAdmitted:
        """Return the admission as the generation that is in force now sees it."""
        generation = self._services.holder.current
        if generation.number == admitted.generation:
            return admitted
        return self._services.admission.readmit(admitted, generation)

    def opened(
        self, connection: ClientConnection, admitted: Admitted, how: str, detail: str = ""
    ) -> None:
        """Record that a tunnel or a captured connection was allowed."""
        request, decision = admitted.request, admitted.decision
        dst = HostPort(request.host, request.port)
        inspected = "_L7" if decision.l7_configs else ""
        self._services.log.connection_allowed(
            connection.actor,
            dst,
            decision.matched_policy,
            f"{how}{inspected} allowed {dst}",
            detail=detail,
        )

    def unparsable(
        self, connection: ClientConnection, dst: HostPort | None, rejected: HeadRejected
    ) -> None:
        """Record that a client did not speak HTTP as we accept it."""
        self._services.log.connection_denied(
            connection.actor,
            dst,
            engine="http-parser",
            reason=f"the request head was rejected: {rejected.reason.value}",
            refusal=Refusal(
                rejected.reason.value,
                group="l7_parse_rejection",
                ancestors=connection.actor.ancestors,
            ),
        )


async def say(connection: ClientConnection, denial: Denial, head: RequestHead | None) -> None:
    """Answer a client for the last time."""
    stream = connection.stream
    connection.deadline = None
    stream.write(denial.render(with_body=head is None or head.method != b"HEAD"))
    await stream.finish()
