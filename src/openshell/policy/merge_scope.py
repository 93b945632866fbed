"""What an endpoint authorises, compared: for folding, for scope conflicts, for coverage.

Two views. `Authority` is what an endpoint means (presets written out, words normalised): two equal
ones permit the same. `declares` is the looser test of a proposal: what it leaves unset takes the
value that is there. Marks of the advisor are no part of either.

Called by `merge_rule` and `merge_endpoint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from openshell.policy.hosts import normalize_host
from openshell.policy.merge_operations import MergeRefused, RefusalKind
from openshell.policy.model import Endpoint, L7Rule, Matcher, NetworkRule, SandboxPolicy
from openshell.policy.rest import ACCESS_PRESETS

__all__ = [
    "Authority",
    "Place",
    "authorities",
    "authority",
    "covers",
    "declares",
    "expand_access",
    "is_same_path",
    "mcp_contract",
    "rule_key",
    "same_place",
    "unseen",
]

# Presets written out as rules, by protocol; everything else is read as REST.
_WEBSOCKET: Final = {
    "read-only": ("GET",),
    "read-write": ("GET", "WEBSOCKET_TEXT"),
    "full": ("*",),
}
# `full` names the three kinds: the wildcard is refused in a written graphql rule.
_GRAPHQL: Final = {
    "read-only": ("query",),
    "read-write": ("query", "mutation"),
    "full": ("query", "mutation", "subscription"),
}
_FLAGS: Final = (
    "allow_encoded_slash",
    "websocket_credential_rewrite",
    "request_body_credential_rewrite",
    "allow_uninspected_credentials",
)
_DEFAULT_BODY: Final = 65536

RuleKey: TypeAlias = tuple[object, ...]
# Host, path selector and one port.
Place: TypeAlias = tuple[str, str, int]


def _matcher_keys(matchers: Iterable[tuple[str, Matcher]]) -> tuple[object, ...]:
    return tuple((name, matcher.glob, matcher.any_of) for name, matcher in sorted(matchers))


def rule_key(rule: L7Rule) -> RuleKey:
    """Equal keys mean equal rules; unlike a rule it can be kept in a set."""
    return (
        rule.method,
        rule.path,
        rule.command,
        _matcher_keys(rule.query.items()),
        rule.operation_type,
        rule.operation_name,
        rule.fields,
        _matcher_keys(rule.params.items()),
    )


def unseen(existing: Iterable[L7Rule], incoming: Iterable[L7Rule]) -> tuple[L7Rule, ...]:
    """Incoming rules that are not there yet, each once."""
    seen = {rule_key(rule) for rule in existing}
    out: list[L7Rule] = []
    for rule in incoming:
        key = rule_key(rule)
        if key not in seen:
            seen.add(key)
            out.append(rule)
    return tuple(out)


def expand_access(endpoint: Endpoint) -> Endpoint | MergeRefused:
    """The endpoint with its preset written out as rules, before those it has."""
    if not endpoint.access:
        return endpoint
    rules = _preset_rules(endpoint)
    if rules is None:
        return MergeRefused(
            "unknown_preset",
            RefusalKind.INVALID,
            f"access '{endpoint.access[:40]}' of {endpoint.host} is no known preset; "
            "set read-only, read-write or full first",
        )
    return replace(endpoint, access="", rules=rules + unseen(rules, endpoint.rules))


def _preset_rules(endpoint: Endpoint) -> tuple[L7Rule, ...] | None:
    protocol = endpoint.protocol.strip().lower()
    if protocol == "graphql":
        kinds = _GRAPHQL.get(endpoint.access)
        return None if kinds is None else tuple(L7Rule(operation_type=kind) for kind in kinds)
    table = _WEBSOCKET if protocol == "websocket" else ACCESS_PRESETS
    methods = table.get(endpoint.access)
    return None if methods is None else tuple(L7Rule(method=m, path="**") for m in methods)


def is_same_path(first: Endpoint, second: Endpoint) -> bool:
    return normalize_host(first.host) == normalize_host(second.host) and first.path == second.path


def same_place(first: Endpoint, second: Endpoint) -> bool:
    """Same host, same path selector, a common port."""
    return is_same_path(first, second) and not set(first.ports).isdisjoint(second.ports)


def mcp_contract(endpoint: Endpoint) -> tuple[object, ...] | None:
    """What two mcp endpoints on one host and port must agree on; None for another protocol."""
    if _word(endpoint.protocol) != "mcp":
        return None
    options = endpoint.mcp
    strict = options.strict_tool_names if options else None
    profile = options.allow_all_known_mcp_methods if options else None
    return (strict is not False, bool(profile), endpoint.json_rpc_max_body_bytes or _DEFAULT_BODY)


def _word(text: str) -> str:
    return text.strip().lower()


def _enforcement(text: str) -> str:
    return _word(text) or "audit"


def _tls(text: str) -> str:
    return "skip" if _word(text) == "skip" else "auto"


@dataclass(frozen=True, slots=True)
class Authority:
    """What one endpoint permits on one port, in comparable form."""

    protocol: str
    tls: str
    enforcement: str
    # A preset that is not known, else "".
    access: str
    allow: frozenset[RuleKey]
    deny: frozenset[RuleKey]
    allowed_ips: frozenset[str]
    flags: tuple[bool, ...]
    contract: tuple[object, ...] | None


def authority(endpoint: Endpoint) -> Authority:
    expanded = expand_access(endpoint)
    known = endpoint if isinstance(expanded, MergeRefused) else expanded
    return Authority(
        protocol=_word(endpoint.protocol),
        tls=_tls(endpoint.tls),
        enforcement=_enforcement(endpoint.enforcement),
        access=known.access,
        allow=frozenset(rule_key(rule) for rule in known.rules),
        deny=frozenset(rule_key(rule) for rule in endpoint.deny_rules),
        allowed_ips=frozenset(ip.strip().lower() for ip in endpoint.allowed_ips),
        flags=tuple(bool(getattr(endpoint, flag)) for flag in _FLAGS),
        contract=mcp_contract(endpoint),
    )


def _places(endpoint: Endpoint) -> Iterator[Place]:
    for port in endpoint.ports:
        yield normalize_host(endpoint.host), endpoint.path, port


def authorities(endpoints: Iterable[Endpoint]) -> dict[Place, frozenset[Authority]]:
    """What a rule permits at each host, path and port."""
    found: dict[Place, set[Authority]] = {}
    for endpoint in endpoints:
        own = authority(endpoint)
        for place in _places(endpoint):
            found.setdefault(place, set()).add(own)
    return {place: frozenset(held) for place, held in found.items()}


def declares(incoming: Endpoint, merged: Endpoint) -> bool:
    """Whether the incoming endpoint spells out all that the merged one authorises.

    What it leaves unset takes the merged value; a flag that is not set counts as unset, since the
    wire cannot tell it from one that was refused.
    """
    if not is_same_path(incoming, merged):
        return False
    for mine, theirs in (
        (incoming.protocol and _word(incoming.protocol), _word(merged.protocol)),
        (incoming.tls and _tls(incoming.tls), _tls(merged.tls)),
        (
            incoming.enforcement and _enforcement(incoming.enforcement),
            _enforcement(merged.enforcement),
        ),
    ):
        if mine and mine != theirs:
            return False
    wanted, held = authority(incoming), authority(merged)
    if (incoming.rules or incoming.access) and not (
        wanted.allow >= held.allow and wanted.access == held.access
    ):
        return False
    if incoming.deny_rules and not wanted.deny >= held.deny:
        return False
    return not incoming.allowed_ips or wanted.allowed_ips >= held.allowed_ips


def covers(policy: SandboxPolicy, rule: NetworkRule) -> bool:
    """Whether all that a proposed rule asks for is in the policy already.

    Every binary, endpoint and port of it must be contained in some rule; the proposal's unset
    fields do not matter. A proposal without binaries needs a rule without binaries.
    """
    binaries: tuple[str | None, ...] = tuple(b.path for b in rule.binaries) or (None,)
    return bool(rule.endpoints) and all(
        any(
            _knows(held, binary)
            and any(port in e.ports and _contains(e, endpoint) for e in held.endpoints)
            for held in policy.network_policies.values()
        )
        for endpoint in rule.endpoints
        for port in endpoint.ports
        for binary in binaries
    )


def _knows(rule: NetworkRule, binary: str | None) -> bool:
    return not rule.binaries or any(held.path == binary for held in rule.binaries)


_SCALARS: Final = (
    "credential_signing",
    "signing_service",
    "signing_region",
    "persisted_queries",
    "graphql_max_body_bytes",
    "json_rpc_max_body_bytes",
)


def _contains(held: Endpoint, wanted: Endpoint) -> bool:
    if not is_same_path(held, wanted):
        return False
    mine, theirs = authority(wanted), authority(held)
    if wanted.protocol and mine.protocol != theirs.protocol:
        return False
    if wanted.tls and mine.tls != theirs.tls:
        return False
    if wanted.enforcement and mine.enforcement != theirs.enforcement:
        return False
    if mine.contract is not None and mine.contract != theirs.contract:
        return False
    if any(value and getattr(held, name) != value for name, value in _set_scalars(wanted)):
        return False
    registry = held.graphql_persisted_queries
    if any(registry.get(key) != value for key, value in wanted.graphql_persisted_queries.items()):
        return False
    if any(one and not two for one, two in zip(mine.flags[:3], theirs.flags[:3], strict=True)):
        return False
    # A preset and the rules that it stands for permit the same.
    return (
        mine.allow <= theirs.allow
        and (not mine.access or mine.access == theirs.access)
        and mine.deny <= theirs.deny
        and mine.allowed_ips <= theirs.allowed_ips
    )


def _set_scalars(endpoint: Endpoint) -> Iterator[tuple[str, object]]:
    for name in _SCALARS:
        yield name, getattr(endpoint, name)
