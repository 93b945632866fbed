"""Bindings of credentials in a sandbox's own policy: `credential_binding.provider` on an endpoint.

They say where the credentials of a provider go whose profile has no endpoints, or that has no
profile. Called by `fitness`, which judges them, and by `environment`, which hands them out. The marks
that only the gateway sets are cleared here as well, from whatever a client sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from openshell.policy.globs import GlobError, compile_selector
from openshell.policy.hosts import normalize_host
from openshell.policy.model import Binary, Endpoint, NetworkRule, SandboxPolicy
from openshell.providers.situation import Attached, Fault, FaultCode

__all__ = ["PolicyBinding", "clear_marks", "find_binding_faults", "policy_bindings"]


@dataclass(frozen=True, slots=True, order=True)
class PolicyBinding:
    """One provider at one host, port and path."""

    provider: str
    host: str
    port: int
    path: str


def policy_bindings(policy: SandboxPolicy) -> tuple[PolicyBinding, ...]:
    """Every binding, one for each port, sorted and without repetition."""
    found = {
        PolicyBinding(provider, normalize_host(endpoint.host), port, endpoint.path)
        for _key, _index, endpoint, provider in _bound(policy)
        for port in endpoint.ports
    }
    return tuple(sorted(found))


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
