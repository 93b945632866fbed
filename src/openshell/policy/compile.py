"""From a policy's model to a compiled policy of one generation: the network part.

Validation is not repeated here, but what it would have rejected (an unreadable pattern, a protocol
not built yet) refuses too, since a policy may arrive without having been validated. What decides is
`compiled`; the values of its questions and answers are in `decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from openshell.policy.compiled import CompiledPolicy
from openshell.policy.decide import (
    ConnectionAllowed,
    ConnectionDecision,
    ConnectionDenied,
    ConnectionRequest,
    EndpointConfig,
    L7Request,
    RequestAllowed,
    RequestAudited,
    RequestDecision,
    RequestDenied,
)
from openshell.policy.endpoint_rules import EndpointRules, compile_endpoint_rules
from openshell.policy.globs import compile_route
from openshell.policy.hosts import is_wildcard_host
from openshell.policy.model import Endpoint, SandboxPolicy
from openshell.policy.programs import compile_binaries
from openshell.policy.refusals import Target

__all__ = [
    "CompiledPolicy",
    "ConnectionAllowed",
    "ConnectionDecision",
    "ConnectionDenied",
    "ConnectionRequest",
    "EndpointConfig",
    "L7Request",
    "RequestAllowed",
    "RequestAudited",
    "RequestDecision",
    "RequestDenied",
    "compile_policy",
    "path_specificity",
    "quarantine",
    "quarantine_reason",
]

_NO_LINKS: Final[Mapping[str, str]] = MappingProxyType({})


def path_specificity(path: str) -> int:
    return len(path) - path.count("*")


def quarantine_reason(version: int, error: str) -> str:
    return (
        "policy validation failed; fail-closed quarantine is active; "
        f"candidate version {version} rejected: {error}"
    )


def _compile_endpoint(endpoint: Endpoint, key: str, index: int) -> EndpointConfig:
    enforce = endpoint.enforcement.strip().lower() == "enforce"
    return EndpointConfig(
        endpoint=endpoint,
        policy_key=key,
        index=index,
        protocol=endpoint.protocol.strip().lower(),
        enforcement="enforce" if enforce else "audit",
        tls_skip=endpoint.tls.strip().lower() == "skip",
        is_exact_host=bool(endpoint.host) and not is_wildcard_host(endpoint.host),
        specificity=path_specificity(endpoint.path),
        matches_route=compile_route(endpoint.path),
    )


def compile_policy(
    policy: SandboxPolicy, *, generation: int, binary_links: Mapping[str, str] = _NO_LINKS
) -> CompiledPolicy:
    """Compiles the network part. `binary_links`: policy path -> what it resolves to inside."""
    targets: list[Target] = []
    rules: dict[EndpointConfig, EndpointRules] = {}
    for key in sorted(policy.network_policies):
        source = policy.network_policies[key]
        rule = compile_binaries(source, binary_links)
        for index, endpoint in enumerate(source.endpoints):
            if not endpoint.host and not endpoint.allowed_ips:
                continue
            config = _compile_endpoint(endpoint, source.key, index)
            rules[config] = compile_endpoint_rules(endpoint, config.location)
            targets.append(Target(len(targets), rule, frozenset(endpoint.ports), config))
    return CompiledPolicy(
        generation=generation,
        targets=targets,
        rules=MappingProxyType(rules),
        rule_count=len(policy.network_policies),
    )


def quarantine(reason: str, generation: int) -> CompiledPolicy:
    """A generation that denies everything, with this reason (see `quarantine_reason`)."""
    return CompiledPolicy(
        generation=generation,
        targets=(),
        rules=MappingProxyType({}),
        rule_count=0,
        quarantine_text=reason,
    )
