"""What this version's proxy enforces, as one set, and which parts of a policy need more.

The language is larger than what is carried out. A policy that needs a feature outside the set is
refused by name, by gateway and supervisor alike, never taken and ignored. Building a feature means
adding it to `ENFORCED`; nothing else decides. Called by `validate`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Final

from openshell.policy.findings import Finding, Severity
from openshell.policy.model import Endpoint, SandboxPolicy
from openshell.policy.protocols import PROTOCOLS, has_graphql_policy

__all__ = ["ENFORCED", "EVERY_FEATURE", "Feature", "check_features"]


class Feature(StrEnum):
    """Named as in the policy: a protocol, or a key. Connections without protocol need none."""

    TCP = "tcp"
    REST = "rest"
    WEBSOCKET = "websocket"
    GRAPHQL = "graphql"
    SQL = "sql"
    JSON_RPC = "json-rpc"
    MCP = "mcp"
    WEBSOCKET_REWRITE = "websocket_credential_rewrite"
    BODY_REWRITE = "request_body_credential_rewrite"
    SIGNING = "credential_signing"
    MIDDLEWARES = "network_middlewares"


# Widen this when the proxy learns more.
ENFORCED: Final = frozenset(
    (
        Feature.TCP,
        Feature.REST,
        Feature.WEBSOCKET,
        Feature.WEBSOCKET_REWRITE,
        Feature.GRAPHQL,
        Feature.JSON_RPC,
        Feature.MCP,
        Feature.SIGNING,
        Feature.BODY_REWRITE,
        Feature.MIDDLEWARES,
    )
)
EVERY_FEATURE: Final = frozenset(Feature)


def check_features(policy: SandboxPolicy, features: Collection[Feature]) -> Iterator[Finding]:
    """One finding for each place that needs a feature which is not among `features`."""
    for key in sorted(policy.network_policies):
        rule = policy.network_policies[key]
        for index, endpoint in enumerate(rule.endpoints):
            where = f"network_policies.{key}.endpoints[{index}]"
            name = f"network policy '{rule.display_name}': endpoint {index}: "
            for feature, field, what in _needs(endpoint):
                if feature not in features:
                    yield _unbuilt(f"{where}.{field}", f"{name}{what}")
    if Feature.MIDDLEWARES not in features:
        for key in sorted(policy.network_middlewares):
            yield _unbuilt(f"network_middlewares.{key}", "network_middlewares")


def _unbuilt(location: str, what: str) -> Finding:
    return Finding(
        "not_supported_yet",
        Severity.ERROR,
        location,
        f"{what} is not supported yet by this version; remove it",
    )


def _needs(endpoint: Endpoint) -> Iterator[tuple[Feature, str, str]]:
    protocol = endpoint.protocol.lower()
    if protocol in PROTOCOLS:
        yield Feature(protocol), "protocol", f"protocol '{protocol}'"
    if protocol == "websocket" and has_graphql_policy(endpoint):
        yield Feature.GRAPHQL, "protocol", "GraphQL over WebSocket"
    # On other protocols these flags do nothing, which validation says.
    if endpoint.websocket_credential_rewrite and protocol in ("rest", "websocket"):
        yield _key(Feature.WEBSOCKET_REWRITE)
    if endpoint.request_body_credential_rewrite and protocol == "rest":
        yield _key(Feature.BODY_REWRITE)
    if endpoint.credential_signing or endpoint.signing_service or endpoint.signing_region:
        yield _key(Feature.SIGNING)


def _key(feature: Feature) -> tuple[Feature, str, str]:
    return feature, feature.value, feature.value
