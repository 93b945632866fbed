"""Which policy endpoints a provider's credentials are bound to, and what that demands of a policy.

A binding is `credential_binding.provider` on an endpoint. Bound credentials may only go where the
traffic is inspected: every endpoint that overlaps a bound one is stamped `provider_credentialed`,
and one that nothing inspects needs the author's explicit consent. Works on the policy model alone;
the gateway calls it inside its transactions, with the names attached to the sandbox.

Providers with a profile will be bound by their profile's endpoints; there are none yet.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from openshell.policy.globs import GlobError, compile_selector
from openshell.policy.model import Binary, Endpoint, NetworkRule, SandboxPolicy

__all__ = [
    "BindingFault",
    "FaultKind",
    "PolicyBinding",
    "check_bindings",
    "clear_marks",
    "policy_bindings",
    "stamp_credentialed",
    "uninspected_endpoints",
]

_GLOB_CHARS: Final = frozenset("*?[]")


class FaultKind(enum.Enum):
    MALFORMED = "malformed"
    """The binding itself is wrong, whatever is attached."""
    UNATTACHED = "unattached"
    """It names a provider that the sandbox does not have."""


@dataclass(frozen=True, slots=True)
class BindingFault:
    """Why a policy's bindings cannot stand; the first one found in key order."""

    kind: FaultKind
    message: str


@dataclass(frozen=True, slots=True, order=True)
class PolicyBinding:
    """One provider at one host, port and path."""

    provider: str
    host: str
    port: int
    path: str


def check_bindings(policy: SandboxPolicy, attached: Collection[str]) -> BindingFault | None:
    """None when every binding is well-formed and names an attached provider."""
    unattached: BindingFault | None = None
    for key, index, endpoint, provider in _bound(policy):
        where = f"network_policies '{key}' endpoints[{index}]"
        problem = _malformed(endpoint, provider)
        if problem:
            return BindingFault(FaultKind.MALFORMED, f"{where}: {problem}")
        if provider not in attached and unattached is None:
            unattached = BindingFault(
                FaultKind.UNATTACHED,
                f"{where}: credential_binding provider '{provider}' is not attached to the sandbox; "
                "attach it first, or remove the binding",
            )
    return unattached


def policy_bindings(policy: SandboxPolicy) -> tuple[PolicyBinding, ...]:
    """Every binding, one for each port, sorted and without repetition."""
    found = {
        PolicyBinding(provider, endpoint.host.lower(), port, endpoint.path)
        for _key, _index, endpoint, provider in _bound(policy)
        for port in endpoint.ports
    }
    return tuple(sorted(found))


def stamp_credentialed(policy: SandboxPolicy, attached: Collection[str]) -> SandboxPolicy:
    """The policy with `provider_credentialed` computed from zero, and no other change."""
    scopes = [
        (endpoint.host, frozenset(endpoint.ports))
        for _key, _index, endpoint, provider in _bound(policy)
        if provider in attached
    ]

    def stamped(endpoint: Endpoint) -> Endpoint:
        covered = any(_overlaps(endpoint, host, ports) for host, ports in scopes)
        return replace(endpoint, provider_credentialed=covered)

    rules = {
        key: replace(rule, endpoints=tuple(stamped(endpoint) for endpoint in rule.endpoints))
        for key, rule in policy.network_policies.items()
    }
    return replace(policy, network_policies=rules)


def uninspected_endpoints(stamped: SandboxPolicy) -> tuple[str, ...]:
    """One sentence for every credentialed endpoint that nothing inspects without consent."""
    sentences = []
    for rule in stamped.network_policies.values():
        for endpoint in rule.endpoints:
            if not endpoint.provider_credentialed or endpoint.allow_uninspected_credentials:
                continue
            gap = _inspection_gap(endpoint)
            if gap:
                ports = ",".join(map(str, endpoint.ports))
                sentences.append(
                    f"credentialed endpoint '{endpoint.host}:{ports}' in rule "
                    f"'{rule.display_name}' uses {gap}; configure L7 inspection or explicitly set "
                    "allow_uninspected_credentials: true"
                )
    return tuple(sentences)


