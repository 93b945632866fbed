"""What an UpdateConfig request asks for, as one of six values, or why it asks for nothing.

Decided from the request and the caller alone, in the contract's order; nothing is read from the
store. `config.py` carries the value out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.merge import operations_from_proto
from openshell.codec.policy import policy_from_proto
from openshell.codec.settings import value_from_proto
from openshell.gateway.auth.principal import SandboxPrincipal
from openshell.gateway.errors import (
    ApiError,
    failed_precondition,
    invalid_argument,
    permission_denied,
)
from openshell.gateway.limits import check_annotations
from openshell.policy.merge import MergeOperation, MergeRefused, RefusalKind
from openshell.policy.model import SandboxPolicy
from openshell.policy.settings import (
    POLICY_KEY,
    SETTINGS,
    SettingRejected,
    Value,
    allowed_keys,
    check_value,
)

__all__ = [
    "MAX_OPERATIONS",
    "MAX_POLICY_BYTES",
    "DeleteGlobalPolicy",
    "Merge",
    "Replace",
    "SetGlobalPolicy",
    "Target",
    "Update",
    "WriteSetting",
    "check_policy_size",
    "merge_error",
    "read_update",
]

MAX_POLICY_BYTES: Final = 262_144
"""Of an encoded policy, as at create: bounds a revision's row and what a supervisor compiles."""
MAX_OPERATIONS: Final = 256
"""Of one request: each may look at every rule, and one transaction carries them all."""


@dataclass(frozen=True, slots=True)
class Target:
    """The sandbox that an update is for. Version 0 expects nothing."""

    workspace: str
    name: str
    expected_version: int


@dataclass(frozen=True, slots=True)
class Replace:
    """A whole new policy. `caller` is set when the sandbox's own supervisor asks."""

    target: Target
    policy: SandboxPolicy
    annotations: Mapping[str, str]
    caller: SandboxPrincipal | None = None


@dataclass(frozen=True, slots=True)
class Merge:
    """Operations on the present policy, all or none."""

    target: Target
    operations: tuple[MergeOperation, ...]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WriteSetting:
    """One setting, for a sandbox or (no target) for all. Value None: deleted."""

    key: str
    value: Value | None
    target: Target | None


@dataclass(frozen=True, slots=True)
class SetGlobalPolicy:
    policy: SandboxPolicy = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeleteGlobalPolicy:
    pass


Update: TypeAlias = Replace | Merge | WriteSetting | SetGlobalPolicy | DeleteGlobalPolicy


def read_update(
    request: openshell_pb2.UpdateConfigRequest, caller: SandboxPrincipal | None
) -> Update:
    """Raises `ApiError`: INVALID_ARGUMENT, or PERMISSION_DENIED for a supervisor."""
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
    check_policy_size(request.policy)
    return _global(request) if is_global else _sandbox(request, caller)


def _global(request: openshell_pb2.UpdateConfigRequest) -> Update:
    if request.annotations:
        raise invalid_argument("annotations are not supported for global updates; leave them out")
    if request.expected_resource_version:
        raise invalid_argument(
            "expected_resource_version is a sandbox's; leave it out of a global update"
        )
    if request.merge_operations:
        raise invalid_argument(
            "merge_operations are not supported for global policy updates; send the whole policy"
        )
    if request.setting_key == POLICY_KEY:
        if request.delete_setting:
            return DeleteGlobalPolicy()
        raise invalid_argument("'policy' is no setting; use the policy field (policy set --global)")
    if request.setting_key:
        return _setting(request, None)
    if request.delete_setting:
        raise invalid_argument(
            "delete_setting does not go with a policy; name the setting_key 'policy' to delete it"
        )
    return SetGlobalPolicy(policy_from_proto(request.policy))


def _sandbox(request: openshell_pb2.UpdateConfigRequest, caller: SandboxPrincipal | None) -> Update:
    if not request.name.strip():
        raise invalid_argument("name is required for sandbox-scoped updates")
    target = Target(request.workspace, request.name, request.expected_resource_version)
    annotations = dict(request.annotations)
    if request.setting_key == POLICY_KEY:
        raise invalid_argument("'policy' is no setting; use the policy field (policy set)")
    if request.setting_key:
        if annotations:
            raise invalid_argument("annotations go with a policy, not with a setting")
        return _setting(request, target)
    if request.delete_setting:
        raise invalid_argument("delete_setting goes with setting_key, not with a policy")
    if not request.merge_operations:
        return Replace(target, policy_from_proto(request.policy), annotations, caller)
    if len(request.merge_operations) > MAX_OPERATIONS:
        raise invalid_argument(
            f"more than {MAX_OPERATIONS} merge_operations; send several updates, or the whole policy"
        )
    operations = operations_from_proto(request.merge_operations)
    if isinstance(operations, MergeRefused):
        raise merge_error(operations)
    return Merge(target, operations, annotations)


def _setting(request: openshell_pb2.UpdateConfigRequest, target: Target | None) -> WriteSetting:
    key = request.setting_key
    setting = SETTINGS.get(key)
    if setting is None:
        # A sandbox may hold a value of a key that a later version has dropped: deleting answers
        # that there is none.
        if request.delete_setting and target is not None:
            return WriteSetting(key, None, target)
        raise invalid_argument(f"unknown setting key '{key}'. Allowed keys: {allowed_keys()}")
    if request.delete_setting:
        return WriteSetting(key, None, target)
    try:
        value = check_value(setting, value_from_proto(request.setting_value))
    except SettingRejected as error:
        raise invalid_argument(str(error)) from error
    return WriteSetting(key, value, target)


def check_policy_size(policy: sandbox_pb2.SandboxPolicy) -> None:
    if policy.ByteSize() > MAX_POLICY_BYTES:
        raise invalid_argument(
            f"policy serialized size exceeds maximum ({MAX_POLICY_BYTES} bytes); "
            "allow more with fewer rules"
        )


def merge_error(refused: MergeRefused) -> ApiError:
    """The API's error for what the merge engine refused, with the operation's place."""
    make = invalid_argument if refused.kind is RefusalKind.INVALID else failed_precondition
    return make(f"{refused.location}: {refused.message}", code=refused.code)
