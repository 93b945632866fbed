"""Renews in the background what is due: one sweep at the start, then one every minute.

Every gateway of a database sweeps; a state's claim decides who renews it. One credential after the
other, and no failure of one keeps the next from its turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from openshell.gateway.errors import Code
from openshell.gateway.records import Kind, load
from openshell.gateway.refresh.refusals import as_api_error
from openshell.gateway.refresh.renewal import Renewals
from openshell.gateway.refresh.states import State
from openshell.gateway.store.model import Row, Store, Tx

__all__ = ["SWEEP_SECONDS", "RefreshWorker"]

SWEEP_SECONDS: Final = 60.0
"""Between sweeps; lead times are minutes."""

_ROTATION_REQUESTED: Final = "rotation_requested"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Due:
    row_id: str
    key: str
    provider: str
    is_requested: bool


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
            except Exception as error:
                told = as_api_error(error, "everything that is due")
                _log.warning("refresh: this sweep failed: %s", told.message)
            await self._sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Renews everything that is due now."""
        watched, due = await self._store.read(_look)
        _log.log(
            logging.INFO if due else logging.DEBUG,
            "refresh: %d credentials watched, %d due, %d of them on request",
            watched,
            len(due),
            sum(item.is_requested for item in due),
        )
        for item in due:
            await self._renew(item)

    async def _renew(self, item: _Due) -> None:
        def find(tx: Tx) -> Row | None:
            row = tx.get_by_id(Kind.REFRESH_STATE, item.row_id)
            # Another gateway may have been faster.
            return row if row is not None and _due(row, tx.now_ms) is not None else None

        what = f"'{item.key}' of provider '{item.provider}'"
        try:
            state = await self._renewals.renew(find)
        except Exception as error:
            told = as_api_error(error, item.key)
            # A change of the configuration meanwhile is nobody's failure.
            level = logging.INFO if told.code is Code.ABORTED else logging.WARNING
            _log.log(level, "refresh: %s: %s", what, told.message)
        else:
            if state is not None:
                _log.info("refresh: %s renewed", what)


def _look(tx: Tx) -> tuple[int, list[_Due]]:
    rows = tx.all(Kind.REFRESH_STATE)
    found = [_due(row, tx.now_ms) for row in rows]
    return len(rows), [item for item in found if item is not None]


def _due(row: Row, now_ms: int) -> _Due | None:
    try:
        state = load(row, State)
    except DecodeError:
        _log.warning("refresh: the stored state %s is damaged and left out", row.id)
        return None
    requested = state.status == _ROTATION_REQUESTED
    # A claimed state is due when its claim ends.
    if state.next_refresh_at_ms > now_ms and not requested:
        return None
    return _Due(row.id, state.credential_key, state.provider_name, requested)
