"""Is this policy fit to be stored? Decided from values alone; the answer is a policy or a refusal.

The order of checks is the contract's: reserved keys, static sections, safety, ambiguity. `config.py`
and `admission.py` call it inside the transaction that stores the result, and ask `situations.py`
then whether the policy goes with the sandbox's providers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from openshell.gateway.errors import (
    ApiError,
    aborted,
    failed_precondition,
    invalid_argument,
)
from openshell.policy.defaults import restrictive_default
from openshell.policy.model import PROVIDER_KEY_PREFIX, SandboxPolicy
from openshell.policy.static import check_static_change, inherit_static
from openshell.policy.validate import Finding, check_authored, errors_of, validate_policy
from openshell.providers.bindings import clear_marks

__all__ = [
    "ambiguities",
    "plan_create",
    "plan_global",
    "plan_merge",
    "plan_replacement",
    "plan_supervisor_sync",
]

_AMBIGUITY: Final = "ambiguous_endpoints"


def plan_create(candidate: SandboxPolicy | None) -> SandboxPolicy:
    """The first policy of a sandbox; without one from the user, the restrictive default."""
    if candidate is None:
        return restrictive_default()
    policy = clear_marks(candidate)
    _refuse_reserved_keys(policy)
    _refuse_findings(policy)
    return policy


def plan_replacement(
    baseline: SandboxPolicy | None,
    base: SandboxPolicy | None,
    candidate: SandboxPolicy,
) -> SandboxPolicy:
    """The policy that replaces `base`. `baseline` is what the sandbox was started with."""
    policy = clear_marks(candidate)
    _refuse_reserved_keys(policy)
    if base is not None:
        policy = inherit_static(base, policy)
    if baseline is not None:
        changes = check_static_change(baseline, policy)
        if changes:
            raise invalid_argument(_joined(changes))
    _refuse_findings(policy)
    return policy


def plan_merge(baseline: SandboxPolicy | None, merged: SandboxPolicy) -> SandboxPolicy:
    """The outcome of merge operations, checked like a replacement.

    Unlike there, marks stay: the operations of a person carry none, and those of entries that were
    there before are not this person's to clear.
    """
    if baseline is not None:
        changes = check_static_change(baseline, inherit_static(baseline, merged))
        if changes:
            raise invalid_argument(_joined(changes))
    _refuse_reserved_keys(merged)
    _refuse_findings(merged)
    return merged


def plan_global(candidate: SandboxPolicy) -> SandboxPolicy:
    """The policy for all sandboxes. It has no baseline, and no provider is attached to all."""
    policy = clear_marks(candidate)
    _refuse_reserved_keys(policy)
    _refuse_findings(policy)
    for key, rule in sorted(policy.network_policies.items()):
        for index, endpoint in enumerate(rule.endpoints):
            if endpoint.credential_binding is not None:
                raise failed_precondition(
                    "credential_binding is sandbox-scoped and cannot stand in the global policy; "
                    f"remove it from network_policies '{key}' endpoints[{index}]"
                )
    return policy


def plan_supervisor_sync(
    baseline: SandboxPolicy | None,
    base: SandboxPolicy | None,
    candidate: SandboxPolicy,
) -> SandboxPolicy:
    """A supervisor may complete the static sections; what a user decided on the network stays.

    A sync that is older than the user's last update would undo it, and one from a taken-over
    supervisor could open the network: both are refused, the supervisor fetches again.
    """
    own = {
        key: rule
        for key, rule in candidate.network_policies.items()
        if not key.startswith(PROVIDER_KEY_PREFIX)
    }
    policy = clear_marks(replace(candidate, network_policies=own))
    if base is not None:
        known = clear_marks(base)
        if (
            policy.network_policies != known.network_policies
            or policy.network_middlewares != known.network_middlewares
        ):
            raise aborted(
                "the network sections differ from the sandbox's present policy; fetch it again"
            )
        policy = replace(
            inherit_static(base, policy),
            network_policies=base.network_policies,
            network_middlewares=base.network_middlewares,
        )
    if baseline is not None:
        changes = check_static_change(baseline, policy)
        if changes:
            raise invalid_argument(_joined(changes))
    _refuse_findings(policy)
    return policy


def ambiguities(policy: SandboxPolicy) -> str:
    """What is ambiguous in a stored policy, as one text; "" for nothing."""
    errors = errors_of(validate_policy(policy))
    return "; ".join(finding.message for finding in errors if finding.code == _AMBIGUITY)


def _refuse_reserved_keys(policy: SandboxPolicy) -> None:
    reserved = check_authored(policy)
    if reserved:
        raise invalid_argument(_joined(reserved))


def _refuse_findings(policy: SandboxPolicy) -> None:
    errors = errors_of(validate_policy(policy))
    unsafe = [finding for finding in errors if finding.code != _AMBIGUITY]
    if unsafe:
        raise invalid_argument(f"policy contains unsafe content: {_joined(unsafe)}")
    if errors:
        raise _ambiguous(errors)


def _ambiguous(findings: Sequence[Finding]) -> ApiError:
    lines = "\n".join(finding.message for finding in findings)
    return failed_precondition(f"network endpoint ambiguity validation failed:\n{lines}")


def _joined(findings: Sequence[Finding]) -> str:
    return "; ".join(finding.message for finding in findings)
