"""UpdateConfig and GetSandboxConfig: one change of policy or settings, and what a sandbox runs under.

Each update is one transaction: what it is checked against is read in it, and a new revision, the
superseding of older ones and the sandbox's record are written in it. Afterwards, and only then, the
sandboxes concerned are told. What a request asks for is decided in `config_request.py`, whether a
policy is fit in `policy_plan.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, assert_never

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_from_proto, policy_hash, policy_to_proto
from openshell.gateway.auth.principal import SandboxPrincipal, current_principal
from openshell.gateway.errors import aborted, permission_denied
from openshell.gateway.events import Bus
from openshell.gateway.middleware import MiddlewareServices
from openshell.gateway.records import Kind
from openshell.gateway.services.composition import check_composition, composes
from openshell.gateway.services.config_request import (
    DeleteGlobalPolicy,
    Merge,
    Replace,
    SetGlobalPolicy,
    Target,
    Update,
    WriteSetting,
    check_policy_size,
    merge_error,
    read_update,
)
from openshell.gateway.services.draft_intake import close_covered
from openshell.gateway.services.global_policy import (
    refuse_while_global,
    retire_global,
    store_global,
)
from openshell.gateway.services.lookup import (
    check_expected_version,
    find_sandbox,
    find_sandbox_by_id,
    refuse_deleting,
    require_field,
    save_sandbox,
)
from openshell.gateway.services.policy_plan import (
    plan_global,
    plan_merge,
    plan_replacement,
    plan_supervisor_sync,
)
from openshell.gateway.services.revisions import (
    Stored,
    base_policy,
    latest_revision,
    store_revision,
)
from openshell.gateway.services.sandbox_config import FAIL_CLOSED, build_sandbox_config
from openshell.gateway.services.settings import write_setting
from openshell.gateway.services.settings_rows import GLOBAL, count_change, place_of, read_values
from openshell.gateway.services.situations import refuse_faults, situation_of
from openshell.gateway.store.model import Row, Store, StoreConflict, Tx, UniqueViolation
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace
from openshell.policy.merge import MergeRefused, merge_policy
from openshell.policy.model import SandboxPolicy

__all__ = ["Config", "build_sandbox_config"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The answer, and which sandboxes must look again because of it."""

    response: openshell_pb2.UpdateConfigResponse
    concerns: list[str] = field(default_factory=list)
    everywhere: str = ""
    """What became of a change for all sandboxes, for the operator's log; "" for any other."""


