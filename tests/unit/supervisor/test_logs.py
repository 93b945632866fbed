"""The queue of log lines: what is kept, what gives way, what is said about it."""

import asyncio
import time

import grpc
import grpc.aio
import pytest

from openshell import ocsf
from openshell.supervisor import logs as logs_module
from openshell.supervisor.logs import Logs


class Pushed:
    """A gateway that notes when what came."""

    def __init__(self):
        self.batches = []
        self.stub = self

    def metadata(self):
        return ()

    async def PushSandboxLogs(self, batches, metadata):
        async for batch in batches:
            self.batches.append((time.monotonic(), [line.message for line in batch.logs]))

    def when(self, message):
        return next(at for at, lines in self.batches if any(message in line for line in lines))


@pytest.fixture
def logs():
    return Logs("box", ocsf.EventContext(sandbox_id="box"), clock_ms=lambda: 5)


def event(time_ms, severity=ocsf.Severity.INFORMATIONAL, message="m"):
    return ocsf.BaseEvent(time_ms=time_ms, message=message, severity=severity)


def test_an_event_is_one_line_with_its_json_beside_it(logs):
    logs.emit(event(7, message="hello"))
    (line,) = logs.take_batch()
    assert (line.level, line.target, line.source, line.timestamp_ms) == (
        "OCSF",
        "ocsf",
        "sandbox",
        7,
    )
    assert "hello" in line.message
    assert '"class_uid"' in line.fields["ocsf"]


def test_lines_below_the_level_are_left_out(logs, capsys):
    logs.log("debug", "t", "no")
    logs.log("info", "t", "yes")
    logs.log("warn", "t", "loud")
    assert [(line.level, line.message) for line in logs.take_batch()] == [
        ("WARN", "loud"),
        ("INFO", "yes"),
    ]
    assert capsys.readouterr().err == "WARN t: loud\n"


def test_a_flood_does_not_push_refusals_out(logs):
    for n in range(5000):
        logs.emit(event(n))
    logs.emit(event(9999, ocsf.Severity.MEDIUM, "refused"))
    first = logs.take_batch()
    assert any("refused" in line.message for line in first)
    assert any("3976 log lines were dropped" in line.message for line in first)
    assert len(first) <= 50
    assert [line.timestamp_ms for line in first] == sorted(line.timestamp_ms for line in first)


def test_batches_empty_the_queue_in_order(logs):
    for n in range(120):
        logs.emit(event(n))
    taken = []
    while batch := logs.take_batch():
        taken += batch
    assert [line.timestamp_ms for line in taken] == list(range(120))


def test_an_oversized_event_keeps_its_line_and_loses_its_json(logs):
    logs.emit(event(1, message="x" * 20_000))
    (line,) = logs.take_batch()
    assert not line.fields
    assert len(line.message) <= 8192


async def pushed(logs, steps):
    """Push while the steps run; what arrived and when."""
    gateway = Pushed()
    pushing = asyncio.ensure_future(logs.push(gateway))
    await steps()
    logs.finish()
    async with asyncio.timeout(5):
        await pushing
    return gateway


async def test_a_first_line_arrives_within_fifty_milliseconds(logs):
    async def steps():
        logs.log("info", "t", "first")
        await asyncio.sleep(0.25)

    started = time.monotonic()
    gateway = await pushed(logs, steps)
    assert gateway.when("first") - started < 0.05


async def test_a_refusal_does_not_wait_for_the_batch_that_is_gathering(logs):
    refused = 0.0

    async def steps():
        nonlocal refused
        logs.log("info", "t", "first")
        await asyncio.sleep(0.05)
        logs.log("info", "t", "usual")
        await asyncio.sleep(0.01)
        refused = time.monotonic()
        logs.emit(event(1, ocsf.Severity.MEDIUM, "refused"))
        await asyncio.sleep(0.25)

    gateway = await pushed(logs, steps)
    assert gateway.when("refused") - refused < 0.05
    assert gateway.when("usual") == gateway.when("refused")


async def test_a_stream_of_lines_goes_in_few_batches(logs):
    async def steps():
        for n in range(60):
            logs.log("info", "t", f"line {n}")
            await asyncio.sleep(0.01)

    gateway = await pushed(logs, steps)
    assert sum(len(lines) for _, lines in gateway.batches) == 60
    assert len(gateway.batches) <= 6


async def test_a_flood_of_refusals_is_batched_too(logs):
    async def steps():
        for n in range(200):
            logs.emit(event(n, ocsf.Severity.MEDIUM, f"refused {n}"))
            await asyncio.sleep(0.001)

    started = time.monotonic()
    gateway = await pushed(logs, steps)
    assert len(gateway.batches) <= (time.monotonic() - started) / 0.02 + 2
    assert sum(len(lines) for _, lines in gateway.batches) == 200


async def test_what_piled_up_goes_without_a_pause(logs):
    async def steps():
        for n in range(500):
            logs.log("info", "t", f"line {n}")

    started = time.monotonic()
    gateway = await pushed(logs, steps)
    assert len(gateway.batches) == 10
    assert gateway.when("line 499") - started < 0.15


class Dying(Pushed):
    """Takes lines and dies before it answers, so often."""

    def __init__(self, code, times):
        super().__init__()
        self.code = code
        self.left = times

    async def PushSandboxLogs(self, batches, metadata):
        if not self.left:
            return await super().PushSandboxLogs(batches, metadata)
        async for _ in batches:
            break
        self.left -= 1
        # As grpc does: it asks for more although the call is over.
        self.more = asyncio.ensure_future(anext(batches, None))
        raise grpc.aio.AioRpcError(self.code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        (grpc.StatusCode.UNAVAILABLE, ["one", "two", "three"]),
        (grpc.StatusCode.INVALID_ARGUMENT, ["2 log lines were dropped", "three"]),
    ],
)
async def test_lines_without_an_answer_are_sent_again_unless_they_are_refused(
    logs, monkeypatch, code, kept
):
    monkeypatch.setattr(logs_module, "_FIRST_WAIT", 0.01)
    gateway = Dying(code, 1)
    logs.log("info", "t", "one")
    logs.log("info", "t", "two")
    pushing = asyncio.ensure_future(logs.push(gateway))
    while gateway.left:
        await asyncio.sleep(0)
    logs.log("info", "t", "three")
    logs.finish()
    async with asyncio.timeout(5):
        await pushing
    assert [line for _, lines in gateway.batches for line in lines] == kept
