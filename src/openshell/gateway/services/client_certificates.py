"""Refuses a client certificate and key that could never be used together, before they are stored.

Judged only where both values come in one request; a pair that comes in two is judged by the supervisor when it
is first used. Messages quote neither. Called by `provider_writes`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from openshell.gateway.errors import invalid_argument
from openshell.providers.client_certificates import certificate_keys
from openshell.providers.profile.model import ProviderProfile

__all__ = ["refuse_bad_pair"]

_SPKI: Final = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def refuse_bad_pair(
    profile: ProviderProfile | None, values: Mapping[str, str], now: dt.datetime
) -> None:
    """Raise an `ApiError` that says what to do."""
    keys = certificate_keys(profile)
    if keys is None or not all(values.get(key) for key in keys):
        return
    certificate_key, private_key_key = keys
    try:
        certificate = x509.load_pem_x509_certificate(values[certificate_key].encode())
    except ValueError:
        raise invalid_argument(
            f"credential '{certificate_key}' is no certificate in PEM; give the text of the file that"
            " begins with -----BEGIN CERTIFICATE-----"
        ) from None
    try:
        private = load_pem_private_key(values[private_key_key].encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise invalid_argument(
            f"credential '{private_key_key}' is no private key in PEM that can be read without a"
            " password; write it anew with `openssl pkey`"
        ) from None
    if private.public_key().public_bytes(*_SPKI) != certificate.public_key().public_bytes(*_SPKI):
        raise invalid_argument(
            f"the private key in '{private_key_key}' does not belong to the certificate in"
            f" '{certificate_key}'; give the two files that were made together, the client's own"
            " certificate before its chain"
        )
    if certificate.not_valid_after_utc < now:
        raise invalid_argument(
            f"the certificate in '{certificate_key}' has expired; have a new one issued"
        )