class Config:
    """The configuration methods of the API."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        failure_mode: str = FAIL_CLOSED,
        tasks: Tasks | None = None,
        middleware: MiddlewareServices | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._tasks = tasks or Tasks()
        self._failure_mode = failure_mode
        self._middleware = middleware or MiddlewareServices({})

    async def GetSandboxConfig(  # noqa: N802  named as the RPC
        self, request: sandbox_pb2.GetSandboxConfigRequest, _context: Any
    ) -> sandbox_pb2.GetSandboxConfigResponse:
        require_field(request.sandbox_id, "sandbox_id")
        principal = current_principal()
        if isinstance(principal, SandboxPrincipal) and principal.sandbox_id != request.sandbox_id:
            raise permission_denied("the token belongs to another sandbox")

        def read(tx: Tx) -> sandbox_pb2.GetSandboxConfigResponse:
            _row, sandbox = find_sandbox_by_id(tx, request.sandbox_id)
            return build_sandbox_config(
                tx, sandbox, failure_mode=self._failure_mode, needed=self._middleware.needed
            )

        return await self._store.read(read)

    async def UpdateConfig(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.UpdateConfigRequest, _context: Any
    ) -> openshell_pb2.UpdateConfigResponse:
        principal = current_principal()
        caller = principal if isinstance(principal, SandboxPrincipal) else None
        # Read before any lock is held: the message is the client's and may be large.
        update = read_update(request, caller)
        if isinstance(update, Replace | SetGlobalPolicy):
            # Asked before any lock is held; what they say of a configuration depends on that alone.
            await self._middleware.check(update.policy)
        reason = "settings" if isinstance(update, WriteSetting) else "policy"

        async def run() -> openshell_pb2.UpdateConfigResponse:
            outcome = await self._store.write(lambda tx: _carry_out(tx, update))
            self._bus.config_changed(outcome.concerns, reason)
            if outcome.everywhere:
                by = getattr(principal, "subject", "a sandbox")
                _log.info("%s for all sandboxes changed by %s: %s", reason, by, outcome.everywhere)
            return outcome.response

        try:
            # A caller that hangs up must not separate the write from its announcement.
            return await self._tasks.complete("update config", run())
        except (StoreConflict, UniqueViolation) as error:
            if isinstance(update, WriteSetting):
                raise aborted("settings were modified concurrently; please retry") from error
            raise


def _carry_out(tx: Tx, update: Update) -> _Outcome:
    match update:
        case Replace() | Merge():
            return _update_policy(tx, update)
        case WriteSetting():
            return _write_setting(tx, update)
        case SetGlobalPolicy(policy):
            return _set_global(tx, policy)
        case DeleteGlobalPolicy():
            return _delete_global(tx)
        case _:
            assert_never(update)


def _find(tx: Tx, target: Target, caller: SandboxPrincipal | None) -> tuple[Row, Any]:
    if caller is None:
        row, sandbox = find_sandbox(tx, open_workspace(tx, target.workspace), target.name)
    else:
        row, sandbox = find_sandbox_by_id(tx, caller.sandbox_id)
        if sandbox.metadata.name != target.name:
            raise permission_denied("sandbox not found or not owned by caller")
    refuse_deleting(sandbox)
    return row, sandbox


def _update_policy(tx: Tx, update: Replace | Merge) -> _Outcome:
    row, sandbox = _find(tx, update.target, update.caller if isinstance(update, Replace) else None)
    refuse_while_global(tx)
    check_expected_version(row, update.target.expected_version)
    spec = sandbox.spec
    baseline = policy_from_proto(spec.policy) if spec.HasField("policy") else None
    base = base_policy(tx, sandbox)
    if isinstance(update, Replace):
        plan = plan_supervisor_sync if update.caller is not None else plan_replacement
        return _store(tx, row, sandbox, plan(baseline, base, update.policy), update)
    merged = merge_policy(base or SandboxPolicy(), update.operations)
    if isinstance(merged, MergeRefused):
        raise merge_error(merged)
    if not merged.changed and not update.annotations:
        latest = latest_revision(tx, sandbox.metadata.id)
        version = (latest.version or 0) if latest is not None else 0
        return _Outcome(_answer(sandbox, Stored(version, policy_hash(merged.policy), False)))
    policy = plan_merge(baseline, merged.policy)
    # Operations are small; what they pile up is bounded here.
    check_policy_size(policy_to_proto(policy))
    return _store(tx, row, sandbox, policy, update)


def _store(
    tx: Tx,
    row: Row,
    sandbox: openshell_pb2.Sandbox,
    policy: SandboxPolicy,
    update: Replace | Merge,
) -> _Outcome:
    metadata, spec = sandbox.metadata, sandbox.spec
    stored = store_revision(tx, metadata.id, metadata.workspace, policy, update.annotations)
    before = sandbox.SerializeToString(deterministic=True)
    metadata.annotations.update(update.annotations)
    if not spec.HasField("policy"):
        spec.policy.CopyFrom(policy_to_proto(policy))
    # A new revision moves the sandbox's version too: `expected_resource_version` of a second writer
    # that read the older policy must fail.
    if stored.created or sandbox.SerializeToString(deterministic=True) != before:
        sandbox = save_sandbox(tx, row, sandbox)
    # A supervisor's policy is no person's decision: its credentials' ways are closed, not refused.
    by_user = isinstance(update, Merge) or update.caller is None
    situation = situation_of(tx, sandbox)
    refuse_faults(situation, gate=by_user)
    if not stored.created:
        return _Outcome(_answer(sandbox, stored))
    close_covered(tx, situation)
    return _Outcome(_answer(sandbox, stored), [metadata.id])


def _answer(sandbox: openshell_pb2.Sandbox, stored: Stored) -> openshell_pb2.UpdateConfigResponse:
    return openshell_pb2.UpdateConfigResponse(
        version=stored.version,
        policy_hash=stored.policy_hash,
        annotations=sandbox.metadata.annotations,
    )


def _write_setting(tx: Tx, update: WriteSetting) -> _Outcome:
    place, concerned = GLOBAL, None
    if update.target is not None:
        row, sandbox = _find(tx, update.target, None)
        check_expected_version(row, update.target.expected_version)
        place, concerned = place_of(sandbox), [sandbox.metadata.id]
    composed = composes(tx)
    revision, changed = write_setting(tx, place, update.key, update.value)
    if not composed and composes(tx):
        check_composition(tx)
    response = openshell_pb2.UpdateConfigResponse(
        settings_revision=revision, deleted=changed and update.value is None
    )
    if not changed:
        return _Outcome(response)
    if concerned is not None:
        return _Outcome(response, concerned)
    became = "deleted" if update.value is None else f"is {update.value}"
    return _Outcome(response, _every_sandbox(tx), f"{update.key} {became}")


def _set_global(tx: Tx, policy: SandboxPolicy) -> _Outcome:
    stored = store_global(tx, plan_global(policy))
    revision = count_change(tx, GLOBAL) if stored.created else read_values(tx, GLOBAL).revision
    response = openshell_pb2.UpdateConfigResponse(
        version=stored.version, policy_hash=stored.policy_hash, settings_revision=revision
    )
    if not stored.created:
        return _Outcome(response)
    return _Outcome(response, _every_sandbox(tx), f"version {stored.version} is in force")


def _delete_global(tx: Tx) -> _Outcome:
    deleted = retire_global(tx)
    if deleted and composes(tx):
        check_composition(tx)
    revision = count_change(tx, GLOBAL) if deleted else read_values(tx, GLOBAL).revision
    response = openshell_pb2.UpdateConfigResponse(deleted=deleted, settings_revision=revision)
    return _Outcome(response, _every_sandbox(tx), "deleted") if deleted else _Outcome(response)


def _every_sandbox(tx: Tx) -> list[str]:
    return [row.id for row in tx.all(Kind.SANDBOX)]
