"""One SQLite transaction: how `sql_tx.py` is executed. Used by `sqlite.py` only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from openshell.gateway.store.sql_tx import Parameters, SqlTx

__all__ = ["SqliteTx"]


class SqliteTx(SqlTx):
    """Implements `Tx` on a connection that is inside a transaction."""

    # Not a JSON path: keys hold dots and slashes.
    LABEL_IS = (
        "EXISTS (SELECT 1 FROM json_each(objects.labels) AS pair "
        "WHERE pair.key = ? AND pair.value = ?)"
    )

    def __init__(self, connection: sqlite3.Connection, now_ms: int) -> None:
        super().__init__(now_ms)
        self._connection = connection

    def _find(self, sql: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()

    def _change(self, sql: str, parameters: Parameters) -> int:
        return self._connection.execute(sql, parameters).rowcount

    def _change_each(self, sql: str, parameters: Iterable[Parameters]) -> None:
        self._connection.executemany(sql, parameters)
