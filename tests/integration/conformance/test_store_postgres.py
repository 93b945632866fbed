"""What only a database behind a connection can suffer; the contract is in `test_store_contract.py`."""

import asyncio
import contextlib
import signal
import socket
import threading
import traceback

import pytest

from integration.conformance.store_contract import Clock, put, row
from openshell.gateway.store import MatchResourceVersion, MustCreate, StoreUnavailable
from openshell.gateway.store.postgres import WRITE_ATTEMPTS, PostgresStore
from support.postgres import PASSWORD, PASSWORD_USER


async def opened(url):
    return await PostgresStore.open(url, clock_ms=Clock())


def name_in(url):
    return url.split("@/")[1].partition("?")[0]


@pytest.fixture
async def store(database_url):
    made = await opened(database_url)
    yield made
    await made.close()


@pytest.fixture
async def other(database_url):
    made = await opened(database_url)
    yield made
    await made.close()


def set_label(value):
    def fn(tx):
        present = tx.get_by_id("thing", "a")
        tx.put(row(labels={"by": value}), MatchResourceVersion(present.resource_version))

    return fn


async def test_two_that_read_before_either_wrote_do_not_both_win(store, other):
    """The interleaving that snapshots alone would let through, forced."""
    both_have_read = threading.Barrier(2)
    runs = []

    def claim(mine, theirs):
        def fn(tx):
            runs.append(mine)
            if tx.get_by_id("thing", theirs) is not None:
                return False
            if runs.count(mine) == 1:
                both_have_read.wait(5)
            tx.put(row(id=mine, name=mine), MustCreate())
            return True

        return fn

    won = await asyncio.gather(store.write(claim("a", "b")), other.write(claim("b", "a")))
    assert sorted(won) == [False, True]
    assert len(runs) == 3


async def test_a_write_that_lost_runs_alone_and_cannot_lose_again(store, other):
    await put(store, row())
    loop = asyncio.get_running_loop()
    runs, meddling = [], []

    def long(tx):
        present = tx.get_by_id("thing", "a")
        runs.append(present.resource_version)
        # A stranger's write in the middle: the first time it is done at once, then it has to wait.
        meddling.append(asyncio.run_coroutine_threadsafe(other.write(set_label("other")), loop))
        with contextlib.suppress(TimeoutError):
            meddling[-1].result(0.3)
        tx.put(row(labels={"by": "long"}), MatchResourceVersion(present.resource_version))

    await store.write(long)
    assert runs == [1, 2]
    await asyncio.wrap_future(meddling[1])
    assert (await store.read(lambda tx: tx.get_by_id("thing", "a"))).resource_version == 4


async def test_attempts_are_bounded(store, postgres, database_url, monkeypatch):
    """A program that is none of ours does not respect the gate."""
    monkeypatch.setattr("openshell.gateway.store.postgres.BACKOFF_SECONDS", 0)
    await put(store, row())
    name = name_in(database_url)
    runs = []

    def fn(tx):
        runs.append(tx.get_by_id("thing", "a"))
        postgres.execute("UPDATE objects SET resource_version = resource_version + 1", name)
        tx.put(row(labels={"x": "y"}), MatchResourceVersion(runs[-1].resource_version))

    with pytest.raises(StoreUnavailable, match=f"in {WRITE_ATTEMPTS} attempts: try again"):
        await store.write(fn)
    assert len(runs) == WRITE_ATTEMPTS
    assert (await put(store, row(id="b", name="b"))).resource_version == 1


async def test_a_key_taken_meanwhile_is_seen_by_the_next_attempt(store, other):
    """An update's key is looked for first; who takes it afterwards makes the update run again."""
    await put(store, row(scope="s", version=1))
    await put(store, row(id="b", name="b", scope="s", version=2))
    both_have_read = threading.Barrier(2)
    runs = []

    def move(which, name):
        def fn(tx):
            present = tx.get_by_id("thing", which)
            runs.append(which)
            if runs.count(which) == 1:
                both_have_read.wait(5)
            new = row(id=which, name=name, scope="s", version=3)
            tx.put(new, MatchResourceVersion(present.resource_version))

        return fn

    results = await asyncio.gather(
        store.write(move("a", "alpha")), other.write(move("b", "b")), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "UniqueViolation"]


def backend(tx):
    return tx._cursor.connection.info.backend_pid


async def test_a_broken_connection_is_no_failure(store, postgres):
    await put(store, row())
    pids = []

    def write(tx):
        pids.append(backend(tx))
        if len(pids) == 1:
            postgres.execute(f"SELECT pg_terminate_backend({pids[0]})")
        return tx.put(row(id="b", name="b"), MustCreate())

    def read(tx):
        pids.append(backend(tx))
        if len(pids) == 3:
            postgres.execute(f"SELECT pg_terminate_backend({pids[2]})")
        return tx.get_by_id("thing", "b")

    assert (await store.write(write)).id == "b"
    assert (await store.read(read)).id == "b"
    assert len(set(pids)) == len(pids) == 4


