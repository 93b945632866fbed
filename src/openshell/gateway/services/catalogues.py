"""The catalogue of provider profiles as a transaction sees it: built-in ones and stored ones.

A stored profile that no longer reads or lints (a newer rule, an id that became built in, a damaged
row) is left out, listed in `problems_in` and logged once per version; everything else goes on, and
deleting or updating that profile stays possible. Reading is a pure function of a row's content, so
its results are kept; nothing that is kept says what exists now. What a provider makes of the
catalogue is `openshell.providers.catalogue`'s part.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.message import DecodeError

from openshell._proto import openshell_pb2
from openshell.codec.profile import binding_set, profile_from_proto
from openshell.gateway.records import Kind
from openshell.gateway.services.settings_rows import GLOBAL, read_values
from openshell.gateway.store.model import Row, Tx
from openshell.providers.catalogue import Catalogue, build_catalogue, make_entry
from openshell.providers.profile.builtin import builtin_profiles, builtin_revision
from openshell.providers.profile.lint import lint_profile
from openshell.providers.situation import Entry

__all__ = ["PLATFORM", "V2_KEY", "Problem", "problems_in", "read_catalogue", "v2_enabled"]

PLATFORM: Final = ""
"""The workspace of profiles that every workspace may use."""
V2_KEY: Final = "providers_v2_enabled"

_KEPT_ENTRIES: Final = 4096
"""Read profiles that are kept: those of a large installation, about 10 kB each."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """A stored profile that counts as absent until somebody updates or deletes it."""

    workspace: str
    id: str
    resource_version: int
    message: str


def read_catalogue(tx: Tx, workspace: str) -> Catalogue:
    """Every profile that a workspace can use; with `PLATFORM` those without any workspace's own."""
    platform = _entries(tx, PLATFORM)
    own = _entries(tx, workspace) if workspace != PLATFORM else []
    return build_catalogue(platform, own, _builtin())


def problems_in(tx: Tx, workspace: str) -> list[Problem]:
    """The stored profiles of one scope that are left out."""
    rows = tx.all(Kind.PROVIDER_PROFILE, workspace=workspace)
    return [found for found in map(_read, rows) if isinstance(found, Problem)]


def v2_enabled(tx: Tx) -> bool:
    """Whether profiles of attached providers add rules to policies; one setting for all."""
    return read_values(tx, GLOBAL).values.get(V2_KEY) is True


def _entries(tx: Tx, workspace: str) -> list[Entry]:
    rows = tx.all(Kind.PROVIDER_PROFILE, workspace=workspace)
    return [found for found in map(_read, rows) if isinstance(found, Entry)]


def _read(row: Row) -> Entry | Problem:
    return _read_content(row.id, row.resource_version, row.workspace, row.name or "", row.payload)


@functools.lru_cache(maxsize=_KEPT_ENTRIES)
def _read_content(
    row_id: str, resource_version: int, workspace: str, name: str, payload: bytes
) -> Entry | Problem:
    """One stored profile. Kept, so that a problem is logged once and not at every request."""
    try:
        message = openshell_pb2.StoredProviderProfile.FromString(payload).profile
    except DecodeError:
        message, faults = openshell_pb2.ProviderProfile(), ["the row is damaged"]
    else:
        faults = _faults(name, message)
    if faults:
        problem = Problem(workspace, name, resource_version, "; ".join(faults))
        _log.warning(
            "the stored provider profile '%s' of %s is left out: %s",
            name,
            f"workspace '{workspace}'" if workspace else "the platform",
            problem.message,
        )
        return problem
    profile = replace(
        profile_from_proto(message), resource_version=resource_version, source="", scope=""
    )
    scope = "workspace" if workspace else "platform"
    return make_entry(profile, "user", scope, f"{row_id}:{resource_version}")


def _faults(name: str, message: openshell_pb2.ProviderProfile) -> list[str]:
    profile = profile_from_proto(message)
    faults = [
        f"endpoints[{index}].credential_binding: only valid in a sandbox's policy"
        for index in binding_set(message)
    ]
    faults += [
        f"{finding.field}: {finding.message}"
        for finding in lint_profile(profile)
        if finding.severity == "error"
    ]
    if profile.id != name:
        faults.append(f"id: it says '{profile.id}'")
    if name in builtin_profiles():
        faults.append("id: a built-in profile has this id; delete this one")
    return faults


@functools.cache
def _builtin() -> tuple[Entry, ...]:
    revision = builtin_revision()
    return tuple(
        make_entry(profile, "builtin", "", revision) for profile in builtin_profiles().values()
    )
