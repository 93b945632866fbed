"""Where credentials may go, and which endpoints of a policy such traffic could take.

Every endpoint that overlaps such a place is stamped `provider_credentialed`: the proxy then lets
nothing pass there that it does not inspect. Writers are refused earlier, by `find_gaps`, with one
exception: the layer of a profile without credentials. It would be no use to refuse pypi beside
github, because nobody can edit that layer; its connections to github's hosts are what the proxy
refuses while both are attached. Works on the policy that is or would be in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from openshell.policy.hosts import normalize_host
from openshell.policy.model import Endpoint, SandboxPolicy
from openshell.policy.overlap import Budget, hosts_overlap
from openshell.providers.selectors import (
    covers_host,
    is_pattern,
    is_usable_host,
    selectors_overlap,
)
from openshell.providers.situation import Attached, Entry, Situation

__all__ = ["CredentialScopes", "Gap", "find_gaps", "scopes_of", "stamp_policy"]

# None: any port.
_Ports = frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Gap:
    """An endpoint that credentials could take unseen."""

    rule: str
    message: str
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    provider: str
    host: str
    ports: _Ports


class CredentialScopes:
    """Hosts and ports that credentials are bound to; paths do not count.

    Names are found by hash, so that only patterns cost a comparison each. When the budget for those
    is spent, what is left counts as touched: the safe answer.
    """

    def __init__(self, places: Iterable[_Place]) -> None:
        self._by_host: dict[str, list[_Place]] = {}
        for place in places:
            self._by_host.setdefault(place.host, []).append(place)
        self._patterns = [
            host for host in self._by_host if is_pattern(host) or not is_usable_host(host)
        ]
        self._budget = Budget()

    def touches(self, endpoint: Endpoint) -> bool:
        return next(self._touching(endpoint), None) is not None

    def providers(self, endpoint: Endpoint) -> tuple[str, ...]:
        """Whose credentials could go there."""
        return tuple(dict.fromkeys(place.provider for place in self._touching(endpoint)))

    def _touching(self, endpoint: Endpoint) -> Iterator[_Place]:
        host = normalize_host(endpoint.host)
        yield from self._at(host, endpoint)
        # Without a host an endpoint covers every name that resolves into its addresses.
        others = self._by_host if not host or is_pattern(host) else self._patterns
        for other in others:
            self._budget.spend(1)
            if other != host and (self._budget.is_spent or _meet(host, other, self._budget)):
                yield from self._at(other, endpoint)

    def _at(self, host: str, endpoint: Endpoint) -> Iterator[_Place]:
        return (p for p in self._by_host.get(host, ()) if _ports_meet(endpoint, p.ports))


def scopes_of(situation: Situation) -> CredentialScopes:
    """Endpoints of every credentialed profile, and what the policy binds for those without any.

    Whether layers are composed makes no difference. A global policy leaves the sandbox's own without
    effect, its bindings included.
    """
    places = [
        _Place(item.record.name, host, ports)
        for item in situation.attached
        if item.entry is not None
        for host, ports in item.entry.derive(_profile_places)
    ]
    if situation.policy is not None and situation.global_policy is None:
        places += _bound_places(situation.policy, situation.attached)
    return CredentialScopes(places)


def stamp_policy(policy: SandboxPolicy, scopes: CredentialScopes) -> SandboxPolicy:
    """The policy with `provider_credentialed` computed from zero, and no other change."""

    def stamped(endpoint: Endpoint) -> Endpoint:
        touched = scopes.touches(endpoint)
        if touched == endpoint.provider_credentialed:
            return endpoint
        return replace(endpoint, provider_credentialed=touched)

    rules = {
        key: replace(rule, endpoints=tuple(map(stamped, rule.endpoints)))
        for key, rule in policy.network_policies.items()
    }
    return replace(policy, network_policies=rules)


def find_gaps(
    policy: SandboxPolicy, scopes: CredentialScopes, exempt: frozenset[str]
) -> Iterator[Gap]:
    """Credentialed endpoints that nothing inspects, without their author's consent.

    `exempt`: keys of the layers that are not judged.
    """
    for key, rule in policy.network_policies.items():
        if key in exempt:
            continue
        for endpoint in rule.endpoints:
            blind = "" if endpoint.allow_uninspected_credentials else _blindness(endpoint)
            providers = scopes.providers(endpoint) if blind else ()
            if providers:
                ports = ",".join(map(str, endpoint.ports))
                names = ", ".join(f"'{name}'" for name in providers)
                yield Gap(
                    key,
                    f"credentialed endpoint '{endpoint.host}:{ports}' in rule "
                    f"'{rule.display_name}' uses {blind}; configure L7 inspection or explicitly set "
                    "allow_uninspected_credentials: true (credentials of "
                    f"{names} may be sent there)",
                    providers,
                )


def _profile_places(entry: Entry) -> tuple[tuple[str, _Ports], ...]:
    if not entry.profile.is_credentialed:
        return ()
    return tuple(
        (normalize_host(endpoint.host), frozenset(endpoint.ports) or None)
        for endpoint in entry.profile.endpoints
        if endpoint.host
    )


def _bound_places(policy: SandboxPolicy, attached: Iterable[Attached]) -> Iterator[_Place]:
    bindable = {
        item.record.name for item in attached if item.profile is None or not item.profile.endpoints
    }
    for rule in policy.network_policies.values():
        for endpoint in rule.endpoints:
            binding = endpoint.credential_binding
            if binding is not None and binding.provider in bindable:
                yield _Place(
                    binding.provider,
                    normalize_host(endpoint.host),
                    frozenset(endpoint.ports) or None,
                )


def _blindness(endpoint: Endpoint) -> str:
    # `protocol: tcp` is as blind as no protocol at all.
    if endpoint.protocol.strip().lower() in ("", "tcp"):
        return "L4-only"
    if endpoint.tls.strip().lower() == "skip":
        return "tls: skip"
    return ""


def _meet(host: str, scope: str, budget: Budget) -> bool:
    """`host` as policies write it, `scope` as credentials do, where `?` and `[]` count as well."""
    if not host or not is_usable_host(scope):
        return True
    if not is_pattern(host):
        return covers_host(scope, host)
    if "*" in host and not is_pattern(scope.replace("*", "")):
        return hosts_overlap(host, scope, budget)
    return selectors_overlap(host, scope, budget)


def _ports_meet(endpoint: Endpoint, ports: _Ports) -> bool:
    """No ports on one side means any."""
    return not endpoint.ports or ports is None or not ports.isdisjoint(endpoint.ports)
