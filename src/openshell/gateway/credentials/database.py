"""Credentials as rows of the object table, each an envelope under the gateway's key.

A row belongs to no workspace and is found by its handle alone; only the owner named inside the
envelope can open it. Rows are written and removed in the transaction of the provider that owns
them, so there are no orphans and no window in which a record points at nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from openshell.gateway.credentials.envelope import KeyEncryptionKey, open_envelope, seal_value
from openshell.gateway.credentials.model import (
    CredentialCode,
    CredentialError,
    CredentialRef,
    Loaded,
    Prepared,
)
from openshell.gateway.records import Kind
from openshell.gateway.store.model import MustCreate, NewRow, Tx

__all__ = ["DatabaseCredentialStore"]

_HANDLE: Final = re.compile(r"v1:[0-9a-f]{64}")


class DatabaseCredentialStore:
    """The built-in store."""

    driver: Final = "openshell-driver-db-credstore"

    def __init__(
        self, kek: KeyEncryptionKey, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._kek = kek
        self._random = random

    async def prepare(self, provider_id: str, values: Mapping[str, str]) -> Prepared:
        handles: dict[str, str] = {}
        rows: list[NewRow] = []
        for key, value in values.items():
            ref = CredentialRef(f"v1:{self._random(32).hex()}", provider_id, key)
            envelope = seal_value(self._kek, ref, value, self._random)
            handles[key] = ref.handle
            rows.append(NewRow(id=ref.handle, kind=Kind.CREDENTIAL, payload=envelope))
        return Prepared(handles, tuple(rows))

    def commit(self, tx: Tx, prepared: Prepared) -> None:
        for row in prepared.rows:
            tx.put(row, MustCreate())

    async def discard(self, prepared: Prepared) -> None:
        """Nothing was written outside the transaction."""

    def retire(self, tx: Tx, refs: Sequence[CredentialRef]) -> None:
        for ref in refs:
            tx.delete(Kind.CREDENTIAL, ref.handle)

    async def retired(self, refs: Sequence[CredentialRef]) -> None:
        """The rows went with the transaction."""

    def load(self, tx: Tx, refs: Sequence[CredentialRef]) -> Loaded:
        rows = tuple(
            tx.get_by_id(Kind.CREDENTIAL, ref.handle) if _HANDLE.fullmatch(ref.handle) else None
            for ref in refs
        )
        return Loaded(tuple(refs), rows)

    async def open(self, loaded: Loaded) -> Mapping[CredentialRef, str]:
        values: dict[CredentialRef, str] = {}
        for ref, row in zip(loaded.refs, loaded.rows, strict=True):
            if row is None:
                raise CredentialError(
                    CredentialCode.NOT_FOUND,
                    f"the stored credential '{ref.key}' does not exist any more; set it again",
                )
            values[ref] = open_envelope(self._kek, ref, row.payload)
        return values
