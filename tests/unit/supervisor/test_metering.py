"""Calls of models on their way to the gateway: asked, told once, kept while nobody listens."""

import asyncio

import grpc
import grpc.aio
import pytest

from openshell._proto import openshell_ext_inference_pb2 as ext
from openshell.egress.inference.metering import Spent, spent_on
from openshell.egress.inference.usage import Usage
from openshell.supervisor.metering import InferenceMeter


class Gateway:
    """Answers, or fails as often as a test says."""

    def __init__(self):
        self.metering = self
        self.asked, self.told = [], []
        self.failures = 0
        self.answer = ext.AdmitInferenceResponse(admitted=True)

    def metadata(self):
        return ()

    def _maybe_fail(self):
        if self.failures:
            self.failures -= 1
            empty = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, empty, empty)

    async def AdmitInference(self, request, metadata, timeout):
        self._maybe_fail()
        self.asked.append(request.route)
        return self.answer

    async def ReportInference(self, request, metadata, timeout):
        copy = ext.ReportInferenceRequest()
        copy.CopyFrom(request)
        self.told.append(copy)
        self._maybe_fail()


@pytest.fixture
def gateway():
    return Gateway()


def meter_of(gateway, budgeted=True):
    return InferenceMeter(gateway, lambda: budgeted)


async def test_nobody_is_asked_where_no_budget_holds(gateway):
    assert await meter_of(gateway, budgeted=False).admit("r") is None
    assert gateway.asked == []


async def test_what_was_spent_is_told_before_the_next_question(gateway):
    meter = meter_of(gateway)
    meter.used(Spent("r", "m", 3, 4, 5))
    meter.used(Spent("r", "m", 1, 1, failed=True, is_fallback=True))
    assert await meter.admit("r") is None
    (batch,) = gateway.told
    (calls,) = batch.calls
    assert (calls.requests, calls.prompt_tokens, calls.completion_tokens) == (2, 4, 5)
    assert (calls.estimated_tokens, calls.errors, calls.fallbacks) == (5, 1, 1)
    assert gateway.asked == ["r"]


async def test_a_refusal_is_passed_on(gateway):
    gateway.answer = ext.AdmitInferenceResponse(message="used up", retry_after_secs=9)
    over = await meter_of(gateway).admit("r")
    assert (over.status, over.message, over.retry_after_seconds) == (429, "used up", 9)


async def test_a_gateway_that_is_away_lets_nothing_out(gateway):
    gateway.failures = 1
    over = await meter_of(gateway).admit("r")
    assert over.status == 503
    assert "cannot be asked" in over.message


async def test_a_batch_that_was_not_heard_is_sent_again_as_it_was(gateway):
    meter = meter_of(gateway)
    meter.used(Spent("r", "m", 1, 1))
    gateway.failures = 1
    await meter.finish()
    meter.used(Spent("r", "m", 10, 10))
    await meter.finish()
    assert [(b.sequence, b.calls[0].prompt_tokens) for b in gateway.told] == [
        (1, 1),
        (1, 1),
        (2, 10),
    ]
    assert len({batch.instance_id for batch in gateway.told}) == 1


async def test_it_tells_by_itself(gateway):
    meter = meter_of(gateway)
    running = asyncio.ensure_future(meter.run())
    meter.used(Spent("r", "m", 1, 1))
    async with asyncio.timeout(5):
        while not gateway.told:
            await asyncio.sleep(0.01)
    running.cancel()


@pytest.mark.parametrize(
    ("usage", "more", "tokens"),
    [
        (Usage(5, 7), {}, (5, 7, 0)),
        (Usage(None, 7), {}, (100, 7, 100)),
        (Usage(), {}, (100, 50, 150)),
        (Usage(), {"events": 12}, (100, 12, 112)),
        (Usage(), {"failed": True}, (0, 0, 0)),
        (Usage(), {"failed": True, "events": 3}, (0, 3, 3)),
        (Usage(1, 2), {"failed": True}, (1, 2, 0)),
    ],
    ids=str,
)
def test_what_a_call_cost(usage, more, tokens):
    facts = {"sent_bytes": 400, "answer_bytes": 200, "events": 0, "failed": False, **more}
    spent = spent_on("r", "m", usage, is_fallback=False, **facts)
    assert (spent.prompt_tokens, spent.completion_tokens, spent.estimated_tokens) == tokens
