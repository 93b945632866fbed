"""Waits for the stages of middleware, and refuses connections that no stage could look into.

The shell around `middleware` and `staged`: takes a place in the queue, asks one stage within its time, records
what it noticed. Whatever a stage does (hang, break, answer nonsense) is a value here. Called by `exchange` and
`http2.asking` for requests, by `pipeline` for bytes that are copied unseen.
"""

import asyncio
import uuid
from dataclasses import replace

from openshell.egress.admission import Admitted
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.denials import Denial
from openshell.egress.judgements import NeedsBody, NeedsStage, Refused
from openshell.egress.middleware import (
    CHAIN_SECONDS,
    Answer,
    Evaluation,
    Refusing,
    Stage,
    StageFailed,
    StageFault,
    StageRefused,
    Unseen,
)
from openshell.egress.route import Pending
from openshell.ocsf import HostPort, NetActivity, Refusal

__all__ = ["ask_stage", "enter_queue", "leave_queue", "refuse_unseen"]


async def enter_queue(
    services: Services, pending: Pending, needs: NeedsBody | NeedsStage
) -> Refused | None:
    """Take a place for a request that is to be shown to stages, before its body is read."""
    if pending.is_queued:
        return None
    if await services.stages.enter():
        pending.is_queued = True
        return None
    why = StageRefused(Refusing.FAILED, reason_code=StageFault.BUSY.value)
    return Refused(needs.route, why, needs.where)


def leave_queue(services: Services, pending: Pending) -> None:
    """Give the place back; called whatever became of the request."""
    if pending.is_queued:
        pending.is_queued = False
        services.stages.leave()


async def ask_stage(
    services: Services, connection: ClientConnection, pending: Pending, needs: NeedsStage
) -> Refused | None:
    """Have the next stage look at a request, and go on with what it says."""
    refused = await enter_queue(services, pending, needs)
    if refused is not None:
        return refused
    passage, now = needs.passage, services.clock()
    stage = passage.stage
    if stage is None:
        raise AssertionError("judging asks only while there is a stage")
    if passage.began is None:
        passage = replace(passage, began=now)
    left = CHAIN_SECONDS - (now - (passage.began or now))
    shown = passage.show(needs.where, needs.path, needs.query, uuid.uuid4().hex)
    if isinstance(shown, Evaluation):
        answer = await _evaluate(stage, shown, left)
    else:
        answer = shown
    if isinstance(answer, Answer):
        step = passage.answered(answer)
    else:
        step = passage.failed(answer)
    for noticed in step.noticed:
        services.log.stage_noticed(connection.actor, needs.where, stage.name, noticed)
    if step.fault is not None and not isinstance(step.passed, StageRefused):
        services.log.stage_skipped(connection.actor, needs.where, stage.name, step.fault.value)
    if isinstance(step.passed, StageRefused):
        return Refused(needs.route, step.passed, needs.where)
    pending.passage = step.passed
    return None


async def _evaluate(stage: Stage, shown: Evaluation, left: float) -> Answer | StageFault:
    seconds = stage.implementation.seconds
    late = StageFault.TIMEOUT if seconds <= left else StageFault.CHAIN_TIMEOUT
    if left <= 0:
        return late
    try:
        async with asyncio.timeout(min(seconds, left)):
            return await stage.implementation.evaluate(shown)
    except StageFailed as failed:
        return failed.fault
    except TimeoutError:
        return late
    except Exception:
        return StageFault.INTERNAL


def refuse_unseen(
    services: Services, connection: ClientConnection, admitted: Admitted
) -> Denial | None:
    """Refuse a connection that no stage could look into, where one demands to; record where none does."""
    middleware = services.holder.current.middleware
    if middleware is None:
        return None
    chain = middleware.chain_for(admitted.decision.host)
    if chain is None:
        return None
    place = HostPort(admitted.request.host, admitted.request.port)
    if not chain.must_see:
        services.log.unseen(connection.actor, place, Unseen.TRAFFIC.value)
        return None
    why = StageRefused(Refusing.REQUIRED)
    services.log.connection_denied(
        connection.actor,
        place,
        engine="supervisor-middleware",
        policy=admitted.decision.matched_policy,
        reason=why.how.detail,
        activity=NetActivity.REFUSE if connection.is_captured else NetActivity.OPEN,
        refusal=Refusal(why.how.value, group="l7_policy", ancestors=connection.actor.ancestors),
    )
    return services.denials.stage_refused(why)
