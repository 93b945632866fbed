"""Any sequence of operations has the same outcome on both databases, refusals included."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.gateway.store import (
    MatchResourceVersion,
    MustCreate,
    NewRow,
    StoreConflict,
    Unconditional,
    UniqueViolation,
)
from openshell.gateway.store.postgres import PostgresStore
from openshell.gateway.store.sqlite import SqliteStore

IDS = st.sampled_from("abc")
NAMES = st.sampled_from([None, "n", "N", "é", "m"])
WORKSPACES = st.sampled_from(["", "w"])
SCOPES = st.sampled_from([None, "s", "t"])
VERSIONS = st.sampled_from([None, 1, 2])
LABELS = st.dictionaries(st.sampled_from(["k", "a.b/c"]), st.sampled_from(["", "v", "'"]))
CONDITIONS = st.one_of(
    st.just(MustCreate()),
    st.builds(MatchResourceVersion, st.integers(1, 3)),
    st.just(Unconditional()),
)
ROWS = st.builds(
    NewRow,
    id=IDS,
    kind=st.sampled_from(["k", "l"]),
    payload=st.binary(max_size=3),
    workspace=WORKSPACES,
    name=NAMES,
    scope=SCOPES,
    version=VERSIONS,
    status=st.sampled_from([None, "pending", "loaded"]),
    dedup_key=st.sampled_from([None, "d"]),
    labels=LABELS,
    created_at_ms=st.sampled_from([None, 1, 2]),
)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), ROWS, CONDITIONS),
    st.tuples(st.just("put"), ROWS, CONDITIONS),
    st.tuples(st.just("delete"), st.just("k"), IDS, st.sampled_from([None, 1, 2])),
    st.tuples(st.just("delete_scope"), st.just("k"), st.just("s")),
    st.tuples(st.just("get"), st.just("k"), WORKSPACES, st.sampled_from(["n", "N", "é"])),
    st.tuples(st.just("get_version"), st.just("k"), st.just("s"), VERSIONS),
)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "workspace": WORKSPACES,
        "scope": st.just("s"),
        "status": st.sampled_from(["pending", ("pending", "loaded")]),
        "label_selector": LABELS,
        "limit": st.integers(0, 3),
        "offset": st.integers(0, 2),
        "newest_first": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def stores(postgres, tmp_path_factory):
    """Both, and the time that both have."""
    now = [0]
    path = str(tmp_path_factory.mktemp("diff") / "db")

    async def start(url):
        return [
            await SqliteStore.open(path, clock_ms=lambda: now[0]),
            await PostgresStore.open(url, clock_ms=lambda: now[0]),
        ]

    with postgres.database() as url:
        opened = asyncio.run(start(url))
        yield opened, now
        for store in opened:
            asyncio.run(store.close())


def outcome(tx, operation):
    name, *arguments = operation
    try:
        return getattr(tx, name)(*arguments)
    except UniqueViolation as error:
        return "taken", error.constraint
    except StoreConflict as error:
        return "stale", error.current
    except ValueError:
        return "refused"


@settings(max_examples=60, deadline=None)
@given(transactions=st.lists(st.lists(OPERATIONS, max_size=6), max_size=6), query=QUERIES)
def test_both_say_the_same(stores, transactions, query):
    opened, now = stores

    async def run(store):
        await store.write(lambda tx: tx._change("DELETE FROM objects", ()))
        said = []
        for turn, operations in enumerate(transactions):
            now[0] = turn
            said.append(
                await store.write(lambda tx, ops=operations: [outcome(tx, op) for op in ops])
            )
        said.append(await store.read(lambda tx: tx.list("k", **query)))
        said.append(await store.look_up(lambda tx: tx.all("l")))
        return said

    sqlite, postgres = [asyncio.run(run(store)) for store in opened]
    assert sqlite == postgres
