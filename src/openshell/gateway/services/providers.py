"""Provider RPCs: create, get, list, update, delete.

Each write is one transaction that reads what decides it: the record, its profile, the credentials
that are refreshed, the sandboxes that use it and what they become by the write. Secrets go through
the credential store in step with it. After a commit the sandboxes concerned are told. Profiles are
`profiles.py`, refresh is `refresh.py`.
"""

from __future__ import annotations

import secrets
import string
import uuid
from collections.abc import Callable
from typing import Any, Final

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.credentials.model import CredentialRef, CredentialStore, Prepared
from openshell.gateway.errors import (
    aborted,
    already_exists,
    failed_precondition,
    invalid_argument,
    not_found,
)
from openshell.gateway.events import Bus
from openshell.gateway.limits import check_annotations, check_labels
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.refresh.states import drop_states, read_states
from openshell.gateway.services.catalogues import read_catalogue
from openshell.gateway.services.lookup import check_expected_version, require_field
from openshell.gateway.services.provider_records import (
    change_from_request,
    credential_refs,
    new_from_message,
    record_from_row,
    redacted,
)
from openshell.gateway.services.situations import (
    Situations,
    refuse_faults,
    sandboxes_using,
)
from openshell.gateway.store.model import (
    MatchResourceVersion,
    MustCreate,
    Row,
    Store,
    Tx,
    UniqueViolation,
)
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace
from openshell.providers.fitness import find_faults
from openshell.providers.profile.model import MINTABLE
from openshell.providers.records import (
    ProviderChange,
    ProviderRecord,
    RecordRefused,
    UpdatePlan,
    check_new,
    plan_update,
)
from openshell.providers.types import canonical_type

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

        def check(tx: Tx) -> str:
            workspace = open_workspace(tx, request.workspace, must_be_active=True)
            try:
                check_new(new, workspace, may_be_empty=_may_be_empty(tx, workspace, new.type))
            except RecordRefused as refused:
                raise invalid_argument(str(refused)) from None
            return workspace

        # Before anything is sealed, and again inside the write.
        workspace = await self._store.read(check)
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
        _set_handles(message, self._credentials.driver, prepared)

        def write(tx: Tx) -> Row:
            check(tx)
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
            return _find(tx, open_workspace(tx, request.workspace), request.name)

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
            return _find(tx, open_workspace(tx, request.workspace), name)

        # Only to learn the id that the sealed values must name; decided again inside the write.
        seen = await self._store.read(read)
        check_expected_version(seen, request.provider.metadata.resource_version)
        plan = _plan(record_from_row(seen), change)
        values = {key: change.credentials[key] for key in plan.store_keys}
        prepared = await self._credentials.prepare(seen.id, values)
        expected = request.provider.metadata.resource_version

        def write(tx: Tx) -> tuple[Row, list[CredentialRef], list[str]]:
            row = _find(tx, seen.workspace, name)
            if row.id != seen.id:
                raise aborted(f"provider '{name}' was replaced meanwhile; read it again and retry")
            check_expected_version(row, expected)
            return self._apply(tx, row, change, prepared)

        async def run() -> Row:
            try:
                row, dropped, sandbox_ids = await self._store.write(write)
            except Exception:
                await self._credentials.discard(prepared)
                raise
            self._bus.config_changed(sandbox_ids, "providers")
            await self._credentials.retired(dropped)
            return row

        # A caller that hangs up must not separate the write from what follows it.
        row = await self._tasks.complete("update provider", run())
        return openshell_pb2.ProviderResponse(provider=redacted(row))

    def _apply(
        self, tx: Tx, row: Row, change: ProviderChange, prepared: Prepared
    ) -> tuple[Row, list[CredentialRef], list[str]]:
        """Merges into the present row; what was written, which handles it dropped, who uses it."""
        record = record_from_row(row)
        plan = _plan(record, change)
        _refuse_refreshed_keys(tx, record, change)
        users = sandboxes_using(tx, row.workspace, record.name)
        before = Situations(tx)
        known = [find_faults(before.of(sandbox), gate=False) for sandbox in users]
        message = load(row, datamodel_pb2.Provider)
        dropped = credential_refs(record, dict.fromkeys((*plan.store_keys, *plan.remove_keys)))
        for key in plan.remove_keys:
            del message.credential_handles[key]
        _set_handles(message, self._credentials.driver, prepared)
        message.ClearField("config")
        message.config.update(plan.config)
        message.ClearField("credential_expires_at_ms")
        message.credential_expires_at_ms.update(plan.expires_at_ms)
        self._credentials.commit(tx, prepared)
        stored = tx.put(to_row(Kind.PROVIDER, message), MatchResourceVersion(row.resource_version))
        self._credentials.retire(tx, dropped)
        after = Situations(tx)
        for sandbox, faults in zip(users, known, strict=True):
            refuse_faults(after.of(sandbox), gate=False, known=faults, named=True)
        return stored, dropped, [sandbox.metadata.id for sandbox in users]

    async def DeleteProvider(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.DeleteProviderRequest, _context: Any
    ) -> openshell_pb2.DeleteProviderResponse:
        require_field(request.name, "name")

        def write(tx: Tx) -> list[CredentialRef] | None:
            row = tx.get(Kind.PROVIDER, open_workspace(tx, request.workspace), request.name)
            if row is None:
                return None
            users = sandboxes_using(tx, row.workspace, request.name)
            if users:
                names = ", ".join(sorted(sandbox.metadata.name for sandbox in users))
                raise failed_precondition(
                    f"provider '{request.name}' is attached to sandbox(es): {names}; detach it first"
                )
            record = record_from_row(row)
            dropped = credential_refs(record, record.handles)
            self._credentials.retire(tx, dropped)
            dropped += drop_states(tx, self._credentials, row.id)
            tx.delete(Kind.PROVIDER, row.id, row.resource_version)
            return dropped

        dropped = await self._store.write(write)
        if dropped is None:
            return openshell_pb2.DeleteProviderResponse(deleted=False)
        await self._credentials.retired(dropped)
        return openshell_pb2.DeleteProviderResponse(deleted=True)


def _find(tx: Tx, workspace: str, name: str) -> Row:
    row = tx.get(Kind.PROVIDER, workspace, name)
    if row is None:
        raise not_found(f"provider '{name}' not found")
    return row


def _plan(record: ProviderRecord, change: ProviderChange) -> UpdatePlan:
    try:
        return plan_update(record, change)
    except RecordRefused as refused:
        raise invalid_argument(str(refused)) from None


def _set_handles(message: datamodel_pb2.Provider, driver: str, prepared: Prepared) -> None:
    for key, handle in prepared.handles.items():
        message.credential_handles[key].CopyFrom(
            datamodel_pb2.CredentialHandle(driver=driver, handle=handle)
        )


def _may_be_empty(tx: Tx, workspace: str, provider_type: str) -> bool:
    """Whether the type's values can all come into being at run time."""
    entry = read_catalogue(tx, workspace).effective(canonical_type(provider_type))
    return entry is not None and entry.profile.allows_empty_credentials


def _refuse_refreshed_keys(tx: Tx, record: ProviderRecord, change: ProviderChange) -> None:
    owned = {
        key
        for state in read_states(tx, record.id)
        if state.strategy in MINTABLE
        for key in state.keys
    }
    touched = sorted(owned.intersection(change.credentials))
    if touched:
        raise failed_precondition(
            f"provider '{record.name}': the gateway refreshes {', '.join(touched)}; use provider "
            "refresh rotate, configure or delete instead of writing them"
        )
