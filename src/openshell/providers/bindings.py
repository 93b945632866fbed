"""Which policy endpoints a provider's credentials are bound to, and what that demands of a policy.

A binding is `credential_binding.provider` on an endpoint. Bound credentials may only go where the
traffic is inspected: every endpoint that overlaps a bound one is stamped `provider_credentialed`,
and one that nothing inspects needs the author's explicit consent. Works on the policy model alone;
the gateway calls it inside its transactions, with the names attached to the sandbox.

Providers with a profile will be bound by their profile's endpoints; there are none yet.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from openshell.policy.globs import GlobError, compile_selector
from openshell.policy.hosts import normalize_host
from openshell.policy.model import Binary, Endpoint, NetworkRule, SandboxPolicy
from openshell.policy.overlap import Budget, hosts_overlap
from openshell.providers.situation import Attached, Fault, FaultCode

__all__ = [
    "BindingFault",
    "FaultKind",
    "PolicyBinding",
    "check_bindings",
    "clear_marks",
    "find_binding_faults",
    "policy_bindings",
    "stamp_credentialed",
    "uninspected_endpoints",
]


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


def find_binding_faults(policy: SandboxPolicy, attached: Iterable[Attached]) -> Iterator[Fault]:
    """Bindings that are wrong by themselves, or name a provider that the policy may not bind.

    A provider without a profile may be bound: nothing else says where its credentials go.
    """
    by_name = {item.record.name: item for item in attached}
    for key, index, endpoint, provider in _bound(policy):
        where = f"network_policies '{key}' endpoints[{index}]"
        problem = _malformed(endpoint, provider)
        item = by_name.get(provider)
        if problem:
            yield Fault(FaultCode.BINDING_MALFORMED, f"{where}: {problem}", (provider,))
        elif item is None:
            yield Fault(
                FaultCode.BINDING_UNATTACHED,
                f"{where}: credential_binding provider '{provider}' is not attached to the sandbox; "
                "attach it first, or remove the binding",
                (provider,),
            )
        elif item.profile is not None and item.profile.endpoints:
            yield Fault(
                FaultCode.BINDING_TWO_AUTHORITIES,
                f"{where}: credential_binding provider '{provider}' has a profile "
                f"('{item.profile.id}') that already defines endpoints; remove the binding, or the "
                "endpoints from the profile",
                (provider,),
            )


def policy_bindings(policy: SandboxPolicy) -> tuple[PolicyBinding, ...]:
    """Every binding, one for each port, sorted and without repetition."""
    found = {
        PolicyBinding(provider, normalize_host(endpoint.host), port, endpoint.path)
        for _key, _index, endpoint, provider in _bound(policy)
        for port in endpoint.ports
    }
    return tuple(sorted(found))


def stamp_credentialed(policy: SandboxPolicy, attached: Collection[str]) -> SandboxPolicy:
    """The policy with `provider_credentialed` computed from zero, and no other change."""
    scopes = _Scopes(
        endpoint for _key, _index, endpoint, provider in _bound(policy) if provider in attached
    )
    rules = {
        key: replace(
            rule,
            endpoints=tuple(
                replace(endpoint, provider_credentialed=scopes.touch(endpoint))
                for endpoint in rule.endpoints
            ),
        )
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
        compile_selector(normalize_host(endpoint.host))
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


class _Scopes:
    """Hosts and ports that credentials are bound to; paths do not count.

    Names are found by hash, so that only patterns cost a comparison each. When the budget for those
    is spent, what is left counts as touched: the safe answer.
    """

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._names: dict[str, set[int]] = {}
        self._patterns: dict[str, set[int]] = {}
        self._budget = Budget()
        for endpoint in endpoints:
            host = endpoint.host.lower()
            group = self._patterns if "*" in host else self._names
            group.setdefault(host, set()).update(endpoint.ports)

    def touch(self, endpoint: Endpoint) -> bool:
        host = endpoint.host.lower()
        # Without a host an endpoint covers every name that resolves into its addresses.
        if not host or "*" in host:
            return self._touches_any(host, endpoint, self._names) or self._touches_any(
                host, endpoint, self._patterns
            )
        return _ports_meet(endpoint, self._names.get(host)) or self._touches_any(
            host, endpoint, self._patterns
        )

    def _touches_any(self, host: str, endpoint: Endpoint, group: Mapping[str, set[int]]) -> bool:
        for scope, ports in group.items():
            self._budget.spend(1)
            if _ports_meet(endpoint, ports) and (
                self._budget.is_spent or hosts_overlap(host, scope, self._budget)
            ):
                return True
        return False


def _ports_meet(endpoint: Endpoint, ports: set[int] | None) -> bool:
    """None: no such host. No ports on one side means any."""
    if ports is None:
        return False
    return not endpoint.ports or not ports or not ports.isdisjoint(endpoint.ports)
