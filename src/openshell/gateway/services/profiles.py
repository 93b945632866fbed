"""The contract's methods for provider profiles: list, get, lint, import, update, delete.

What a document is worth is told by diagnostics in an ordinary answer; only roles, workspaces,
malformed ids, stale versions and what forbids a deletion are errors. A stored profile that no longer
lints is left out of lists, told by Lint as a warning and by Get as the reason why it is not in use;
it can be updated and deleted like any other. Changing is `profile_writer`'s part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openshell._proto import openshell_pb2
from openshell.gateway.auth.authorization import RolePolicy
from openshell.gateway.errors import failed_precondition, not_found
from openshell.gateway.services.catalogues import problems_in, read_catalogue
from openshell.gateway.services.profile_facts import (
    Document,
    TargetDocument,
    document_of,
    ids_of,
    read_facts,
)
from openshell.gateway.services.profile_history import Operation
from openshell.gateway.services.profile_plan import (
    WARNING,
    Diagnostic,
    Plan,
    has_errors,
    plan_import,
    plan_update,
)
from openshell.gateway.services.profile_rows import (
    check_role,
    open_scope,
    requested_id,
    shown_entry,
)
from openshell.gateway.services.profile_writer import ProfileWriter, check_count
from openshell.gateway.store.model import LIST_DEFAULT, LIST_MAX, Store, Tx
from openshell.providers.situation import Entry

__all__ = ["Profiles"]


class Profiles:
    """The profile methods of the API."""

    def __init__(
        self, store: Store, writer: ProfileWriter, *, roles: RolePolicy | None = None
    ) -> None:
        self._store = store
        self._writer = writer
        self._roles = roles or RolePolicy()

    async def ListProviderProfiles(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ListProviderProfilesRequest, _context: Any
    ) -> openshell_pb2.ListProviderProfilesResponse:
        check_role(request.workspace, self._roles)

        def read(tx: Tx) -> Sequence[Entry]:
            return read_catalogue(tx, open_scope(tx, request.workspace)).entries()

        entries = await self._store.read(read)
        end = request.offset + min(request.limit or LIST_DEFAULT, LIST_MAX)
        return openshell_pb2.ListProviderProfilesResponse(
            profiles=[shown_entry(entry) for entry in entries[request.offset : end]]
        )

    async def GetProviderProfile(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetProviderProfileRequest, _context: Any
    ) -> openshell_pb2.ProviderProfileResponse:
        check_role(request.workspace, self._roles)
        profile_id = requested_id(request.id)

        def read(tx: Tx) -> Entry:
            scope = open_scope(tx, request.workspace)
            entry = read_catalogue(tx, scope).effective(profile_id)
            if entry is not None:
                return entry
            for problem in problems_in(tx, scope):
                if problem.id == profile_id:
                    version = str(problem.resource_version)
                    raise failed_precondition(
                        f"the stored provider profile '{profile_id}' (resource_version {version}) is "
                        f"not in use: {problem.message}; update or delete it",
                        current_resource_version=version,
                    )
            raise not_found(f"provider profile '{profile_id}' not found")

        entry = await self._store.read(read)
        return openshell_pb2.ProviderProfileResponse(profile=shown_entry(entry))

    async def LintProviderProfiles(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.LintProviderProfilesRequest, _context: Any
    ) -> openshell_pb2.LintProviderProfilesResponse:
        check_role(request.workspace, self._roles)
        documents = _documents(request.profiles)

        def read(tx: Tx) -> list[Diagnostic]:
            scope = open_scope(tx, request.workspace)
            plan = plan_import(documents, read_facts(tx, scope, ids_of(documents)))
            return [*plan.diagnostics, *_stored_problems(tx, scope)]

        diagnostics = await self._store.read(read)
        return openshell_pb2.LintProviderProfilesResponse(
            diagnostics=diagnostics, valid=not has_errors(diagnostics)
        )

    async def ImportProviderProfiles(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ImportProviderProfilesRequest, _context: Any
    ) -> openshell_pb2.ImportProviderProfilesResponse:
        check_role(request.workspace, self._roles)
        documents = _documents(request.profiles)

        def plan(tx: Tx, scope: str) -> Plan:
            return plan_import(documents, read_facts(tx, scope, ids_of(documents)))

        outcome = await self._writer.change(request.workspace, Operation.IMPORT, plan)
        return openshell_pb2.ImportProviderProfilesResponse(
            diagnostics=outcome.diagnostics,
            profiles=outcome.profiles,
            imported=outcome.written,
        )

    async def UpdateProviderProfiles(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.UpdateProviderProfilesRequest, _context: Any
    ) -> openshell_pb2.UpdateProviderProfilesResponse:
        check_role(request.workspace, self._roles)
        target = requested_id(request.id)
        (document,) = _documents([request.profile])
        item = TargetDocument(document, target, request.expected_resource_version)

        def plan(tx: Tx, scope: str) -> Plan:
            return plan_update(item, read_facts(tx, scope, [target, *ids_of([document])]))

        outcome = await self._writer.change(request.workspace, Operation.UPDATE, plan)
        return openshell_pb2.UpdateProviderProfilesResponse(
            diagnostics=outcome.diagnostics,
            profile=outcome.profiles[0] if outcome.written else None,
            updated=outcome.written,
        )

    async def DeleteProviderProfile(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.DeleteProviderProfileRequest, _context: Any
    ) -> openshell_pb2.DeleteProviderProfileResponse:
        check_role(request.workspace, self._roles)
        await self._writer.delete(request.workspace, requested_id(request.id))
        return openshell_pb2.DeleteProviderProfileResponse(deleted=True)


_Items = Sequence[openshell_pb2.ProviderProfileImportItem]


def _documents(items: _Items) -> list[Document]:
    check_count(items)
    return [document_of(item) for item in items]


def _stored_problems(tx: Tx, scope: str) -> list[Diagnostic]:
    """Nobody else tells a user that a profile of theirs is out of use."""
    return [
        Diagnostic(
            source="user",
            profile_id=problem.id,
            field="id",
            message=f"the stored profile '{problem.id}' is not in use: {problem.message}; "
            "update or delete it",
            severity=WARNING,
        )
        for problem in problems_in(tx, scope)
    ]
