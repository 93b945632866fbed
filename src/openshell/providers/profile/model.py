"""A provider profile as frozen values: what the document says, after reading and before meaning.

The field names are the document's keys. An unset string is "" and an unset number 0, so that writing
a profile back loses nothing. `document.py` reads YAML and JSON into these types and writes them,
`openshell.codec.profile` does the same for messages, `lint.py` judges them; endpoints and binaries
are those of `openshell.policy.model`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from openshell.policy.model import Binary, Endpoint

__all__ = [
    "CREDENTIAL_TEMPLATE",
    "MINTABLE",
    "AudienceOverride",
    "Category",
    "ClientCertificate",
    "Discovery",
    "Material",
    "ProfileCredential",
    "ProviderProfile",
    "Refresh",
    "RefreshOutput",
    "Strategy",
    "TokenGrant",
]

CREDENTIAL_TEMPLATE: Final = "{credential}"
"""What a `path_template` holds exactly once."""


class Category(enum.IntEnum):
    """The contract's numbers; lists are sorted by them."""

    OTHER = 1
    INFERENCE = 2
    AGENT = 3
    SOURCE_CONTROL = 4
    MESSAGING = 5
    DATA = 6
    KNOWLEDGE = 7


class Strategy(enum.IntEnum):
    """How a credential is renewed; the contract's numbers."""

    UNSPECIFIED = 0
    STATIC = 1
    EXTERNAL = 2
    OAUTH2_REFRESH_TOKEN = 3
    OAUTH2_CLIENT_CREDENTIALS = 4
    GOOGLE_SERVICE_ACCOUNT_JWT = 5
    AWS_STS_ASSUME_ROLE = 6


MINTABLE: Final = frozenset(
    {
        Strategy.OAUTH2_REFRESH_TOKEN,
        Strategy.OAUTH2_CLIENT_CREDENTIALS,
        Strategy.GOOGLE_SERVICE_ACCOUNT_JWT,
        Strategy.AWS_STS_ASSUME_ROLE,
    }
)
"""Strategies by which the gateway makes new values itself."""


def _no_annotations() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Material:
    """One input of a refresh strategy that the operator supplies."""

    name: str
    description: str = ""
    required: bool = False
    secret: bool = False


@dataclass(frozen=True, slots=True)
class RefreshOutput:
    """A further value that one minting yields, and the sibling credential that receives it."""

    output: str
    credential: str


@dataclass(frozen=True, slots=True)
class Refresh:
    strategy: Strategy = Strategy.UNSPECIFIED
    token_url: str = ""
    scopes: tuple[str, ...] = ()
    refresh_before_seconds: int = 0
    max_lifetime_seconds: int = 0
    material: tuple[Material, ...] = ()
    additional_outputs: tuple[RefreshOutput, ...] = ()

    @property
    def is_mintable(self) -> bool:
        return self.strategy in MINTABLE


@dataclass(frozen=True, slots=True)
class AudienceOverride:
    """Another audience for part of an endpoint; an empty selector field takes the endpoint's."""

    host: str = ""
    port: int = 0
    path: str = ""
    audience: str = ""
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """A credential that the supervisor fetches itself; no process in the sandbox ever sees it."""

    token_endpoint: str = ""
    audience: str = ""
    jwt_svid_audience: str = ""
    client_assertion_type: str = ""
    scopes: tuple[str, ...] = ()
    cache_ttl_seconds: int = 0
    audience_overrides: tuple[AudienceOverride, ...] = ()


@dataclass(frozen=True, slots=True)
class ProfileCredential:
    name: str = ""
    description: str = ""
    env_vars: tuple[str, ...] = ()
    required: bool = False
    auth_style: str = ""
    header_name: str = ""
    query_param: str = ""
    path_template: str = ""
    refresh: Refresh | None = None
    token_grant: TokenGrant | None = None


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Names of the credentials that hold the PEM texts which every endpoint is shown when it asks."""

    certificate: str = ""
    private_key: str = ""


@dataclass(frozen=True, slots=True)
class Discovery:
    """Which credentials a client may look for in its environment."""

    credentials: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderProfile:
    id: str = ""
    display_name: str = ""
    description: str = ""
    category: Category = Category.OTHER
    credentials: tuple[ProfileCredential, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    binaries: tuple[Binary, ...] = ()
    inference_capable: bool = False
    discovery: Discovery | None = None
    client_certificate: ClientCertificate | None = None
    annotations: Mapping[str, str] = field(default_factory=_no_annotations)
    resource_version: int = 0
    """The stored row's; 0 for built-in profiles and documents that never were stored."""
    source: str = ""
    scope: str = ""

    @property
    def is_credentialed(self) -> bool:
        """Holds any credential or signs requests, so that its endpoints must be inspected."""
        return bool(self.credentials) or any(e.credential_signing for e in self.endpoints)

    @property
    def has_usable_endpoint(self) -> bool:
        """Some endpoint has a host and a port, so that static credentials have somewhere to go."""
        return any(e.host.strip() and any(e.ports) for e in self.endpoints)

    def is_resolvable(self, credential: ProfileCredential) -> bool:
        """Whether its value can come into being at run time."""
        if credential.token_grant is not None:
            return True
        if credential.refresh is not None and credential.refresh.is_mintable:
            return True
        return any(
            output.credential == credential.name
            for other in self.credentials
            if other.refresh is not None and other.refresh.is_mintable
            for output in other.refresh.additional_outputs
        )

    @property
    def allows_empty_credentials(self) -> bool:
        """A provider of this type may be created without values."""
        return any(map(self.is_resolvable, self.credentials)) and all(
            self.is_resolvable(c) for c in self.credentials if c.required
        )
