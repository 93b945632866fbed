"""Numbered migrations of the SQLite schema, applied at every start, each in its own transaction.

A migration that was released is never edited. A database newer than this program is refused.
"""

from __future__ import annotations

import sqlite3

from openshell.gateway.store.model import StoreUnavailable

__all__ = ["MIGRATIONS", "migrate"]

_OBJECTS = (
    """
    CREATE TABLE objects (
        id TEXT PRIMARY KEY,
        object_type TEXT NOT NULL,
        name TEXT,
        scope TEXT,
        version INTEGER,
        status TEXT,
        dedup_key TEXT,
        hit_count INTEGER NOT NULL DEFAULT 0,
        payload BLOB NOT NULL,
        created_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        labels TEXT NOT NULL DEFAULT '{}',
        resource_version INTEGER NOT NULL DEFAULT 1,
        workspace TEXT NOT NULL DEFAULT ''
    ) STRICT
    """,
    """
    CREATE UNIQUE INDEX objects_name ON objects (object_type, workspace, name)
        WHERE name IS NOT NULL
    """,
    """
    CREATE UNIQUE INDEX objects_version ON objects (object_type, scope, version)
        WHERE scope IS NOT NULL AND version IS NOT NULL
    """,
    """
    CREATE UNIQUE INDEX objects_dedup_key ON objects (object_type, scope, dedup_key)
        WHERE scope IS NOT NULL AND dedup_key IS NOT NULL
    """,
    """
    CREATE INDEX objects_status ON objects (object_type, scope, status, version)
        WHERE scope IS NOT NULL
    """,
    "CREATE INDEX objects_created ON objects (object_type, created_at_ms, name)",
)

_LOGS = (
    """
    CREATE TABLE logs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        sandbox_id TEXT NOT NULL,
        ts_ms INTEGER NOT NULL,
        source TEXT NOT NULL,
        level TEXT NOT NULL,
        target TEXT NOT NULL,
        message TEXT NOT NULL,
        fields TEXT NOT NULL DEFAULT '{}'
    ) STRICT
    """,
    "CREATE INDEX logs_sandbox ON logs (sandbox_id, id)",
    # How many lines a sandbox has: retention must not count them at every append.
    """
    CREATE TABLE log_counts (
        sandbox_id TEXT PRIMARY KEY,
        lines INTEGER NOT NULL
    ) STRICT
    """,
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_OBJECTS, _LOGS)
"""Index plus one is the schema's number, kept in `PRAGMA user_version`."""


def migrate(connection: sqlite3.Connection) -> int:
    """Brings the schema up to date; the number it is at. Two processes may do this at once."""
    while True:
        connection.execute("BEGIN IMMEDIATE")
        try:
            at = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if at > len(MIGRATIONS):
                raise StoreUnavailable(
                    f"the database has schema {at}, this program knows up to {len(MIGRATIONS)}: "
                    "start the version of the gateway that wrote it, or a newer one"
                )
            if at == len(MIGRATIONS):
                connection.execute("ROLLBACK")
                return at
            for statement in MIGRATIONS[at]:
                connection.execute(statement)
            # A pragma takes no parameters; the value is an integer of ours.
            connection.execute(f"PRAGMA user_version = {at + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
