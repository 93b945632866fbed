"""Every writer stopped in the middle, and every other one run against it (providers.md 10).

Two gateways share a database. One is stopped before its transaction, before its first change or
before its commit; the other does its work until it has ended or must wait. Then there are two claims.
No invariant is broken, by a judge that knows rows alone. And both answers and the world are those of
one order or the other: the same two writers, one after the other, are the oracle. So a loser is told
what it would have been told coming second. `OPENSHELL_LONG` runs all of it on both databases.
"""

import os

import pytest

from integration.invariants.world import (
    BEFORE_V2,
    ONE_WINS,
    ONE_WINS_GLOBAL,
    ONE_WINS_V2,
    READ_FIRST,
    SINCE_V2,
    SUCCESS,
    TOO_LATE,
    UNDER_GLOBAL,
    WRITERS,
    facts,
)
from support.invariants import violations
from support.pausing_store import Point

BACKENDS = ("sqlite", "postgres")
LONG = "OPENSHELL_LONG" in os.environ
SUFFIXES = {SINCE_V2: "", BEFORE_V2: " before v2", UNDER_GLOBAL: " under a global policy"}
RUNS = [
    pytest.param(variant, name, backend, id=f"{name}{suffix}-{backend}")
    for variant, suffix in SUFFIXES.items()
    for name in variant
    for backend in BACKENDS
    # The rarer two worlds differ in rules, not in transactions: on SQLite they are enough.
    if backend == "sqlite" or variant is SINCE_V2 or LONG
]
EXCLUSIVE = [
    pytest.param(variant, pair, id=" - ".join(pair))
    for variant, pairs in (
        (SINCE_V2, ONE_WINS),
        (BEFORE_V2, ONE_WINS_V2),
        (UNDER_GLOBAL, ONE_WINS_GLOBAL),
    )
    for pair in pairs
]


class Oracle:
    """What comes of writers in turn; each order is tried once."""

    def __init__(self, two, world):
        self._two = two
        self._world = world
        self._known = world.known

    async def of(self, *names):
        """Their answers and the facts afterwards."""
        if names not in self._known:
            self._two.objects.restore(self._world.rows)
            answers = await self._two.in_turn(*(WRITERS[name] for name in names))
            objects = self._two.objects.read()
            assert not violations(objects), names
            self._known[names] = (answers, facts(objects))
        return self._known[names]

    async def allowed(self, first, second, point, backend):
        """Each way in which two at once may end: who came first decides, where that is known."""
        found = []
        if point is not Point.BEFORE_WRITE:
            found.append(await self.of(first, second))
            if second in READ_FIRST:
                ((answer,), world) = await self.of(first)
                found.append(([answer, "ABORTED"], world))
        if point is Point.BEFORE_WRITE or backend == "postgres":
            (answers, world) = await self.of(second, first)
            found.append((answers[::-1], world))
            if first in READ_FIRST:
                ((answer,), world) = await self.of(second)
                found.append((["ABORTED", answer], world))
        return found


def points(name, backend):
    # A writer that SQLite lets in is alone until it commits: one stop is as good as the other.
    yield Point.BEFORE_COMMIT
    if backend == "postgres":
        yield Point.BEFORE_CHANGE
    if name in READ_FIRST:
        yield Point.BEFORE_WRITE


@pytest.mark.parametrize(("variant", "first", "backend"), RUNS)
async def test_every_other_writer_meets_it_half_way(variant, first, backend, both, sqlite, worlds):
    oracle = Oracle(sqlite, worlds[variant])
    stops = 0
    for second in variant:
        for point in points(first, backend):
            allowed = await oracle.allowed(first, second, point, backend)
            both.objects.restore(worlds[variant].rows)
            answers, stopped = await both.meanwhile(WRITERS[first], WRITERS[second], point)
            stops += stopped
            objects = both.objects.read()
            told = f"{first} stopped {point.value}, then {second}: {answers}"
            assert not violations(objects), told
            assert (answers, facts(objects)) in allowed, told
    ((alone,), _world) = await oracle.of(first)
    assert stops or alone not in SUCCESS, "it was never stopped"


@pytest.mark.parametrize(("variant", "pair"), EXCLUSIVE)
async def test_the_pairs_are_worth_trying(variant, pair, sqlite, worlds):
    """Of these each one succeeds alone and the two in turn do not, in both orders."""
    oracle = Oracle(sqlite, worlds[variant])
    for names in (pair, pair[::-1]):
        for name in names:
            assert (await oracle.of(name))[0][0] in SUCCESS, name
        answers, _world = await oracle.of(*names)
        assert answers[0] in SUCCESS, names
        assert answers[1] not in SUCCESS, names


@pytest.mark.parametrize("pair", TOO_LATE, ids=[" - ".join(pair) for pair in TOO_LATE])
async def test_what_comes_too_late(pair, sqlite, worlds):
    oracle = Oracle(sqlite, worlds[SINCE_V2])
    assert (await oracle.of(pair[1]))[0][0] in SUCCESS
    answers, _world = await oracle.of(*pair)
    assert answers[0] in SUCCESS
    assert answers[1] not in SUCCESS
