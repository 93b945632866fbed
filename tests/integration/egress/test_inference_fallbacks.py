"""Routes with fallbacks through the real proxy: who is asked, and when the next one is."""

import asyncio
import json
import socket

import pytest

from integration.egress.test_inference_on_the_wire import (
    OPENAI,
    Inference,
    message,
    prompt,
    route,
    unchunk,
)
from openshell.egress.inference import call
from openshell.ocsf import Status
from support.model_server import TEXT, WORDS, model_server

SECOND = "second-model"
SECOND_KEY = "sk-key-of-the-second-provider"


@pytest.fixture
def first():
    with model_server() as started:
        yield started


@pytest.fixture
def second():
    with model_server() as started:
        started.key, started.model = SECOND_KEY, SECOND
        yield started


@pytest.fixture
def dead_port():
    """Nobody listens there while it is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def fallback(port, **more):
    return route(port, key=SECOND_KEY, model=SECOND, **more)


def model_of(body):
    return json.loads(body)["model"]


def outcomes(proxy):
    return [(event.model, event.status is Status.SUCCESS) for event in proxy.calls]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 529])
async def test_an_answer_that_says_try_elsewhere_is_not_passed_on(first, second, status):
    async with Inference(route(first.port), fallback(second.port)) as proxy:
        got, _, body = await proxy.ask(body=prompt(f"do status={status}"))
        # Both are as told, and the last one's own answer is the caller's.
        assert got == status
        assert len(first.received) == len(second.received) == 1
    assert second.last.headers["authorization"] == f"Bearer {SECOND_KEY}"
    assert second.last_body["model"] == SECOND
    assert SECOND_KEY.encode() not in body
    assert [event.model for event in proxy.calls] == [first.model, SECOND]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_is_the_callers(first, second, status):
    async with Inference(route(first.port), fallback(second.port)) as proxy:
        got, _, _ = await proxy.ask(body=prompt(f"do status={status}"))
    assert (got, second.received) == (status, [])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_dead_target_is_asked_once_and_then_gone_around(second, dead_port, stream):
    async with Inference(route(dead_port), fallback(second.port)) as proxy:
        for _ in range(5):
            status, _, body = await proxy.ask(body=prompt("hi", stream=stream))
            assert status == 200
            assert TEXT.split()[0].encode() in body
    assert outcomes(proxy) == [("real-model", False), *[(SECOND, True)] * 5]


async def test_a_target_that_does_not_begin_in_time_is_left(first, second):
    async with Inference(route(first.port, timeout_secs=1), fallback(second.port)) as proxy:
        status, _, body = await proxy.ask(body=prompt("do sleep=1.5"))
        # The second one sleeps as long, but has a time of its own.
        assert (status, model_of(body)) == (200, SECOND)
    assert outcomes(proxy) == [("real-model", False), (SECOND, True)]


async def test_a_stream_that_is_silent_at_first_is_left(first, second, monkeypatch):
    monkeypatch.setattr(call, "IDLE_SECONDS", 0.5)
    routes = route(first.port), fallback(second.port)
    async with Inference(*routes) as proxy:
        first.model = "other"  # It answers 404, which is no reason to go on.
        status, _, _ = await proxy.ask(body=prompt("do sleep=1", stream=True))
        assert status == 404
        first.model = "real-model"
        status, _, _ = await proxy.ask(body=prompt("do sleep=1", stream=True))
        assert status == 503
    assert len(second.received) == 1


async def test_after_the_first_byte_nobody_else_is_asked(first, second):
    async with Inference(route(first.port), fallback(second.port)) as proxy:
        status, _, body = await proxy.ask(body=prompt("do cut", stream=True))
        assert status == 200
        text = unchunk(body).decode()
        assert WORDS[0] in text
        assert "proxy_stream_error" in text
        assert second.received == []
        # What broke in the middle is not asked first by the next one.
        status, _, body = await proxy.ask(body=prompt("hi"))
        assert (status, model_of(body)) == (200, SECOND)


async def test_both_down_is_said_in_the_callers_words(dead_port):
    async with Inference(route(dead_port), fallback(dead_port)) as proxy:
        for _ in range(2):
            status, _, body = await proxy.ask()
            assert status == 503
            assert json.loads(body)["error"]["type"] == "service_unavailable"
    assert len(proxy.calls) == 4
    said = " ".join(map(repr, proxy.events))
    assert SECOND_KEY not in said


async def test_the_models_name_chooses_the_route(first, second):
    async with Inference(route(first.port), fallback(second.port, name="fast")) as proxy:
        for model, wanted in (("fast", SECOND), ("any", "real-model"), ("fast ", "real-model")):
            _, _, body = await proxy.ask(body={**prompt("hi"), "model": model})
            assert model_of(body) == wanted


async def test_a_fallback_of_another_dialect_is_passed_over(first, second):
    """The gateway refuses it; a provider may have changed since."""
    other = fallback(second.port, kind="anthropic")
    async with Inference(route(first.port), other) as proxy:
        status, _, _ = await proxy.ask(body=prompt("do status=503"))
        assert (status, second.received) == (503, [])


async def test_lists_of_models_have_no_fallback(second, dead_port):
    routes = route(dead_port, protocols=OPENAI), fallback(second.port)
    async with Inference(*routes) as proxy:
        status, _, _ = await proxy.ask("/v1/models", method="GET")
    assert (status, second.received) == (503, [])


async def test_a_caller_that_leaves_makes_nobody_else_work(first, second):
    async with Inference(route(first.port), fallback(second.port)) as proxy:
        client = await proxy.open()
        client.writer.write(message(body=prompt("do sleep=0.5")))
        while not first.received:
            await asyncio.sleep(0.01)
        client.close()
        await asyncio.sleep(0.7)
        assert second.received == []
        status, _, body = await proxy.ask()
        assert (status, model_of(body)) == (200, "real-model"), "it is not to blame"
