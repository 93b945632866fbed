"""Pairs of endpoints that would give one connection or request two contradicting treatments.

Every unordered pair of the whole policy whose ports and hosts meet is compared, binaries aside:
what a connection is given (tls, allowed addresses) must agree, and, where both endpoints say how
requests are treated and neither path is more specific, that too. Rules may differ freely: they add
up. Two endpoints of one layer, the rule that an attached provider contributes, are not compared:
both are one profile's word, and `s3.*.amazonaws.com` beside `*.s3.amazonaws.com` is no accident.
Called by `validate` on the policy as it will be enforced, and for layers by `openshell.providers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Final

from openshell.policy.findings import Finding, Severity
from openshell.policy.globs import GlobError, TextMatcher
from openshell.policy.hosts import compile_host, is_wildcard_host, normalize_host
from openshell.policy.model import PROVIDER_KEY_PREFIX, Endpoint, SandboxPolicy
from openshell.policy.overlap import Budget, hosts_overlap, paths_overlap
from openshell.policy.protocols import (
    RPC_PROTOCOLS,
    graphql_body_bytes,
    has_graphql_policy,
    requires_strict_tool_names,
    rpc_body_bytes,
)

__all__ = ["Conflict", "check_ambiguity", "find_conflicts"]

# A person mends a few and asks again.
_MAX_CONFLICTS: Final = 50

_Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two endpoints that disagree; `rules` is empty when there was too much to compare."""

    rules: tuple[str, ...]
    location: str
    message: str


@dataclass(frozen=True, slots=True)
class _Entry:
    rule: str
    index: int
    endpoint: Endpoint
    host: str
    ports: frozenset[int]
    connection: _Fields
    request: _Fields | None
    rank: int
    # Marked, without inspection: may not be laid over what a person had inspected.
    is_raw_mark: bool
    is_inspected: bool
    # Two entries with the same number cannot contradict each other.
    treatment: int

    @property
    def selector(self) -> str:
        ports = ",".join(map(str, sorted(self.ports)))
        return f"{self.endpoint.host or '<any-host>'}:{ports}{self.endpoint.path}"


def check_ambiguity(policy: SandboxPolicy) -> tuple[Finding, ...]:
    return tuple(
        Finding("ambiguous_endpoints", Severity.ERROR, conflict.location, conflict.message)
        for conflict in find_conflicts(policy)
    )


def find_conflicts(policy: SandboxPolicy) -> tuple[Conflict, ...]:
    found: list[Conflict] = []
    budget = Budget()
    for first, second in _pairs(_entries(policy), budget):
        budget.spend(1)
        if not budget.is_spent and (
            first.treatment == second.treatment or _is_one_layer(first, second)
        ):
            continue
        shared = first.ports & second.ports
        conflicts = list(_conflicts(first, second, budget)) if shared else ()
        if budget.is_spent or len(found) == _MAX_CONFLICTS:
            message = (
                "too many overlapping endpoints to compare them all; merge or correct some first"
            )
            found.append(Conflict((), "network_policies", message))
            break
        if conflicts:
            fields = ", ".join(f"{name} ({one} / {two})" for name, one, two in conflicts)
            found.append(
                Conflict(
                    (first.rule, second.rule),
                    f"network_policies.{first.rule}.endpoints[{first.index}]",
                    f"rule '{first.rule}' endpoint {first.index} [{first.selector}] and rule "
                    f"'{second.rule}' endpoint {second.index} [{second.selector}] overlap on "
                    f"ports {sorted(shared)} and disagree on {fields}",
                )
            )
    return tuple(found)


def _is_one_layer(first: _Entry, second: _Entry) -> bool:
    """Authors cannot write such a key, so the exception is open to profiles alone."""
    return first.rule == second.rule and first.rule.startswith(PROVIDER_KEY_PREFIX)


def _entries(policy: SandboxPolicy) -> list[_Entry]:
    treatments: dict[object, int] = {}
    return [
        _entry(key, index, endpoint, treatments)
        for key in sorted(policy.network_policies)
        for index, endpoint in enumerate(policy.network_policies[key].endpoints)
    ]


def _entry(rule: str, index: int, endpoint: Endpoint, treatments: dict[object, int]) -> _Entry:
    protocol = endpoint.protocol.strip().lower()
    skip = endpoint.tls.strip().lower() == "skip"
    inspected = protocol not in ("", "tcp")
    contributes = inspected or bool(
        endpoint.allowed_ips or endpoint.tls or endpoint.credential_binding
    )
    connection = (
        ("transparent_tcp_eligible", str(protocol == "tcp").lower()),
        ("tls", "skip" if skip else "auto"),
        ("allowed_ips", ",".join(sorted({ip.strip().lower() for ip in endpoint.allowed_ips}))),
    )
    request = _request_fields(endpoint, protocol) if contributes else None
    treatment = (connection, request, endpoint.advisor_proposed)
    return _Entry(
        rule=rule,
        index=index,
        endpoint=endpoint,
        host=normalize_host(endpoint.host),
        ports=frozenset(endpoint.ports),
        connection=connection,
        request=request,
        rank=len(endpoint.path) - endpoint.path.count("*"),
        is_raw_mark=endpoint.advisor_proposed and (not inspected or protocol == "sql" or skip),
        is_inspected=inspected,
        treatment=treatments.setdefault(treatment, len(treatments)),
    )


