"""What the provider and policy nouns demand of a sandbox that is being created.

Runs inside the transaction that writes the sandbox's row; whoever removes the row removes the
revisions and logs with it.
"""

from __future__ import annotations

from dataclasses import replace

from openshell._proto import openshell_pb2
from openshell.codec.policy import policy_from_proto, policy_to_proto
from openshell.gateway.services.policy_plan import plan_create
from openshell.gateway.services.revisions import store_revision
from openshell.gateway.services.situations import refuse_faults, situation_of
from openshell.gateway.store.model import Tx

__all__ = ["admit_sandbox"]


def admit_sandbox(tx: Tx, sandbox: openshell_pb2.Sandbox) -> None:
    """Refuses, or fills in `spec.policy` and stores it as revision 1. Needs id and workspace set.

    Without a policy from the user the sandbox gets the restrictive default, as a revision like any
    other: what is enforced can be read from the first moment. The revision is pending until the
    supervisor reports that it enforces it.
    """
    metadata, spec = sandbox.metadata, sandbox.spec
    spec.providers[:] = list(dict.fromkeys(spec.providers))
    # The contract's order: what the providers are among themselves, then the policy, then both.
    refuse_faults(replace(situation_of(tx, sandbox), policy=None), gate=True)
    candidate = policy_from_proto(spec.policy) if spec.HasField("policy") else None
    policy = plan_create(candidate)
    spec.policy.CopyFrom(policy_to_proto(policy))
    store_revision(tx, metadata.id, metadata.workspace, policy, dict(metadata.annotations))
    refuse_faults(situation_of(tx, sandbox), gate=True)
