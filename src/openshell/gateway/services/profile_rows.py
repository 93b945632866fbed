"""Stored provider profiles: which scope a request means, and their rows.

A scope is a workspace, or the platform ("") whose profiles every workspace may use; that one is for
platform admins alone, for reading too. Writing goes together with the history (`profile_history`)
and is called by `profile_change` only.
"""

from __future__ import annotations

from dataclasses import replace

from google.protobuf.message import DecodeError

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.codec.profile import profile_to_proto
from openshell.gateway.auth.authorization import RolePolicy
from openshell.gateway.auth.principal import require_user
from openshell.gateway.errors import invalid_argument, permission_denied
from openshell.gateway.records import Kind, load, metadata_of, to_row
from openshell.gateway.services.catalogues import PLATFORM
from openshell.gateway.store.model import MatchResourceVersion, MustCreate, Row, Tx
from openshell.gateway.workspaces import open_workspace
from openshell.providers.profile.ids import ProfileIdError, normalize_id
from openshell.providers.profile.model import ProviderProfile
from openshell.providers.situation import Entry

__all__ = [
    "check_role",
    "create_row",
    "find_row",
    "open_scope",
    "replace_row",
    "requested_id",
    "shown",
    "shown_entry",
]


def check_role(requested: str, roles: RolePolicy) -> None:
    """Decided before anything is read, so that nothing can be learned from the refusal."""
    if requested == PLATFORM and not roles.is_platform_admin(require_user()):
        raise permission_denied(
            "profiles of the platform are for its admins; name a workspace instead"
        )


def open_scope(tx: Tx, requested: str, *, must_be_active: bool = False) -> str:
    """The workspace whose profiles are meant. Unlike elsewhere "" is not the default workspace."""
    if requested == PLATFORM:
        return PLATFORM
    return open_workspace(tx, requested, must_be_active=must_be_active)


def requested_id(text: str) -> str:
    """The id that a request means."""
    try:
        normal = normalize_id(text)
    except ProfileIdError as error:
        raise invalid_argument(str(error)) from None
    if not normal:
        raise invalid_argument("id is required")
    return normal


def find_row(tx: Tx, scope: str, profile_id: str) -> Row | None:
    return tx.get(Kind.PROVIDER_PROFILE, scope, profile_id)


def create_row(tx: Tx, scope: str, profile: ProviderProfile, new_id: str) -> Row:
    stored = openshell_pb2.StoredProviderProfile(
        metadata=datamodel_pb2.ObjectMeta(
            id=new_id, name=profile.id, workspace=scope, created_at_ms=tx.now_ms
        ),
        profile=_payload(profile),
    )
    return tx.put(to_row(Kind.PROVIDER_PROFILE, stored), MustCreate())


def replace_row(tx: Tx, row: Row, profile: ProviderProfile) -> Row:
    """Another content; all that identifies and describes the object stays as it was."""
    try:
        stored = load(row, openshell_pb2.StoredProviderProfile)
    except DecodeError:
        # What the row itself says is still known.
        stored = openshell_pb2.StoredProviderProfile(metadata=metadata_of(row))
    stored.profile.CopyFrom(_payload(profile))
    return tx.put(to_row(Kind.PROVIDER_PROFILE, stored), MatchResourceVersion(row.resource_version))


def shown(row: Row) -> openshell_pb2.ProviderProfile:
    """A row just written, for the answer: version of the row, no source and no scope."""
    profile = load(row, openshell_pb2.StoredProviderProfile).profile
    profile.resource_version = row.resource_version
    return profile


def shown_entry(entry: Entry) -> openshell_pb2.ProviderProfile:
    """A catalogue's profile, for the answers of List and Get."""
    return profile_to_proto(replace(entry.profile, source=entry.source, scope=entry.scope))


def _payload(profile: ProviderProfile) -> openshell_pb2.ProviderProfile:
    return profile_to_proto(replace(profile, resource_version=0, source="", scope=""))
