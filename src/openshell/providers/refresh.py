"""Refresh of credentials in general: refusals, material, secrecy, schedule.

What a configuration must satisfy is `refresh_configure.py`, what is asked of a token endpoint
`refresh_requests.py`, what it may answer `refresh_answers.py`. All four are functions of values:
requests are sent, times read and rows written by `openshell.gateway.refresh`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from openshell.providers.profile.model import ProfileCredential, ProviderProfile, Strategy

__all__ = [
    "BACKOFF_MS",
    "DEFAULT_LEAD_SECONDS",
    "DEFAULT_LIFETIME_SECONDS",
    "SECRET_MATERIAL",
    "STS_OUTPUTS",
    "STS_PRIMARY_KEY",
    "RefreshReason",
    "RefreshRefused",
    "find_credential",
    "next_due",
    "pin_outputs",
    "secret_names",
]

BACKOFF_MS: Final = 60_000
"""From a failure to the next attempt. Fixed: a repaired account works again within a minute."""
DEFAULT_LEAD_SECONDS: Final = 300
"""How long before its end a value is replaced: several attempts fit in before it is missed."""
DEFAULT_LIFETIME_SECONDS: Final = 3600
"""The longest a minted value is used when nothing says how long it lives."""

STS_PRIMARY_KEY: Final = "AWS_ACCESS_KEY_ID"
STS_OUTPUTS: Final[Mapping[str, str]] = MappingProxyType(
    {"secret_access_key": "AWS_SECRET_ACCESS_KEY", "session_token": "AWS_SESSION_TOKEN"}
)
"""The further values of one AssumeRole and the only variables that may receive them."""

_SECRET_BY_STRATEGY: Final[Mapping[Strategy, frozenset[str]]] = MappingProxyType(
    {
        Strategy.OAUTH2_REFRESH_TOKEN: frozenset({"refresh_token", "client_secret"}),
        Strategy.OAUTH2_CLIENT_CREDENTIALS: frozenset({"client_secret"}),
        Strategy.GOOGLE_SERVICE_ACCOUNT_JWT: frozenset({"private_key"}),
        Strategy.AWS_STS_ASSUME_ROLE: frozenset({"aws_secret_access_key", "aws_session_token"}),
    }
)
SECRET_MATERIAL: Final[frozenset[str]] = frozenset().union(*_SECRET_BY_STRATEGY.values())
"""Names of material that proves rather than identifies, whatever the strategy."""
# Material that the strategies read and that identifies rather than proves. Anything else that the
# profile does not call public is sealed: nobody can say what an unknown name holds.
_PUBLIC: Final = frozenset(
    {
        "aws_access_key_id",
        "aws_region",
        "client_email",
        "client_id",
        "external_id",
        "max_lifetime_seconds",
        "refresh_before_seconds",
        "role_arn",
        "scope",
        "scopes",
        "session_name",
        "sub",
        "subject",
        "tenant_id",
    }
)


class RefreshReason(enum.Enum):
    """Whose turn it is after a refusal."""

    ARGUMENT = "argument"
    """The request or the configured material has to change."""
    PRECONDITION = "precondition"
    """Something else has to change first: a profile, a setting, the grant at its issuer."""
    UNREACHABLE = "unreachable"
    """Trying again may help."""
    ISSUER = "issuer"
    """The issuer's interface failed in a way that only its own records explain."""


class RefreshRefused(Exception):
    """A configuration or a renewal that cannot be. The text never holds a value of material."""

    def __init__(self, reason: RefreshReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def find_credential(profile: ProviderProfile | None, key: str) -> ProfileCredential | None:
    """The credential of the profile that a key stands for, by name or variable."""
    if profile is None:
        return None
    named = [c for c in profile.credentials if c.name == key]
    return next((c for c in (*named, *profile.credentials) if key in (c.name, *c.env_vars)), None)


def pin_outputs(profile: ProviderProfile | None, key: str, strategy: Strategy) -> dict[str, str]:
    """Output names and the variables that receive them, as the profile has them at this moment.

    A sibling without exactly one variable pins nothing: which one to write would be a guess.
    """
    credential = find_credential(profile, key)
    if profile is None or credential is None or credential.refresh is None:
        return {}
    if credential.refresh.strategy is not strategy:
        return {}
    variables = {c.name: c.env_vars[0] for c in profile.credentials if len(c.env_vars) == 1}
    return {
        output.output: variables[output.credential]
        for output in credential.refresh.additional_outputs
        if output.credential in variables
    }


def secret_names(
    profile: ProviderProfile | None,
    key: str,
    strategy: Strategy,
    material: Mapping[str, str],
    listed: Iterable[str],
) -> frozenset[str]:
    """Which of the material is sealed: more than the contract asks for, never less."""
    credential = find_credential(profile, key)
    described = credential.refresh.material if credential and credential.refresh else ()
    secret = {*listed, *(m.name for m in described if m.secret), *_SECRET_BY_STRATEGY[strategy]}
    public = (_PUBLIC | {m.name for m in described if not m.secret}) - secret
    return frozenset(name for name, value in material.items() if value and name not in public)


def next_due(expires_at_ms: int, refresh_before_seconds: int) -> int:
    """When to renew; 0 (now) for a value without a known end."""
    if expires_at_ms <= 0:
        return 0
    return max(0, expires_at_ms - (refresh_before_seconds or DEFAULT_LEAD_SECONDS) * 1000)
