"""May this principal call this method? Answered from the options written on the methods themselves.

The table is built once, before any port opens, from the descriptors of every service that will be
served; a missing or contradictory rule stops the start. Deciding is pure: rule and principal in,
Allowed or Denied out. Left to handlers: membership of workspaces, which needs the store, and objects
that a request names indirectly. Called by `interceptor`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message

from openshell._proto import (
    inference_pb2,
    openshell_ext_inference_pb2,
    openshell_ext_pb2,
    openshell_ext_profiles_pb2,
    openshell_ext_snapshots_pb2,
    openshell_pb2,
    options_pb2,
)
from openshell.gateway.auth.principal import (
    ADMIN_ROLE,
    USER_ROLE,
    Anonymous,
    Principal,
    SandboxPrincipal,
    UserPrincipal,
)
from openshell.gateway.errors import Code

__all__ = [
    "Allowed",
    "AuthMode",
    "AuthorizationTable",
    "Decision",
    "Denied",
    "RolePolicy",
    "Rule",
    "RulesIncomplete",
    "authorize",
    "check_sandbox_scope",
    "gateway_services",
]

_ALL_SCOPES: Final = "openshell:all"
_WORKSPACE_ROLES: Final = frozenset({"user", "admin"})
_GLOBAL_ROLES: Final = frozenset({"platform_admin"})

# The two user methods whose rules are shorter: everyone may ask who they are and what is set.
_WITHOUT_ROLE_AND_SCOPE: Final = frozenset({"/openshell.v1.OpenShell/GetCurrentUser"})
_WITHOUT_ROLE: Final = frozenset({"/openshell.v1.OpenShell/GetGatewayConfig"})


class AuthMode(enum.StrEnum):
    UNAUTHENTICATED = "unauthenticated"
    BEARER = "bearer"
    SANDBOX = "sandbox"
    DUAL = "dual"


@dataclass(frozen=True, slots=True)
class Rule:
    """The authorization option of one method, plus where its request names a sandbox."""

    method: str
    mode: AuthMode
    workspace_role: str = ""
    global_role: str = ""
    scope: str = ""
    sandbox_fields: tuple[tuple[str, ...], ...] = ()

    @property
    def for_supervisors(self) -> bool:
        """Whether a listener that serves supervisors alone may offer the method."""
        return self.mode in {AuthMode.SANDBOX, AuthMode.DUAL}

    def sandbox_ids(self, request: Message) -> Iterator[str]:
        """Every sandbox id that the request names, empty ones left out."""
        for path in self.sandbox_fields:
            yield from _ids_at(request, path)


@dataclass(frozen=True, slots=True)
class Allowed:
    principal: Principal


@dataclass(frozen=True, slots=True)
class Denied:
    code: Code
    message: str


Decision: TypeAlias = Allowed | Denied


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """How roles and scopes of users are judged. Without an identity provider neither is."""

    enforced: bool = False
    user_role: str = USER_ROLE
    admin_role: str = ADMIN_ROLE
    scopes_enforced: bool = False

    def is_platform_admin(self, user: UserPrincipal) -> bool:
        return not self.enforced or not self.admin_role or self.admin_role in user.roles

    def has_user_role(self, user: UserPrincipal) -> bool:
        return not self.enforced or not self.user_role or self._holds_user_role(user)

    def _holds_user_role(self, user: UserPrincipal) -> bool:
        return self.user_role in user.roles or (
            bool(self.admin_role) and self.admin_role in user.roles
        )


class RulesIncomplete(Exception):
    """The methods to be served do not all carry a sound rule; the gateway must not start."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("authorization rules are incomplete: " + "; ".join(self.problems))


def gateway_services() -> tuple[ServiceDescriptor, ...]:
    """Every service on the gateway's port."""
    return (
        openshell_pb2.DESCRIPTOR.services_by_name["OpenShell"],
        inference_pb2.DESCRIPTOR.services_by_name["Inference"],
        openshell_ext_inference_pb2.DESCRIPTOR.services_by_name["InferenceBudgets"],
        openshell_ext_inference_pb2.DESCRIPTOR.services_by_name["InferenceMetering"],
        openshell_ext_inference_pb2.DESCRIPTOR.services_by_name["InferenceRoutes"],
        openshell_ext_pb2.DESCRIPTOR.services_by_name["Sandboxes"],
        openshell_ext_profiles_pb2.DESCRIPTOR.services_by_name["ProviderProfiles"],
        openshell_ext_snapshots_pb2.DESCRIPTOR.services_by_name["Pausing"],
        openshell_ext_snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"],
    )


