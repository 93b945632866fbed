"""One request and its response, in both directions at once, without keeping bodies.

The request is judged, sent, and its body follows while the response already comes back: clients may
wait for `100 Continue`, servers may answer before they have read everything. What judging asks for
first (a token, the whole body) is had, and it is asked again. What the last look at the generation
said is written to the upstream without waiting in between, so a reload never sends a request that
the new policy refuses and never refuses one merely because it came.

Called by the request loops of `pipeline` for tunnels, plain proxy requests and captured connections.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from openshell.egress.body_faults import BodyUse
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.credentials import Placeholder, TokenUnavailable, refuse_marker
from openshell.egress.denials import Denial, bare
from openshell.egress.holding import CONTINUE, hold_body, is_large, is_waiting, read_in_turn
from openshell.egress.http1 import (
    NO_BODY,
    BodyRejected,
    BodyRejectReason,
    HeadRejected,
    RequestHead,
)
from openshell.egress.judging import (
    Judged,
    Judgement,
    NeedsBody,
    NeedsStage,
    NeedsToken,
    Refused,
    TokenRefused,
    judge,
)
from openshell.egress.link import Link
from openshell.egress.recording import record_allowed
from openshell.egress.refusing import body_rejected, marker_in_body, refuse_request
from openshell.egress.route import Pending, Route
from openshell.egress.staging import ask_stage, enter_queue, leave_queue
from openshell.egress.stream import SILENT, Stream
from openshell.egress.tls_faults import late_failure
from openshell.egress.transfer import (
    BadAnswer,
    MarkerInBody,
    NoAnswer,
    OnSwitch,
    RequestBody,
    Response,
)
from openshell.egress.upstream import UpstreamFailed
from openshell.egress.websocket_exchange import switch_protocols
from openshell.ocsf import HostPort

__all__ = ["Exchanges"]

# Methods that may be sent again when a kept connection turns out to be closed (RFC 9110 9.2.2).
_REPEATABLE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class Exchanges:
    """The exchanges of one client connection on one route."""

    def __init__(
        self, services: Services, connection: ClientConnection, route: Route, link: Link
    ) -> None:
        self._services = services
        self._connection = connection
        self._link = link
        self.route = route

    async def serve(self, head: RequestHead) -> bool:
        """Serve one request; say whether the client connection can carry another."""
        connection, pending = self._connection, Pending(head)
        try:
            return await self._serve(pending)
        finally:
            if pending.has_place:
                self._services.large_bodies.release()
            connection.judged = None
            connection.stream.partner = None
            if self.route.absolute:
                # The client connection itself leads nowhere: a reload has nothing to end on it.
                connection.admitted = None

    def close(self) -> None:
        self._link.close()

    async def _serve(self, pending: Pending) -> bool:
        connection, head = self._connection, pending.head
        try:
            outcome = await self._admit(pending)
        except BodyRejected as rejected:
            return await self._broken_body(head, rejected)
        if isinstance(outcome, Refused):
            return await self._refuse(outcome, head)
        body = RequestBody(head if pending.body is None else _without_body(head), outcome.scan_body)
        pending.is_streaming = True
        try:
            body.begin(connection.stream)
        except BodyRejected as rejected:
            return await self._broken_body(head, rejected)
        except MarkerInBody:
            return await self._marker(outcome, head, body, answer=True)
        for attempt in (1, 2):
            try:
                ready = await self._reach(pending, outcome, fresh=attempt == 2)
            except UpstreamFailed as failed:
                return await self._unreachable(outcome, head, failed)
            if isinstance(ready, Refused):
                return await self._refuse(ready, head)
            outcome, upstream = ready
            if attempt == 1:
                record_allowed(self._services, connection, outcome)
            connection.admitted, connection.judged = outcome.route.admitted, outcome
            may_repeat = (
                attempt == 1
                and self._link.may_be_stale
                and body.done
                and head.method in _REPEATABLE
            )
            try:
                return await self._exchange(outcome, head, body, upstream)
            except NoAnswer:
                self._link.drop()
                if may_repeat and not connection.stream.lost:
                    continue
                return await self._invalid(outcome, head, "it closed without an answer")
        raise AssertionError("the second attempt returns or raises")

    def _judge(self, pending: Pending) -> Judgement:
        services = self._services
        outcome = judge(
            services.admission,
            services.holder.current,
            self.route,
            pending,
            now_ms=services.now_ms(),
        )
        self.route = outcome.route
        return outcome

    async def _admit(self, pending: Pending) -> Judged | Refused:
        """Judge, and get what judging asks for until it has an answer. Raises BodyRejected."""
        try:
            return await self._ask(pending)
        finally:
            leave_queue(self._services, pending)

    async def _ask(self, pending: Pending) -> Judged | Refused:
        seconds = self._services.limits.body_idle_seconds
        while True:
            outcome = await read_in_turn(
                self._services, self.route, pending, lambda: self._judge(pending)
            )
            match outcome:
                case NeedsToken(grant=grant, tokens=tokens):
                    self._connection.deadline = None
                    asked_under = self._services.holder.current.number
                    try:
                        pending.token = grant, await tokens.token(grant)
                    except TokenUnavailable as error:
                        if self._services.holder.current.number != asked_under:
                            # The grant may have changed under the fetch: the new one counts.
                            continue
                        refusal = TokenRefused(grant.owner, str(error))
                        return Refused(outcome.route, refusal, outcome.where)
                case NeedsStage():
                    self._connection.deadline = None
                    refused = await ask_stage(self._services, self._connection, pending, outcome)
                    if refused is not None:
                        return refused
                case NeedsBody(use=use, limit=limit):
                    if use is BodyUse.STAGES:
                        self._connection.deadline = None
                        refused = await enter_queue(self._services, pending, outcome)
                        if refused is not None:
                            return refused
                    if is_large(pending.head, limit):
                        self._connection.deadline = None
                        await self._services.large_bodies.acquire()
                        pending.has_place = True
                    held = await hold_body(
                        self._connection, pending.head, seconds, limit, outcome.wire_limit
                    )
                    if not isinstance(held, bytes):
                        return outcome.refused(held, seconds)
                    pending.body = held
                case _:
                    return outcome

    async def _reach(
        self, pending: Pending, judged: Judged, *, fresh: bool
    ) -> tuple[Judged, Stream] | Refused:
        """Have a connection and a judgement with nothing waited for since. Raises UpstreamFailed."""
        while True:
            upstream, waited = await self._upstream(fresh=fresh)
            fresh = False
            # Meanwhile the generation may have changed, or a credential have reached its end.
            if not waited and self._services.holder.current.number == judged.generation:
                return judged, upstream
            outcome = self._judge(pending)
            if isinstance(outcome, NeedsToken | NeedsBody | NeedsStage):
                outcome = await self._admit(pending)
            elif isinstance(outcome, Judged):
                return outcome, upstream
            if isinstance(outcome, Refused):
                return outcome
            judged = outcome

    async def _upstream(self, *, fresh: bool) -> tuple[Stream, bool]:
        """Return a connection, and whether time may have passed for it."""
        credentials = self._services.holder.current.credentials
        key, epoch = self._link.key, credentials.epoch
        if key.credential_epoch != epoch:
            # A connection that carried other credentials is not used for these.
            self._link.close()
            identity = credentials.client_identity(key.host, key.port)
            renewed = replace(key, credential_epoch=epoch, identity=identity)
            self._link = Link(self._services.upstreams, renewed, pooled=self._link.pooled)
        if not fresh:
            ready = self._link.ready()
            if ready is not None:
                return ready, False
        self._connection.deadline = None
        return await self._link.open(fresh=fresh), True

    async def _exchange(
        self, judged: Judged, head: RequestHead, body: RequestBody, upstream: Stream
    ) -> bool:
        connection = self._connection
        client = connection.stream
        client.partner = upstream
        connection.deadline = None
        connection.progress = self._services.clock()
        if upstream.has_input and not upstream.at_eof:
            # Whatever it is, it answers something else.
            self._link.drop()
            return await self._invalid(judged, head, "it sent bytes before it was asked")
        if judged.is_signed and not (body.done or body.early) and is_waiting(client, head):
            client.write(CONTINUE)
        upstream.write(b"".join((judged.wire, *body.early)) if body.early else judged.wire)
        pump: asyncio.Task[None] | None = None
        if not body.done:
            pump = asyncio.create_task(self._pump(body, upstream), name="request body")
        on_switch = self._on_switch(judged, upstream)
        answer = Response(connection, head, body, self._services, on_switch)
        keep = False
        try:
            keep = await answer.relay(client, upstream)
        except ConnectionError:
            return await self._broken(judged, head, body, answer, pump, upstream)
        except (HeadRejected, BodyRejected, BadAnswer) as rejected:
            reason = getattr(rejected, "reason", None) or str(rejected)
            if answer.has_begun:
                self._fail(judged, f"the upstream broke its response: {reason}")
                client.reset("the upstream broke its response")
                return False
            return await self._invalid(judged, head, str(reason))
        finally:
            client.partner = connection.upstream_due = None
            if pump is not None:
                pump.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await pump
            if answer.upstream_reusable and body.done:
                self._link.carried(answer.status)
            else:
                self._link.drop()
        # A request whose body has not ended leaves bytes behind that are no request.
        if not (keep and body.done):
            await client.finish()
            return False
        return True

    def _on_switch(self, judged: Judged, upstream: Stream) -> OnSwitch | None:
        if judged.switch is None:
            return None
        return partial(switch_protocols, self._services, self._connection, judged, upstream)

    async def _pump(self, body: RequestBody, upstream: Stream) -> None:
        """Send the rest of the request body; a failure ends the upstream connection."""
        connection = self._connection
        seconds = self._services.limits.body_idle_seconds
        try:
            while not body.done:
                connection.within(seconds)
                for piece in body.take(await connection.stream.read(), connection.stream):
                    upstream.write(piece)
                if upstream.must_drain:
                    # Now the upstream is waited for.
                    connection.deadline = None
                    connection.upstream_within(seconds)
                    await upstream.drain()
                connection.progress = self._services.clock()
                if connection.upstream_due is not None:
                    connection.upstream_within(self._services.limits.silent_upstream_seconds)
            connection.deadline = None
        except (BodyRejected, MarkerInBody, ConnectionError):
            upstream.abort("the request body ended badly")
            raise

    # Outcomes other than a relayed response. Each ends the client connection.

    async def _broken(
        self,
        judged: Judged,
        head: RequestHead,
        body: RequestBody,
        answer: Response,
        pump: asyncio.Task[None] | None,
        upstream: Stream,
    ) -> bool:
        """Sort out whose fault a lost connection was."""
        self._link.drop()
        error = None
        # A body that failed has ended the upstream connection itself, just before this.
        if pump is not None and pump.done() and not pump.cancelled():
            error = pump.exception()
        if isinstance(error, MarkerInBody):
            return await self._marker(judged, head, body, answer=not answer.has_begun)
        if isinstance(error, BodyRejected) and not answer.has_begun:
            return await self._broken_body(head, error)
        client = self._connection.stream
        if client.lost:
            return False
        late = upstream.reason == SILENT
        objection = late_failure(upstream, self._link.key.host)
        if objection is not None and not answer.has_begun:
            failure = UpstreamFailed("tls", objection.reason, objection.cause.value)
            return await self._unreachable(judged, head, failure)
        if not (late or answer.has_begun):
            return await self._invalid(judged, head, "it closed the connection")
        reason = f"the upstream {'stopped moving' if late else 'closed the connection'}"
        self._fail(judged, reason)
        if answer.has_begun:
            client.reset(reason)
            return False
        where = judged.where
        return await self._say(
            self._services.denials.upstream_timeout(where.host, where.port), head
        )

    async def _refuse(self, refused: Refused, head: RequestHead) -> bool:
        return await self._say(refuse_request(self._services, self._connection, refused), head)

    async def _broken_body(self, head: RequestHead, rejected: BodyRejected) -> bool:
        place = self.route.admitted.request
        if rejected.reason is BodyRejectReason.TRUNCATED:
            # A client that gives up in the middle has broken no rule.
            self._services.log.connection_failed(
                self._connection.actor,
                HostPort(place.host, place.port),
                "the client ended in the middle of its request body",
            )
            return await self._say(bare(400), head)
        denial = body_rejected(self._services, self._connection, self.route, head, rejected)
        return await self._say(denial, head)

    async def _marker(
        self, judged: Judged, head: RequestHead, body: RequestBody, *, answer: bool
    ) -> bool:
        """End a request in whose body a placeholder stands that nothing replaces."""
        services = self._services
        refused = refuse_marker(
            services.holder.current.credentials,
            await self._whose_marker(body),
            judged.scope,
            now_ms=services.now_ms(),
        )
        denial = marker_in_body(services, self._connection, judged, refused)
        if not answer:
            self._connection.stream.reset("a credential placeholder stands in the body")
            return False
        return await self._say(denial, head)

    async def _whose_marker(self, body: RequestBody) -> Placeholder | None:
        """Read a little more of the body, when the name of the placeholder is cut."""
        scanner, client = body.scanner, self._connection.stream
        if scanner is None:
            return None
        self._connection.deadline = None
        with suppress(TimeoutError, ConnectionError, BodyRejected):
            async with asyncio.timeout(self._services.limits.refusal_peek_seconds):
                while not (body.done or scanner.is_settled):
                    with suppress(MarkerInBody):
                        body.take(await client.read(), client)
        return scanner.placeholder

    async def _unreachable(self, judged: Judged, head: RequestHead, failed: UpstreamFailed) -> bool:
        self._fail(judged, f"{failed.stage}: {failed.reason}", failed.code)
        denial = self._services.denials.upstream_unreachable(
            judged.where.host, judged.where.port, failed.reason, failed.code
        )
        return await self._say(denial, head)

    async def _invalid(self, judged: Judged, head: RequestHead, reason: str) -> bool:
        self._fail(judged, f"invalid response: {reason}")
        denial = self._services.denials.upstream_invalid(
            judged.where.host, judged.where.port, reason
        )
        return await self._say(denial, head)

    async def _say(self, denial: Denial, head: RequestHead) -> bool:
        client = self._connection.stream
        self._connection.deadline = None
        client.partner = None
        client.write(denial.render(with_body=head.method != b"HEAD"))
        await client.finish()
        return False

    def _fail(self, judged: Judged, message: str, code: str = "") -> None:
        log = self._services.log
        log.connection_failed(self._connection.actor, judged.where.place, message, code)


def _without_body(head: RequestHead) -> RequestHead:
    """The head of a request whose body has been taken."""
    return RequestHead(head.method, head.target, head.version, head.headers, NO_BODY)
