"""The explicit proxy: CONNECT and plain requests with an absolute target.

The first door to the pipeline. It reads who is wanted, has that admitted, and hands over to the
shared steps. Plain requests keep their client connection for the next one, which may go elsewhere.
"""

from typing import Final

from openshell.egress.admission import Admitted
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.credentials import redact_placeholders
from openshell.egress.denials import Denial, bare
from openshell.egress.events import Where
from openshell.egress.exchange import Exchanges
from openshell.egress.http1 import (
    FIRST_HEAD_LIMIT,
    AbsoluteTarget,
    HeadRejected,
    RequestHead,
    parse_absolute_target,
    parse_connect_target,
)
from openshell.egress.peek import FirstBytes
from openshell.egress.pipeline import Pipeline, say
from openshell.egress.refusing import forward_denied, refuse_connection
from openshell.egress.staging import refuse_unseen
from openshell.egress.stream import Stream
from openshell.egress.upstream import UpstreamFailed
from openshell.ocsf import HostPort, Refusal

__all__ = ["ExplicitProxy"]

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection Established\r\n\r\n"
# Where the local service of a name is not served, asking a real upstream for it would be wrong.
_RESERVED: Final = frozenset({"policy.local"})


class ExplicitProxy:
    """Serves clients that know that they speak to a proxy."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._services: Services = pipeline.services

    async def serve(self, connection: ClientConnection) -> None:
        """Serve a client that speaks to the proxy as to a proxy."""
        exchanges: Exchanges | None = None
        identified = False
        # How targets that lead to the same place begin, up to the path, as this client writes them.
        before: bytes | None = None
        try:
            while True:
                head = await self._pipeline.next_head(connection, FIRST_HEAD_LIMIT, None)
                if head is None:
                    return
                if not identified:
                    await connection.identify()
                    identified = True
                if head.method == b"CONNECT":
                    if exchanges is not None:
                        exchanges.close()
                    await self._connect(connection, head)
                    return
                if exchanges is not None and before and head.target.startswith(before):
                    path = head.target[len(before) - 1 :]
                    if not await exchanges.serve(head.with_target(path)):
                        return
                    continue
                target = self._absolute(connection, head)
                if isinstance(target, Denial):
                    await say(connection, target, head)
                    return
                asked = head.target
                # The authority is read and replaced; from here on the target is a path.
                head = head.with_target(target.origin_form)
                local = self._pipeline.local.at(target.host, target.port)
                if local is not None and local.serve is not None:
                    if not await local.serve(self._services, connection, head):
                        return
                    continue
                if exchanges is not None and not _leads_to(exchanges, target):
                    exchanges.close()
                    exchanges = None
                exchanges = exchanges or await self._forward_route(connection, head, target)
                if exchanges is None:
                    return
                before = _before_path(asked, target)
                if not await exchanges.serve(head):
                    return
        finally:
            if exchanges is not None:
                exchanges.close()

    def _absolute(self, connection: ClientConnection, head: RequestHead) -> AbsoluteTarget | Denial:
        """Read the target of a plain proxy request."""
        denials = self._services.denials
        try:
            target = parse_absolute_target(head.target)
        except HeadRejected as rejected:
            self._pipeline.unparsable(connection, None, rejected)
            return bare(400)
        local = self._pipeline.local.find(target.host)
        if local is not None and local.elsewhere is not None:
            if (target.scheme, target.port) == ("http", local.port):
                return target
            self._not_proxied(connection, target, f"{target.host} is served on another port or way")
            return local.elsewhere
        if target.scheme == "https":
            self._not_proxied(connection, target, "an https URL needs CONNECT")
            return denials.https_needs_connect()
        if target.scheme != "http":
            self._not_proxied(connection, target, "only http URLs are requested from a proxy")
            return denials.unsupported_scheme()
        if local is None and target.host in _RESERVED:
            return self._reserved(connection, target.host, target.port)
        return target

    async def _forward_route(
        self, connection: ClientConnection, head: RequestHead, target: AbsoluteTarget
    ) -> Exchanges | None:
        admission = self._services.admission
        outcome = await admission.admit(connection.identity, target.host, target.port)
        if not isinstance(outcome, Admitted):
            path = target.origin_form.partition(b"?")[0].decode("ascii", "replace")
            shown = redact_placeholders(path.encode())
            where = Where(
                head.method.decode("ascii"),
                "http",
                target.host,
                target.port,
                "/" if shown is None else shown.decode("ascii", "replace"),
            )
            denial = forward_denied(self._services, connection, outcome, where)
            await say(connection, denial, head)
            return None
        return self._pipeline.exchanges(connection, outcome, "http", absolute=True)

    async def _connect(self, connection: ClientConnection, head: RequestHead) -> None:
        try:
            authority = parse_connect_target(head.target)
        except HeadRejected as rejected:
            self._pipeline.unparsable(connection, None, rejected)
            await say(connection, bare(400), head)
            return
        # A client may not send tunnel bytes before it knows that there is a tunnel.
        connection.stream.take()
        host, port = authority.host, authority.port or 0
        local = self._pipeline.local.at(host, port)
        if local is not None and local.take is not None:
            connection.deadline = None
            connection.stream.write(_ESTABLISHED)
            await local.take(connection)
            return
        if host in _RESERVED and host not in self._pipeline.local:
            await say(connection, self._reserved(connection, host, port), head)
            return
        outcome = await self._services.admission.admit(connection.identity, host, port)
        if not isinstance(outcome, Admitted):
            denial = refuse_connection(self._services, connection, outcome, host, port)
            await say(connection, denial, head)
            return
        denial_or_none = self._pipeline.tunnel_refusal(connection, outcome)
        if denial_or_none is not None:
            await say(connection, denial_or_none, head)
            return
        await self._open_tunnel(connection, head, outcome)

    async def _open_tunnel(
        self, connection: ClientConnection, head: RequestHead, admitted: Admitted
    ) -> None:
        services, request = self._services, admitted.request
        connection.deadline = None
        try:
            upstream = await services.upstreams.dial(admitted.plan)
        except UpstreamFailed as failed:
            dst = HostPort(request.host, request.port)
            services.log.connection_failed(
                connection.actor, dst, f"{failed.stage}: {failed.reason}"
            )
            denial = services.denials.upstream_unreachable(
                request.host, request.port, failed.reason
            )
            await say(connection, denial, head)
            return
        current = self._pipeline.current(admitted)
        if not isinstance(current, Admitted):
            upstream.abort()
            denial = refuse_connection(services, connection, current, request.host, request.port)
            await say(connection, denial, head)
            return
        connection.admitted = current
        self._pipeline.opened(connection, current, "CONNECT")
        connection.stream.write(_ESTABLISHED)
        if current.decision.is_opaque:
            await self._pipeline.copy(connection, current, upstream)
        else:
            await self._dispatch(connection, current, upstream)

    async def _dispatch(
        self, connection: ClientConnection, admitted: Admitted, upstream: Stream
    ) -> None:
        """Look at what the client speaks inside its tunnel and treat it so."""
        kind = await self._pipeline.first_bytes(connection, self._services.limits.silent_seconds)
        if kind is None:
            upstream.abort()
            return
        current = connection.admitted or admitted
        if kind is FirstBytes.TLS:
            await self._pipeline.terminate(connection, current, upstream)
        elif kind is FirstBytes.HTTP1:
            await self._pipeline.requests(connection, current, "http", upstream)
        elif current.decision.l7_configs:
            upstream.abort()
            is_h2c = kind is FirstBytes.H2C
            self._services.log.connection_denied(
                connection.actor,
                HostPort(current.request.host, current.request.port),
                engine="l7",
                policy=current.decision.matched_policy,
                reason="prior-knowledge h2c is not supported for L7-inspected endpoints"
                if is_h2c
                else "unsupported tunnel protocol for L7-inspected endpoint",
                refusal=Refusal(
                    "unsupported_l7_protocol",
                    stage="connect-l7-parse-rejection",
                    group="l7_parse_rejection",
                    ancestors=connection.actor.ancestors,
                ),
            )
            denial = self._services.denials.unsupported_protocol(prior_knowledge_h2c=is_h2c)
            await say(connection, denial, None)
        else:
            refusal = refuse_unseen(self._services, connection, current)
            if refusal is not None:
                upstream.abort()
                await say(connection, refusal, None)
                return
            await self._pipeline.copy(connection, current, upstream)

    def _not_proxied(
        self, connection: ClientConnection, target: AbsoluteTarget, reason: str
    ) -> None:
        self._services.log.connection_denied(
            connection.actor,
            HostPort(target.host, target.port),
            engine="http-parser",
            reason=reason,
            refusal=Refusal(
                "unsupported_proxy_request",
                group="l7_parse_rejection",
                ancestors=connection.actor.ancestors,
            ),
        )

    def _reserved(self, connection: ClientConnection, host: str, port: int) -> Denial:
        self._services.log.connection_denied(
            connection.actor,
            HostPort(host, port),
            engine="opa",
            reason=f"{host} is not supported yet",
            refusal=Refusal("not_supported_yet", ancestors=connection.actor.ancestors),
        )
        return self._services.denials.not_supported(host)


def _before_path(asked: bytes, target: AbsoluteTarget) -> bytes | None:
    """Scheme, authority and the first slash of a target that has a path."""
    path = target.origin_form
    return asked[: len(asked) - len(path) + 1] if asked.endswith(path) else None


def _leads_to(exchanges: Exchanges, target: AbsoluteTarget) -> bool:
    request = exchanges.route.admitted.request
    return request.host == target.host and request.port == target.port
