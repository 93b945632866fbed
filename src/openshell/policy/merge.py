"""A list of merge operations on a policy: a plan, or the refusal of the first that cannot be.

All or nothing, in order. The plan holds the new policy and what to tell; whether the result is a
valid policy, and whether it may be stored, is asked afterwards by whoever stores it (`validate`,
`static`). Callers: the gateway for `UpdateConfig`, the command line for a dry run.

Operations of people carry no marks: unless `by_user` is false they are cleared here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from openshell.policy.advice import place
from openshell.policy.hosts import normalize_host
from openshell.policy.merge_operations import (
    AddAllowRules,
    AddDenyRules,
    AddRule,
    MergeOperation,
    MergeRefused,
    MergeWarning,
    RefusalKind,
    RemoveBinary,
    RemoveEndpoint,
    RemoveRule,
    as_user,
    check_operation,
)
from openshell.policy.merge_rule import add_rule
from openshell.policy.merge_scope import covers, mcp_contract
from openshell.policy.merge_simple import (
    Changed,
    add_allow_rules,
    add_deny_rules,
    remove_binary,
    remove_endpoint,
    remove_rule,
)
from openshell.policy.model import Endpoint, SandboxPolicy
from openshell.policy.overlap import Budget, hosts_overlap

__all__ = [
    "MAX_OPERATIONS",
    "AddAllowRules",
    "AddDenyRules",
    "AddRule",
    "Applied",
    "MergeOperation",
    "MergePlan",
    "MergeRefused",
    "MergeWarning",
    "RefusalKind",
    "RemoveBinary",
    "RemoveEndpoint",
    "RemoveRule",
    "covers",
    "merge_policy",
]


# Each operation looks at the whole policy, inside the transaction that stores the result; people
# and the command line send a handful.
MAX_OPERATIONS: Final = 256


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one operation. `key`: the rule that was changed, "" if several could be."""

    changed: bool
    key: str


@dataclass(frozen=True, slots=True)
class MergePlan:
    policy: SandboxPolicy
    changed: bool
    applied: tuple[Applied, ...]
    warnings: tuple[MergeWarning, ...]


def merge_policy(
    base: SandboxPolicy, operations: Sequence[MergeOperation], *, by_user: bool = True
) -> MergePlan | MergeRefused:
    """What the policy becomes. Shapes are checked for all operations before any is tried."""
    if len(operations) > MAX_OPERATIONS:
        return MergeRefused(
            "too_many_operations",
            RefusalKind.INVALID,
            f"{len(operations)} operations are more than {MAX_OPERATIONS}; set the whole policy instead",
        )
    for index, operation in enumerate(operations):
        refused = check_operation(operation)
        if refused is not None:
            return replace(refused, index=index)
    policy = base
    applied: list[Applied] = []
    warnings: list[MergeWarning] = []
    for index, operation in enumerate(operations):
        given = as_user(operation) if by_user else operation
        step = _apply(policy, given, index, by_user=by_user)
        if isinstance(step, MergeRefused):
            return replace(step, index=index)
        after, key, notes = step
        applied.append(Applied(after != policy, key))
        warnings += notes
        policy = after
    return _check_contracts(base, policy) or MergePlan(
        policy, policy != base, tuple(applied), tuple(warnings)
    )


_Step = tuple[SandboxPolicy, str, tuple[MergeWarning, ...]]


def _apply(
    policy: SandboxPolicy, operation: MergeOperation, index: int, *, by_user: bool
) -> _Step | MergeRefused:
    match operation:
        case AddRule():
            added = add_rule(policy, operation, index, by_user=by_user)
            return (
                added
                if isinstance(added, MergeRefused)
                else (added.policy, added.key, added.warnings)
            )
        case RemoveRule():
            changed: Changed | MergeRefused = remove_rule(policy, operation, index)
        case RemoveEndpoint():
            return remove_endpoint(policy, operation), operation.rule_name.strip(), ()
        case RemoveBinary():
            left = remove_binary(policy, operation)
            return (
                left if isinstance(left, MergeRefused) else (left, operation.rule_name.strip(), ())
            )
        case AddAllowRules():
            changed = add_allow_rules(policy, operation, index)
        case AddDenyRules():
            changed = add_deny_rules(policy, operation, index)
    if isinstance(changed, MergeRefused):
        return changed
    return changed.policy, changed.key, changed.warnings


_Clash = tuple[str, str, int]


def _check_contracts(before: SandboxPolicy, after: SandboxPolicy) -> MergeRefused | None:
    """An mcp endpoint must not newly share a host and port with another kind of inspection."""
    clashes = set(_clashes(after))
    fresh = clashes - set(_clashes(before)) if clashes else clashes
    if not fresh:
        return None
    host, _, port = min(fresh)
    return MergeRefused(
        "inspection_contract",
        RefusalKind.PRECONDITION,
        f"{place(host or '<any host>', port)} would carry more than one L7 inspection contract; an mcp "
        "endpoint can share its host and port only with endpoints of the same mcp options",
    )


def _clashes(policy: SandboxPolicy) -> Iterator[_Clash]:
    inspected = [
        endpoint
        for rule in policy.network_policies.values()
        for endpoint in rule.endpoints
        if endpoint.protocol.strip().lower() not in ("", "tcp")
    ]
    budget = Budget()
    contracts = [(endpoint, mcp_contract(endpoint)) for endpoint in inspected]
    for one, contract in contracts:
        if contract is not None:
            for two, other in contracts:
                if other != contract:
                    yield from _shared(one, two, budget)


def _shared(one: Endpoint, two: Endpoint, budget: Budget) -> Iterator[_Clash]:
    ports = set(one.ports) & set(two.ports)
    first, second = normalize_host(one.host), normalize_host(two.host)
    if ports and hosts_overlap(first, second, budget):
        for port in ports:
            yield (*sorted((first, second)), port)  # type: ignore[misc]  # two strings, sorted
