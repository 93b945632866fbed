"""Who makes this call? Decided from the bearer header and the verified certificate, nothing else.

Order: a sandbox token, then the user's certificate, then (only where configured) the local
developer. The first that recognises its evidence decides; a token that is wrong is refused and never
falls through to weaker evidence. Supervisors' listeners accept tokens alone.

Pure apart from the clock inside `SandboxTokens`. Called by `interceptor`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openshell.gateway.auth.authorization import AuthMode, Denied, RolePolicy, Rule
from openshell.gateway.auth.principal import (
    LOCAL_DEV_USER,
    Anonymous,
    IdentityProvider,
    Principal,
    SandboxPrincipal,
    SandboxSource,
    UserPrincipal,
)
from openshell.gateway.auth.tokens import NotOurs, Rejected, SandboxTokens, Verified
from openshell.gateway.errors import Code

__all__ = [
    "SUPERVISOR_UNIT",
    "AuthSettings",
    "CallEvidence",
    "Listener",
    "authenticate",
]

# Organisational unit of certificates that let a supervisor through TLS and make it nobody.
SUPERVISOR_UNIT: Final = "openshell-supervisor"

_BEARER: Final = "Bearer "

# Parsing a certificate takes longer than the rest of a call. A gateway sees few of them at a time.
_KNOWN_CERTIFICATES: Final = 256


class Listener(enum.Enum):
    """Which door a call came through."""

    USERS = "users"
    # Methods of the classes sandbox and dual, sandbox tokens only, no certificates.
    SUPERVISORS = "supervisors"


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """What this gateway accepts as proof."""

    tokens: SandboxTokens | None
    mtls_users: bool
    unauthenticated_users: bool
    roles: RolePolicy

    @classmethod
    def derive(
        cls,
        *,
        tokens: SandboxTokens | None,
        mtls_users: bool,
        allow_unauthenticated_users: bool,
        roles: RolePolicy | None = None,
    ) -> AuthSettings:
        """A gateway with no mechanism at all serves everyone: the caller must warn about it."""
        nothing_configured = tokens is None and not mtls_users
        return cls(
            tokens=tokens,
            mtls_users=mtls_users,
            unauthenticated_users=allow_unauthenticated_users or nothing_configured,
            roles=roles or RolePolicy(),
        )


@dataclass(frozen=True, slots=True)
class CallEvidence:
    """What a call brings along. The certificate is one that TLS has verified."""

    authorization: Sequence[str] = field(default=(), repr=False)
    certificate_pem: bytes | None = None


def authenticate(
    rule: Rule | None, evidence: CallEvidence, settings: AuthSettings, listener: Listener
) -> Principal | Denied:
    if rule is not None and rule.mode is AuthMode.UNAUTHENTICATED:
        return Anonymous()
    if len(evidence.authorization) > 1:
        return Denied(Code.UNAUTHENTICATED, "more than one authorization header")
    bearer = _bearer(evidence.authorization)
    if bearer is not None and settings.tokens is not None:
        match settings.tokens.verify(bearer):
            case Verified(sandbox_id=sandbox_id):
                return SandboxPrincipal(sandbox_id, SandboxSource.GATEWAY_TOKEN)
            case Rejected(reason=reason):
                return Denied(Code.UNAUTHENTICATED, reason)
            case NotOurs():
                pass
    if listener is Listener.SUPERVISORS:
        return Denied(Code.UNAUTHENTICATED, "this listener needs the token of a sandbox")
    return _authenticate_user(evidence, settings)


def _bearer(authorization: Sequence[str]) -> str | None:
    if authorization and authorization[0].startswith(_BEARER):
        return authorization[0].removeprefix(_BEARER)
    return None


def _authenticate_user(evidence: CallEvidence, settings: AuthSettings) -> Principal | Denied:
    if settings.mtls_users and evidence.certificate_pem is not None:
        return _user_of_certificate(evidence.certificate_pem)
    if settings.unauthenticated_users:
        return LOCAL_DEV_USER
    if settings.tokens is None:
        return Denied(
            Code.UNAUTHENTICATED,
            "missing client certificate; connect with the certificate of this gateway's user",
        )
    return Denied(
        Code.UNAUTHENTICATED,
        "missing authorization header; connect with a client certificate or a bearer token",
    )


@lru_cache(maxsize=_KNOWN_CERTIFICATES)
def _user_of_certificate(pem: bytes) -> UserPrincipal | Denied:
    """The user a verified certificate stands for, unless it was made for something else."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = _attributes(certificate, NameOID.COMMON_NAME)
        units = _attributes(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
        for_clients = _is_for_clients(certificate)
    except ValueError:
        return Denied(Code.UNAUTHENTICATED, "the client certificate cannot be read")
    if SUPERVISOR_UNIT in units:
        return Denied(
            Code.UNAUTHENTICATED,
            "the client certificate belongs to a supervisor and is no identity of a user",
        )
    if not for_clients or len(names) > 1:
        return Denied(
            Code.UNAUTHENTICATED, "the client certificate was not issued to identify a user"
        )
    subject = names[0] if names else "unknown"
    return UserPrincipal(subject, IdentityProvider.MTLS, subject, units)


def _attributes(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> tuple[str, ...]:
    found = certificate.subject.get_attributes_for_oid(oid)
    return tuple(str(attribute.value) for attribute in found)


def _is_for_clients(certificate: x509.Certificate) -> bool:
    """TLS libraries check the purpose too, but not all of them and not always."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage
