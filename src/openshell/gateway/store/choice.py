"""From the settings of the database to an open store. The only place that knows both kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from openshell.gateway.config import Database
from openshell.gateway.store.model import Store
from openshell.gateway.store.sqlite import SqliteStore

__all__ = ["open_store"]


async def open_store(database: Database, *, clock_ms: Callable[[], int]) -> Store:
    """Creates and migrates what is missing. Raises `StoreUnavailable`."""
    if database.url:
        # Only now: it is an extra, and most gateways never need it.
        from openshell.gateway.store.postgres import PostgresStore  # noqa: PLC0415

        return await PostgresStore.open(database.url, clock_ms=clock_ms)
    Path(database.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return await SqliteStore.open(database.path, clock_ms=clock_ms)
