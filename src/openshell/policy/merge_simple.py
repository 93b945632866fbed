"""The merge operations that name what they change: removals, and rules added to one endpoint.

Removing what is not there is no error. Only `merge` calls these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from openshell.policy.advice import place
from openshell.policy.hosts import normalize_host
from openshell.policy.merge_operations import (
    AddAllowRules,
    AddDenyRules,
    MergeRefused,
    MergeWarning,
    RefusalKind,
    RemoveBinary,
    RemoveEndpoint,
    RemoveRule,
)
from openshell.policy.merge_scope import expand_access, unseen
from openshell.policy.model import PROVIDER_KEY_PREFIX, Endpoint, NetworkRule, SandboxPolicy

__all__ = [
    "Changed",
    "add_allow_rules",
    "add_deny_rules",
    "remove_binary",
    "remove_endpoint",
    "remove_rule",
]

_RULED: Final = ("rest", "websocket")
# Endpoints listed when a selector is ambiguous.
_MAX_LISTED: Final = 10


@dataclass(frozen=True, slots=True)
class Changed:
    policy: SandboxPolicy
    key: str
    warnings: tuple[MergeWarning, ...]


def remove_rule(policy: SandboxPolicy, operation: RemoveRule, index: int) -> Changed:
    name, rules = operation.rule_name.strip(), policy.network_policies
    if name in rules:
        kept = (rule for rule in rules.values() if rule.key != name)
        return Changed(_with_rules(policy, kept), name, ())
    own = sorted(key for key in rules if not key.startswith(PROVIDER_KEY_PREFIX))
    shown = ", ".join(own[:_MAX_LISTED]) + (", ..." if len(own) > _MAX_LISTED else "")
    message = f"no rule '{name}'; there are: {shown or 'none'}"
    return Changed(policy, name, (MergeWarning("no_rule", "network_policies", message, index),))


def remove_endpoint(policy: SandboxPolicy, operation: RemoveEndpoint) -> SandboxPolicy:
    host, name = normalize_host(operation.host.strip()), operation.rule_name.strip()
    kept: list[NetworkRule] = []
    for rule in policy.network_policies.values():
        if name and rule.key != name:
            kept.append(rule)
            continue
        endpoints = tuple(
            left
            for endpoint in rule.endpoints
            if (left := _without_port(endpoint, host, operation.port)) is not None
        )
        if endpoints == rule.endpoints:
            kept.append(rule)
        elif endpoints:
            kept.append(replace(rule, endpoints=endpoints))
    return _with_rules(policy, kept)


def _without_port(endpoint: Endpoint, host: str, port: int) -> Endpoint | None:
    if normalize_host(endpoint.host) != host or port not in endpoint.ports:
        return endpoint
    ports = tuple(held for held in endpoint.ports if held != port)
    return replace(endpoint, ports=ports) if ports else None


def remove_binary(policy: SandboxPolicy, operation: RemoveBinary) -> SandboxPolicy | MergeRefused:
    rule = policy.network_policies.get(operation.rule_name.strip())
    if rule is None:
        return policy
    if not rule.binaries:
        return _refused(
            "any_binary",
            f"cannot remove binary '{operation.binary_path}' from rule '{rule.key}': "
            "it names none and so authorizes any binary; list the wanted ones first",
        )
    binaries = tuple(b for b in rule.binaries if b.path != operation.binary_path)
    if len(binaries) == len(rule.binaries):
        return policy
    others = (r for r in policy.network_policies.values() if r.key != rule.key)
    return _with_rules(policy, (*others, replace(rule, binaries=binaries)) if binaries else others)


def add_allow_rules(
    policy: SandboxPolicy, operation: AddAllowRules, index: int
) -> Changed | MergeRefused:
    found = _target(policy, operation.host, operation.port)
    if isinstance(found, MergeRefused):
        return found
    expanded = expand_access(found.endpoint)
    if isinstance(expanded, MergeRefused):
        return expanded
    notes = _notes(found, operation.port, index)
    if found.endpoint.access:
        notes.append(
            MergeWarning(
                "access_expanded",
                f"{found.location}.access",
                f"access '{found.endpoint.access}' was written out as rules to add to it",
                index,
            )
        )
    rules = expanded.rules + unseen(expanded.rules, operation.rules)
    return _changed(policy, found, replace(expanded, rules=rules), notes)


def add_deny_rules(
    policy: SandboxPolicy, operation: AddDenyRules, index: int
) -> Changed | MergeRefused:
    found = _target(policy, operation.host, operation.port)
    if isinstance(found, MergeRefused):
        return found
    endpoint = found.endpoint
    if not endpoint.access and not endpoint.rules:
        return _refused(
            "deny_without_base",
            f"endpoint {place(operation.host.strip(), operation.port)} has no base allow set; "
            "give it access or rules before denying parts of it",
        )
    rules = endpoint.deny_rules + unseen(endpoint.deny_rules, operation.deny_rules)
    notes = _notes(found, operation.port, index)
    return _changed(policy, found, replace(endpoint, deny_rules=rules), notes)


@dataclass(frozen=True, slots=True)
class _Found:
    rule: NetworkRule
    position: int

    @property
    def endpoint(self) -> Endpoint:
        return self.rule.endpoints[self.position]

    @property
    def location(self) -> str:
        return f"network_policies.{self.rule.key}.endpoints[{self.position}]"


def _target(policy: SandboxPolicy, host: str, port: int) -> _Found | MergeRefused:
    """The one endpoint that host and port name; a person's goes before an advisor's."""
    wanted, shown = normalize_host(host.strip()), place(host.strip(), port)
    found = [
        _Found(rule, position)
        for key, rule in sorted(policy.network_policies.items())
        if not key.startswith(PROVIDER_KEY_PREFIX)
        for position, endpoint in enumerate(rule.endpoints)
        if normalize_host(endpoint.host) == wanted and port in endpoint.ports
    ]
    if len(found) > 1:
        found = [one for one in found if not one.endpoint.advisor_proposed] or found
    if not found:
        return _refused("target_not_found", f"endpoint {shown} was not found")
    if len(found) > 1:
        return _refused(
            "target_ambiguous",
            f"endpoint {shown} resolves to {_listed(found)}; change the whole policy to say which",
        )
    protocol = found[0].endpoint.protocol.strip().lower()
    if not protocol:
        return _refused(
            "target_not_inspected",
            f"endpoint {shown} has no L7 inspection configured; add protocol: rest first",
        )
    if protocol not in _RULED:
        return _refused(
            "target_protocol",
            f"endpoint {shown} uses unsupported protocol '{protocol[:40]}'; "
            "method and path rules are for rest and websocket",
        )
    return found[0]


def _listed(found: list[_Found]) -> str:
    shown = [
        one.rule.key + (f" (path '{one.endpoint.path}')" if one.endpoint.path else "")
        for one in found[:_MAX_LISTED]
    ]
    return ", ".join(shown) + (", ..." if len(found) > _MAX_LISTED else "")


def _notes(found: _Found, port: int, index: int) -> list[MergeWarning]:
    others = [held for held in found.endpoint.ports if held != port]
    if not others:
        return []
    listed = ", ".join(map(str, others))
    message = f"the endpoint has other ports too: the rules now hold on {listed} as well"
    return [MergeWarning("other_ports", found.location, message, index)]


def _changed(
    policy: SandboxPolicy, found: _Found, endpoint: Endpoint, notes: list[MergeWarning]
) -> Changed:
    endpoints = list(found.rule.endpoints)
    endpoints[found.position] = endpoint
    rule = replace(found.rule, endpoints=tuple(endpoints))
    others = (r for r in policy.network_policies.values() if r.key != rule.key)
    return Changed(_with_rules(policy, (*others, rule)), rule.key, tuple(notes))


def _with_rules(policy: SandboxPolicy, rules: Iterable[NetworkRule]) -> SandboxPolicy:
    by_key = {rule.key: rule for rule in sorted(rules, key=lambda rule: rule.key)}
    if by_key == dict(policy.network_policies):
        return policy
    return replace(policy, network_policies=MappingProxyType(by_key))


def _refused(code: str, message: str) -> MergeRefused:
    return MergeRefused(code, RefusalKind.PRECONDITION, message)
