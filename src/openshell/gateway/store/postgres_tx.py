"""One PostgreSQL transaction: how `sql_tx.py` is executed. Used by `postgres.py` only."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import psycopg

from openshell.gateway.store.sql_tx import Parameters, SqlTx

__all__ = ["PostgresTx"]


@functools.cache
def _placed(sql: str) -> bytes:
    """A statement of ours with this driver's placeholders; there are a few dozen."""
    return sql.replace("?", "%s").encode("ascii")


class PostgresTx(SqlTx):
    """Implements `Tx` on a connection that is inside a transaction."""

    LABEL_IS = "labels ->> CAST(? AS TEXT) = ?"

    def __init__(self, connection: psycopg.Connection[Any], now_ms: int) -> None:
        super().__init__(now_ms)
        # Binary: payloads would travel as hexadecimal otherwise.
        self._cursor = connection.cursor(binary=True)

    def _find(self, sql: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        if _holds_nul(parameters) and sql.startswith("SELECT"):
            # No text here has a NUL, so nothing is equal to one; sent, it would be an error.
            return []
        self._cursor.execute(_placed(sql), parameters)
        return self._cursor.fetchall()

    def _change(self, sql: str, parameters: Parameters) -> int:
        if _holds_nul(parameters) and sql.startswith("DELETE"):
            return 0
        self._cursor.execute(_placed(sql), parameters)
        return self._cursor.rowcount

    def _change_each(self, sql: str, parameters: Iterable[Parameters]) -> None:
        self._cursor.executemany(_placed(sql), parameters)


def _holds_nul(parameters: Parameters) -> bool:
    return any(isinstance(value, str) and "\0" in value for value in parameters)