class AuthorizationTable:
    """Rules by full method name, as it stands in the path of a call."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = MappingProxyType(dict(rules))

    @classmethod
    def from_services(cls, services: Iterable[ServiceDescriptor]) -> AuthorizationTable:
        rules: dict[str, Rule] = {}
        problems: list[str] = []
        for service in services:
            for method in service.methods:
                try:
                    rule = _read_rule(method)
                except ValueError as problem:
                    problems.append(str(problem))
                else:
                    rules[rule.method] = rule
        if problems:
            raise RulesIncomplete(problems)
        return cls(rules)

    def rule(self, method: str) -> Rule | None:
        return self._rules.get(method)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def __len__(self) -> int:
        return len(self._rules)


def _ids_at(message: Message, path: tuple[str, ...]) -> Iterator[str]:
    value = getattr(message, path[0])
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, Message):
        yield from _ids_at(value, path[1:])
    else:
        for item in value:
            yield from _ids_at(item, path[1:])


def _path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _read_rule(method: MethodDescriptor) -> Rule:
    """The rule on a method. Raises ValueError naming method and fault."""
    path = _path_of(method)
    options = method.GetOptions()
    if not options.HasExtension(options_pb2.authorization):
        raise ValueError(f"{path} has no authorization option")
    option = options.Extensions[options_pb2.authorization]
    try:
        mode = AuthMode(option.auth_mode)
    except ValueError as error:
        raise ValueError(f"{path} names the unknown class '{option.auth_mode}'") from error
    rule = Rule(
        path,
        mode,
        option.workspace_role,
        option.global_role,
        option.scope,
        tuple(_sandbox_fields(method.input_type)),
    )
    fault = _fault_of(rule)
    if fault:
        raise ValueError(f"{path} {fault}")
    return rule


def _fault_of(rule: Rule) -> str | None:
    if rule.mode in {AuthMode.UNAUTHENTICATED, AuthMode.SANDBOX}:
        if rule.workspace_role or rule.global_role or rule.scope:
            return f"carries a role or scope although its class is {rule.mode}"
        return None
    if rule.workspace_role and rule.workspace_role not in _WORKSPACE_ROLES:
        return f"names the unknown workspace role '{rule.workspace_role}'"
    if rule.global_role and rule.global_role not in _GLOBAL_ROLES:
        return f"names the unknown global role '{rule.global_role}'"
    if rule.workspace_role and rule.global_role:
        return "carries both a workspace role and a global role"
    has_role = bool(rule.workspace_role or rule.global_role)
    wants_scope = rule.method not in _WITHOUT_ROLE_AND_SCOPE
    wants_role = wants_scope and rule.method not in _WITHOUT_ROLE
    if has_role != wants_role:
        return "lacks a role" if wants_role else "must not carry a role"
    if bool(rule.scope) != wants_scope:
        return "lacks a scope" if wants_scope else "must not carry a scope"
    return None


def _sandbox_fields(request: Descriptor) -> Iterator[tuple[str, ...]]:
    """Paths to `sandbox_id`: at the top, or one message down as in a session's hello or a list of logs."""
    for field in request.fields:
        if field.name == "sandbox_id" and field.type == FieldDescriptor.TYPE_STRING:
            yield (field.name,)
        elif field.message_type is not None and "sandbox_id" in field.message_type.fields_by_name:
            yield (field.name, "sandbox_id")


def authorize(rule: Rule | None, principal: Principal, roles: RolePolicy) -> Decision:
    """Decide by class, role and scope. A method without a rule needs a user who may do everything."""
    if rule is not None and rule.mode is AuthMode.UNAUTHENTICATED:
        return Allowed(principal)
    match principal:
        case Anonymous():
            return Denied(Code.UNAUTHENTICATED, "this method needs an authenticated caller")
        case SandboxPrincipal():
            if rule is None or not rule.for_supervisors:
                return Denied(Code.PERMISSION_DENIED, "sandbox principals may not call this method")
            return Allowed(principal)
        case UserPrincipal():
            if rule is not None and rule.mode is AuthMode.SANDBOX:
                return Denied(Code.PERMISSION_DENIED, "this method requires a sandbox principal")
            return _authorize_user(rule, principal, roles)


def _authorize_user(rule: Rule | None, user: UserPrincipal, roles: RolePolicy) -> Decision:
    if not roles.enforced:
        return Allowed(user)
    if rule is not None and rule.global_role:
        if not roles.is_platform_admin(user):
            return Denied(Code.PERMISSION_DENIED, f"role '{roles.admin_role}' required")
    # Who is admin of which workspace is decided by membership, in the handler.
    elif (rule is None or rule.workspace_role) and not roles.has_user_role(user):
        return Denied(Code.PERMISSION_DENIED, f"role '{roles.user_role}' required")
    scope = _ALL_SCOPES if rule is None else rule.scope
    if roles.scopes_enforced and scope and not {_ALL_SCOPES, scope} & set(user.scopes):
        return Denied(Code.PERMISSION_DENIED, f"scope '{scope}' required")
    return Allowed(user)


def check_sandbox_scope(rule: Rule, principal: Principal, request: Message) -> Denied | None:
    """A supervisor acts for its own sandbox: refuse a request that names another one."""
    if not isinstance(principal, SandboxPrincipal):
        return None
    for sandbox_id in rule.sandbox_ids(request):
        if sandbox_id != principal.sandbox_id:
            return Denied(Code.PERMISSION_DENIED, "the token belongs to another sandbox")
    return None
