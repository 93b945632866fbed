"""What the accept loop does with every kind of error."""

import asyncio
import errno

import pytest

from openshell.egress import listener as module
from openshell.egress.events import EventLog
from openshell.egress.listener import AcceptLoop
from openshell.ocsf import to_line

PAUSES = {
    "broken": ([errno.EBADF], [], "HIGH"),
    "transient": ([errno.ECONNABORTED] * 3, [0.1, 0.1, 0.1], "LOW"),
    "exhausted": ([errno.EMFILE] * 8, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0], "MED"),
    "unknown": ([errno.EDOM] * 6, [0.1, 0.2, 0.4, 0.8, 1.6], "HIGH"),
}


class Done(Exception):
    pass


@pytest.mark.parametrize(("errors", "pauses", "tag"), PAUSES.values(), ids=PAUSES.keys())
async def test_pauses(monkeypatch, errors, pauses, tag):
    events, slept, waiting = [], [], list(errors)

    class Listener:
        def setblocking(self, flag):
            pass

    async def accept(_):
        if not waiting:
            raise Done
        raise OSError(waiting.pop(0), "x")

    async def sleep(seconds):
        slept.append(round(seconds, 3))

    async def room():
        pass

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_accept", accept)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    loop = AcceptLoop(Listener(), lambda sock: None, room, EventLog(events.append, lambda: 0))
    try:
        await loop.run()
        ended = True
    except Done:
        ended = False
    assert slept == pauses
    assert ended == (tag == "HIGH")
    assert f"[{tag}]" in to_line(events[-1])
