"""Sealing one secret value: AES-256-GCM under a data key of its own, that key sealed under the gateway's.

Pure but for the random source, which is an argument. The associated data of both layers names the
format, the layer, the handle, the owning provider and the credential key, so that an envelope moved
to another row, owner or key does not open. Rewrapping under a new gateway key touches no value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from openshell.gateway.credentials.model import CredentialCode, CredentialError, CredentialRef

__all__ = ["KEY_BYTES", "KeyEncryptionKey", "open_envelope", "seal_value"]

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FORMAT: Final = 1
_ALGORITHM: Final = "AES-256-GCM"
# An envelope of the largest value is under 12 KiB; anything larger was not written by us.
_MAX_ENVELOPE_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class KeyEncryptionKey:
    """The gateway's own key. Its id is a digest, so that a wrong key is told from a damaged value."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"a key encryption key has exactly {KEY_BYTES} bytes")

    @property
    def id(self) -> str:
        return "sha256:" + hashlib.sha256(b"openshell-kek-id\0" + self.key).hexdigest()


def seal_value(
    kek: KeyEncryptionKey, ref: CredentialRef, value: str, random: Callable[[int], bytes]
) -> bytes:
    """The envelope to store. `random(n)` gives n unpredictable bytes."""
    data_key = random(KEY_BYTES)
    sealed_key = _seal(kek.key, data_key, _associated(ref, "dek"), random)
    sealed_value = _seal(data_key, value.encode(), _associated(ref, "value"), random)
    envelope = {
        "version": _FORMAT,
        "id": ref.handle,
        "provider_id": ref.provider_id,
        "credential_key": ref.key,
        "algorithm": _ALGORITHM,
        "key_encryption_key_id": kek.id,
        "wrapped_dek": sealed_key,
        "value": sealed_value,
    }
    return json.dumps(envelope, separators=(",", ":"), sort_keys=True).encode()


def open_envelope(kek: KeyEncryptionKey, ref: CredentialRef, envelope: bytes) -> str:
    """The value, or a `CredentialError` that says which of the promises is broken."""
    fields = _read(ref, envelope)
    if (fields["id"], fields["provider_id"], fields["credential_key"]) != (
        ref.handle,
        ref.provider_id,
        ref.key,
    ):
        raise CredentialError(
            CredentialCode.FAILED_PRECONDITION,
            f"the stored credential '{ref.key}' belongs to another provider or key",
        )
    if not hmac.compare_digest(fields["key_encryption_key_id"].encode(), kek.id.encode()):
        raise CredentialError(
            CredentialCode.FAILED_PRECONDITION,
            f"the stored credential '{ref.key}' was encrypted under another key; restore the "
            "gateway's key-encryption-key file, or set the credential again",
        )
    try:
        data_key = _open(kek.key, fields["wrapped_dek"], _associated(ref, "dek"))
        return _open(data_key, fields["value"], _associated(ref, "value")).decode()
    except (InvalidTag, ValueError) as error:
        raise _damaged(ref) from error


def _associated(ref: CredentialRef, purpose: str) -> bytes:
    parts = ("openshell-credential", str(_FORMAT), purpose, ref.handle, ref.provider_id, ref.key)
    return b"".join(len(raw).to_bytes(4, "big") + raw for raw in (p.encode() for p in parts))


def _seal(key: bytes, plain: bytes, associated: bytes, random: Callable[[int], bytes]) -> str:
    nonce = random(_NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, plain, associated)).decode()


def _open(key: bytes, sealed: str, associated: bytes) -> bytes:
    raw = base64.b64decode(sealed, validate=True)
    return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], associated)


def _read(ref: CredentialRef, envelope: bytes) -> dict[str, str]:
    if len(envelope) > _MAX_ENVELOPE_BYTES:
        raise _damaged(ref)
    try:
        fields = json.loads(envelope)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise _damaged(ref) from error
    wanted = {
        "id",
        "provider_id",
        "credential_key",
        "key_encryption_key_id",
        "wrapped_dek",
        "value",
    }
    if (
        not isinstance(fields, dict)
        or fields.pop("version", None) != _FORMAT
        or fields.pop("algorithm", None) != _ALGORITHM
        or fields.keys() != wanted
        or not all(isinstance(text, str) for text in fields.values())
    ):
        raise _damaged(ref)
    return fields


def _damaged(ref: CredentialRef) -> CredentialError:
    return CredentialError(
        CredentialCode.DATA_LOSS,
        f"the stored credential '{ref.key}' is damaged or was altered; set the credential again",
    )
