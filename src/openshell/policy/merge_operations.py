"""The operations of a policy merge, what is wrong with one by itself, and how a merge answers.

Values only. An operation that fails its shape check is never looked at again; what it does to a
policy is in `merge_simple` and `merge_rule`, `merge` runs a list of them. Codes are stable.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from openshell.policy.hosts import normalize_host
from openshell.policy.model import PROVIDER_KEY_PREFIX, Endpoint, L7Rule, NetworkRule

__all__ = [
    "AddAllowRules",
    "AddDenyRules",
    "AddRule",
    "MergeOperation",
    "MergeRefused",
    "MergeWarning",
    "RefusalKind",
    "RemoveBinary",
    "RemoveEndpoint",
    "RemoveRule",
    "as_user",
    "check_operation",
    "is_always_blocked",
]

# Names that mean this machine, or the credentials of the machine, to every program.
_BLOCKED_NAMES: Final = frozenset({"localhost", "metadata.google.internal"})
_BLOCKED_NETWORKS: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/32", "::1/128", "fe80::/10", "::/128")
)
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_MAPPED_BITS: Final = 96


class RefusalKind(StrEnum):
    """What the caller can do about it: correct the operation, or the policy it meets."""

    INVALID = "invalid_argument"
    PRECONDITION = "failed_precondition"


@dataclass(frozen=True, slots=True)
class MergeRefused:
    """Nothing was changed. `index` is the operation's position, -1 for the batch as a whole."""

    code: str
    kind: RefusalKind
    message: str
    index: int = -1

    @property
    def location(self) -> str:
        return f"merge_operations[{self.index}]" if self.index >= 0 else "merge_operations"


@dataclass(frozen=True, slots=True)
class MergeWarning:
    """The merge went through, but not all of what was asked for has an effect."""

    code: str
    location: str
    message: str
    index: int = -1


@dataclass(frozen=True, slots=True)
class AddRule:
    rule_name: str
    rule: NetworkRule


@dataclass(frozen=True, slots=True)
class RemoveEndpoint:
    host: str
    port: int
    # "" for every rule.
    rule_name: str = ""


@dataclass(frozen=True, slots=True)
class RemoveRule:
    rule_name: str


@dataclass(frozen=True, slots=True)
class AddAllowRules:
    host: str
    port: int
    rules: tuple[L7Rule, ...]


@dataclass(frozen=True, slots=True)
class AddDenyRules:
    host: str
    port: int
    deny_rules: tuple[L7Rule, ...]


@dataclass(frozen=True, slots=True)
class RemoveBinary:
    rule_name: str
    binary_path: str


MergeOperation: TypeAlias = (
    AddRule | RemoveEndpoint | RemoveRule | AddAllowRules | AddDenyRules | RemoveBinary
)


def as_user(operation: MergeOperation) -> MergeOperation:
    """The operation as a person may send it: without what only the gateway sets."""
    if not isinstance(operation, AddRule):
        return operation
    rule = operation.rule
    return replace(
        operation,
        rule=replace(
            rule,
            endpoints=tuple(
                replace(endpoint, advisor_proposed=False, provider_credentialed=False)
                for endpoint in rule.endpoints
            ),
            binaries=tuple(replace(binary, advisor_proposed=False) for binary in rule.binaries),
        ),
    )


def check_operation(operation: MergeOperation) -> MergeRefused | None:
    """What is wrong with the operation whatever policy it meets."""
    match operation:
        case AddRule():
            return _check_add_rule(operation)
        case RemoveEndpoint(host=host, port=port):
            return _check_selector(host, port)
        case RemoveRule(rule_name=name):
            return None if name.strip() else _invalid("rule_name", "rule_name must not be empty")
        case RemoveBinary(rule_name=name, binary_path=path):
            if not name.strip():
                return _invalid("rule_name", "rule_name must not be empty")
            return None if path else _invalid("binary_path", "binary_path must not be empty")
        case AddAllowRules(host=host, port=port, rules=rules):
            if rules and any(rule.is_blank for rule in rules):
                return _invalid(
                    "rule_without_allow", "every rule needs an allow that says something"
                )
            if host and is_always_blocked(host):
                return _blocked(host)
            return _check_selector(host, port) or _check_rules(rules)
        case AddDenyRules(host=host, port=port, deny_rules=rules):
            return _check_selector(host, port) or _check_rules(rules)


def _check_add_rule(operation: AddRule) -> MergeRefused | None:
    name = operation.rule_name.strip()
    if not name:
        return _invalid("rule_name", "rule_name must not be empty")
    if name.startswith(PROVIDER_KEY_PREFIX):
        return _invalid(
            "reserved_key",
            f"rule_name '{name}' uses the reserved '{PROVIDER_KEY_PREFIX}' prefix; choose another",
        )
    if not operation.rule.endpoints:
        return _invalid("no_endpoints", "add_rule needs at least one endpoint")
    for endpoint in operation.rule.endpoints:
        blocked = _blocked_part(endpoint)
        if blocked is not None:
            return _blocked(blocked)
    return None


def _check_selector(host: str, port: int) -> MergeRefused | None:
    if not host.strip():
        return _invalid("host", "host must not be empty")
    return None if port else _invalid("port", "port must not be 0")


def _check_rules(rules: tuple[L7Rule, ...]) -> MergeRefused | None:
    return None if rules else _invalid("no_rules", "at least one rule is needed")


def _blocked_part(endpoint: Endpoint) -> str | None:
    parts = (endpoint.host, *endpoint.allowed_ips)
    return next((part for part in parts if part and is_always_blocked(part)), None)


def is_always_blocked(text: str) -> bool:
    """Whether a host, an address or a range is, or touches, what no policy can open."""
    name = normalize_host(text.strip()).removesuffix(".")
    if name in _BLOCKED_NAMES:
        return True
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
    if isinstance(network, ipaddress.IPv6Network) and network.overlaps(_MAPPED):
        if network.prefixlen < _MAPPED_BITS:
            return True
        inner = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        network = ipaddress.ip_network(f"{inner}/{network.prefixlen - _MAPPED_BITS}", strict=False)
    return any(
        network.overlaps(blocked)
        for blocked in _BLOCKED_NETWORKS
        if blocked.version == network.version
    )


def _invalid(code: str, message: str) -> MergeRefused:
    return MergeRefused(code, RefusalKind.INVALID, message)


def _blocked(what: str) -> MergeRefused:
    return _invalid(
        "always_blocked",
        f"'{what[:80]}' is always blocked (loopback, link-local or metadata); no policy can allow it",
    )
