"""Refresh RPCs: status, configure, rotate, delete.

Messages in and out; the work is that of `openshell.gateway.refresh`. A caller that hangs up must not
separate a write from what follows it, so whatever writes runs to its end.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from openshell._proto import openshell_pb2
from openshell.gateway.credentials.model import CredentialStore
from openshell.gateway.errors import not_found
from openshell.gateway.events import Bus
from openshell.gateway.records import Kind
from openshell.gateway.refresh.configuration import Configurations, find_provider
from openshell.gateway.refresh.renewal import Renewals
from openshell.gateway.refresh.states import (
    State,
    find_state,
    load_anyway,
    status_message,
    strategy_of,
)
from openshell.gateway.services.lookup import require_field
from openshell.gateway.store.model import Row, Store, Tx
from openshell.gateway.tasks import Tasks
from openshell.providers.refresh_configure import ConfigureRequest

__all__ = ["Refresh"]


class Refresh:
    """The refresh methods of the API."""

    def __init__(
        self,
        store: Store,
        credentials: CredentialStore,
        bus: Bus,
        renewals: Renewals,
        *,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        tasks: Tasks | None = None,
    ) -> None:
        self._store = store
        self._renewals = renewals
        self._configurations = Configurations(store, credentials, bus, new_id=new_id)
        self._tasks = tasks or Tasks()

    async def GetProviderRefreshStatus(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetProviderRefreshStatusRequest, _context: Any
    ) -> openshell_pb2.GetProviderRefreshStatusResponse:
        require_field(request.provider, "provider")
        key = request.credential_key.strip()

        def read(tx: Tx) -> list[State]:
            provider = find_provider(tx, request.workspace, request.provider)
            if key:
                row = find_state(tx, provider, key)
                return [load_anyway(row)] if row is not None else []
            rows = tx.all(Kind.REFRESH_STATE, scope=provider.id)
            return sorted((load_anyway(row) for row in rows), key=lambda s: s.credential_key)

        states = await self._store.read(read)
        return openshell_pb2.GetProviderRefreshStatusResponse(
            credentials=[status_message(state) for state in states]
        )

    async def ConfigureProviderRefresh(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ConfigureProviderRefreshRequest, _context: Any
    ) -> openshell_pb2.ConfigureProviderRefreshResponse:
        asked = ConfigureRequest(
            provider=request.provider,
            key=request.credential_key,
            strategy=strategy_of(request.strategy),
            material=dict(request.material),
            secret_names=tuple(request.secret_material_keys),
            expires_at_ms=request.expires_at_ms if request.HasField("expires_at_ms") else None,
        )
        state = await self._tasks.complete(
            "configure refresh", self._configurations.configure(request.workspace, asked)
        )
        return openshell_pb2.ConfigureProviderRefreshResponse(status=status_message(state))

    async def RotateProviderCredential(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.RotateProviderCredentialRequest, _context: Any
    ) -> openshell_pb2.RotateProviderCredentialResponse:
        require_field(request.provider, "provider")
        require_field(request.credential_key, "credential_key")

        def find(tx: Tx) -> Row:
            provider = find_provider(tx, request.workspace, request.provider)
            row = find_state(tx, provider, request.credential_key)
            if row is None:
                raise not_found(
                    f"provider '{request.provider}' has no refresh for '{request.credential_key}'"
                )
            return row

        state = await self._tasks.complete("rotate credential", self._renewals.renew(find))
        assert state is not None  # noqa: S101  `find` gives a row or raises
        return openshell_pb2.RotateProviderCredentialResponse(status=status_message(state))

    async def DeleteProviderRefresh(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.DeleteProviderRefreshRequest, _context: Any
    ) -> openshell_pb2.DeleteProviderRefreshResponse:
        require_field(request.provider, "provider")
        require_field(request.credential_key, "credential_key")
        deleted = await self._tasks.complete(
            "delete refresh",
            self._configurations.delete(
                request.workspace, request.provider, request.credential_key
            ),
        )
        return openshell_pb2.DeleteProviderRefreshResponse(deleted=deleted)
