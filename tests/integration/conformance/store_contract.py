"""What every store must do, as functions over open stores; `test_store_contract.py` runs them."""

import asyncio
import threading

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
    sql_tx,
)


class Clock:
    """Milliseconds that never stand still; asked from several threads."""

    def __init__(self):
        self.now = 1_000
        self.lock = threading.Lock()

    def __call__(self):
        with self.lock:
            self.now += 1
            return self.now


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
    before = await store.read(lambda tx: tx.read_logs("sb", last=2, before_id=kept[1].id))
    assert [line.message for line in before] == ["m1", "m2"]
    assert await store.read(lambda tx: tx.read_logs("x", last=9, before_id=kept[0].id)) == []
    assert not await store.read(lambda tx: tx.is_log_full("sb"))
    assert not await store.read(lambda tx: tx.is_log_full("nobody"))
    await store.write(lambda tx: tx.delete_logs("sb"))
    assert await store.read(lambda tx: tx.read_logs("sb", last=9)) == []
    assert len(await store.read(lambda tx: tx.read_logs("x", last=9))) == 1


async def check_now(store):
    assert await store.read(lambda tx: tx.now_ms == tx.now_ms)


async def check_refused_key_leaves_the_transaction(store):
    """Whoever catches a taken key goes on in the same transaction."""
    await put(store, row())

    def fn(tx):
        with pytest.raises(UniqueViolation):
            tx.put(row(id="b"), MustCreate())
        return tx.put(row(id="b", name="beta"), MustCreate())

    assert (await store.write(fn)).name == "beta"


async def check_keys_taken_by_an_update(store):
    await put(store, row(id="a", name="a", scope="s", version=1, dedup_key="x"))
    await put(store, row(id="b", name="b", scope="s", version=2, dedup_key="y"))
    for constraint, new in (
        ("version", row(id="b", name="b", scope="s", version=1, dedup_key="y")),
        ("dedup_key", row(id="b", name="b", scope="s", version=2, dedup_key="x")),
    ):
        with pytest.raises(UniqueViolation) as caught:
            await put(store, new, MatchResourceVersion(1))
        assert caught.value.constraint == constraint
    moved = row(id="b", name="b", scope="t", version=1, dedup_key="x")
    assert (await put(store, moved, MatchResourceVersion(1))).resource_version == 2


async def check_order(store):
    """By code points, rows without a name first, whatever the database's locale."""
    names = ["b", "a", "Z", "é", "_", None, "a-b", "ab", "A"]
    for index, name in enumerate(names):
        await put(store, row(id=f"i{index}", name=name, created_at_ms=1))
    listed = await store.read(lambda tx: tx.list("thing"))
    ordered = [None, *sorted(name for name in names if name is not None)]
    assert [entry.name for entry in listed] == ordered
    assert [entry.name for entry in await store.read(lambda tx: tx.all("thing"))] == ordered


async def check_newest_without_version_last(store):
    for index, version in enumerate((None, 2, 1)):
        new = row(id=f"i{index}", name=f"n{index}", scope="s", version=version)
        await put(store, new)
    newest = await store.read(lambda tx: tx.list("thing", scope="s", newest_first=True))
    assert [entry.version for entry in newest] == [2, 1, None]


async def check_bytes_and_numbers(store):
    payload = bytes(range(256)) * 3
    kept = NewRow(
        id="a", kind="thing", payload=payload, scope="s", version=2**62, hit_count=2**33,
        labels={"k": "v\"'é", "empty": ""},
    )  # fmt: skip
    stored = await put(store, kept)
    assert await store.look_up(lambda tx: tx.get_by_id("thing", "a")) == stored
    assert (stored.payload, stored.version) == (payload, 2**62)


async def check_nul(store):
    """What a client may send and no database of ours keeps: nothing has such a name."""
    await put(store, row())
    for ask in (
        lambda tx: tx.get("thing", "default", "al\0pha"),
        lambda tx: tx.get_by_id("thing", "a\0"),
        lambda tx: tx.get("thing", "\0", "alpha"),
    ):
        assert await store.look_up(ask) is None
    assert not await store.write(lambda tx: tx.delete("thing", "a\0"))
    line = LogLine("sb", 1, "sandbox", "INFO", "t", "a\0b", {"k": "\0"})
    await store.write(lambda tx: tx.append_logs([line]))
    (kept,) = await store.read(lambda tx: tx.read_logs("sb", last=1))
    assert (kept.message, kept.fields) == ("a\u2400b", {"k": "\0"})


