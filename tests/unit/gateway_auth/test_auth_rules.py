"""The authorization table: read from the methods, deny by default, refuse to start on a gap."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from openshell._proto import openshell_pb2, options_pb2
from openshell.gateway.auth.authentication import CallEvidence
from openshell.gateway.auth.authorization import (
    Allowed,
    AuthMode,
    AuthorizationTable,
    Denied,
    RolePolicy,
    Rule,
    RulesIncomplete,
    authorize,
    check_sandbox_scope,
    gateway_services,
)
from openshell.gateway.auth.principal import (
    LOCAL_DEV_USER,
    Anonymous,
    IdentityProvider,
    SandboxPrincipal,
    SandboxSource,
    UserPrincipal,
)
from openshell.gateway.errors import Code

WIRE = Path(__file__).parents[2] / "contract" / "wire.tsv"
OPENSHELL = "/openshell.v1.OpenShell/"
SANDBOX = SandboxPrincipal("3f0c2a52-5a0e-4d5e-9d67-111111111111", SandboxSource.GATEWAY_TOKEN)
OTHER = "3f0c2a52-5a0e-4d5e-9d67-222222222222"


def user(*roles: str, scopes: tuple[str, ...] = ()) -> UserPrincipal:
    return UserPrincipal("alice", IdentityProvider.OIDC, roles=roles, scopes=scopes)


@pytest.fixture(scope="module")
def table() -> AuthorizationTable:
    return AuthorizationTable.from_services(gateway_services())


def test_table_agrees_with_the_contract(table: AuthorizationTable) -> None:
    with WIRE.open(newline="") as lines:
        rows = [row for row in csv.reader(lines, delimiter="\t") if row[1] == "rpc" and row[3]]
    assert len(rows) == 71
    for row in rows:
        rule = table.rule(f"/{row[2]}/{row[4]}")
        assert rule is not None, row
        parts = [str(rule.mode)]
        parts += [
            f"{name}={value}"
            for name in ("workspace_role", "global_role", "scope")
            if (value := getattr(rule, name))
        ]
        assert ";".join(parts) == row[3], row
    # Attach, ProviderProfiles, InferenceRoutes, InferenceMetering, InferenceBudgets, Pausing, Snapshots.
    assert len(table) == len(rows) + 1 + 4 + 1 + 2 + 4 + 2 + 5


def service(auth: str | None, **option: str) -> ServiceDescriptor:
    file = descriptor_pb2.FileDescriptorProto(
        name="case.proto", package="case", dependency=["options.proto"]
    )
    file.message_type.add(name="M")
    method = file.service.add(name="S").method.add(name="Do", input_type="M", output_type="M")
    if auth is not None:
        method.options.Extensions[options_pb2.authorization].CopyFrom(
            options_pb2.AuthorizationRule(auth_mode=auth, **option)
        )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(descriptor_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(options_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool.FindServiceByName("case.S")


class Wrapped:
    """A service of another pool, seen through the options class of the default pool."""

    def __init__(self, found: ServiceDescriptor) -> None:
        self.methods = [WrappedMethod(method) for method in found.methods]


class WrappedMethod:
    def __init__(self, method: object) -> None:
        self._method = method

    def __getattr__(self, name: str) -> object:
        return getattr(self._method, name)

    def GetOptions(self) -> descriptor_pb2.MethodOptions:
        raw = self._method.GetOptions().SerializeToString()
        return descriptor_pb2.MethodOptions.FromString(raw)


SOUND = {"auth": "bearer", "workspace_role": "user", "scope": "x:read"}


@pytest.mark.parametrize(
    "option",
    [
        pytest.param({"auth": None}, id="no-option"),
        pytest.param({"auth": ""}, id="no-class"),
        pytest.param({**SOUND, "auth": "Bearer"}, id="unknown-class"),
        pytest.param({**SOUND, "workspace_role": "owner"}, id="unknown-workspace-role"),
        pytest.param({"auth": "bearer", "global_role": "root", "scope": "x"}, id="unknown-global"),
        pytest.param({**SOUND, "global_role": "platform_admin"}, id="both-roles"),
        pytest.param({"auth": "bearer", "scope": "x"}, id="no-role"),
        pytest.param({"auth": "dual", "workspace_role": "user"}, id="no-scope"),
        pytest.param({"auth": "sandbox", "scope": "x"}, id="sandbox-with-scope"),
        pytest.param({"auth": "unauthenticated", "workspace_role": "user"}, id="open-with-role"),
    ],
)
def test_unsound_rule_stops_the_start(option: dict[str, str | None]) -> None:
    sound = AuthorizationTable.from_services([Wrapped(service(**SOUND))])
    assert sound.rule("/case.S/Do") is not None
    with pytest.raises(RulesIncomplete, match=r"/case\.S/Do"):
        AuthorizationTable.from_services([Wrapped(service(**option))])


_CLASSES = {
    "Anonymous": Anonymous(),
    "SandboxPrincipal": SANDBOX,
    "UserPrincipal": LOCAL_DEV_USER,
}
_MAY = {
    (AuthMode.UNAUTHENTICATED, "Anonymous"),
    (AuthMode.UNAUTHENTICATED, "SandboxPrincipal"),
    (AuthMode.UNAUTHENTICATED, "UserPrincipal"),
    (AuthMode.BEARER, "UserPrincipal"),
    (AuthMode.SANDBOX, "SandboxPrincipal"),
    (AuthMode.DUAL, "SandboxPrincipal"),
    (AuthMode.DUAL, "UserPrincipal"),
}


@pytest.mark.parametrize(("mode", "kind"), list(product(AuthMode, _CLASSES)))
def test_every_class_meets_every_principal(mode: AuthMode, kind: str) -> None:
    decision = authorize(Rule("/s/M", mode), _CLASSES[kind], RolePolicy())
    assert isinstance(decision, Allowed) == ((mode, kind) in _MAY)


def test_admin_with_every_scope_is_still_no_supervisor(table: AuthorizationTable) -> None:
    admin = user("openshell-admin", scopes=("openshell:all",))
    policy = RolePolicy(enforced=True, scopes_enforced=True)
    assert isinstance(authorize(table.rule(OPENSHELL + "GetSandbox"), admin, policy), Allowed)
    denied = authorize(table.rule(OPENSHELL + "ConnectSupervisor"), admin, policy)
    assert denied == Denied(Code.PERMISSION_DENIED, "this method requires a sandbox principal")


def test_sandbox_may_not_call_a_method_nobody_described() -> None:
    assert isinstance(authorize(None, SANDBOX, RolePolicy()), Denied)
    assert isinstance(authorize(None, Anonymous(), RolePolicy()), Denied)


ENFORCED = RolePolicy(enforced=True)
SCOPED = RolePolicy(enforced=True, scopes_enforced=True)


@pytest.mark.parametrize(
    ("method", "caller", "policy", "refusal"),
    [
        pytest.param("GetSandbox", user(), RolePolicy(), None, id="roles-not-enforced"),
        pytest.param("GetSandbox", user("openshell-user"), ENFORCED, None, id="user"),
        pytest.param("GetSandbox", user("openshell-admin"), ENFORCED, None, id="admin-is-user"),
        pytest.param("GetSandbox", user("x"), ENFORCED, "role 'openshell-user'", id="no-role"),
        pytest.param("CreateProvider", user("openshell-user"), ENFORCED, None, id="ws-admin-later"),
        pytest.param(
            "CreateWorkspace",
            user("openshell-user"),
            ENFORCED,
            "role 'openshell-admin' required",
            id="user-is-no-platform-admin",
        ),
        pytest.param("CreateWorkspace", user("openshell-admin"), ENFORCED, None, id="platform"),
        pytest.param("GetCurrentUser", user(), SCOPED, None, id="who-am-i"),
        pytest.param(
            "GetGatewayConfig", user(), SCOPED, "scope 'config:read'", id="scope-without-role"
        ),
        pytest.param(
            "GetSandbox",
            user("openshell-user", scopes=("sandbox:write",)),
            SCOPED,
            "scope 'sandbox:read' required",
            id="other-scope",
        ),
        pytest.param(
            "GetSandbox",
            user("openshell-user", scopes=("sandbox:read",)),
            SCOPED,
            None,
            id="right-scope",
        ),
        pytest.param(
            "GetSandbox",
            user("openshell-user", scopes=("openshell:all",)),
            SCOPED,
            None,
            id="all-scopes",
        ),
        pytest.param(
            "Unheard",
            user("openshell-user", scopes=("sandbox:read",)),
            SCOPED,
            "scope 'openshell:all' required",
            id="unknown-method-needs-everything",
        ),
        pytest.param(
            "GetSandbox",
            user(),
            RolePolicy(enforced=True, user_role="", admin_role=""),
            None,
            id="authentication-only",
        ),
    ],
)
def test_roles_and_scopes(
    table: AuthorizationTable,
    method: str,
    caller: UserPrincipal,
    policy: RolePolicy,
    refusal: str | None,
) -> None:
    decision = authorize(table.rule(OPENSHELL + method), caller, policy)
    if refusal is None:
        assert isinstance(decision, Allowed)
    else:
        assert isinstance(decision, Denied)
        assert decision.code is Code.PERMISSION_DENIED
        assert refusal in decision.message


@pytest.mark.parametrize(
    ("method", "make"),
    [
        ("GetSandboxProviderEnvironment", openshell_pb2.GetSandboxProviderEnvironmentRequest),
        ("ReportPolicyStatus", openshell_pb2.ReportPolicyStatusRequest),
        ("ReportMainProcessExit", openshell_pb2.ReportMainProcessExitRequest),
        ("PushSandboxLogs", openshell_pb2.PushSandboxLogsRequest),
        (
            "ConnectSupervisor",
            lambda sandbox_id: openshell_pb2.SupervisorMessage(
                hello=openshell_pb2.SupervisorHello(sandbox_id=sandbox_id)
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_supervisor_acts_for_its_own_sandbox_only(
    table: AuthorizationTable, method: str, make: object
) -> None:
    rule = table.rule(OPENSHELL + method)
    assert rule is not None
    assert check_sandbox_scope(rule, SANDBOX, make(sandbox_id=SANDBOX.sandbox_id)) is None
    denied = check_sandbox_scope(rule, SANDBOX, make(sandbox_id=OTHER))
    assert denied == Denied(Code.PERMISSION_DENIED, "the token belongs to another sandbox")
    assert check_sandbox_scope(rule, LOCAL_DEV_USER, make(sandbox_id=OTHER)) is None


def test_evidence_does_not_show_the_token() -> None:
    assert "secret" not in repr(CallEvidence(("Bearer secret",)))


def test_no_line_of_a_batch_names_another_sandbox(table: AuthorizationTable) -> None:
    rule = table.rule(OPENSHELL + "PushSandboxLogs")
    assert rule is not None
    own, foreign = (
        openshell_pb2.SandboxLogLine(sandbox_id=sandbox_id)
        for sandbox_id in (SANDBOX.sandbox_id, OTHER)
    )
    batch = openshell_pb2.PushSandboxLogsRequest(sandbox_id=SANDBOX.sandbox_id, logs=[own, own])
    assert check_sandbox_scope(rule, SANDBOX, batch) is None
    batch.logs.append(foreign)
    assert check_sandbox_scope(rule, SANDBOX, batch) is not None


def test_supervisor_messages_after_the_hello_name_no_sandbox(table: AuthorizationTable) -> None:
    rule = table.rule(OPENSHELL + "ConnectSupervisor")
    assert rule is not None
    beat = openshell_pb2.SupervisorMessage(heartbeat=openshell_pb2.SupervisorHeartbeat())
    assert list(rule.sandbox_ids(beat)) == []
    assert beat.WhichOneof("payload") == "heartbeat"
