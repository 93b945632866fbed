"""Captured connections: clients that ignore the proxy and believe they speak to their destination.

The second door to the pipeline. The kernel says where the client wanted to go; if our resolver
handed that address out, the host is the name it stands for, otherwise the address itself. What the
client then says (TLS server name, Host field) must agree with it. Without HTTP a refusal is a reset,
and no upstream is dialled before it is clear that the connection may be treated as the policy says.

A plain TCP endpoint (`protocol: tcp`) is known by name, port and program alone: nothing is waited
for or looked at, since in many protocols the server speaks first.
"""

from ipaddress import IPv6Address, ip_address
from typing import Final

from openshell.egress.admission import Admitted
from openshell.egress.connection import ClientConnection, RawAs, Services
from openshell.egress.denials import Denial
from openshell.egress.dns_server import SyntheticTable, Unmapped
from openshell.egress.peek import FirstBytes
from openshell.egress.pipeline import Pipeline, say
from openshell.egress.refusing import refuse_connection
from openshell.egress.stream import Stream
from openshell.egress.tls_hello import ClientHelloReader, HelloRejected
from openshell.egress.upstream import UpstreamFailed
from openshell.ocsf import HostPort, NetActivity, Refusal, Severity
from openshell.policy import advice

__all__ = ["CaptureAdapter"]

_BYPASS: Final = "bypass"
# The contract's word for what concerns plain TCP endpoints.
_TCP_STAGE: Final = "transparent-tcp"
_TCP_ALLOWED: Final = "transparent_tcp_allowed"
_MAPPING_CODES: Final = {
    Unmapped.NEVER: "transparent_tcp_mapping_missing",
    Unmapped.FORGOTTEN: "transparent_tcp_mapping_expired",
}


class CaptureAdapter:
    """Serves captured connections of one sandbox."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        names: SyntheticTable,
        own_addresses: frozenset[str],
    ) -> None:
        """Take what only the proxy knows.

        `names` says for which name the resolver handed out an address; `own_addresses` are the
        listeners' own, which a captured connection never has as its destination.
        """
        self._pipeline = pipeline
        self._services: Services = pipeline.services
        self._names = names
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
        fault = self._names.unmapped(address)
        if fault is not None:
            await self._turn_away(connection, self._refuse_unmapped(connection, fault))
            return
        host = self._names.host_for(address) or _plain(address)
        local = self._pipeline.local.at(host, port)
        if local is not None:
            await self._pipeline.serve_local(connection, local)
            return
        outcome = await self._services.admission.admit(connection.identity, host, port)
        if not isinstance(outcome, Admitted):
            is_tcp = self._services.holder.current.policy.is_tcp_only(host, port)
            stage = _TCP_STAGE if is_tcp else _BYPASS
            denial = refuse_connection(self._services, connection, outcome, host, port, stage)
            # Who declares a plain connection has no HTTP client waiting for an answer.
            await self._turn_away(connection, None if is_tcp else denial)
            return
        refusal = self._pipeline.tunnel_refusal(connection, outcome)
        if refusal is not None:
            await self._turn_away(connection, None if outcome.decision.is_tcp else refusal)
            return
        connection.admitted = outcome
        if outcome.decision.is_tcp:
            await self._plain_tcp(connection, outcome)
            return
        kind = await self._pipeline.first_bytes(
            connection, self._services.limits.captured_silent_seconds
        )
        current = connection.admitted
        if current is None:
            # A reload has ended it, which has been recorded.
            return
        if kind is FirstBytes.TLS:
            await self._captured_tls(connection, current)
        elif kind is FirstBytes.HTTP1:
            self._pipeline.opened(connection, current, "CAPTURED")
            await self._pipeline.requests(connection, current, "http", None)
        else:
            self._refuse_bytes(connection, current)
            connection.stream.reset()

    async def _plain_tcp(self, connection: ClientConnection, admitted: Admitted) -> None:
        """Copy bytes between the client and the pinned addresses, and look at none."""
        # From here on a reload judges it as what it will be.
        connection.raw_as = RawAs.TCP
        upstream = await self._dial(connection, admitted)
        if upstream is None:
            return
        current = connection.admitted
        if current is None or connection.stream.lost:
            # A reload has ended it, which has been recorded, or the client has gone.
            upstream.abort()
            return
        self._pipeline.opened(connection, current, "CAPTURED", _TCP_ALLOWED)
        await self._pipeline.copy(connection, current, upstream)

    async def _dial(self, connection: ClientConnection, admitted: Admitted) -> Stream | None:
        """Reach the destination of a raw copy; without it the client is reset."""
        try:
            return await self._services.upstreams.dial(admitted.plan)
        except UpstreamFailed as failed:
            dst = HostPort(admitted.request.host, admitted.request.port)
            self._services.log.connection_failed(
                connection.actor, dst, f"{failed.stage}: {failed.reason}"
            )
            connection.stream.reset()
            return None

    async def _captured_tls(self, connection: ClientConnection, admitted: Admitted) -> None:
        request = admitted.request
        name = await self._server_name(connection)
        current = connection.admitted
        if current is None:
            return
        by_name = self._names.host_for(connection.peers.server[0]) is not None
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
        admitted = current
        self._pipeline.opened(connection, admitted, "CAPTURED")
        if admitted.decision.tls_mode != "skip":
            await self._pipeline.terminate(connection, admitted, None)
            return
        upstream = await self._dial(connection, admitted)
        if upstream is not None:
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

    async def _turn_away(self, connection: ClientConnection, denial: Denial | None) -> None:
        """Answer a refused captured client in HTTP if that is what it speaks, else reset it."""
        if denial is None:
            connection.stream.reset()
            return
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

    def _refuse_bytes(self, connection: ClientConnection, admitted: Admitted) -> None:
        """Record that what the client speaks, or that it waits for its server, is not declared."""
        decision = admitted.decision
        plain = not decision.l7_configs
        self._refuse_captured(
            connection,
            admitted.request.host,
            admitted.request.port,
            "plain_tcp_not_declared",
            "a direct connection that begins with neither TLS nor an HTTP/1 request passes only where"
            " an endpoint with protocol: tcp allows it",
            policy=decision.matched_policy,
            nearest=decision.matched_policy,
            suggestion=advice.set_tcp(decision.endpoints[0].location) if plain else "",
        )

    def _refuse_unmapped(self, connection: ClientConnection, fault: Unmapped) -> Denial:
        """Record and word that an address of ours stands for no name."""
        address, port = connection.peers.server
        reason = (
            f"{address} is an address of the sandbox's resolver, {fault.value}: look the name up"
        )
        self._refuse_captured(
            connection, address, port, _MAPPING_CODES[fault], reason, stage=_TCP_STAGE
        )
        return self._services.denials.unmapped_address(reason)

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
        stage: str = _BYPASS,
        nearest: str = "",
        suggestion: str = "",
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
                code,
                stage=stage,
                group=_BYPASS,
                nearest_rule=nearest,
                suggestion=suggestion,
                ancestors=connection.actor.ancestors,
            ),
        )


def _plain(address: str) -> str:
    """Write an address as policies do: an IPv4 address in its own form, without a zone."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)
