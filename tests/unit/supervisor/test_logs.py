"""The queue of log lines: what is kept, what gives way, what is said about it."""

import pytest

from openshell import ocsf
from openshell.supervisor.logs import Logs


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