def _request_fields(endpoint: Endpoint, protocol: str) -> _Fields:
    binding = endpoint.credential_binding
    enforce = endpoint.enforcement.strip().lower() == "enforce"
    return (
        ("protocol", protocol),
        ("enforcement", "enforce" if enforce else "audit"),
        ("allow_encoded_slash", str(endpoint.allow_encoded_slash).lower()),
        ("websocket_credential_rewrite", str(endpoint.websocket_credential_rewrite).lower()),
        ("request_body_credential_rewrite", str(endpoint.request_body_credential_rewrite).lower()),
        ("credential_signing", endpoint.credential_signing),
        ("signing_service", endpoint.signing_service),
        ("signing_region", endpoint.signing_region),
        ("credential_binding.provider", binding.provider if binding else ""),
        *_protocol_fields(endpoint, protocol),
    )


def _protocol_fields(endpoint: Endpoint, protocol: str) -> Iterator[tuple[str, str]]:
    """What two endpoints of the same protocol must agree on besides."""
    if protocol == "graphql":
        yield "graphql_max_body_bytes", str(graphql_body_bytes(endpoint))
    elif protocol in RPC_PROTOCOLS:
        yield "max_body_bytes", str(rpc_body_bytes(endpoint))
    if protocol == "mcp":
        yield "mcp.strict_tool_names", str(requires_strict_tool_names(endpoint)).lower()
    if protocol == "websocket":
        yield "has_graphql_policy", str(has_graphql_policy(endpoint)).lower()


def _pairs(entries: list[_Entry], budget: Budget) -> Iterator[tuple[_Entry, _Entry]]:
    """Pairs whose hosts meet, host by host so that each two hosts are compared once."""
    groups: dict[str, list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.host, []).append(entry)
    for group in groups.values():
        yield from combinations(group, 2)
    # Most patterns meet only those of their own layer: hosts of one layer need no comparison.
    layers = {host: _layer_of(group) for host, group in groups.items()}
    names = [host for host in groups if host and not is_wildcard_host(host)]
    wide = [host for host in groups if not host or is_wildcard_host(host)]
    for position, host in enumerate(wide):
        matcher = _host_matcher(host)
        budget.spend(len(names))
        near = (name for name in names if not _same(layers, host, name) and matcher(name))
        wider = (
            other
            for other in wide[position + 1 :]
            if not _same(layers, host, other) and hosts_overlap(host, other, budget)
        )
        for other in chain(near, wider):
            for one, two in product(groups[host], groups[other]):
                ordered = (one.rule, one.index) < (two.rule, two.index)
                yield (one, two) if ordered else (two, one)


def _layer_of(group: list[_Entry]) -> str:
    """The layer that all of them belong to, "" if there is none."""
    rules = {entry.rule for entry in group}
    only = rules.pop() if len(rules) == 1 else ""
    return only if only.startswith(PROVIDER_KEY_PREFIX) else ""


def _same(layers: Mapping[str, str], first: str, second: str) -> bool:
    return bool(layers[first]) and layers[first] == layers[second]


def _host_matcher(host: str) -> TextMatcher:
    """What cannot be read, or names no host, meets every name."""
    try:
        if host:
            return compile_host(host)
    except GlobError:
        pass
    return lambda _name: True


def _conflicts(first: _Entry, second: _Entry, budget: Budget) -> Iterator[tuple[str, str, str]]:
    yield from _differences(first.connection, second.connection)
    if (first.is_raw_mark and second.is_inspected and not second.endpoint.advisor_proposed) or (
        second.is_raw_mark and first.is_inspected and not first.endpoint.advisor_proposed
    ):
        yield (
            "advisor_proposed",
            str(first.endpoint.advisor_proposed).lower(),
            str(second.endpoint.advisor_proposed).lower(),
        )
    if (
        first.request is not None
        and second.request is not None
        and first.rank == second.rank
        and first.request != second.request
        and paths_overlap(first.endpoint.path, second.endpoint.path, budget)
    ):
        yield from _differences(first.request, second.request)


def _differences(first: _Fields, second: _Fields) -> Iterator[tuple[str, str, str]]:
    """Of two protocols only the fields that both have; they stand first, in one order."""
    for (name, one), (other, two) in zip(first, second, strict=False):
        if name != other:
            return
        if one != two:
            yield name, one or "unset", two or "unset"
