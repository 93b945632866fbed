"""What every store must do, as functions over an open store; `test_store_sqlite.py` runs them."""

import asyncio

import pytest

from openshell.gateway.store import (
    LogLine,
    MatchResourceVersion,
    MustCreate,
    NewRow,
    Store,
    StoreConflict,
    Unconditional,
    UniqueViolation,
)


def row(id="a", name="alpha", kind="thing", workspace="default", **more):
    return NewRow(id=id, kind=kind, workspace=workspace, name=name, payload=b"p", **more)


async def put(store: Store, new: NewRow, condition=None):
    return await store.write(lambda tx: tx.put(new, condition or MustCreate()))


async def check_create_and_read(store):
    stored = await put(store, row(labels={"a.b/c": "1"}, scope="s", version=3, status="pending"))
    assert (stored.resource_version, stored.version, stored.status) == (1, 3, "pending")
    assert await store.read(lambda tx: tx.get("thing", "default", "alpha")) == stored
    assert await store.read(lambda tx: tx.get_by_id("thing", "a")) == stored
    assert await store.read(lambda tx: tx.get_by_id("other", "a")) is None
    assert await store.read(lambda tx: tx.get("thing", "elsewhere", "alpha")) is None


async def check_unique(store):
    await put(store, row(scope="s", version=1, dedup_key="k"))
    taken = [
        ("id", row(name="beta")),
        ("name", row(id="b")),
        ("version", row(id="b", name="beta", scope="s", version=1)),
        ("dedup_key", row(id="b", name="beta", scope="s", dedup_key="k")),
    ]
    for constraint, new in taken:
        with pytest.raises(UniqueViolation) as caught:
            await put(store, new)
        assert caught.value.constraint == constraint
    assert (await put(store, row(id="b", workspace="other"))).resource_version == 1
    assert (await put(store, row(id="c", name=None))).name is None
    assert (await put(store, row(id="d", name=None))).name is None


async def check_conditions(store):
    with pytest.raises(StoreConflict) as gone:
        await put(store, row(), MatchResourceVersion(1))
    assert gone.value.current is None
    first = await put(store, row())
    second = await put(store, row(labels={"x": "y"}), MatchResourceVersion(1))
    assert (second.resource_version, second.created_at_ms) == (2, first.created_at_ms)
    with pytest.raises(StoreConflict) as stale:
        await put(store, row(), MatchResourceVersion(1))
    assert stale.value.current == 2
    assert (await put(store, row(), Unconditional())).resource_version == 3
    with pytest.raises(ValueError):
        await put(store, row(name="renamed"), MatchResourceVersion(3))


async def check_delete(store):
    await put(store, row())
    with pytest.raises(StoreConflict):
        await store.write(lambda tx: tx.delete("thing", "a", 7))
    assert await store.write(lambda tx: tx.delete("thing", "a", 1))
    assert not await store.write(lambda tx: tx.delete("thing", "a", 1))
    assert not await store.write(lambda tx: tx.delete("thing", "a"))


async def check_list(store):
    for index, (name, labels) in enumerate(
        [("c", {"k": "v"}), ("a", {"k": "v", "e": ""}), ("b", {"k": "other"})]
    ):
        await put(store, row(id=name, name=name, labels=labels, created_at_ms=[2, 1, 1][index]))
    await put(store, row(id="z", name="a", workspace="other", created_at_ms=0))

    async def names(**query):
        found = await store.read(lambda tx: tx.list("thing", **query))
        return [entry.name for entry in found]

    assert await names(workspace="default") == ["a", "b", "c"]
    assert await names() == ["a", "a", "b", "c"]
    assert await names(workspace="default", limit=1, offset=1) == ["b"]
    assert await names(workspace="default", offset=9) == []
    assert await names(label_selector={"k": "v"}) == ["a", "c"]
    assert await names(label_selector={"k": "v"}, limit=1, offset=1) == ["c"]
    assert await names(label_selector={"e": ""}) == ["a"]
    assert await names(label_selector={'k") OR 1=1 --': "v"}) == []


async def check_versions(store):
    for version, status in ((1, "superseded"), (2, "loaded"), (3, "pending")):
        await put(
            store,
            row(id=f"r{version}", name=None, scope="sb", version=version, status=status),
        )
    get = store.read
    assert (await get(lambda tx: tx.get_version("thing", "sb", None))).version == 3
    assert (await get(lambda tx: tx.get_version("thing", "sb", 2))).status == "loaded"
    assert await get(lambda tx: tx.get_version("thing", "sb", 9)) is None
    newest = await get(lambda tx: tx.list("thing", scope="sb", newest_first=True))
    assert [entry.version for entry in newest] == [3, 2, 1]
    open_ones = await get(lambda tx: tx.list("thing", scope="sb", status=("pending", "loaded")))
    assert {entry.version for entry in open_ones} == {2, 3}
    assert await store.write(lambda tx: tx.delete_scope("thing", "sb")) == 3


async def check_atomic(store):
    def fails(tx):
        tx.put(row(), MustCreate())
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        await store.write(fails)
    assert await store.read(lambda tx: tx.get_by_id("thing", "a")) is None


async def check_read_decide_write(store):
    await put(store, row())

    def add(tx):
        present = tx.get_by_id("thing", "a")
        count = int(present.labels.get("n", "0")) + 1
        tx.put(row(labels={"n": str(count)}), MatchResourceVersion(present.resource_version))

    await asyncio.gather(*(store.write(add) for _ in range(20)))
    stored = await store.read(lambda tx: tx.get_by_id("thing", "a"))
    assert (stored.labels, stored.resource_version) == ({"n": "20"}, 21)


async def check_logs(store):
    lines = [LogLine("sb", i, "sandbox", "INFO", "t", f"m{i}", {"k": "v"}) for i in range(5)]
    last = await store.write(lambda tx: tx.append_logs([*lines, LogLine("x", 0, "", "", "", "")]))
    assert last > 0
    kept = await store.read(lambda tx: tx.read_logs("sb", last=3))
    assert [line.message for line in kept] == ["m2", "m3", "m4"]
    assert kept[0].fields == {"k": "v"}
    after = await store.read(lambda tx: tx.read_logs("sb", last=9, after_id=kept[1].id))
    assert [line.message for line in after] == ["m4"]
    await store.write(lambda tx: tx.delete_logs("sb"))
    assert await store.read(lambda tx: tx.read_logs("sb", last=9)) == []
    assert len(await store.read(lambda tx: tx.read_logs("x", last=9))) == 1


async def check_now(store):
    assert await store.read(lambda tx: tx.now_ms == tx.now_ms)


CHECKS = [
    check_create_and_read,
    check_unique,
    check_conditions,
    check_delete,
    check_list,
    check_versions,
    check_atomic,
    check_read_decide_write,
    check_logs,
    check_now,
]
