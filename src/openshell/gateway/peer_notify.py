"""NOTIFY and LISTEN between the gateways that share one PostgreSQL database.

Two connections, so that telling never waits for hearing. A broken one is opened again; what was told
meanwhile is lost, and found by polling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import psycopg

from openshell.gateway.store.postgres import connect_arguments
from openshell.gateway.tasks import Tasks

__all__ = ["NotifyChannel"]

NAME: Final = "openshell_notices"
RETRY_SECONDS: Final = 2.0
"""Before a broken connection is opened again."""

_log = logging.getLogger(__name__)

_Connection = psycopg.AsyncConnection[Any]


class NotifyChannel:
    """Implements `peers.Channel`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._teller: _Connection | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._not_before = 0.0

    async def open(self, receive: Callable[[bytes], None], tasks: Tasks) -> None:
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hearing = tasks.spawn("hear other gateways", self._hear(receive, heard))
        await heard

    async def _connect(self) -> _Connection:
        connection: _Connection = await psycopg.AsyncConnection.connect(
            **connect_arguments(self._url)
        )
        return connection

    async def _hear(self, receive: Callable[[bytes], None], heard: asyncio.Future[None]) -> None:
        """Runs for ever. The first attempt, good or bad, sets `heard`."""
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(f"LISTEN {NAME}")
                    if not heard.done():
                        heard.set_result(None)
                    async for notice in connection.notifies():
                        receive(notice.payload.encode())
            except psycopg.Error as error:
                # Its text may quote the URL, and that holds the password.
                _log.warning("other gateways are not heard (%s)", type(error).__name__)
            if not heard.done():
                heard.set_result(None)
            await asyncio.sleep(RETRY_SECONDS)

    async def send(self, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            return
        try:
            if self._teller is None or self._teller.closed:
                self._teller = await self._connect()
            await self._teller.execute("SELECT pg_notify(%s, %s)", (NAME, message.decode()))
        except psycopg.Error as error:
            self._not_before = loop.time() + RETRY_SECONDS
            _log.warning("other gateways are not told (%s)", type(error).__name__)

    async def close(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.wait([self._hearing])
        if self._teller is not None:
            await self._teller.close()
