"""Asks policy about one stream, and gets what the answer needs: a token, the body, a connection.

The part of a stream's life that waits; what it returns was judged with nothing waited for since. It says
nothing to the client and sends nothing upstream: `request`, which owns it, does.
"""

from typing import TYPE_CHECKING

from openshell.egress.admission import Admitted, DestinationRefused
from openshell.egress.body_faults import BodyUse
from openshell.egress.credentials import TokenUnavailable
from openshell.egress.generation import Generation
from openshell.egress.holding import is_large, read_in_turn
from openshell.egress.http1 import RequestHead
from openshell.egress.http2.far import Far
from openshell.egress.http2.intake import Intake
from openshell.egress.judging import (
    Judged,
    Judgement,
    NeedsBody,
    NeedsStage,
    NeedsToken,
    Refused,
    TokenRefused,
    judge,
    may_stay,
)
from openshell.egress.route import Pending
from openshell.egress.staging import ask_stage, enter_queue, leave_queue

if TYPE_CHECKING:
    from openshell.egress.http2.session import Session

__all__ = ["Asking"]


class Asking:
    """A request of `session` on its way to an answer of policy."""

    __slots__ = ("_intake", "_services", "_session", "pending")

    def __init__(self, session: "Session", head: RequestHead, intake: Intake) -> None:
        self._session = session
        self._services = session.services
        self._intake = intake
        self.pending = Pending(head)

    async def admit(self) -> Judged | Refused:
        """Judge, and get what judging asks for until it has an answer."""
        try:
            return await self._ask()
        finally:
            leave_queue(self._services, self.pending)

    async def _ask(self) -> Judged | Refused:
        while True:
            route = self._session.route
            outcome = await read_in_turn(self._services, route, self.pending, self._judge)
            match outcome:
                case NeedsToken():
                    refused = await self._get_token(outcome)
                case NeedsStage():
                    connection = self._session.connection
                    refused = await ask_stage(self._services, connection, self.pending, outcome)
                case NeedsBody():
                    refused = await self._get_body(outcome)
                case _:
                    return outcome
            if refused is not None:
                return refused

    async def reach(self, judged: Judged) -> tuple[Judged, Far] | Refused:
        """Have a connection and a judgement with nothing waited for since. Raises UpstreamFailed."""
        while True:
            far, waited = await self._session.reach()
            if not waited and self._services.holder.current.number == judged.generation:
                return judged, far
            outcome: Judgement = self._judge()
            if isinstance(outcome, Judged):
                return outcome, far
            if isinstance(outcome, NeedsToken | NeedsBody | NeedsStage):
                outcome = await self.admit()
            if not isinstance(outcome, Judged):
                return outcome
            judged = outcome

    def objection(self, generation: Generation, judged: Judged) -> str | None:
        """Judge a request that runs again; say why it may not go on, if it may not."""
        verdict = may_stay(self._services.admission, generation, judged)
        match verdict:
            case None:
                return None
            case Admitted():
                return "this stream would be inspected now"
            case DestinationRefused():
                return verdict.refused.reason
            case _:
                return verdict.reason

    def close(self) -> None:
        """Give back the place that a large body had."""
        if self.pending.has_place:
            self.pending.has_place = False
            self._services.large_bodies.release()

    def _judge(self) -> Judgement:
        session, services = self._session, self._services
        outcome = judge(
            services.admission,
            services.holder.current,
            session.route,
            self.pending,
            now_ms=services.now_ms(),
        )
        session.route = outcome.route
        return outcome

    async def _get_token(self, needs: NeedsToken) -> Refused | None:
        asked_under = self._services.holder.current.number
        try:
            self.pending.token = needs.grant, await needs.tokens.token(needs.grant)
        except TokenUnavailable as error:
            # Another generation may ask for another token, or for none.
            if self._services.holder.current.number == asked_under:
                refusal = TokenRefused(needs.grant.owner, str(error))
                return Refused(needs.route, refusal, needs.where)
        return None

    async def _get_body(self, needs: NeedsBody) -> Refused | None:
        if needs.use is BodyUse.STAGES:
            refused = await enter_queue(self._services, self.pending, needs)
            if refused is not None:
                return refused
        if is_large(self.pending.head, needs.limit):
            await self._services.large_bodies.acquire()
            self.pending.has_place = True
        seconds = self._services.limits.body_idle_seconds
        held = await self._intake.hold(needs.limit, seconds)
        if not isinstance(held, bytes):
            return needs.refused(held, seconds)
        self.pending.body = held
        return None
