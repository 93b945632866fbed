"""What planning a change of profiles starts from: documents as sent, and what is stored of their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from openshell._proto import openshell_pb2
from openshell.gateway.services.catalogues import PLATFORM, read_catalogue
from openshell.gateway.services.profile_rows import find_row
from openshell.gateway.store.model import Row, Tx
from openshell.providers.catalogue import Catalogue
from openshell.providers.profile.ids import ProfileIdError, normalize_id

__all__ = [
    "Document",
    "Facts",
    "TargetDocument",
    "document_of",
    "ids_of",
    "normal_id",
    "read_facts",
]

MAX_QUOTED: Final = 1000
"""Characters of what a client sent that its own diagnostics repeat, each of a thousand of them."""


class _Item(Protocol):
    """One profile of any request."""

    @property
    def source(self) -> str: ...

    @property
    def profile(self) -> openshell_pb2.ProviderProfile: ...

    def HasField(self, field_name: Literal["profile"], /) -> bool: ...  # noqa: N802  protobuf's name


@dataclass(frozen=True, slots=True)
class Document:
    """One profile as a client sent it. `message` None: the item was empty."""

    source: str
    message: openshell_pb2.ProviderProfile | None

    @property
    def id(self) -> str:
        return self.message.id if self.message is not None else ""

    @property
    def shown_id(self) -> str:
        return self.id[:MAX_QUOTED].strip() and self.id[:MAX_QUOTED]


@dataclass(frozen=True, slots=True)
class TargetDocument:
    """A document and the stored profile that it is for."""

    document: Document
    target: str
    """A normal id."""
    expected: int = 0
    """The version that the stored profile must have; 0 takes the document's own."""

    @property
    def version(self) -> int:
        message = self.document.message
        return self.expected or (message.resource_version if message is not None else 0)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is stored of the ids that a request names."""

    scope: str
    catalogue: Catalogue
    rows: Mapping[str, Row]
    """In exactly this scope, whether or not they still read."""
    platform: frozenset[str]
    """Ids that the platform has, too; empty when it is the scope itself."""

    def manager(self, profile_id: str) -> str:
        """The source that owns an id and is not a user; "" for none."""
        entry = self.catalogue.effective(profile_id)
        return entry.source if entry is not None and not entry.is_user_managed else ""


def document_of(item: _Item) -> Document:
    return Document(item.source[:MAX_QUOTED], item.profile if item.HasField("profile") else None)


def ids_of(documents: Iterable[Document]) -> list[str]:
    """The ids that documents give themselves, in their normal form."""
    return [normal_id(document.id) for document in documents]


def read_facts(tx: Tx, scope: str, ids: Iterable[str]) -> Facts:
    wanted = frozenset(ids)
    rows = {profile_id: find_row(tx, scope, profile_id) for profile_id in wanted}
    shadowed = wanted if scope != PLATFORM else ()
    return Facts(
        scope,
        read_catalogue(tx, scope),
        {profile_id: row for profile_id, row in rows.items() if row is not None},
        frozenset(i for i in shadowed if find_row(tx, PLATFORM, i) is not None),
    )


def normal_id(profile_id: str) -> str:
    """For comparing; what cannot be an id equals none."""
    try:
        return normalize_id(profile_id)
    except ProfileIdError:
        return profile_id
