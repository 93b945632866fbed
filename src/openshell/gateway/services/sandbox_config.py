"""The configuration of one sandbox as one answer: effective policy, revisions, settings.

Built inside a transaction, so that policy, providers and the two revision numbers belong together.
The policy was validated when it was stored and nothing is composed into it yet; bindings and key
ownership are checked again.
`config_revision` moves with anything in the answer, the provider environment included: a supervisor
that holds the same number holds the same configuration.
"""

from __future__ import annotations

from typing import Final

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_hash, policy_to_proto
from openshell.gateway.services.policy_plan import effective_policy
from openshell.gateway.services.provider_environment import plan_for_sandbox
from openshell.gateway.services.revisions import base_policy, latest_revision
from openshell.gateway.services.settings import REGISTERED
from openshell.gateway.store.model import Tx
from openshell.providers.environment import fingerprint

__all__ = ["FAIL_CLOSED", "build_sandbox_config"]

FAIL_CLOSED: Final = "fail_closed"
"""What a supervisor does with a policy that it cannot load, unless the operator says otherwise."""


def build_sandbox_config(
    tx: Tx, sandbox: openshell_pb2.Sandbox, *, failure_mode: str = FAIL_CLOSED
) -> sandbox_pb2.GetSandboxConfigResponse:
    """Raises FAILED_PRECONDITION when what is stored cannot be enforced."""
    response = sandbox_pb2.GetSandboxConfigResponse(
        workspace=sandbox.metadata.workspace,
        policy_source=sandbox_pb2.POLICY_SOURCE_SANDBOX,
        policy_validation_failure_mode=failure_mode,
        provider_env_revision=plan_for_sandbox(tx, sandbox).revision,
    )
    base = base_policy(tx, sandbox)
    if base is not None:
        effective = effective_policy(base, list(sandbox.spec.providers))
        response.policy.CopyFrom(policy_to_proto(effective))
        response.policy_hash = policy_hash(effective)
    latest = latest_revision(tx, sandbox.metadata.id)
    response.version = (latest.version or 0) if latest is not None else 0
    for key in REGISTERED:
        response.settings[key].scope = sandbox_pb2.SETTING_SCOPE_UNSPECIFIED
    response.config_revision = fingerprint(
        (
            "sandbox",
            str(response.version),
            response.policy_hash,
            failure_mode,
            response.workspace,
            str(response.provider_env_revision),
        )
    )
    return response
