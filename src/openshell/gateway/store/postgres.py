"""The store on PostgreSQL: a few threads, each with a connection of its own, serialisable writes.

A write that the database could not fit into an order with others is run again, now alone: writers
hold the gate, a table lock that they share, and a second attempt takes it for itself. So a long write
comes to its end whatever the traffic. Plans that scan a small table lock it whole; forbidding them
(`enable_seqscan`) was measured and saves no retries, for the index of a small table is one page.

A connection that broke is opened again. What had not come to its COMMIT is run again, for it left
nothing; when the answer to COMMIT is lost the caller hears that the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias, TypeVar

import psycopg

from openshell.gateway.store.migrations import POSTGRES, pending
from openshell.gateway.store.model import StoreUnavailable, Tx
from openshell.gateway.store.postgres_errors import Failure, classify, unavailable
from openshell.gateway.store.postgres_tx import PostgresTx

__all__ = ["PostgresStore", "connect_arguments"]

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]

WRITERS: Final = 2
"""Writer threads, so that one long write does not hold up the rest. More of them collide more: with
two gateways under load, four each made twice the retries and no more writes."""
READERS: Final = 2
"""Reader threads: a query takes a tenth of a millisecond, two keep one slow list from blocking."""
WRITE_ATTEMPTS: Final = 5
"""Times a write is run before its caller hears that the database is too busy."""
ALONE_AFTER: Final = 1
"""Attempts beside other writers. The rest are made alone, where nothing of ours can collide: under
two loaded gateways the slowest hundredth takes 15 ms so, and 60 ms after three attempts with pauses."""
LOST_MAX: Final = 2
"""Connections that may break under one operation: one that was stale, and one restart."""
BACKOFF_SECONDS: Final = 0.02
"""Mean wait after an attempt alone has failed: another program writes, or the gate is taken."""
CONNECT_SECONDS: Final = 5
"""To reach the server, unless the URL says otherwise."""

_SESSION: Final = (
    # A gateway that is stopped in mid-transaction must not stop the others for ever.
    "SET idle_in_transaction_session_timeout = '10s'; "
    "SET lock_timeout = '5s'; "
    "SET statement_timeout = '60s'"
)
# Locking a table takes no snapshot, so what is read afterwards is what the last writer left.
_BEGIN_WRITE: Final = (
    "BEGIN ISOLATION LEVEL SERIALIZABLE; LOCK TABLE openshell_schema IN ROW SHARE MODE"
)
_BEGIN_ALONE: Final = (
    "BEGIN ISOLATION LEVEL SERIALIZABLE; LOCK TABLE openshell_schema IN EXCLUSIVE MODE"
)
_BEGIN_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_MIGRATION_LOCK: Final = 0x6F70656E7368
"""Advisory lock of whoever migrates: "opensh" in hexadecimal."""

_log = logging.getLogger(__name__)


def connect_arguments(url: str) -> dict[str, Any]:
    """What every connection of ours is opened with."""
    defaults = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "openshell-gateway",
        # A server that vanished is noticed in a minute, not in the two hours of the kernel.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    given = psycopg.conninfo.conninfo_to_dict(url)
    return {**defaults, **given, "client_encoding": "utf-8", "autocommit": True}


class PostgresStore:
    """Implements `Store`. Open it with `PostgresStore.open`."""

    def __init__(
        self, url: str, clock_ms: Callable[[], int], chance: Callable[[], float] = random.random
    ) -> None:
        self._url = url
        self._clock_ms = clock_ms
        self._chance = chance
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._lock = threading.Lock()
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    @classmethod
    async def open(cls, url: str, *, clock_ms: Callable[[], int]) -> PostgresStore:
        """Connects and migrates. Raises `StoreUnavailable`."""
        store = cls(url, clock_ms)
        try:
            await asyncio.get_running_loop().run_in_executor(store._writers, store._prepare)
        except BaseException:
            await store.close()
            raise
        return store

    def __repr__(self) -> str:
        return "PostgresStore()"

    # -- connections

    def _prepare(self) -> None:
        connection = self._connection()
        _warn_of_clear_text(connection)
        try:
            _migrate(connection)
        except psycopg.Error as error:
            raise unavailable(error) from error

    def _connection(self) -> Connection:
        """The connection of the thread that asks. Raises `StoreUnavailable`."""
        present: Connection | None = getattr(self._local, "connection", None)
        if present is not None and not present.closed:
            return present
        try:
            connection: Connection = psycopg.connect(**connect_arguments(self._url))
            connection.execute(_SESSION)
        except psycopg.Error as error:
            # Its text may quote the URL, and that holds the password.
            raise unavailable(error) from None
        if connection.info.parameter_status("server_encoding") != "UTF8":
            connection.close()
            raise StoreUnavailable("the PostgreSQL database must be made with ENCODING 'UTF8'")
        self._local.connection = connection
        with self._lock:
            self._connections = [c for c in self._connections if not c.closed]
            self._connections.append(connection)
        return connection

    # -- transactions

    def _run(self, begin: str, fn: Callable[[Tx], T]) -> T:
        connection = self._connection()
        try:
            connection.execute(begin)
            result = fn(PostgresTx(connection, self._clock_ms()))
        except BaseException:
            _roll_back(connection)
            raise
        try:
            ended = connection.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            if connection.closed and begin != _BEGIN_READ:
                raise StoreUnavailable(
                    "the connection to the database broke while a change was being stored; "
                    "whether it was is unknown: look before you try again"
                ) from error
            raise
        if ended != "COMMIT":
            raise RuntimeError("a transaction function went on after a statement had failed")
        return result

    def _write(self, fn: Callable[[Tx], T]) -> T:
        lost = 0
        for attempt in range(1, WRITE_ATTEMPTS + 1):
            try:
                return self._run(_BEGIN_ALONE if attempt > ALONE_AFTER else _BEGIN_WRITE, fn)
            except psycopg.Error as error:
                failure = classify(error)
                lost += failure is Failure.LOST
                if failure is Failure.REFUSED or lost > LOST_MAX:
                    raise unavailable(error) from error
                last = error
            if failure is Failure.COLLIDED and attempt > ALONE_AFTER:
                time.sleep(2 * self._chance() * BACKOFF_SECONDS * 2 ** (attempt - ALONE_AFTER - 1))
        raise StoreUnavailable(
            f"the database could not fit a change between those of others in {WRITE_ATTEMPTS} "
            "attempts: try again"
        ) from last

    def _read(self, fn: Callable[[Tx], T]) -> T:
        lost = 0
        while True:
            try:
                return self._run(_BEGIN_READ, fn)
            except psycopg.Error as error:
                lost += 1
                if classify(error) is not Failure.LOST or lost > LOST_MAX:
                    raise unavailable(error) from error

    async def write(self, fn: Callable[[Tx], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writers, self._write, fn)

    async def read(self, fn: Callable[[Tx], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, fn)

    async def look_up(self, fn: Callable[[Tx], T]) -> T:
        # The loop must never wait for a network.
        return await self.read(fn)

    async def close(self) -> None:
        """Waits for running transactions, then closes. Idempotent."""
        await asyncio.get_running_loop().run_in_executor(None, self._shutdown)

    def _shutdown(self) -> None:
        self._writers.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()


def _roll_back(connection: Connection) -> None:
    """Whatever it was doing: afterwards it is idle or closed."""
    try:
        connection.execute("ROLLBACK")
    except psycopg.Error:
        connection.close()


def _migrate(connection: Connection) -> None:
    """Brings the schema up to date. Whoever comes second waits and finds it done."""
    while True:
        try:
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            connection.execute("CREATE TABLE IF NOT EXISTS openshell_schema (at BIGINT NOT NULL)")
            found = connection.execute("SELECT at FROM openshell_schema").fetchone()
            at = 0 if found is None else int(found[0])
            statements = pending(at, POSTGRES)
            for statement in statements:
                connection.execute(statement.encode())
            if found is None:
                connection.execute("INSERT INTO openshell_schema (at) VALUES (0)")
            if statements:
                connection.execute("UPDATE openshell_schema SET at = %s", (at + 1,))
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        if not statements:
            return


def _warn_of_clear_text(connection: Connection) -> None:
    info = connection.info
    local = info.host.startswith("/") or info.hostaddr in {"127.0.0.1", "::1"}
    if not local and not connection.pgconn.ssl_in_use:
        _log.warning("the connection to PostgreSQL is not encrypted: add sslmode=verify-full")
