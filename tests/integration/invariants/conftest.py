"""Two gateways on one database whose content a test puts back as often as it wants."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from integration.invariants.world import NOW_MS, VARIANTS, Gateway, build, outcome
from openshell.gateway.store.postgres import PostgresStore
from openshell.gateway.store.sqlite import SqliteStore
from support.invariants import Objects
from support.pausing_store import PausingStore, Point


@dataclass
class World:
    """Its rows, and what is known to come of writers that change it in turn."""

    rows: list
    known: dict = field(default_factory=dict)


class Two:
    """Both gateways, and what the database says."""

    def __init__(self, objects, gateways, count_waiting):
        self.objects = objects
        self.gateways = gateways
        self._count_waiting = count_waiting

    async def in_turn(self, *writers):
        """Outcomes of writers that come one after the other, each at the next gateway."""
        return [await outcome(writer(self.gateways[at % 2])) for at, writer in enumerate(writers)]

    async def meanwhile(self, first, second, point):
        """The outcome of both, and whether the first was really stopped: the second begins while it
        is, and goes on until it has ended or has to wait for the first."""
        one, two = self.gateways
        pause = one.store.pause_next_write(point)
        two.store.entered.clear()
        earlier = asyncio.ensure_future(outcome(first(one)))
        try:
            stopped = await pause.reached(earlier)
            later = asyncio.ensure_future(outcome(second(two)))
            if point is Point.BEFORE_WRITE:
                await asyncio.wait((later,))
            else:
                await self._ended_or_waits(later)
        finally:
            pause.end()
        return [await earlier, await later], stopped

    async def _ended_or_waits(self, later):
        entered = asyncio.ensure_future(self.gateways[1].store.entered.wait())
        await asyncio.wait((later, entered), return_when=asyncio.FIRST_COMPLETED)
        entered.cancel()
        while not later.done() and not await self._count_waiting():
            await asyncio.wait((later,), timeout=0.001)


@contextlib.asynccontextmanager
async def two_on_sqlite(directory):
    path = f"{directory}/world.db"
    stores = [await SqliteStore.open(path, clock_ms=lambda: NOW_MS) for _ in range(2)]

    async def one():
        # Whoever has asked for a write while there is another one waits.
        return 1

    async with _two(f"sqlite:{path}", stores, one) as made:
        yield made


@contextlib.asynccontextmanager
async def two_on_postgres(url):
    stores = [await PostgresStore.open(url, clock_ms=lambda: NOW_MS) for _ in range(2)]
    import psycopg

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as watcher:

        async def count():
            cursor = await watcher.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return (await cursor.fetchone())[0]

        async with _two(url, stores, count) as made:
            yield made


@contextlib.asynccontextmanager
async def _two(url, stores, count_waiting):
    gateways = [Gateway(PausingStore(store)) for store in stores]
    try:
        with Objects(url) as objects:
            yield Two(objects, gateways, count_waiting)
    finally:
        for gateway in gateways:
            await gateway.tasks.close()
        for store in stores:
            await store.close()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """One for each variant."""

    async def make(variant):
        path = f"{tmp_path_factory.mktemp('world')}/built.db"
        store = await SqliteStore.open(path, clock_ms=lambda: NOW_MS)
        await build(store, variant)
        await store.close()
        with Objects(f"sqlite:{path}") as objects:
            return objects.read()

    # A loop is running already, and the next test has another one.
    with ThreadPoolExecutor(1) as thread:
        return {each: World(thread.submit(asyncio.run, make(each)).result()) for each in VARIANTS}


@pytest.fixture
async def sqlite(tmp_path):
    async with two_on_sqlite(tmp_path) as made:
        yield made


@pytest.fixture
async def both(request, backend, sqlite):
    """On the database that the test is about."""
    if backend == "sqlite":
        yield sqlite
        return
    url = request.getfixturevalue("database_url")
    async with two_on_postgres(url) as made:
        yield made
