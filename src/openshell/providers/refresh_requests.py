"""What is asked of an issuer to mint a value: a form for a token endpoint, or a role to assume.

Plans from material and nothing else; sending is `openshell.gateway.refresh`'s. A plan holds secrets
and shows none of them. URLs that could be read in two ways are refused: the form that goes there
holds the account.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jwt
from joserfc.jwk import RSAKey

from openshell.providers.profile.model import Strategy
from openshell.providers.refresh import (
    DEFAULT_LIFETIME_SECONDS,
    RefreshReason,
    RefreshRefused,
)

__all__ = [
    "GOOGLE_TOKEN_URL",
    "MintInputs",
    "RolePlan",
    "SourceKeys",
    "TokenRequest",
    "plan_role",
    "plan_token_request",
]

GOOGLE_TOKEN_URL: Final = "https://oauth2.googleapis.com/token"  # noqa: S105  an address
ASSERTION_SECONDS: Final = 3600
"""The longest an assertion may live; Google's own limit."""
ROLE_SECONDS: Final = (900, 43_200)
"""The shortest and longest session AWS grants; a shorter lifetime is kept by using it shorter."""
MIN_RSA_BITS: Final = 2048

_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_TENANT: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_REGION: Final = re.compile(r"[a-z]{2,8}(?:-[a-z0-9]{1,16}){1,4}")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
# No user, no fragment, no backslash, nothing but visible ASCII: every reader sees the same host.
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/[!-~]*)?(?:\?[!-~]*)?"
)


@dataclass(frozen=True, slots=True)
class MintInputs:
    """Everything a mint depends on."""

    strategy: Strategy
    material: Mapping[str, str] = field(repr=False)
    """Plain and secret material together."""
    token_url: str = field(default="", repr=False)
    scopes: Sequence[str] = ()
    max_lifetime_seconds: int = 0

    @property
    def lifetime_seconds(self) -> int:
        """The longest a minted value is used."""
        return self.max_lifetime_seconds or DEFAULT_LIFETIME_SECONDS

    def get(self, name: str) -> str:
        return self.material.get(name, "").strip()

    def require(self, name: str) -> str:
        value = self.get(name)
        if not value:
            raise _argument(f"material '{name}' is missing; configure the refresh again with it")
        return value


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One POST to a token endpoint."""

    url: str = field(repr=False)
    form: Mapping[str, str] = field(repr=False)
    rotates: bool
    """Whether the answer may replace the refresh token that was sent."""

    @property
    def host(self) -> str:
        """For messages: a path may name a tenant."""
        found = _URL.fullmatch(self.url)
        return found["host"] if found is not None else ""


@dataclass(frozen=True, slots=True)
class SourceKeys:
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RolePlan:
    """One AssumeRole. Without a source the gateway's own AWS identity assumes the role."""

    role_arn: str
    session_name: str
    external_id: str = field(repr=False)
    region: str
    duration_seconds: int
    source: SourceKeys | None


