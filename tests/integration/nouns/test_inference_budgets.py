"""Budgets of requests and tokens on real stores, two gateways at once; what usage adds up to."""

import asyncio
import itertools

import pytest

from openshell._proto import openshell_ext_inference_pb2 as ext
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.services.inference_budgets import BUDGETS_MAX, InferenceBudgets

NUMBERS = itertools.count()


BACKENDS = pytest.mark.parametrize("backend", ["sqlite", "postgres"])


@pytest.fixture
def both(gateways):
    for gateway in gateways:
        gateway.parts = (
            *gateway.parts,
            InferenceBudgets(gateway.store, gateway.bus, new_id=lambda: f"budget-{next(NUMBERS)}"),
        )
    return gateways


@pytest.fixture
async def box(both):
    return await both[0].sandbox("box")


async def admit(gateway, sandbox, route="inference.local"):
    with gateway.as_sandbox(sandbox):
        return await gateway.AdmitInference(ext.AdmitInferenceRequest(route=route))


async def report(gateway, sandbox, sequence=1, instance="i", **calls):
    calls = {"route": "inference.local", "model": "m", "requests": 1, **calls}
    request = ext.ReportInferenceRequest(
        instance_id=instance, sequence=sequence, calls=[ext.InferenceCalls(**calls)]
    )
    with gateway.as_sandbox(sandbox):
        await gateway.ReportInference(request)


async def budget(gateway, window="hour", **fields):
    return await gateway.SetBudget(ext.InferenceBudget(window=window, **fields))


async def usage(gateway, **fields):
    answer = await gateway.GetUsage(ext.GetInferenceUsageRequest(**fields))
    return [
        (u.sandbox, u.calls.model, u.calls.requests, u.calls.completion_tokens)
        for u in answer.usage
    ]


async def test_without_a_budget_everything_goes(both, box):
    assert (await admit(both[0], box)).admitted


@BACKENDS
async def test_two_gateways_never_pass_a_limit_of_requests(both, box):
    await budget(both[0], requests=7)
    answers = await asyncio.gather(*(admit(gateway, box) for gateway in both * 10))
    assert sum(answer.admitted for answer in answers) == 7
    refused = next(answer for answer in answers if not answer.admitted)
    assert refused.message == "the budget of this sandbox is used up: 7 requests per hour"
    assert 0 < refused.retry_after_secs <= 3600


async def test_each_sandbox_has_its_own(both, box):
    other = await both[0].sandbox("other")
    await budget(both[0], requests=1)
    assert (await admit(both[0], box)).admitted
    assert not (await admit(both[1], box)).admitted
    assert (await admit(both[1], other)).admitted
    await budget(both[0], sandbox="other", requests=5)
    # The narrower one does not lift the wider one.
    assert not (await admit(both[0], other)).admitted


async def test_tokens_count_when_they_are_known(both, box):
    await budget(both[0], tokens=100)
    for sequence in (1, 2):
        assert (await admit(both[0], box)).admitted
        await report(both[1], box, sequence, prompt_tokens=30, completion_tokens=30)
    refused = await admit(both[0], box)
    assert not refused.admitted
    assert "100 tokens per hour" in refused.message


async def test_a_budget_of_one_route(both, box):
    await budget(both[0], route="fast", requests=1, tokens=10)
    assert (await admit(both[0], box, "fast")).admitted
    assert not (await admit(both[0], box, "fast")).admitted
    await report(both[0], box, route="slow", completion_tokens=50)
    assert (await admit(both[0], box, "slow")).admitted


async def test_a_refusal_by_one_budget_counts_in_none(both, box):
    await budget(both[0], requests=1, window="minute")
    await budget(both[0], requests=2, window="day")
    assert (await admit(both[0], box)).admitted
    for _ in range(3):
        assert not (await admit(both[0], box)).admitted
    await both[0].DeleteBudget(ext.DeleteInferenceBudgetRequest(window="minute"))
    assert (await admit(both[0], box)).admitted
    assert not (await admit(both[0], box)).admitted


async def test_windows_go_by_the_clock(both, box, clock):
    await budget(both[0], requests=1, window="minute")
    assert (await admit(both[0], box)).admitted
    refused = await admit(both[0], box)
    clock.now += refused.retry_after_secs * 1000
    assert (await admit(both[1], box)).admitted


