"""One request for a model: taken, rewritten for its route, asked, answered.

The route is taken from the generation that is in force when the request has come; a change of routes
while an answer runs does not end it. A target that fails before anything of its answer was sent to the
client is followed by the route's next one. Each target that is asked has one event, whatever came of
it. Nothing of a body is in it.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.credentials import redact_placeholders
from openshell.egress.denials import Denial
from openshell.egress.destination import Refused
from openshell.egress.events import Where
from openshell.egress.http1 import BodyRejected, HeadRejected, RequestHead, ResponseHead
from openshell.egress.inference.answers import (
    BROKEN,
    NO_ROUTE,
    NOT_CONFIGURED,
    UNAVAILABLE,
    UNREADABLE,
    Problem,
    not_served,
    over_budget,
    plain,
    problem,
)
from openshell.egress.inference.health import FAILED_STATUSES, Health
from openshell.egress.inference.limits import CONNECT_SECONDS, IDLE_SECONDS
from openshell.egress.inference.metering import spent_on
from openshell.egress.inference.patterns import Dialect, Pattern, dialect_of, find_pattern
from openshell.egress.inference.receiving import LargeBody, receive_body
from openshell.egress.inference.relaying import (
    BrokenAnswer,
    HeldAnswers,
    NoAnswer,
    Relay,
    Relayed,
    read_head,
)
from openshell.egress.inference.rewriting import BodyUnreadable, Outgoing, asked_model, rewrite
from openshell.egress.inference.routes import Route
from openshell.egress.inference.usage import Usage
from openshell.egress.link import Link
from openshell.egress.upstream import UpstreamFailed, UpstreamKey
from openshell.ocsf import Refusal
from openshell.policy.target import CanonicalTarget, TargetRejected, canonicalize
from openshell.providers.inference_types import MODEL_DISCOVERY

__all__ = ["HOST", "PORT", "Calls"]

HOST: Final = "inference.local"
PORT: Final = 443

_UNKNOWN: Final = Usage()
_NOTHING: Final = Relayed(502, _UNKNOWN, is_reusable=False)
"""A target that gave no answer."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is known of a call before it is sent."""

    head: RequestHead
    pattern: Pattern
    dialect: Dialect
    target: CanonicalTarget
    body: bytes = field(repr=False)
    routes: tuple[Route, ...]
    """What is asked, in this order; at least one."""
    first: Outgoing = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why one target gave no answer."""

    failure: str
    what: Problem
    may_go_on: bool
    """Whether another target may be asked: the client is there and has been sent nothing."""


class _Unreachable(Exception):
    """The destination of a route may not be dialled; a sentence for operators."""


class Calls:
    """The calls of one client connection, one after the other."""

    def __init__(
        self, services: Services, connection: ClientConnection, held: HeldAnswers, health: Health
    ) -> None:
        self._services = services
        self._connection = connection
        self._held = held
        self._health = health
        self._link: Link | None = None

    async def serve(self, head: RequestHead) -> bool:
        """Serve one request; say whether the client connection can carry another."""
        connection = self._connection
        connection.deadline = None
        target = _read_target(head)
        pattern = find_pattern(head.method, target.path) if target is not None else None
        if target is None or pattern is None:
            return await self._not_served(head, target)
        large = LargeBody(self._services.large_bodies)
        try:
            asked = await self._prepare(head, pattern, target, large)
            if isinstance(asked, Denial):
                return await self._end(asked)
            return await self._ask(asked, large)
        finally:
            large.release()
            connection.stream.partner = None

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    async def _prepare(
        self, head: RequestHead, pattern: Pattern, target: CanonicalTarget, large: LargeBody
    ) -> _Asked | Denial:
        seconds = self._services.limits.body_idle_seconds
        try:
            body = await receive_body(self._connection, head, seconds, large)
        except BodyRejected:
            body = plain(400, "Bad Request")
        if isinstance(body, Denial):
            self._record(pattern, None, 0.0, failure=f"refused with status {body.status}")
            return body
        dialect = dialect_of(pattern, head)
        routes = self._services.holder.current.inference
        if routes is None or not routes.for_agents:
            return self._refuse(NOT_CONFIGURED, pattern, dialect, None)
        model = asked_model(pattern, target.path, body) if routes.has_names else None
        found = self._health.order(routes.find(pattern.protocol, model))
        if not found:
            return self._refuse(NO_ROUTE, pattern, dialect, None)
        try:
            first = rewrite(found[0], pattern, head, target.path, target.query, body)
        except BodyUnreadable:
            return self._refuse(UNREADABLE, pattern, dialect, found[0])
        over = None if _is_free(pattern) else await self._services.meter.admit(found[0].name)
        if over is not None:
            self._record(pattern, found[0], self._services.clock(), failure=over.message)
            return over_budget(over, dialect)
        # Kept for the next target, if there is one.
        return _Asked(head, pattern, dialect, target, body if len(found) > 1 else b"", found, first)

    async def _ask(self, asked: _Asked, large: LargeBody) -> bool:
        """Ask one target after the other until one answers."""
        *others, last = asked.routes
        for route in others:
            ended = await self._attempt(asked, route, large, is_last=False)
            if isinstance(ended, bool):
                return ended
        ended = await self._attempt(asked, last, large, is_last=True)
        if isinstance(ended, bool):
            return ended
        return await self._end(problem(ended.what, asked.dialect))

    async def _attempt(
        self, asked: _Asked, route: Route, large: LargeBody, *, is_last: bool
    ) -> "bool | _Failed":
        """Ask one target: whether the connection goes on, or why the next one must be asked."""
        client, began = self._connection.stream, self._services.clock()
        try:
            ended = await self._exchange(asked, route, large, began, is_last=is_last)
        finally:
            client.partner = None
        if isinstance(ended, bool):
            return ended
        self._drop()
        failure = "the client went away" if client.lost else ended.failure
        if not client.lost:
            self._health.failed(route)
        goes_on = ended.may_go_on and not client.lost
        if goes_on and not is_last:
            failure += "; the next target is asked"
        self._record(asked.pattern, route, began, failure=failure)
        self._count(asked, route, _NOTHING)
        if not goes_on:
            client.abort("the answer could not be passed on")
            return False
        return ended

    async def _exchange(
        self, asked: _Asked, route: Route, large: LargeBody, began: float, *, is_last: bool
    ) -> "bool | _Failed":
        outgoing = asked.first if route is asked.routes[0] else self._rewrite(asked, route)
        seconds = None if outgoing.wants_stream else route.seconds
        failure, what = "", BROKEN
        relay: Relay | None = None
        try:
            async with asyncio.timeout(seconds) as bound:
                relay, head, rest = await self._send(asked, route, outgoing, large, is_last=is_last)
                if not is_last and head.status in FAILED_STATUSES:
                    return _Failed(f"the upstream answered {head.status}", UNAVAILABLE, True)
                if outgoing.wants_stream or head.is_event_stream:
                    bound.reschedule(None)
                    relayed = await relay.stream(head, rest)
                else:
                    relayed = await relay.hold(head, rest)
        except TimeoutError:
            failure, what = "no answer in time", UNAVAILABLE
        except (UpstreamFailed, _Unreachable) as error:
            failure, what = str(error), UNAVAILABLE
        except (NoAnswer, ConnectionError):
            failure = "the upstream closed the connection"
        except BrokenAnswer as error:
            failure = f"the upstream broke its answer: {error}"
        except (HeadRejected, BodyRejected) as rejected:
            failure = f"the upstream broke its answer: {rejected.reason.value}"
        else:
            return await self._relayed(asked, route, relayed, began)
        return _Failed(failure, what, relay is None or not relay.has_begun)

    def _rewrite(self, asked: _Asked, route: Route) -> Outgoing:
        target = asked.target
        return rewrite(route, asked.pattern, asked.head, target.path, target.query, asked.body)

    async def _send(
        self, asked: _Asked, route: Route, outgoing: Outgoing, large: LargeBody, *, is_last: bool
    ) -> tuple[Relay, ResponseHead, bytes]:
        """Send the request; the relay of its answer, the answer's head and what came behind it."""
        client = self._connection.stream
        for is_second in (False, True):
            async with asyncio.timeout(CONNECT_SECONDS):
                link = await self._reach(route, fresh=is_second)
                upstream = await link.open()
            client.partner = upstream
            upstream.write(outgoing.wire)
            async with asyncio.timeout(IDLE_SECONDS if outgoing.wants_stream else None):
                if upstream.must_drain:
                    await upstream.drain()
                if is_last:
                    large.release()
                try:
                    head, rest = await read_head(upstream, outgoing.method)
                except NoAnswer:
                    # A kept connection that its server was just closing: it has not read a thing.
                    if is_second or not link.may_be_stale or client.lost:
                        raise
                    continue
            if head.status not in FAILED_STATUSES:
                large.release()
            relay = Relay(client, upstream, asked.head, asked.dialect, self._held)
            return relay, head, rest
        raise AssertionError("the second attempt returns or raises")

    async def _reach(self, route: Route, *, fresh: bool) -> Link:
        """The link to a route's endpoint. Raises _Unreachable."""
        endpoint, link = route.endpoint, self._link
        if link is not None and not fresh and link.ready() is not None:
            # What it leads to was judged when it was opened; names with many addresses turn them round.
            leads_to = (link.key.host, link.key.port, link.key.tls)
            if leads_to == (endpoint.host, endpoint.port, endpoint.is_tls):
                return link
        self._drop()
        plan = await self._services.admission.reach(endpoint.host, endpoint.port)
        if isinstance(plan, Refused):
            raise _Unreachable(plan.reason)
        # Keys stand in requests, not on connections: no epoch parts these.
        key = UpstreamKey(
            endpoint.host,
            endpoint.port,
            plan.addresses,
            endpoint.is_tls,
            credential_epoch=0,
            # As for agents: TLS may go through a corporate proxy, requests in the clear never do.
            direct=not endpoint.is_tls,
        )
        self._link = Link(self._services.upstreams, key, pooled=False)
        return self._link

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.drop()

    async def _relayed(self, asked: _Asked, route: Route, relayed: Relayed, began: float) -> bool:
        if relayed.status in FAILED_STATUSES or relayed.cut:
            self._health.failed(route)
        else:
            self._health.worked(route)
        if relayed.is_reusable and self._link is not None:
            self._link.carried(relayed.status)
        else:
            self._drop()
        failure = relayed.cut
        if not failure and relayed.status >= 400:
            failure = f"the upstream answered {relayed.status}"
        self._record(asked.pattern, route, began, failure=failure, usage=relayed.usage)
        self._count(asked, route, relayed)
        client = self._connection.stream
        if not relayed.is_ended:
            return False
        if asked.head.version == b"HTTP/1.1" and asked.head.keep_alive and not relayed.cut:
            return True
        await client.finish()
        return False

    def _count(self, asked: _Asked, route: Route, relayed: Relayed) -> None:
        """Tell the meter; lists of models cost nothing."""
        if _is_free(asked.pattern):
            return
        self._services.meter.used(
            spent_on(
                route.name,
                route.model,
                relayed.usage,
                sent_bytes=len(asked.first.wire),
                answer_bytes=relayed.size,
                events=relayed.events,
                failed=relayed.status >= 400,
                is_fallback=route is not asked.routes[0],
            )
        )

    # Outcomes other than an answer. Each ends the client connection.

    def _refuse(
        self, what: Problem, pattern: Pattern, dialect: Dialect, route: Route | None
    ) -> Denial:
        self._record(pattern, route, self._services.clock(), failure=what.message)
        return problem(what, dialect)

    async def _not_served(self, head: RequestHead, target: CanonicalTarget | None) -> bool:
        shown = redact_placeholders(target.path.encode()) if target is not None else None
        path = "/" if shown is None else shown.decode("ascii", "replace")
        method = head.method.decode("ascii", "replace")
        self._services.log.request_denied(
            self._connection.actor,
            Where(method, "https", HOST, PORT, path),
            "-",
            engine="inference",
            reason="no way of asking a model that is served here",
            refusal=Refusal("inference_not_served", ancestors=self._connection.actor.ancestors),
            code=403,
        )
        return await self._end(not_served())

    async def _end(self, denial: Denial) -> bool:
        client = self._connection.stream
        self._connection.deadline = None
        client.partner = None
        client.write(denial.render())
        with suppress(ConnectionError):
            await client.finish()
        return False

    def _record(
        self,
        pattern: Pattern,
        route: Route | None,
        began: float,
        *,
        failure: str = "",
        usage: Usage = _UNKNOWN,
    ) -> None:
        took = self._services.clock() - began if began else 0.0
        self._services.log.model_called(
            self._connection.actor,
            operation=pattern.protocol,
            model=route.model if route is not None else "-",
            provider=route.kind.name if route is not None else "-",
            latency_ms=round(took * 1000),
            failure=failure,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
        )


def _is_free(pattern: Pattern) -> bool:
    return pattern.protocol == MODEL_DISCOVERY


def _read_target(head: RequestHead) -> CanonicalTarget | None:
    try:
        return canonicalize(head.target, allow_encoded_slash=True)
    except TargetRejected:
        return None
