"""Renews in the background what is due: one sweep at the start, then one every minute.

Every gateway of a database sweeps; a state's claim decides who renews it. One credential after the
other, and no failure of one keeps the next from its turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from openshell.gateway.errors import ApiError, Code
from openshell.gateway.records import Kind, load
from openshell.gateway.refresh.renewal import Renewals
from openshell.gateway.refresh.states import State, is_claimed
from openshell.gateway.store.model import Row, Store, StoreError, Tx

__all__ = ["SWEEP_SECONDS", "RefreshWorker"]

SWEEP_SECONDS: Final = 60.0
"""Between sweeps; lead times are minutes."""

_ROTATION_REQUESTED: Final = "rotation_requested"

_log = logging.getLogger(__name__)


class RefreshWorker:
    """`run` is a task of the gateway's, from its start to its end."""

    def __init__(
        self,
        store: Store,
        renewals: Renewals,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._renewals = renewals
        self._sleep = sleep

    async def run(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreError as error:
                _log.warning("credentials could not be looked through: %s", error)
            await self._sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Renews everything that is due now."""
        watched, due, requested = await self._store.read(_look)
        level = logging.INFO if due else logging.DEBUG
        _log.log(
            level,
            "refresh: %d credentials watched, %d due, %d of them on request",
            watched,
            len(due),
            requested,
        )
        for row_id in due:
            await self._renew(row_id)

    async def _renew(self, row_id: str) -> None:
        def find(tx: Tx) -> Row | None:
            row = tx.get_by_id(Kind.REFRESH_STATE, row_id)
            return row if row is not None and _is_due(row, tx.now_ms) else None

        try:
            state = await self._renewals.renew(find)
        except ApiError as error:
            # Another gateway's claim or a change of the configuration is nobody's failure.
            level = logging.INFO if error.code is Code.ABORTED else logging.WARNING
            _log.log(level, "refresh: %s: %s", row_id, error.message)
        except StoreError as error:
            _log.warning("refresh: %s: %s", row_id, error)
        else:
            if state is not None:
                _log.info(
                    "refresh: '%s' of provider '%s' renewed",
                    state.credential_key,
                    state.provider_name,
                )


def _look(tx: Tx) -> tuple[int, list[str], int]:
    rows = tx.all(Kind.REFRESH_STATE)
    due = [row for row in rows if _is_due(row, tx.now_ms)]
    requested = sum(load(row, State).status == _ROTATION_REQUESTED for row in due)
    return len(rows), [row.id for row in due], requested


def _is_due(row: Row, now_ms: int) -> bool:
    state = load(row, State)
    if is_claimed(row, state, now_ms):
        return False
    return state.next_refresh_at_ms <= now_ms or state.status == _ROTATION_REQUESTED