async def test_a_restarted_server_is_found_again(store, postgres):
    await put(store, row())
    postgres.stop(signal.SIGINT)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await put(store, row(id="b", name="b"))
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await store.look_up(lambda tx: tx.get_by_id("thing", "a"))
    postgres.start()
    assert (await store.look_up(lambda tx: tx.get_by_id("thing", "a"))).id == "a"
    assert (await put(store, row(id="b", name="b"))).id == "b"


class CuttingProxy:
    """Passes bytes on; once armed it passes a COMMIT on and cuts before the answer."""

    def __init__(self, directory, server):
        self.armed = False
        self._server = f"{server}/.s.PGSQL.5432"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{directory}/.s.PGSQL.5432")
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(self._server)
            for ends in ((client, upstream, True), (upstream, client, False)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source, sink, from_client):
        while True:
            try:
                data = source.recv(65_536)
                cut = from_client and self.armed and b"COMMIT" in data
                if cut:
                    source.shutdown(socket.SHUT_RDWR)
                if data:
                    sink.sendall(data)
            except OSError:
                data = b""
            if not data or cut:
                # The server does what it was sent before it sees the end.
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return

    def close(self):
        self._listener.close()


async def test_a_lost_answer_to_commit_is_said_to_be_unknown(
    store, postgres, database_url, tmp_path_factory
):
    directory = tmp_path_factory.mktemp("px")
    proxy = CuttingProxy(directory, postgres.directory)
    cut = await opened(f"{database_url}&host={directory}")
    try:
        await put(cut, row())
        proxy.armed = True
        runs = []

        def fn(tx):
            runs.append(1)
            return tx.put(row(id="b", name="b"), MustCreate())

        with pytest.raises(StoreUnavailable, match="whether it was is unknown"):
            await cut.write(fn)
        assert runs == [1]
        proxy.armed = False
        # And it was: running it again would have been wrong.
        async with asyncio.timeout(5):
            while await store.look_up(lambda tx: tx.get_by_id("thing", "b")) is None:
                await asyncio.sleep(0.01)
        assert (await put(cut, row(id="c", name="c"))).id == "c"
    finally:
        await cut.close()
        proxy.close()


async def test_a_swallowed_failure_commits_nothing(store):
    def fn(tx):
        with contextlib.suppress(Exception):
            tx._find("SELECT 1 / 0", ())
        return "done"

    with pytest.raises(RuntimeError, match="went on after a statement had failed"):
        await store.write(fn)


async def test_many_open_an_empty_database_at_once(database_url):
    stores = await asyncio.gather(*(opened(database_url) for _ in range(8)))
    await put(stores[0], row())
    assert (await stores[7].read(lambda tx: tx.get_by_id("thing", "a"))).id == "a"
    for store in stores:
        await store.close()


async def test_a_newer_schema_is_refused(store, postgres, database_url):
    name = name_in(database_url)
    postgres.execute("UPDATE openshell_schema SET at = 999", name)
    with pytest.raises(StoreUnavailable, match="schema 999"):
        await opened(database_url)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            lambda s, _u, p: s.url("postgres", user=PASSWORD_USER, password=p),
            "refuses the password",
            id="wrong password",
        ),
        pytest.param(
            lambda s, _u, _p: s.url("postgres", user=PASSWORD_USER),
            "refuses the password",
            id="no password",
        ),
        pytest.param(
            lambda s, _u, p: s.url("no_such_database", password=p),
            "does not exist",
            id="no database",
        ),
        pytest.param(
            lambda _s, _u, p: f"postgresql://u:{p}@/d?host=/nonexistent",
            "cannot be reached",
            id="no server",
        ),
        pytest.param(
            lambda _s, _u, p: f"postgresql://u:{p}@127.0.0.1:1/d", "cannot be reached", id="refused"
        ),
        pytest.param(
            lambda s, u, p: u.replace("postgres@", f"postgres:{p}@") + "&options=-cdefault_transaction_read_only%3Don",
            "read-only",
            id="read-only",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_opened_is_one_sentence_without_the_password(
    postgres, database_url, change, says, caplog
):
    caplog.set_level(0)
    with pytest.raises(StoreUnavailable, match=says) as caught:
        await opened(change(postgres, database_url, "wrong-hunter2"))
    shown = "".join(traceback.format_exception(caught.value, limit=0)) + caplog.text
    assert "hunter2" not in shown
    assert "\n" not in str(caught.value)


async def test_the_right_password_opens_and_is_shown_nowhere(postgres, database_url, caplog):
    caplog.set_level(0)
    url = postgres.url(name_in(database_url), user=PASSWORD_USER, password=PASSWORD)
    store = await opened(url)
    await put(store, row())
    assert PASSWORD not in repr(store) + repr(store._connections) + caplog.text
    await store.close()