async def check_retention(store, monkeypatch):
    monkeypatch.setattr(sql_tx, "LOG_LINES_MAX", 10)
    monkeypatch.setattr(sql_tx, "LOG_LINES_SLACK", 5)
    for index in range(40):
        line = LogLine("sb", index, "sandbox", "INFO", "t", str(index))
        await store.write(lambda tx, line=line: tx.append_logs([line]))
    kept = await store.read(lambda tx: tx.read_logs("sb", last=1000))
    assert 10 <= len(kept) <= 15
    assert [int(line.message) for line in kept] == list(range(40 - len(kept), 40))


async def check_a_cancelled_caller_does_not_stop_a_write(store):
    began, go_on = threading.Event(), threading.Event()

    def fn(tx):
        began.set()
        go_on.wait(5)
        return tx.put(row(), MustCreate())

    caller = asyncio.ensure_future(store.write(fn))
    await asyncio.to_thread(began.wait, 5)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    async with asyncio.timeout(5):
        while await store.read(lambda tx: tx.get_by_id("thing", "a")) is None:
            await asyncio.sleep(0.01)


async def check_two_see_one_truth(one, two):
    await put(one, row())
    results = await asyncio.gather(
        put(one, row(), MatchResourceVersion(1)),
        put(two, row(), MatchResourceVersion(1)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Row", "StoreConflict"]


async def check_one_creates(one, two):
    results = await asyncio.gather(
        *(put(store, row(id=f"i{index}")) for index, store in enumerate((one, two) * 8)),
        return_exceptions=True,
    )
    kinds = [type(result).__name__ for result in results]
    assert (kinds.count("Row"), kinds.count("UniqueViolation")) == (1, 15)


async def check_no_write_skew(one, two):
    """Each reads the other's row and writes its own: as if one had come after the other."""

    def claim(mine, other):
        def fn(tx):
            if tx.get_by_id("thing", other) is not None:
                return False
            tx.put(row(id=mine, name=mine), MustCreate())
            return True

        return fn

    for turn in range(25):
        a, b = f"a{turn}", f"b{turn}"
        won = await asyncio.gather(one.write(claim(a, b)), two.write(claim(b, a)))
        assert sorted(won) == [False, True]


async def check_counting_by_two(one, two):
    await put(one, row())

    def add(tx):
        present = tx.get_by_id("thing", "a")
        count = int(present.labels.get("n", "0")) + 1
        tx.put(row(labels={"n": str(count)}), MatchResourceVersion(present.resource_version))

    await asyncio.gather(*(store.write(add) for store in (one, two) * 20))
    stored = await two.read(lambda tx: tx.get_by_id("thing", "a"))
    assert (stored.labels, stored.resource_version) == ({"n": "40"}, 41)


async def check_a_read_is_one_snapshot(one, two):
    await put(one, row())
    seen, go_on = threading.Event(), threading.Event()

    def twice(tx):
        first = tx.get_by_id("thing", "a")
        seen.set()
        go_on.wait(5)
        return first, tx.get_by_id("thing", "a"), tx.get_by_id("thing", "b")

    reading = asyncio.ensure_future(one.read(twice))
    await asyncio.to_thread(seen.wait, 5)
    await put(two, row(labels={"x": "y"}), MatchResourceVersion(1))
    await put(two, row(id="b", name="beta"))
    go_on.set()
    first, second, created = await reading
    assert (first, created) == (second, None)


async def check_log_ids_follow_commits(one, two):
    """A follower that has seen a line misses none: no smaller id appears after it."""

    async def append(store, word):
        for index in range(30):
            lines = [LogLine("sb", 1, "s", "INFO", "t", f"{word}{index}.{part}") for part in "ab"]
            await store.write(lambda tx, lines=lines: tx.append_logs(lines))

    followed, last = [], 0
    writers = asyncio.gather(append(one, "x"), append(two, "y"))
    while True:
        over = writers.done()
        lines = await two.read(lambda tx, last=last: tx.read_logs("sb", last=999, after_id=last))
        followed += [line.message for line in lines]
        last = lines[-1].id if lines else last
        if over:
            break
    await writers
    everything = await one.read(lambda tx: tx.read_logs("sb", last=999))
    assert followed == [line.message for line in everything]
    assert len(followed) == 120


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
    check_refused_key_leaves_the_transaction,
    check_keys_taken_by_an_update,
    check_order,
    check_newest_without_version_last,
    check_bytes_and_numbers,
    check_nul,
    check_a_cancelled_caller_does_not_stop_a_write,
]

CHECKS_OF_TWO = [
    check_two_see_one_truth,
    check_one_creates,
    check_no_write_skew,
    check_counting_by_two,
    check_a_read_is_one_snapshot,
    check_log_ids_follow_commits,
]
