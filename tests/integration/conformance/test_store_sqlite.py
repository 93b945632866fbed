"""What only a database in a file can suffer; the contract is in `test_store_contract.py`."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

from integration.conformance.store_contract import Clock, put, row
from openshell.gateway.store import StoreUnavailable
from openshell.gateway.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path):
    opened = await SqliteStore.open(str(tmp_path / "db"), clock_ms=Clock())
    yield opened
    await opened.close()


async def test_reopened_keeps_rows_and_private_files(tmp_path):
    path = str(tmp_path / "db")
    store = await SqliteStore.open(path, clock_ms=Clock())
    await put(store, row())
    for name in os.listdir(tmp_path):
        assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o600
    await store.close()
    again = await SqliteStore.open(path, clock_ms=Clock())
    assert await again.read(lambda tx: tx.get_by_id("thing", "a")) is not None
    await again.close()


async def test_a_look_up_stays_on_the_thread_unless_it_would_wait(store):
    await put(store, row())
    threads = []

    def read(tx):
        threads.append(threading.get_ident())
        return tx.get_by_id("thing", "a")

    def locked(tx):
        threads.append(threading.get_ident())
        if threads[-1] == here:
            raise sqlite3.OperationalError("database is locked")
        return tx.get_by_id("thing", "a")

    here = threading.get_ident()
    assert (await store.look_up(read)).id == "a"
    assert threads == [here]
    assert (await store.look_up(locked)).id == "a"
    assert threads[1] == here
    assert threads[2] != here


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        pytest.param(lambda path: path.mkdir(), "cannot be opened", id="a directory"),
        pytest.param(
            lambda path: path.write_bytes(b"x" * 8192), "not an SQLite", id="not a database"
        ),
        pytest.param(lambda path: _newer(path), "schema 999", id="newer schema"),
    ],
)
async def test_unusable_file_is_one_sentence(tmp_path, prepare, says):
    path = tmp_path / "db"
    prepare(path)
    with pytest.raises(StoreUnavailable, match=says):
        await SqliteStore.open(str(path), clock_ms=Clock())


def _newer(path):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()


async def test_full_disk_is_one_sentence_and_nothing_written(store):
    await put(store, row())

    def limit(tx):
        tx._connection.execute("PRAGMA max_page_count = 1").fetchone()

    await store.write(limit)
    big = row(id="b", name="beta", labels={"k": "x" * 200_000})
    with pytest.raises(StoreUnavailable, match=r"disk .* is full"):
        await put(store, big)
    assert await store.read(lambda tx: tx.get_by_id("thing", "b")) is None


async def test_a_write_waits_for_another_process_and_then_says_why(store, tmp_path, monkeypatch):
    holder = sqlite3.connect(tmp_path / "db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    asyncio.get_running_loop().call_later(0.1, holder.execute, "ROLLBACK")
    assert (await put(store, row())).id == "a"
    holder.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("openshell.gateway.store.sqlite.WRITE_WAIT_SECONDS", 0.05)
    with pytest.raises(StoreUnavailable, match="locked by another process for too long"):
        await put(store, row(id="b", name="beta"))
    holder.close()
    assert (await put(store, row(id="b", name="beta"))).id == "b"


_OPENS_ONCE = """
import asyncio, sys
from openshell.gateway.store.sqlite import SqliteStore

async def main(path):
    store = await SqliteStore.open(path, clock_ms=lambda: 1)
    print(await store.write(lambda tx: "written"))
    await store.close()

print("ready", flush=True)
sys.stdin.readline()
for path in sys.argv[1:]:
    asyncio.run(main(path))
"""


def test_several_processes_may_make_one_new_database_at_once(tmp_path):
    # Two that switch a new file to the write-ahead log at one moment are told at once that it is
    # locked, whatever time SQLite was given to wait: sixty files make that moment likely.
    paths = [str(tmp_path / f"db{number}") for number in range(60)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPENS_ONCE, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in processes]
    assert [(out.split(), error) for out, error in answers] == [(["written"] * 60, "")] * 3
