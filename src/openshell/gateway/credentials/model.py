"""What a credential store offers: values go in and come out by handle, in step with a transaction.

A store is either inside the database (then everything happens in the caller's transaction) or a
service elsewhere (then network calls happen before and after it). Both fit the same five steps:

- `prepare` before the transaction: new handles for new values; never overwrites one that is in use;
- `commit` inside it, next to the write of the record that owns the handles;
- `discard` when the transaction did not happen;
- `retire` inside the transaction that drops handles, `retired` after it;
- `load` inside a reading transaction, `open` after it.

So a refused or lost update can never change a stored value.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openshell.gateway.store.model import NewRow, Row, Tx

__all__ = [
    "CredentialCode",
    "CredentialError",
    "CredentialRef",
    "CredentialStore",
    "Loaded",
    "Prepared",
]


class CredentialCode(enum.Enum):
    """Why a value cannot be had."""

    NOT_FOUND = "not_found"
    """The handle points at nothing."""
    FAILED_PRECONDITION = "failed_precondition"
    """It belongs to another owner, or was sealed under another key."""
    DATA_LOSS = "data_loss"
    """What is stored was altered or is damaged."""


class CredentialError(Exception):
    """A value could not be stored or opened; the text names owner and key, never a value."""

    def __init__(self, code: CredentialCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class CredentialRef:
    """One stored value and the owner it must belong to."""

    handle: str = field(repr=False)
    provider_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Values ready to be owned: the handle of each key, and rows for a store in the database."""

    handles: Mapping[str, str] = field(repr=False)
    rows: tuple[NewRow, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` found for each reference, still sealed."""

    refs: tuple[CredentialRef, ...]
    rows: tuple[Row | None, ...] = field(default=(), repr=False)


class CredentialStore(Protocol):
    """One place for provider secrets."""

    @property
    def driver(self) -> str:
        """Its name, recorded with every handle."""
        ...

    async def prepare(self, provider_id: str, values: Mapping[str, str]) -> Prepared: ...

    def commit(self, tx: Tx, prepared: Prepared) -> None: ...

    async def discard(self, prepared: Prepared) -> None: ...

    def retire(self, tx: Tx, refs: Sequence[CredentialRef]) -> None: ...

    async def retired(self, refs: Sequence[CredentialRef]) -> None: ...

    def load(self, tx: Tx, refs: Sequence[CredentialRef]) -> Loaded: ...

    async def open(self, loaded: Loaded) -> Mapping[CredentialRef, str]:
        """Every value or a `CredentialError`: half an environment is no environment."""
        ...