def clear_marks(policy: SandboxPolicy) -> SandboxPolicy:
    """The policy without the marks that only the gateway may set."""

    def cleared(rule: NetworkRule) -> NetworkRule:
        endpoints = tuple(
            replace(endpoint, provider_credentialed=False, advisor_proposed=False)
            for endpoint in rule.endpoints
        )
        return replace(
            rule, endpoints=endpoints, binaries=tuple(Binary(b.path) for b in rule.binaries)
        )

    rules = {key: cleared(rule) for key, rule in policy.network_policies.items()}
    return replace(policy, network_policies=rules)


def _bound(policy: SandboxPolicy) -> Iterator[tuple[str, int, Endpoint, str]]:
    for key in sorted(policy.network_policies):
        for index, endpoint in enumerate(policy.network_policies[key].endpoints):
            if endpoint.credential_binding is not None:
                yield key, index, endpoint, endpoint.credential_binding.provider


def _malformed(endpoint: Endpoint, provider: str) -> str:
    if not provider.strip():
        return "credential_binding.provider must not be empty"
    if provider != provider.strip():
        return "credential_binding.provider must not have spaces around it"
    if not endpoint.host:
        return "an endpoint with a credential_binding needs a host"
    try:
        # The supervisor reads the host of a binding in this dialect and refuses what it cannot.
        compile_selector(endpoint.host)
    except GlobError as error:
        return f"the host of an endpoint with a credential_binding is unusable: {error}"
    if not endpoint.ports or not all(1 <= port <= 65535 for port in endpoint.ports):
        return "an endpoint with a credential_binding needs ports from 1 to 65535"
    return ""


def _inspection_gap(endpoint: Endpoint) -> str:
    # `protocol: tcp` is as blind as no protocol at all.
    if endpoint.protocol.strip().lower() in ("", "tcp"):
        return "L4-only"
    if endpoint.tls.strip().lower() == "skip":
        return "tls: skip"
    return ""


def _overlaps(endpoint: Endpoint, host: str, ports: frozenset[int]) -> bool:
    if endpoint.ports and ports and ports.isdisjoint(endpoint.ports):
        return False
    # Without a host the endpoint covers every name that resolves into its addresses.
    return not endpoint.host or _hosts_meet(
        endpoint.host.lower().split("."), host.lower().split(".")
    )


def _hosts_meet(left: list[str], right: list[str]) -> bool:
    """Some name may match both patterns. Two globs in one place count as meeting: the safe side."""
    reached = {(0, 0)}
    seen = set(reached)
    while reached:
        following = set()
        for at_left, at_right in reached:
            if at_left == len(left) and at_right == len(right):
                return True
            if at_left < len(left) and at_right < len(right):
                following |= _next_labels(left, right, at_left, at_right)
        reached = following - seen
        seen |= following
    return False


def _next_labels(left: list[str], right: list[str], i: int, j: int) -> set[tuple[int, int]]:
    if not _labels_meet(left[i], right[j]):
        return set()
    following = {(i + 1, j + 1)}
    if left[i] == "**":
        following.add((i, j + 1))
    if right[j] == "**":
        following.add((i + 1, j))
    return following


def _labels_meet(left: str, right: str) -> bool:
    left_is_glob = not _GLOB_CHARS.isdisjoint(left)
    right_is_glob = not _GLOB_CHARS.isdisjoint(right)
    if left_is_glob and right_is_glob:
        return True
    if not left_is_glob and not right_is_glob:
        return left == right
    pattern, name = (left, right) if left_is_glob else (right, left)
    try:
        return bool(name) and bool(compile_selector(pattern)(name))
    except GlobError:
        return True
