"""Invariant: whatever texts an event holds, it is written as one printable line and as one line of JSON that
other readers read; what a client prints of a line has no character that drives a terminal."""

from __future__ import annotations

import json

from openshell.cli.output import printable
from openshell.ocsf import (
    Action,
    ConfigEvent,
    EventContext,
    FindingEvent,
    HostPort,
    HttpEvent,
    NetActivity,
    NetworkEvent,
    ProcActivity,
    ProcessEvent,
    ProcessRef,
    to_json,
    to_line,
)

_CONTEXT = EventContext(sandbox_id="s1", sandbox_name="box")


def fuzz_event_lines(data: bytes) -> None:
    """Texts, each on a line of its own."""
    texts = data.decode("utf-8", "surrogateescape").split("\n", 3)
    one, two, three, four = (*texts, "", "", "")[:4]
    program = ProcessRef(two, 7)
    events = (
        HttpEvent(
            time_ms=1,
            method=one,
            action=Action.DENIED,
            host=two,
            path=three,
            policy=four,
            process=program,
            message=one,
            detail=four,
            unmapped={one: two},
        ),
        NetworkEvent(
            time_ms=1,
            activity=NetActivity.OPEN,
            action=Action.DENIED,
            process=program,
            dst=HostPort(one, 1),
            policy=two,
            detail=three,
        ),
        ConfigEvent(time_ms=1, state=one, message=two),
        FindingEvent(time_ms=1, uid=one, title=two),
        ProcessEvent(time_ms=1, activity=ProcActivity.LAUNCH, command_line=one),
    )
    for event in events:
        line = to_line(event)
        assert line.isprintable()
        assert printable(line) == line
        written = to_json(event, _CONTEXT)
        assert b"\n" not in written
        assert isinstance(json.loads(written), dict)
    shown = printable(data.decode("latin-1"))
    assert shown.replace("\t", "").isprintable()