@BACKENDS
async def test_a_batch_counts_once(both, box):
    for gateway in (both[0], both[1], both[0]):
        await report(gateway, box, 1, completion_tokens=5)
    await report(both[1], box, 2, completion_tokens=5)
    # A supervisor that began anew counts from one.
    await report(both[0], box, 1, instance="another", completion_tokens=5)
    assert await usage(both[0]) == [("box", "m", 3, 15)]


async def test_usage_by_hour_sandbox_and_model(both, box, clock):
    other = await both[0].sandbox("other")
    await report(both[0], box, 1, completion_tokens=1)
    await report(both[0], other, 1, completion_tokens=2)
    clock.now += 2 * 3_600_000
    later = clock.now - clock.now % 3_600_000
    await report(both[0], box, 2, completion_tokens=4)
    await report(both[0], box, 3, model="n", completion_tokens=8)
    assert await usage(both[1], sandbox="box") == [("box", "m", 2, 5), ("box", "n", 1, 8)]
    assert await usage(both[1], since_ms=later) == [("box", "m", 1, 4), ("box", "n", 1, 8)]
    with pytest.raises(ApiError, match="not found"):
        await usage(both[0], sandbox="nobody")


async def test_supervisors_are_told_at_once(both, box):
    both[0].changes.clear()
    await budget(both[0], requests=1)
    assert both[0].changes == [(box.metadata.id, "inference")]
    both[0].changes.clear()
    delete = ext.DeleteInferenceBudgetRequest(window="hour")
    assert (await both[0].DeleteBudget(delete)).deleted
    assert both[0].changes == [(box.metadata.id, "inference")]
    assert not (await both[0].DeleteBudget(delete)).deleted


async def test_the_same_names_are_one_budget(both):
    await budget(both[0], requests=1)
    await budget(both[1], requests=2)
    listed = await both[0].ListBudgets(ext.ListInferenceBudgetsRequest())
    assert [(item.window, item.requests) for item in listed.budgets] == [("hour", 2)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"requests": 0}, Code.INVALID_ARGUMENT),
        ({"requests": 1, "window": "week"}, Code.INVALID_ARGUMENT),
        ({"requests": 10**13}, Code.INVALID_ARGUMENT),
        ({"requests": 1, "route": "sandbox-system"}, Code.INVALID_ARGUMENT),
        ({"requests": 1, "route": "no/name"}, Code.INVALID_ARGUMENT),
        ({"requests": 1, "sandbox": "NO"}, Code.INVALID_ARGUMENT),
        ({"requests": 1, "sandbox": "nobody"}, Code.NOT_FOUND),
    ],
    ids=str,
)
async def test_what_is_no_budget(both, fields, code):
    with pytest.raises(ApiError) as error:
        await budget(both[0], **fields)
    assert error.value.code is code


async def test_how_many(both, box, monkeypatch):
    monkeypatch.setattr("openshell.gateway.services.inference_budgets.BUDGETS_MAX", 2)
    assert BUDGETS_MAX == 256
    await budget(both[0], requests=1)
    await budget(both[0], requests=1, window="day")
    with pytest.raises(ApiError, match="delete one first"):
        await budget(both[0], requests=1, window="minute")
    await budget(both[0], requests=2, window="day")


@pytest.mark.parametrize(
    "request_",
    [
        ext.ReportInferenceRequest(sequence=1),
        ext.ReportInferenceRequest(instance_id="x" * 300),
        ext.ReportInferenceRequest(instance_id="i", calls=[ext.InferenceCalls()] * 1001),
        ext.ReportInferenceRequest(instance_id="i", calls=[ext.InferenceCalls(model="m" * 300)]),
    ],
    ids=["no instance", "long instance", "many", "long name"],
)
async def test_a_supervisor_that_says_too_much(both, box, request_):
    with both[0].as_sandbox(box), pytest.raises(ApiError) as error:
        await both[0].ReportInference(request_)
    assert error.value.code is Code.INVALID_ARGUMENT


async def test_numbers_of_a_mad_supervisor_are_bounded(both, box):
    await budget(both[0], tokens=10)
    for sequence in (1, 2):
        await report(both[0], box, sequence, completion_tokens=2**64 - 1)
    assert not (await admit(both[0], box)).admitted
    assert (await usage(both[0]))[0][3] == 1 << 40
