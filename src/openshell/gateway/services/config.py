"""UpdateConfig and GetSandboxConfig: a sandbox's policy is replaced as a whole and read as enforced.

Settings, merge operations and the gateway-wide policy are not built; each is refused by its name
after the request's shape was checked. `build_sandbox_config` is in `sandbox_config.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_from_proto, policy_to_proto
from openshell.gateway.auth.principal import SandboxPrincipal, current_principal
from openshell.gateway.errors import (
    invalid_argument,
    permission_denied,
    unimplemented,
)
from openshell.gateway.events import Bus
from openshell.gateway.limits import check_annotations
from openshell.gateway.services.lookup import (
    check_expected_version,
    find_sandbox,
    find_sandbox_by_id,
    refuse_deleting,
    require_field,
    save_sandbox,
)
from openshell.gateway.services.policy_plan import plan_replacement, plan_supervisor_sync
from openshell.gateway.services.revisions import Stored, base_policy, store_revision
from openshell.gateway.services.sandbox_config import FAIL_CLOSED, build_sandbox_config
from openshell.gateway.services.settings import refuse_setting
from openshell.gateway.store.model import Row, Store, Tx
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace
from openshell.policy.model import SandboxPolicy

__all__ = ["Config", "build_sandbox_config"]

MAX_POLICY_BYTES: Final = 262_144
"""Of an encoded policy, as at create: bounds a revision's row and what a supervisor compiles."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    sandbox: openshell_pb2.Sandbox
    stored: Stored


class Config:
    """The configuration methods of the API that concern one sandbox."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        failure_mode: str = FAIL_CLOSED,
        tasks: Tasks | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._tasks = tasks or Tasks()
        self._failure_mode = failure_mode

    async def GetSandboxConfig(  # noqa: N802  named as the RPC
        self, request: sandbox_pb2.GetSandboxConfigRequest, _context: Any
    ) -> sandbox_pb2.GetSandboxConfigResponse:
        require_field(request.sandbox_id, "sandbox_id")
        principal = current_principal()
        if isinstance(principal, SandboxPrincipal) and principal.sandbox_id != request.sandbox_id:
            raise permission_denied("the token belongs to another sandbox")

        def read(tx: Tx) -> sandbox_pb2.GetSandboxConfigResponse:
            _row, sandbox = find_sandbox_by_id(tx, request.sandbox_id)
            return build_sandbox_config(tx, sandbox, failure_mode=self._failure_mode)

        return await self._store.read(read)

    async def UpdateConfig(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.UpdateConfigRequest, _context: Any
    ) -> openshell_pb2.UpdateConfigResponse:
        principal = current_principal()
        caller = principal if isinstance(principal, SandboxPrincipal) else None
        _check_shape(request, caller)
        # Read before any lock is held: the message is the client's and may be large.
        candidate = policy_from_proto(request.policy)

        def write(tx: Tx) -> _Outcome:
            row, sandbox = _find(tx, request, caller)
            refuse_deleting(sandbox)
            check_expected_version(row, request.expected_resource_version)
            return _replace(tx, row, sandbox, candidate, request, from_supervisor=bool(caller))

        async def run() -> _Outcome:
            outcome = await self._store.write(write)
            if outcome.stored.created:
                self._bus.config_changed([outcome.sandbox.metadata.id], "policy")
            return outcome

        # A caller that hangs up must not separate the write from its announcement.
        outcome = await self._tasks.complete("update config", run())
        return openshell_pb2.UpdateConfigResponse(
            version=outcome.stored.version,
            policy_hash=outcome.stored.policy_hash,
            annotations=outcome.sandbox.metadata.annotations,
        )


def _check_shape(
    request: openshell_pb2.UpdateConfigRequest, caller: SandboxPrincipal | None
) -> None:
    """Everything that the request alone decides, in the order of the contract."""
    has_policy = request.HasField("policy")
    is_global: bool = getattr(request, "global")
    check_annotations("annotations", request.annotations)
    if caller is not None and (
        is_global
        or request.delete_setting
        or request.setting_key
        or request.merge_operations
        or not request.name
        or not has_policy
    ):
        raise permission_denied("a supervisor may only update the policy of its own sandbox")
    given = sum((has_policy, bool(request.setting_key), bool(request.merge_operations)))
    if given == 0:
        raise invalid_argument("one of policy, setting_key, or merge_operations must be provided")
    if given > 1:
        raise invalid_argument("policy, setting_key and merge_operations are mutually exclusive")
    if is_global:
        _refuse_global(request)
    if not request.name.strip():
        raise invalid_argument("name is required for sandbox-scoped updates")
    if request.setting_key:
        raise refuse_setting(request.setting_key, is_global=False)
    if request.merge_operations:
        raise unimplemented(
            "merge_operations are not built yet; send the whole policy instead (policy set)"
        )
    if request.delete_setting:
        raise invalid_argument("delete_setting goes with setting_key, not with a policy")
    if request.policy.ByteSize() > MAX_POLICY_BYTES:
        raise invalid_argument(f"policy serialized size exceeds maximum ({MAX_POLICY_BYTES} bytes)")


def _refuse_global(request: openshell_pb2.UpdateConfigRequest) -> None:
    if request.annotations:
        raise invalid_argument("annotations are not supported for global updates")
    if request.merge_operations:
        raise invalid_argument("merge_operations are not supported for global policy updates")
    if request.setting_key:
        raise refuse_setting(request.setting_key, is_global=True)
    if request.delete_setting:
        raise invalid_argument("delete_setting does not go with a policy")
    raise unimplemented("the gateway-wide policy is not built yet; set the policy of each sandbox")


def _find(
    tx: Tx, request: openshell_pb2.UpdateConfigRequest, caller: SandboxPrincipal | None
) -> tuple[Row, openshell_pb2.Sandbox]:
    if caller is None:
        return find_sandbox(tx, open_workspace(tx, request.workspace), request.name)
    row, sandbox = find_sandbox_by_id(tx, caller.sandbox_id)
    if sandbox.metadata.name != request.name:
        raise permission_denied("sandbox not found or not owned by caller")
    return row, sandbox


def _replace(
    tx: Tx,
    row: Row,
    sandbox: openshell_pb2.Sandbox,
    candidate: SandboxPolicy,
    request: openshell_pb2.UpdateConfigRequest,
    *,
    from_supervisor: bool,
) -> _Outcome:
    metadata, spec = sandbox.metadata, sandbox.spec
    baseline = policy_from_proto(spec.policy) if spec.HasField("policy") else None
    base = base_policy(tx, sandbox)
    plan = plan_supervisor_sync if from_supervisor else plan_replacement
    policy = plan(baseline, base, candidate, list(spec.providers))
    stored = store_revision(tx, metadata.id, metadata.workspace, policy, dict(request.annotations))
    before = sandbox.SerializeToString(deterministic=True)
    metadata.annotations.update(request.annotations)
    if baseline is None:
        spec.policy.CopyFrom(policy_to_proto(policy))
    # A new revision moves the sandbox's version too: `expected_resource_version` of a second writer
    # that read the older policy must fail.
    if stored.created or sandbox.SerializeToString(deterministic=True) != before:
        sandbox = save_sandbox(tx, row, sandbox)
    return _Outcome(sandbox, stored)
