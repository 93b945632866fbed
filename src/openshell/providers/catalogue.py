"""All profiles that one request may use, merged from their sources, and which one a provider gets.

Built from entries that were read and checked before: the gateway captures one catalogue for each
transaction, so that everything it derives speaks of the same profiles. A workspace's profile shadows
the platform's of the same id. An id of a built-in profile belongs to it alone: a stored profile that
claims it is left out and named in `conflicts`, and the others stand.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping

from openshell.providers.digest import digest_of
from openshell.providers.profile.model import ProviderProfile
from openshell.providers.situation import Entry
from openshell.providers.types import canonical_type

__all__ = ["Catalogue", "build_catalogue", "make_entry"]


class Catalogue:
    """Immutable. Ids are looked up as they are written; only provider types have aliases."""

    __slots__ = ("_fixed", "_platform", "_workspace", "conflicts")

    def __init__(
        self,
        fixed: Mapping[str, Entry],
        platform: Mapping[str, Entry],
        workspace: Mapping[str, Entry],
        conflicts: tuple[str, ...],
    ) -> None:
        self._fixed = fixed
        self._platform = platform
        self._workspace = workspace
        self.conflicts = conflicts
        """One sentence for each entry that was left out."""

    def effective(self, profile_id: str) -> Entry | None:
        """The profile that the id means here, the workspace's before the platform's."""
        return (
            self._fixed.get(profile_id)
            or self._workspace.get(profile_id)
            or self._platform.get(profile_id)
        )

    def entries(self) -> tuple[Entry, ...]:
        """All, sorted by id; a shadowed profile follows the one that shadows it."""
        groups = (self._fixed, self._workspace, self._platform)
        ids = sorted({*self._fixed, *self._workspace, *self._platform})
        return tuple(group[found] for found in ids for group in groups if found in group)

    def for_provider(self, provider_type: str, profile_workspace: str) -> Entry | None:
        """What a provider's type means. `profile_workspace` "" looks beneath every shadow."""
        profile_id = canonical_type(provider_type)
        if profile_id in self._fixed or profile_workspace:
            return self.effective(profile_id)
        return self._platform.get(profile_id)


def build_catalogue(
    user_platform: Iterable[Entry], user_workspace: Iterable[Entry], builtin: Iterable[Entry]
) -> Catalogue:
    """Never raises: a stored profile that cannot take part must not take the others with it."""
    conflicts: list[str] = []
    fixed = dict(_unique(builtin, {}, conflicts))
    platform = dict(_unique(user_platform, fixed, conflicts))
    workspace = dict(_unique(user_workspace, fixed, conflicts))
    return Catalogue(fixed, platform, workspace, tuple(conflicts))


def make_entry(profile: ProviderProfile, source: str, scope: str, revision: str) -> Entry:
    """`revision`: of the stored row, or of the whole source where profiles have no rows."""
    fingerprint = digest_of((source, scope, revision, *_canonical(profile))).hex()
    return Entry(profile, source, scope, revision, fingerprint)


def _unique(
    entries: Iterable[Entry], fixed: Mapping[str, Entry], conflicts: list[str]
) -> Iterator[tuple[str, Entry]]:
    seen: set[str] = set()
    for entry in entries:
        profile_id = entry.profile.id
        owner = fixed.get(profile_id)
        if owner is not None:
            conflicts.append(
                f"stored {entry.scope} profile '{profile_id}' is not used: its id is managed by "
                f"source '{owner.source}'; delete it"
            )
        elif profile_id in seen:
            conflicts.append(
                f"profile '{profile_id}' appears twice in source '{entry.source}'; the first is used"
            )
        else:
            seen.add(profile_id)
            yield profile_id, entry


def _canonical(value: object) -> Iterator[str]:
    """One sequence of texts for one value: types and counts included, mappings sorted by key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__
        for field in dataclasses.fields(value):
            yield from _canonical(getattr(value, field.name))
    elif isinstance(value, Mapping):
        yield f"map {len(value)}"
        for key in sorted(value):
            yield key
            yield from _canonical(value[key])
    elif isinstance(value, tuple):
        yield f"tuple {len(value)}"
        for item in value:
            yield from _canonical(item)
    elif isinstance(value, enum.Enum):
        yield value.name
    else:
        yield f"{type(value).__name__} {value}"
