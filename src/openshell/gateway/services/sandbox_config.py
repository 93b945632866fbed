"""The configuration of one sandbox as one answer: effective policy, revisions, settings.

Built inside a transaction, so that policy, providers and the two revision numbers belong together.
The policy, the gateway-wide one where there is one, was validated when it was stored and nothing is
composed into it yet; bindings and key ownership are checked again.
`config_revision` moves with anything in the answer, the provider environment included: a supervisor
that holds the same number holds the same configuration.
"""

from __future__ import annotations

from typing import Final

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_hash, policy_to_proto
from openshell.gateway.services.global_policy import policy_in_force
from openshell.gateway.services.policy_plan import effective_policy
from openshell.gateway.services.provider_environment import plan_for_sandbox
from openshell.gateway.services.settings import effective_settings
from openshell.gateway.store.model import Tx
from openshell.providers.environment import fingerprint

__all__ = ["FAIL_CLOSED", "build_sandbox_config"]

FAIL_CLOSED: Final = "fail_closed"
"""What a supervisor does with a policy that it cannot load, unless the operator says otherwise."""


def build_sandbox_config(
    tx: Tx, sandbox: openshell_pb2.Sandbox, *, failure_mode: str = FAIL_CLOSED
) -> sandbox_pb2.GetSandboxConfigResponse:
    """Raises FAILED_PRECONDITION when what is stored cannot be enforced."""
    found = policy_in_force(tx, sandbox)
    response = sandbox_pb2.GetSandboxConfigResponse(
        workspace=sandbox.metadata.workspace,
        version=found.version,
        policy_source=found.source,
        global_policy_version=found.global_version,
        settings=effective_settings(tx, sandbox),
        policy_validation_failure_mode=failure_mode,
        provider_env_revision=plan_for_sandbox(tx, sandbox, found.policy).revision,
    )
    if found.policy is not None:
        effective = effective_policy(found.policy, list(sandbox.spec.providers))
        response.policy.CopyFrom(policy_to_proto(effective))
        response.policy_hash = policy_hash(effective)
    response.config_revision = fingerprint(
        (
            sandbox_pb2.PolicySource.Name(found.source),
            str(response.version),
            str(response.global_policy_version),
            response.policy_hash,
            failure_mode,
            response.workspace,
            str(response.provider_env_revision),
            *(
                f"{key}={setting.scope}:{setting.value.SerializeToString(deterministic=True).hex()}"
                for key, setting in sorted(response.settings.items())
            ),
        )
    )
    return response
