"""Which of several pinned addresses is connected to, and how long the others keep one waiting."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from openshell.egress import racing
from openshell.egress.racing import HEAD_START, dial_any

FIRST, SECOND, THIRD = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))


class Connection:
    """What a scripted dial returns; also takes part in `isinstance` checks."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Network:
    """Answers of addresses: after some turns of the clock, a connection or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[object, object]) -> None:
        self.tried: list[str] = []
        self.made: list[Connection] = []
        self.cancelled: list[str] = []
        self._answers = {str(address): answer for address, answer in answers.items()}
        monkeypatch.setattr(racing, "dial", self.dial)
        monkeypatch.setattr(racing, "Stream", Connection)

    async def dial(self, host: str, port: int, timeout: float) -> Connection:
        self.tried.append(host)
        answer = self._answers[host]
        if answer == "silence":
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(host)
                raise
        if isinstance(answer, Exception):
            raise answer
        if answer == "late":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                # Connected in the very moment it was no longer wanted.
                await asyncio.sleep(0)
        self.made.append(Connection(host))
        return self.made[-1]


REFUSED, NO_ROUTE = ConnectionRefusedError(111, "refused"), OSError(101, "no route")


async def test_one_that_answers_is_all_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, {FIRST: "yes", SECOND: "yes"})
    made = await dial_any((FIRST, SECOND), 1, 5)
    assert network.tried == ["192.0.2.1"]
    assert network.made == [made]


async def test_the_next_is_tried_at_once_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, {FIRST: REFUSED, SECOND: NO_ROUTE, THIRD: "yes"})
    # No head start would end within the test.
    await dial_any((FIRST, SECOND, THIRD), 1, 1000, head_start=1000)
    assert network.tried == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


async def test_silence_costs_a_head_start_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, {FIRST: "silence", SECOND: "silence", THIRD: "yes"})
    assert await dial_any((FIRST, SECOND, THIRD), 1, 1000, head_start=0.01) is network.made[0]
    assert sorted(network.cancelled) == ["192.0.2.1", "192.0.2.2"]


async def test_a_connection_that_came_too_late_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, {FIRST: "late", SECOND: "yes"})
    winner = await dial_any((FIRST, SECOND), 1, 1000, head_start=0.01)
    assert [(made is winner, made.aborted) for made in network.made] == [
        (True, False),
        (False, True),
    ]


async def test_when_all_fail_the_last_reason_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    Network(monkeypatch, {FIRST: REFUSED, SECOND: "silence", THIRD: NO_ROUTE})
    with pytest.raises(TimeoutError):
        await dial_any((FIRST, SECOND, THIRD), 1, 0.05, head_start=0.01)
    Network(monkeypatch, {FIRST: REFUSED, SECOND: NO_ROUTE})
    with pytest.raises(OSError, match="no route"):
        await dial_any((FIRST, SECOND), 1, 1)
    with pytest.raises(OSError, match="no address"):
        await dial_any((), 1, 1)


async def test_whoever_gives_up_leaves_no_attempt_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, {FIRST: "silence", SECOND: "silence"})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await dial_any((FIRST, SECOND), 1, 1000, head_start=0.01)
    assert sorted(network.cancelled) == ["192.0.2.1", "192.0.2.2"]


def test_the_head_start_of_sixteen_addresses_is_bearable() -> None:
    assert HEAD_START * 16 <= 5
