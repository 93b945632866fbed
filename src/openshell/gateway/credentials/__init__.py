"""Where provider secrets rest: a store interface, and the built-in encrypted one in the database."""

from __future__ import annotations

from openshell.gateway.credentials.database import DatabaseCredentialStore
from openshell.gateway.credentials.envelope import KeyEncryptionKey
from openshell.gateway.credentials.keyfile import KeyFileError, load_or_create_key
from openshell.gateway.credentials.model import (
    CredentialCode,
    CredentialError,
    CredentialRef,
    CredentialStore,
    Loaded,
    Prepared,
)

__all__ = [
    "CredentialCode",
    "CredentialError",
    "CredentialRef",
    "CredentialStore",
    "DatabaseCredentialStore",
    "KeyEncryptionKey",
    "KeyFileError",
    "Loaded",
    "Prepared",
    "load_or_create_key",
]
