"""The store on SQLite: one writer thread, a few reader threads, write-ahead log.

Writers of other processes are allowed (several gateways, one database): every write begins
IMMEDIATE and is retried when the lock was not to be had. A caller that is cancelled does not stop
a transaction that began; it only does not learn of it.

Look-ups run on the caller's thread: they take a fifth of what changing threads and back costs, and
in this journal mode a reader waits for no writer.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from openshell.gateway.store.migrations import SQLITE, pending
from openshell.gateway.store.model import StoreUnavailable, Tx
from openshell.gateway.store.sqlite_tx import SqliteTx

__all__ = ["SqliteStore"]

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
"""How long SQLite itself waits for another process, apart from writes."""
WRITE_WAIT_SECONDS = 10.0
"""How long a write waits for another process's; the caller then hears why."""
WRITE_PAUSE_SECONDS = 0.0005
"""Between two attempts to begin. SQLite's own pauses grow to a tenth of a second, and whoever waits
longest comes last: with two gateways under load one write in a hundred took that long."""
READERS = 2
"""Reader threads: queries take tens of microseconds, two keep one slow list from blocking the rest."""

_SENTENCES = {
    sqlite3.SQLITE_FULL: "the disk that holds the gateway's database is full: free some space",
    sqlite3.SQLITE_READONLY: "the gateway's database is read-only: make the file and its directory writable",
    sqlite3.SQLITE_IOERR: "the gateway's database cannot be read or written (I/O error): check the disk",
    sqlite3.SQLITE_CORRUPT: "the gateway's database is damaged: restore it from a copy",
    sqlite3.SQLITE_NOTADB: "the gateway's database file is not an SQLite database: check the path",
    sqlite3.SQLITE_CANTOPEN: "the gateway's database cannot be opened: check that its directory exists and is writable",
    sqlite3.SQLITE_BUSY: "the gateway's database is locked by another process for too long: try again",
    sqlite3.SQLITE_LOCKED: "the gateway's database is locked: try again",
}


class SqliteStore:
    """Implements `Store`. Open it with `SqliteStore.open`."""

    def __init__(self, path: str, clock_ms: Callable[[], int]) -> None:
        self._path = path
        self._clock_ms = clock_ms
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    @classmethod
    async def open(cls, path: str, *, clock_ms: Callable[[], int]) -> SqliteStore:
        """Creates the file (0600) if absent and migrates it. Raises `StoreUnavailable`."""
        store = cls(path, clock_ms)
        try:
            await asyncio.get_running_loop().run_in_executor(store._writer, store._prepare)
        except BaseException:
            await store.close()
            raise
        return store

    def __repr__(self) -> str:
        return f"SqliteStore({self._path!r})"

    def _prepare(self) -> None:
        try:
            # Made by us first, so that it never exists with a wider mode.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnavailable(
                f"the gateway's database {self._path} cannot be opened: {error.strerror}"
            ) from error
        try:
            connection = self._connection()
            # SQLite waits for no other process where waiting could lock both for ever, as when two
            # switch a new file to this journal; and the writer's waiting is `_patiently`'s anyway.
            connection.execute("PRAGMA busy_timeout = 0")
            _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
            _patiently(lambda: _migrate(connection))
        except sqlite3.Error as error:
            raise _unavailable(error) from error
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(self._path + suffix):
                os.chmod(self._path + suffix, 0o600)

    def _connection(self, timeout_ms: int = BUSY_TIMEOUT_MS) -> sqlite3.Connection:
        present: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if present is not None:
            return present
        connection = sqlite3.connect(
            self._path,
            timeout=timeout_ms / 1000,
            isolation_level=None,
            # Each is used by one thread; `close` runs in another after all have ended.
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA trusted_schema = OFF")
        self._local.connection = connection
        with self._lock:
            self._connections.append(connection)
        return connection

    def _run(self, connection: sqlite3.Connection, begin: str, fn: Callable[[Tx], T]) -> T:
        connection.execute(begin)
        try:
            result = fn(SqliteTx(connection, self._clock_ms()))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def _write(self, fn: Callable[[Tx], T]) -> T:
        try:
            return _patiently(lambda: self._run(self._connection(), "BEGIN IMMEDIATE", fn))
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    def _read(self, fn: Callable[[Tx], T]) -> T:
        try:
            return self._run(self._connection(), "BEGIN", fn)
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    async def write(self, fn: Callable[[Tx], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._write, fn)

    async def read(self, fn: Callable[[Tx], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, fn)

    async def look_up(self, fn: Callable[[Tx], T]) -> T:
        try:
            # The loop must never wait for a lock.
            return self._run(self._connection(timeout_ms=0), "BEGIN", fn)
        except sqlite3.Error:
            # A reader's thread may wait, or says what is wrong.
            return await self.read(fn)

    async def close(self) -> None:
        """Waits for running transactions, then closes. Idempotent."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._shutdown)

    def _shutdown(self) -> None:
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()


def _patiently(attempt: Callable[[], T]) -> T:
    """Repeats what another process's lock refused, for as long as a write waits."""
    give_up = time.monotonic() + WRITE_WAIT_SECONDS
    while True:
        try:
            return attempt()
        except sqlite3.Error as error:
            if _primary_code(error) not in _RETRIED or time.monotonic() > give_up:
                raise
        time.sleep(WRITE_PAUSE_SECONDS)


def _migrate(connection: sqlite3.Connection) -> None:
    """Brings the schema up to date, each step in its own transaction. Two may do this at once."""
    while True:
        connection.execute("BEGIN IMMEDIATE")
        try:
            at = int(connection.execute("PRAGMA user_version").fetchone()[0])
            statements = pending(at, SQLITE)
            for statement in statements:
                connection.execute(statement)
            if statements:
                # A pragma takes no parameters; the value is an integer of ours.
                connection.execute(f"PRAGMA user_version = {at + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if not statements:
            return


_RETRIED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _primary_code(error: sqlite3.Error) -> int:
    # The extended code carries the primary one in its low byte.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _unavailable(error: sqlite3.Error) -> StoreUnavailable:
    sentence = _SENTENCES.get(_primary_code(error))
    if sentence is None:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        sentence = f"the gateway's database refused an operation ({name}): see the gateway's log"
    return StoreUnavailable(sentence)
