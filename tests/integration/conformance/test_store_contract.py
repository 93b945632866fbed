"""Every check of the contract on every database."""

import pytest

from integration.conformance.store_contract import CHECKS, CHECKS_OF_TWO, Clock, check_retention
from openshell.gateway.store.postgres import PostgresStore
from openshell.gateway.store.sqlite import SqliteStore


@pytest.fixture(params=["sqlite", "postgres"])
async def open_store(request, tmp_path):
    """Opens a store on the test's one database, as often as it is called."""
    opened = []
    if request.param == "postgres":
        url = request.getfixturevalue("database_url")

    async def make():
        if request.param == "postgres":
            store = await PostgresStore.open(url, clock_ms=Clock())
        else:
            store = await SqliteStore.open(str(tmp_path / "db"), clock_ms=Clock())
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_one(open_store, check):
    await check(await open_store())


@pytest.mark.parametrize("check", CHECKS_OF_TWO, ids=lambda check: check.__name__)
async def test_two(open_store, check):
    await check(await open_store(), await open_store())


async def test_retention(open_store, monkeypatch):
    await check_retention(await open_store(), monkeypatch)
