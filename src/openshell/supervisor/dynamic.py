"""Token grants as the gateway sends them, read into what the proxy chooses from. Pure.

A grant that cannot be used refuses the requests it covers, and only these. Called by `candidate`.
"""

import re
from collections.abc import Mapping
from typing import Final

from openshell._proto import openshell_pb2
from openshell.egress.credentials import BoundEndpoint, GrantRejected, GrantSet, TokenGrant, Tokens
from openshell.egress.credentials.grants import field_of
from openshell.supervisor.token_endpoint import TokenEndpoint

__all__ = ["read_grants"]

_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# A realm is its issuer's name in servers that have several.
_REALM: Final = re.compile(r"(.*?/realms/[^/]+)/", re.DOTALL).match


def read_grants(
    sent: Mapping[str, openshell_pb2.ProviderProfileCredential], tokens: Tokens | None
) -> tuple[GrantSet, str]:
    """The grants that can be used, and a sentence about those that cannot."""
    grants: list[TokenGrant] = []
    problems: list[str] = []
    for key in sorted(sent):
        try:
            endpoint, owner = TokenGrant.place(key)
        except GrantRejected as error:
            problems.append(str(error))
            continue
        grant = _grant(key, endpoint, sent[key])
        if grant.fault:
            problems.append(f"{owner}: {grant.fault}")
        grants.append(grant)
    return GrantSet.build(grants, tokens), "; ".join(problems)


def _grant(
    key: str, endpoint: BoundEndpoint, credential: openshell_pb2.ProviderProfileCredential
) -> TokenGrant:
    grant, fault = credential.token_grant, ""
    try:
        header, is_bearer = field_of(credential.auth_style, credential.header_name)
    except GrantRejected as error:
        header, is_bearer, fault = "", False, str(error)
    if TokenEndpoint.parse(grant.token_endpoint) is None:
        fault = fault or "its token endpoint is neither https nor near enough for http"
    return TokenGrant(
        key,
        endpoint,
        token_endpoint=grant.token_endpoint,
        svid_audience=grant.jwt_svid_audience or _audience(grant.token_endpoint),
        assertion_type=grant.client_assertion_type or _ASSERTION_TYPE,
        audience=grant.audience,
        scopes=tuple(grant.scopes),
        cache_ttl_seconds=grant.cache_ttl_seconds,
        header=header,
        is_bearer=is_bearer,
        fault=fault,
    )


def _audience(token_endpoint: str) -> str:
    realm = _REALM(token_endpoint)
    return realm[1] if realm else token_endpoint
