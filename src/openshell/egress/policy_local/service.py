"""The shell of `policy.local`: takes a request of the agent, asks the desk, answers, closes.

No policy is asked and no program identified: whoever is inside may read and propose, and nothing that is
proposed here is allowed by it. What an agent can make us hold is bounded: the body, the bodies held at a
time, the waits and the submissions. Made by the supervisor, called by both doors of the proxy.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from openshell.egress.body_faults import BodyFault
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.denials import Denial
from openshell.egress.holding import hold_body
from openshell.egress.http1 import NO_BODY, BodyRejected, Length, RequestHead
from openshell.egress.local_names import LocalName
from openshell.egress.pipeline import say
from openshell.egress.policy_local import answers
from openshell.egress.policy_local.desk import Desk, DeskFault, Draft
from openshell.egress.policy_local.proposal import ProposalRejected, read_proposal
from openshell.egress.policy_local.routes import (
    CurrentPolicy,
    Find,
    Propose,
    RecentDenials,
    Route,
    Wait,
    route,
)

__all__ = ["HOST", "policy_local"]

HOST: Final = "policy.local"
_PORT: Final = 80

# The contract's numbers for a body.
BODY_LIMIT: Final = 64 * 1024
_BODY_SECONDS: Final = 15.0
# Framing of a body in chunks, beyond its bytes.
_WIRE_LIMIT: Final = 2 * BODY_LIMIT
_EMPTY: Final = Length(0)
# Bodies read at a time; others wait for their turn. An agent has one proposal to make.
_BODIES: Final = 4
# Agents that wait at a time: each is a task and a connection for up to five minutes.
MAX_WAITS: Final = 32
# Submissions: so many at once, then one in so many seconds. Each is a write at the gateway, which others
# share; a person cannot read faster.
BURST: Final = 20
SECONDS_EACH: Final = 3.0
# Between two looks at a draft, and at whether an approved one is in force; the contract's numbers.
_POLL_SECONDS: Final = 1.0
_COVER_SECONDS: Final = 0.2
_COVER_GRACE: Final = 0.5


def policy_local(desk: Desk) -> LocalName:
    """The name for the proxy, answering from this desk."""
    return LocalName(HOST, _PORT, _Service(desk).serve, elsewhere=answers.wrong_place())


class _Allowance:
    """So many at once, and then as many as time brings back."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._since = 0.0

    def take(self, now: float) -> bool:
        self._left = min(BURST, self._left + max(0.0, now - self._since) / SECONDS_EACH)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Service:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._bodies = asyncio.Semaphore(_BODIES)
        self._allowance = _Allowance()
        self._waits = 0

    async def serve(
        self, services: Services, connection: ClientConnection, head: RequestHead
    ) -> bool:
        """Answer one request; it is always the last of its connection."""
        body: bytes | BodyFault | None = b""
        if head.framing not in (NO_BODY, _EMPTY):
            async with self._bodies:
                body = await _read_body(connection, head)
        if body is None:
            connection.stream.abort()
            return False
        made: Denial | Wait | None = await self._answer(head, body, services.clock)
        if isinstance(made, Wait):
            made = await self._wait(connection, made, services.clock)
        if isinstance(made, Denial):
            await say(connection, made, head)
        return False

    async def _answer(
        self, head: RequestHead, body: bytes | BodyFault, clock: Callable[[], float]
    ) -> Denial | Wait:
        if not self._desk.is_open():
            return answers.error(
                404,
                "feature_disabled",
                "policy proposals are off; a person turns them on with the setting"
                " agent_policy_proposals_enabled",
            )
        wanted = route(head.method.decode("ascii"), head.target.decode("ascii", "replace"))
        if wanted is None:
            return answers.error(404, "not_found", "policy.local has no such route")
        if isinstance(body, BodyFault):
            detail = f"the body must be at most {BODY_LIMIT} bytes, without trailers"
            return answers.error(413, "invalid_proposal", detail)
        return await self._carry_out(wanted, body, clock)

    async def _carry_out(
        self, wanted: Route, body: bytes, clock: Callable[[], float]
    ) -> Denial | Wait:
        match wanted:
            case CurrentPolicy():
                return self._current()
            case RecentDenials(last):
                return answers.recent_denials(self._desk.denials(last))
            case Propose():
                return await self._propose(body, clock())
            case Find(draft_id):
                found = await self._find(draft_id)
                if not isinstance(found, Draft):
                    return found
                # Only who waits is told that a policy is in force.
                return answers.draft(
                    found, policy_reloaded=False if found.status == "approved" else None
                )
            case Wait():
                return wanted

    def _current(self) -> Denial:
        try:
            text = self._desk.policy_yaml()
        except ValueError:
            return answers.error(
                500, "policy_serialize_failed", "the policy in force cannot be written as YAML"
            )
        if text is None:
            return answers.error(404, "policy_unavailable", "no policy is in force yet")
        return answers.current_policy(text)

    async def _propose(self, body: bytes, now: float) -> Denial:
        fault = self._desk.fault()
        if fault is not None:
            return answers.faulty(fault)
        try:
            submission = read_proposal(body)
        except ProposalRejected as error:
            return answers.error(400, "invalid_proposal", str(error))
        if not self._allowance.take(now):
            return answers.error(
                429,
                "too_many_proposals",
                f"after {BURST} submissions, one is taken every {SECONDS_EACH:.0f} seconds;"
                " put several operations into one",
            )
        submitted = await self._desk.submit(submission)
        if isinstance(submitted, DeskFault):
            return answers.faulty(submitted)
        return answers.accepted(submitted)

    async def _find(self, draft_id: str) -> Draft | Denial:
        fault = self._desk.fault()
        if fault is not None:
            return answers.faulty(fault)
        found = await self._desk.find(draft_id)
        if found is None:
            return answers.no_such_draft()
        return answers.faulty(found) if isinstance(found, DeskFault) else found

    async def _wait(
        self, connection: ClientConnection, wanted: Wait, clock: Callable[[], float]
    ) -> Denial | None:
        if self._waits >= MAX_WAITS:
            return answers.error(
                503, "too_many_waits", f"{MAX_WAITS} requests wait already; end some of them"
            )
        self._waits += 1
        try:
            return await self._wait_decided(connection, wanted, clock)
        finally:
            self._waits -= 1

    async def _wait_decided(
        self, connection: ClientConnection, wanted: Wait, clock: Callable[[], float]
    ) -> Denial | None:
        """Look until there is a decision or the time is over; None when the agent has gone."""
        deadline = clock() + wanted.seconds
        while True:
            found = await self._find(wanted.draft_id)
            if not isinstance(found, Draft):
                return found
            if found.status != "pending":
                break
            left = deadline - clock()
            if left <= 0:
                return answers.draft(found, timed_out=True)
            await asyncio.sleep(min(_POLL_SECONDS, left))
            if _has_gone(connection):
                return None
        self._desk.decided(found)
        if found.status != "approved":
            return answers.draft(found)
        return await self._wait_in_force(connection, found, deadline, clock)

    async def _wait_in_force(
        self,
        connection: ClientConnection,
        found: Draft,
        deadline: float,
        clock: Callable[[], float],
    ) -> Denial | None:
        deadline = max(deadline, clock() + _COVER_GRACE)
        while not self._desk.is_in_force(found.id):
            if clock() >= deadline:
                return answers.draft(found, policy_reloaded=False)
            await asyncio.sleep(_COVER_SECONDS)
            if _has_gone(connection):
                return None
        return answers.draft(found, policy_reloaded=True)


async def _read_body(connection: ClientConnection, head: RequestHead) -> bytes | BodyFault | None:
    """The body; None when it broke off or stopped coming, which gets no answer."""
    try:
        body = await hold_body(connection, head, _BODY_SECONDS, BODY_LIMIT, _WIRE_LIMIT)
    except (BodyRejected, ConnectionError):
        return None
    return None if body is BodyFault.TIME else body


def _has_gone(connection: ClientConnection) -> bool:
    """An agent that hangs up is not waited for; none of its clients only ends its own direction."""
    return connection.stream.lost or connection.stream.at_eof
