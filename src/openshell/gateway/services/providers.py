"""Provider RPCs: create, get, list, update, delete.

What each decides and writes is one transaction (`provider_writes.py`); secrets go through the
credential store in step with it, and after a commit the sandboxes concerned are told. Profiles are
`profiles.py`, refresh is `refresh.py`.
"""

from __future__ import annotations

import secrets
import string
import uuid
from collections.abc import Callable
from typing import Any, Final

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.credentials.model import CredentialRef, CredentialStore
from openshell.gateway.errors import aborted, already_exists, invalid_argument
from openshell.gateway.events import Bus
from openshell.gateway.limits import check_annotations, check_labels
from openshell.gateway.records import Kind, to_row
from openshell.gateway.services.inference_rows import sandboxes_of_routes
from openshell.gateway.services.lookup import check_expected_version, require_field
from openshell.gateway.services.provider_records import (
    change_from_request,
    new_from_message,
    redacted,
)
from openshell.gateway.services.provider_writes import (
    Applied,
    apply_change,
    check_creation,
    find_provider,
    plan_change,
    remove_provider,
    set_handles,
)
from openshell.gateway.store.model import MustCreate, Row, Store, Tx, UniqueViolation
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace

__all__ = ["Providers"]

_GENERATED_NAME_LETTERS: Final = 6


def _random_name() -> str:
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(_GENERATED_NAME_LETTERS))


class Providers:
    """The provider methods of the API."""

    def __init__(
        self,
        store: Store,
        credentials: CredentialStore,
        bus: Bus,
        *,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        new_name: Callable[[], str] = _random_name,
        tasks: Tasks | None = None,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._bus = bus
        self._tasks = tasks or Tasks()
        self._new_id = new_id
        self._new_name = new_name

    async def CreateProvider(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.CreateProviderRequest, _context: Any
    ) -> openshell_pb2.ProviderResponse:
        if not request.HasField("provider"):
            raise invalid_argument("provider is required")
        new = new_from_message(request.provider)

        # Before anything is sealed, and again inside the write.
        workspace = await self._store.read(lambda tx: check_creation(tx, request.workspace, new))
        check_labels("provider labels", request.provider.metadata.labels)
        check_annotations("provider annotations", request.provider.metadata.annotations)
        message = datamodel_pb2.Provider(
            type=new.type, config=new.config, profile_workspace=new.profile_workspace
        )
        metadata = message.metadata
        metadata.id = self._new_id()
        metadata.name = new.name or self._new_name()
        metadata.workspace = workspace
        metadata.labels.update(request.provider.metadata.labels)
        metadata.annotations.update(request.provider.metadata.annotations)
        for key, expires in new.expires_at_ms.items():
            if expires:
                message.credential_expires_at_ms[key] = expires
        prepared = await self._credentials.prepare(metadata.id, new.credentials)
        set_handles(message, self._credentials.driver, prepared)

        def write(tx: Tx) -> Row:
            check_creation(tx, workspace, new)
            metadata.created_at_ms = tx.now_ms
            self._credentials.commit(tx, prepared)
            return tx.put(to_row(Kind.PROVIDER, message), MustCreate())

        try:
            row = await self._store.write(write)
        except UniqueViolation:
            await self._credentials.discard(prepared)
            raise already_exists(f"provider '{metadata.name}' already exists") from None
        except Exception:
            await self._credentials.discard(prepared)
            raise
        return openshell_pb2.ProviderResponse(provider=redacted(row))

    async def GetProvider(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetProviderRequest, _context: Any
    ) -> openshell_pb2.ProviderResponse:
        require_field(request.name, "name")

        def read(tx: Tx) -> Row:
            return find_provider(tx, open_workspace(tx, request.workspace), request.name)

        return openshell_pb2.ProviderResponse(provider=redacted(await self._store.read(read)))

    async def ListProviders(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ListProvidersRequest, _context: Any
    ) -> openshell_pb2.ListProvidersResponse:
        if request.all_workspaces and request.workspace:
            raise invalid_argument("all_workspaces and workspace are mutually exclusive")

        def read(tx: Tx) -> list[Row]:
            workspace = None if request.all_workspaces else open_workspace(tx, request.workspace)
            return tx.list(
                Kind.PROVIDER, workspace=workspace, limit=request.limit, offset=request.offset
            )

        rows = await self._store.read(read)
        return openshell_pb2.ListProvidersResponse(providers=[redacted(row) for row in rows])

    async def UpdateProvider(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.UpdateProviderRequest, _context: Any
    ) -> openshell_pb2.ProviderResponse:
        if not request.HasField("provider"):
            raise invalid_argument("provider is required")
        name = require_field(request.provider.metadata.name, "provider.metadata.name")
        change = change_from_request(request)

        def read(tx: Tx) -> Row:
            return find_provider(tx, open_workspace(tx, request.workspace), name)

        # Only to learn the id that the sealed values must name; decided again inside the write.
        seen = await self._store.read(read)
        check_expected_version(seen, request.provider.metadata.resource_version)
        values = {key: change.credentials[key] for key in plan_change(seen, change).store_keys}
        prepared = await self._credentials.prepare(seen.id, values)
        expected = request.provider.metadata.resource_version

        def write(tx: Tx) -> Applied:
            row = find_provider(tx, seen.workspace, name)
            if row.id != seen.id:
                raise aborted(f"provider '{name}' was replaced meanwhile; read it again and retry")
            check_expected_version(row, expected)
            return apply_change(tx, self._credentials, row, change, prepared)

        async def run() -> Row:
            try:
                applied = await self._store.write(write)
            except Exception:
                await self._credentials.discard(prepared)
                raise
            self._bus.config_changed(applied.sandbox_ids, "providers")
            await self._credentials.retired(applied.dropped)
            return applied.row

        # A caller that hangs up must not separate the write from what follows it.
        row = await self._tasks.complete("update provider", run())
        return openshell_pb2.ProviderResponse(provider=redacted(row))

    async def DeleteProvider(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.DeleteProviderRequest, _context: Any
    ) -> openshell_pb2.DeleteProviderResponse:
        require_field(request.name, "name")

        def write(tx: Tx) -> tuple[list[CredentialRef], list[str]] | None:
            row = tx.get(Kind.PROVIDER, open_workspace(tx, request.workspace), request.name)
            if row is None:
                return None
            dropped = remove_provider(tx, self._credentials, row)
            return dropped, sandboxes_of_routes(tx, row.workspace, row.name)

        removed = await self._store.write(write)
        if removed is None:
            return openshell_pb2.DeleteProviderResponse(deleted=False)
        dropped, routed = removed
        self._bus.config_changed(routed, "inference")
        await self._credentials.retired(dropped)
        return openshell_pb2.DeleteProviderResponse(deleted=True)
