"""Captured connections: clients that ignore the proxy and believe they speak to their destination.

The second door to the pipeline. The kernel says where the client wanted to go; if our resolver
handed that address out, the host is the name it stands for, otherwise the address itself. What the
client then says (TLS server name, Host field) must agree with it. Without HTTP a refusal is a reset,
and no upstream is dialled before it is clear that the connection may be treated as the policy says.
"""

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from openshell.egress.admission import Admitted
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.denials import Denial
from openshell.egress.peek import FirstBytes
from openshell.egress.pipeline import Pipeline, say
from openshell.egress.refusing import refuse_connection
from openshell.egress.tls_hello import ClientHelloReader, HelloRejected
from openshell.egress.upstream import UpstreamFailed
from openshell.ocsf import HostPort, NetActivity, Refusal, Severity

__all__ = ["CaptureAdapter"]


class CaptureAdapter:
    """Serves captured connections of one sandbox."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        host_for: Callable[[str], str | None],
        own_addresses: frozenset[str],
    ) -> None:
        """Take what only the proxy knows.

        `host_for` says for which name the resolver handed out an address; `own_addresses` are the
        listeners' own, which a captured connection never has as its destination.
        """
        self._pipeline = pipeline
        self._services: Services = pipeline.services
        self._host_for = host_for
        self._own = own_addresses

    async def serve(self, connection: ClientConnection) -> None:
        """Serve a client that believes it speaks to its destination."""
        address, port = connection.peers.server
        await connection.identify()
        if self._is_own(address):
            self._refuse_captured(
                connection, address, port, "own_listener", "a direct connection to the listener"
            )
            connection.stream.reset()
            return
        host = self._host_for(address) or _plain(address)
        local = self._pipeline.local.at(host, port)
        if local is not None:
            await self._pipeline.serve_local(connection, local)
            return
        outcome = await self._services.admission.admit(connection.identity, host, port)
        if not isinstance(outcome, Admitted):
            denial = refuse_connection(self._services, connection, outcome, host, port)
            await self._turn_away(connection, denial)
            return
        refusal = self._pipeline.tunnel_refusal(connection, outcome)
        if refusal is not None:
            await self._turn_away(connection, refusal)
            return
        connection.admitted = outcome
        kind = await self._pipeline.first_bytes(
            connection, self._services.limits.captured_silent_seconds
        )
        current = connection.admitted
        if kind is FirstBytes.TLS:
            await self._captured_tls(connection, current)
        elif kind is FirstBytes.HTTP1:
            self._pipeline.opened(connection, current, "CAPTURED")
            await self._pipeline.requests(connection, current, "http", None)
        else:
            self._refuse_captured(
                connection,
                host,
                port,
                "not_supported_yet",
                "a direct connection that speaks neither TLS nor HTTP needs an endpoint with"
                " protocol: tcp, which is not supported yet",
                policy=current.decision.matched_policy,
            )
            connection.stream.reset()

    async def _captured_tls(self, connection: ClientConnection, admitted: Admitted) -> None:
        request = admitted.request
        name = await self._server_name(connection)
        by_name = self._host_for(connection.peers.server[0]) is not None
        if name is None or (by_name and name and name != request.host.rstrip(".")):
            reason = (
                "the TLS server name is not the host that was looked up"
                if name
                else "the TLS ClientHello could not be read"
            )
            self._refuse_captured(
                connection,
                request.host,
                request.port,
                "server_name_mismatch" if name else "malformed_client_hello",
                reason,
                engine="request-authority",
                policy=admitted.decision.matched_policy,
                severity=Severity.HIGH,
            )
            connection.stream.reset()
            return
        admitted = connection.admitted or admitted
        self._pipeline.opened(connection, admitted, "CAPTURED")
        if admitted.decision.tls_mode != "skip":
            await self._pipeline.terminate(connection, admitted, None)
            return
        try:
            upstream = await self._services.upstreams.dial(admitted.plan)
        except UpstreamFailed as failed:
            dst = HostPort(request.host, request.port)
            self._services.log.connection_failed(
                connection.actor, dst, f"{failed.stage}: {failed.reason}"
            )
            connection.stream.reset()
            return
        await self._pipeline.copy(connection, admitted, upstream)

    async def _server_name(self, connection: ClientConnection) -> str | None:
        """Read the ClientHello and put it back; "" when it names nobody, None when unreadable."""
        stream, reader = connection.stream, ClientHelloReader()
        connection.within(self._services.limits.handshake_seconds)
        seen = b""
        try:
            while True:
                data = await stream.read()
                if not data:
                    return None
                seen += data
                hello = reader.feed(data)
                if hello is not None:
                    return (hello.sni or "").rstrip(".")
        except HelloRejected:
            return None
        finally:
            stream.unread(seen)
            connection.deadline = None

    async def _turn_away(self, connection: ClientConnection, denial: Denial) -> None:
        """Answer a refused captured client in HTTP if that is what it speaks, else reset it."""
        kind = await self._pipeline.first_bytes(
            connection, self._services.limits.refusal_peek_seconds
        )
        if kind is FirstBytes.HTTP1:
            await say(connection, denial, None)
        else:
            connection.stream.reset()

    def _is_own(self, address: str) -> bool:
        plain = _plain(address)
        return plain in self._own or ip_address(plain).is_loopback

    def _refuse_captured(
        self,
        connection: ClientConnection,
        host: str,
        port: int,
        code: str,
        reason: str,
        *,
        engine: str = "opa",
        policy: str = "-",
        severity: Severity = Severity.MEDIUM,
    ) -> None:
        self._services.log.connection_denied(
            connection.actor,
            HostPort(host, port),
            engine=engine,
            policy=policy,
            reason=reason,
            severity=severity,
            activity=NetActivity.REFUSE,
            refusal=Refusal(
                code, stage="bypass", group="bypass", ancestors=connection.actor.ancestors
            ),
        )


def _plain(address: str) -> str:
    """Write an address as policies do: an IPv4 address in its own form, without a zone."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)