def plan_token_request(inputs: MintInputs, now_ms: int) -> TokenRequest:
    """Raises `RefreshRefused`."""
    match inputs.strategy:
        case Strategy.OAUTH2_REFRESH_TOKEN:
            return _refresh_token(inputs)
        case Strategy.OAUTH2_CLIENT_CREDENTIALS:
            return _client_credentials(inputs)
        case Strategy.GOOGLE_SERVICE_ACCOUNT_JWT:
            return _google(inputs, now_ms // 1000)
        case _:
            raise ValueError(f"{inputs.strategy} asks no token endpoint")


def _refresh_token(inputs: MintInputs) -> TokenRequest:
    form = {
        "grant_type": "refresh_token",
        "client_id": inputs.require("client_id"),
        "refresh_token": inputs.require("refresh_token"),
    }
    if inputs.get("client_secret"):
        form["client_secret"] = inputs.get("client_secret")
    return TokenRequest(_oauth2_url(inputs), _with_scope(form, inputs), rotates=True)


def _client_credentials(inputs: MintInputs) -> TokenRequest:
    form = {
        "grant_type": "client_credentials",
        "client_id": inputs.require("client_id"),
        "client_secret": inputs.require("client_secret"),
    }
    return TokenRequest(_oauth2_url(inputs), _with_scope(form, inputs), rotates=False)


def _with_scope(form: dict[str, str], inputs: MintInputs) -> dict[str, str]:
    if inputs.scopes:
        form["scope"] = " ".join(inputs.scopes)
    return form


def _google(inputs: MintInputs, now: int) -> TokenRequest:
    url = _check_url(inputs.token_url or GOOGLE_TOKEN_URL)
    email = inputs.require("client_email")
    key = _signing_key(inputs.require("private_key"))
    if not inputs.scopes:
        raise _argument(
            "no scope is configured: give material 'scope' or use a profile with scopes"
        )
    claims: dict[str, str | int] = {
        "iss": email,
        "scope": " ".join(inputs.scopes),
        "aud": url,
        "iat": now,
        "exp": now + min(inputs.lifetime_seconds, ASSERTION_SECONDS),
    }
    subject = inputs.get("subject") or inputs.get("sub")
    if subject:
        claims["sub"] = subject
    assertion = jwt.encode({"alg": "RS256", "typ": "JWT"}, claims, key, algorithms=["RS256"])
    return TokenRequest(url, {"grant_type": _JWT_BEARER, "assertion": assertion}, rotates=False)


def _signing_key(pem: str) -> RSAKey:
    try:
        loaded = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnicodeError):
        # Nothing is chained: a parser's words may quote what it read.
        loaded = None
    if not isinstance(loaded, RSAPrivateKey) or loaded.key_size < MIN_RSA_BITS:
        raise _argument(
            f"material 'private_key' is no unencrypted RSA private key in PEM of at least "
            f"{MIN_RSA_BITS} bits"
        )
    return RSAKey.import_key(pem)


def _check_tenant(tenant: str) -> None:
    """A tenant becomes a part of a path."""
    if not _TENANT.fullmatch(tenant) or ".." in tenant:
        raise _argument("material 'tenant_id' is no tenant: an id or a domain name is expected")


def _oauth2_url(inputs: MintInputs) -> str:
    tenant = inputs.get("tenant_id")
    if tenant:
        _check_tenant(tenant)
        return f"https://login.microsoftonline.com/{quote(tenant)}/oauth2/v2.0/token"
    if not inputs.token_url:
        raise _argument(
            "no token endpoint is known: use a profile with token_url, or give material 'tenant_id'"
        )
    return _check_url(inputs.token_url)


def _check_url(url: str) -> str:
    found = _URL.fullmatch(url)
    if found is None or "\\" in url or "#" in url or not 0 < int(found["port"] or 443) < 65536:
        raise _argument("the profile's token_url is no plain URL of a host, port and path")
    if found["scheme"] == "http" and found["host"].lower() not in _LOOPBACK:
        raise _argument("the profile's token_url must use https (http only to localhost)")
    return url


def plan_role(inputs: MintInputs) -> RolePlan:
    """Raises `RefreshRefused`."""
    region = inputs.get("aws_region") or "us-east-1"
    if not _REGION.fullmatch(region):
        raise _argument("material 'aws_region' is no AWS region")
    access_key_id = inputs.get("aws_access_key_id")
    shortest, longest = ROLE_SECONDS
    return RolePlan(
        role_arn=inputs.require("role_arn"),
        session_name=inputs.get("session_name") or "openshell-sandbox",
        external_id=inputs.get("external_id"),
        region=region,
        duration_seconds=max(shortest, min(inputs.lifetime_seconds, longest)),
        source=SourceKeys(
            access_key_id, inputs.require("aws_secret_access_key"), inputs.get("aws_session_token")
        )
        if access_key_id
        else None,
    )


def _argument(message: str) -> RefreshRefused:
    return RefreshRefused(RefreshReason.ARGUMENT, message)
