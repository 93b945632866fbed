"""The history of provider profiles: who changed what, and what it said then.

One numbered row for each change, written in the transaction of the change and never changed or
removed: a deleted profile can be looked up and brought back. Numbers of one id and scope count on
across deletions. Contents hold no secret: a profile says what a provider type is, not what any
account's values are.
"""

from __future__ import annotations

import enum
import logging
import uuid
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell._proto import openshell_pb2
from openshell.gateway.auth.authorization import RolePolicy
from openshell.gateway.errors import not_found
from openshell.gateway.records import Kind
from openshell.gateway.services.profile_rows import check_role, open_scope, requested_id
from openshell.gateway.store.model import MustCreate, NewRow, Row, Store, Tx

__all__ = ["Deed", "Operation", "ProfileHistory", "append_revision", "find_revision"]

_DAMAGED: Final = "damaged"
"""Told as the operation of a revision that does not read any more."""

_log = logging.getLogger(__name__)


class Operation(enum.StrEnum):
    """The values are part of the API."""

    IMPORT = "import"
    UPDATE = "update"
    APPLY = "apply"
    ROLLBACK = "rollback"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Deed:
    """What is being done and by whom, as the history will tell it."""

    operation: Operation
    author: str
    restored_from: int = 0


def append_revision(tx: Tx, scope: str, profile_id: str, deed: Deed, stored: Row | None) -> int:
    """Adds what was just written (None: deleted); the number it got."""
    place = _place(scope, profile_id)
    latest = tx.get_version(Kind.PROFILE_REVISION, place, None)
    number = 1 + ((latest.version or 0) if latest is not None else 0)
    revision = ext.ProfileRevision(
        id=profile_id,
        revision=number,
        operation=deed.operation.value,
        created_at_ms=tx.now_ms,
        author=deed.author,
        restored_from=deed.restored_from,
    )
    if stored is not None:
        revision.resource_version = stored.resource_version
        content = openshell_pb2.StoredProviderProfile.FromString(stored.payload).profile
        revision.profile.CopyFrom(content)
    row = NewRow(
        # Derived, so that a repeated transaction writes the same row.
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"profile:{place}:{number}")),
        kind=Kind.PROFILE_REVISION,
        workspace=scope,
        scope=place,
        version=number,
        payload=revision.SerializeToString(deterministic=True),
    )
    tx.put(row, MustCreate())
    return number


def find_revision(tx: Tx, scope: str, profile_id: str, number: int) -> ext.ProfileRevision:
    """0 asks for the newest. Raises NOT_FOUND."""
    row = tx.get_version(Kind.PROFILE_REVISION, _place(scope, profile_id), number or None)
    if row is not None:
        return _revision(row)
    if number:
        raise not_found(f"provider profile '{profile_id}' has no revision {number}")
    raise not_found(f"provider profile '{profile_id}' has no history")


def _place(scope: str, profile_id: str) -> str:
    # Neither part can hold the separator.
    return f"{scope}/{profile_id}"


def _revision(row: Row) -> ext.ProfileRevision:
    try:
        revision = ext.ProfileRevision.FromString(row.payload)
    except DecodeError:
        # Told without a content, as a deletion is: the others are still worth reading.
        _log.error("revision %s of profile %s is stored damaged", row.version, row.scope)
        return ext.ProfileRevision(
            id=(row.scope or "").rpartition("/")[2],
            revision=row.version or 0,
            operation=_DAMAGED,
            created_at_ms=row.created_at_ms,
        )
    if revision.HasField("profile"):
        revision.profile.resource_version = revision.resource_version
    return revision


class ProfileHistory:
    """The reading methods of the extension service."""

    def __init__(self, store: Store, *, roles: RolePolicy | None = None) -> None:
        self._store = store
        self._roles = roles or RolePolicy()

    async def ListRevisions(  # noqa: N802  named as the RPC
        self, request: ext.ListProfileRevisionsRequest, _context: Any
    ) -> ext.ListProfileRevisionsResponse:
        check_role(request.workspace, self._roles)
        profile_id = requested_id(request.id)

        def read(tx: Tx) -> list[Row]:
            place = _place(open_scope(tx, request.workspace), profile_id)
            return tx.list(
                Kind.PROFILE_REVISION,
                scope=place,
                limit=request.limit,
                offset=request.offset,
                newest_first=True,
            )

        revisions = [_revision(row) for row in await self._store.read(read)]
        for revision in revisions:
            revision.ClearField("profile")
        return ext.ListProfileRevisionsResponse(revisions=revisions)

    async def GetRevision(  # noqa: N802  named as the RPC
        self, request: ext.GetProfileRevisionRequest, _context: Any
    ) -> ext.GetProfileRevisionResponse:
        check_role(request.workspace, self._roles)
        profile_id = requested_id(request.id)

        def read(tx: Tx) -> ext.ProfileRevision:
            scope = open_scope(tx, request.workspace)
            return find_revision(tx, scope, profile_id, request.revision)

        return ext.GetProfileRevisionResponse(revision=await self._store.read(read))
