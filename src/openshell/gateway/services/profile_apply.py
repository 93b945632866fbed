"""Batches of profiles, and going back to an older one: the writing methods of the extension service.

Both are all or nothing, say what they do to every sandbox concerned, and can be asked without being
done. The checks are those of import and update.
"""

from __future__ import annotations

from typing import Any

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.gateway.auth.authorization import RolePolicy
from openshell.gateway.errors import failed_precondition, invalid_argument
from openshell.gateway.services.profile_facts import (
    Document,
    TargetDocument,
    document_of,
    ids_of,
    read_facts,
)
from openshell.gateway.services.profile_history import Operation, find_revision
from openshell.gateway.services.profile_plan import Plan, plan_apply
from openshell.gateway.services.profile_rows import check_role, requested_id
from openshell.gateway.services.profile_writer import Outcome, ProfileWriter, check_count
from openshell.gateway.store.model import Tx

__all__ = ["ProfileApply"]


class ProfileApply:
    """Apply and Rollback."""

    def __init__(self, writer: ProfileWriter, *, roles: RolePolicy | None = None) -> None:
        self._writer = writer
        self._roles = roles or RolePolicy()

    async def Apply(  # noqa: N802  named as the RPC
        self, request: ext.ApplyProfilesRequest, _context: Any
    ) -> ext.ApplyProfilesResponse:
        check_role(request.workspace, self._roles)
        check_count(request.items)
        items = [_item(item) for item in request.items]
        ids = {item.target for item in items} | set(ids_of([item.document for item in items]))

        def plan(tx: Tx, scope: str) -> Plan:
            return plan_apply(items, read_facts(tx, scope, ids))

        outcome = await self._writer.change(
            request.workspace, Operation.APPLY, plan, impacts=True, dry_run=request.dry_run
        )
        return _answer(outcome)

    async def Rollback(  # noqa: N802  named as the RPC
        self, request: ext.RollbackProfileRequest, _context: Any
    ) -> ext.ApplyProfilesResponse:
        check_role(request.workspace, self._roles)
        profile_id = requested_id(request.id)
        number = request.to_revision
        if not number:
            raise invalid_argument("to_revision is required: the revision whose content is wanted")

        def plan(tx: Tx, scope: str) -> Plan:
            revision = find_revision(tx, scope, profile_id, number)
            if not revision.HasField("profile"):
                raise failed_precondition(
                    f"revision {number} of provider profile '{profile_id}' has no content "
                    f"({revision.operation}); choose one that has"
                )
            facts = read_facts(tx, scope, [profile_id])
            row = facts.rows.get(profile_id)
            # A deleted profile is created again; only then does nothing stand at any version.
            current = row.resource_version if row is not None else 0
            revision.profile.resource_version = 0
            document = Document(f"revision {number}", revision.profile)
            expected = request.expected_resource_version or current
            return plan_apply([TargetDocument(document, profile_id, expected)], facts)

        outcome = await self._writer.change(
            request.workspace,
            Operation.ROLLBACK,
            plan,
            restored_from=number,
            impacts=True,
            dry_run=request.dry_run,
        )
        return _answer(outcome)


def _item(item: ext.ApplyProfilesItem) -> TargetDocument:
    return TargetDocument(document_of(item), requested_id(item.id), item.expected_resource_version)


def _answer(outcome: Outcome) -> ext.ApplyProfilesResponse:
    return ext.ApplyProfilesResponse(
        diagnostics=outcome.diagnostics,
        profiles=outcome.profiles,
        applied=outcome.written,
        valid=outcome.valid,
        impacts=outcome.impacts,
    )
