"""The caller of an RPC as a value, and the one place where a handler finds it.

Principals are made by `authentication` only. Handlers read them with `current_principal`,
`require_user` or `require_sandbox`; a call outside an RPC is a bug and raises LookupError.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeAlias

from openshell.gateway.errors import permission_denied

__all__ = [
    "ADMIN_ROLE",
    "LOCAL_DEV_USER",
    "USER_ROLE",
    "Anonymous",
    "IdentityProvider",
    "Principal",
    "SandboxPrincipal",
    "SandboxSource",
    "UserPrincipal",
    "acting_as",
    "bind_principal",
    "current_principal",
    "require_sandbox",
    "require_user",
]

# Names of the two roles unless an identity provider is configured with others.
USER_ROLE: Final = "openshell-user"
ADMIN_ROLE: Final = "openshell-admin"


class IdentityProvider(enum.StrEnum):
    """How a user proved who they are; the values are part of the API."""

    OIDC = "oidc"
    MTLS = "mtls"
    CLOUDFLARE_ACCESS = "cloudflare_access"
    LOCAL_DEV = "local_dev"


class SandboxSource(enum.StrEnum):
    """How a supervisor proved which sandbox it serves."""

    GATEWAY_TOKEN = "gateway_token"  # noqa: S105  the name of a method, no secret
    KUBERNETES = "kubernetes_service_account"


@dataclass(frozen=True, slots=True)
class UserPrincipal:
    subject: str
    provider: IdentityProvider
    display_name: str = ""
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxPrincipal:
    """A supervisor. Its workspace is that of the stored sandbox, which the token does not repeat."""

    sandbox_id: str
    source: SandboxSource


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Nobody in particular; seen only by methods of the class "unauthenticated"."""


Principal: TypeAlias = UserPrincipal | SandboxPrincipal | Anonymous

LOCAL_DEV_USER: Final = UserPrincipal(
    subject="unauthenticated-local-dev",
    provider=IdentityProvider.LOCAL_DEV,
    display_name="Unauthenticated Local Dev",
    roles=(USER_ROLE, ADMIN_ROLE),
    scopes=("openshell:all",),
)

# Every RPC runs in a task of its own, so the value cannot reach another call.
_current: ContextVar[Principal] = ContextVar("openshell_principal")


def bind_principal(principal: Principal) -> None:
    """Set the principal of the present RPC; called by the interceptor."""
    _current.set(principal)


def current_principal() -> Principal:
    return _current.get()


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    """Run the body as this principal: what tests of handlers call them in."""
    token = _current.set(principal)
    try:
        yield
    finally:
        _current.reset(token)


def require_user() -> UserPrincipal:
    principal = current_principal()
    if not isinstance(principal, UserPrincipal):
        raise permission_denied("this operation is for users; a supervisor may not perform it")
    return principal


def require_sandbox(sandbox_id: str | None = None) -> SandboxPrincipal:
    """The calling supervisor; with an id given, refused unless it serves that very sandbox."""
    principal = current_principal()
    if not isinstance(principal, SandboxPrincipal):
        raise permission_denied("this operation is for the supervisor of a sandbox")
    if sandbox_id is not None and principal.sandbox_id != sandbox_id:
        raise permission_denied("the token belongs to another sandbox")
    return principal
