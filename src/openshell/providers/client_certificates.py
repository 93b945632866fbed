"""The client certificate that a profile has shown to its endpoints: under which keys it is stored, where it may go.

Its two keys are secrets of the supervisor alone: no process in a sandbox gets a placeholder for them. Pure; what
the values are worth is the gateway's to say (`gateway.services.client_certificates`).
"""

from __future__ import annotations

from collections.abc import Iterator

from openshell.policy.model import Endpoint
from openshell.providers.profile.findings import ProfileFinding
from openshell.providers.profile.model import ProviderProfile

__all__ = ["certificate_keys", "check_client_certificate"]

_FIELD = "client_certificate"


def certificate_keys(profile: ProviderProfile | None) -> tuple[str, str] | None:
    """The provider's keys of certificate and private key; None where nothing usable is declared."""
    if profile is None or profile.client_certificate is None:
        return None
    wanted = profile.client_certificate
    by_name = {c.name.strip(): c.env_vars for c in profile.credentials}
    certificate = by_name.get(wanted.certificate.strip(), ())
    private_key = by_name.get(wanted.private_key.strip(), ())
    if len(certificate) != 1 or len(private_key) != 1 or certificate == private_key:
        return None
    return certificate[0], private_key[0]


def check_client_certificate(profile: ProviderProfile) -> Iterator[ProfileFinding]:
    """What is wrong with it, for `lint`."""
    wanted = profile.client_certificate
    if wanted is None:
        return
    by_name = {c.name.strip(): c for c in profile.credentials}
    for part, written in (("certificate", wanted.certificate), ("private_key", wanted.private_key)):
        credential = by_name.get(written.strip())
        field = f"{_FIELD}.{part}"
        if credential is None:
            message = f"unknown credential '{written}'; declare it in credentials"
            yield ProfileFinding(field, message)
        elif len(credential.env_vars) != 1:
            message = f"credential '{written}' must have exactly one entry in env_vars, the name it is stored by"
            yield ProfileFinding(field, message)
        elif credential.token_grant is not None or credential.refresh is not None:
            message = f"credential '{written}' must be given by hand: no refresh and no token_grant"
            yield ProfileFinding(field, message)
    if wanted.certificate.strip() == wanted.private_key.strip():
        yield ProfileFinding(_FIELD, "certificate and private_key must be two credentials")
    for index, endpoint in enumerate(profile.endpoints):
        yield from _check_endpoint(endpoint, f"endpoints[{index}]")


def _check_endpoint(endpoint: Endpoint, where: str) -> Iterator[ProfileFinding]:
    if endpoint.tls.strip().lower() == "skip":
        yield ProfileFinding(
            f"{where}.tls",
            "tls: skip passes TLS through, so that no client_certificate can be shown; remove one of them",
        )
    if endpoint.path:
        yield ProfileFinding(
            f"{where}.path",
            "a client_certificate is shown for a whole connection; restrict paths by rules instead",
        )
