"""The gate in front of real servers: TLS with client certificates, and the supervisors' socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from openshell._proto import openshell_pb2 as pb
from openshell._proto import openshell_pb2_grpc as rpc
from openshell._proto import sandbox_pb2
from openshell.gateway.auth.authentication import (
    SUPERVISOR_UNIT,
    AuthSettings,
    CallEvidence,
    Listener,
    authenticate,
)
from openshell.gateway.auth.authorization import (
    AuthorizationTable,
    Denied,
    RolePolicy,
    gateway_services,
)
from openshell.gateway.auth.interceptor import AuthInterceptor
from openshell.gateway.auth.principal import (
    LOCAL_DEV_USER,
    Anonymous,
    IdentityProvider,
    SandboxPrincipal,
    SandboxSource,
    UserPrincipal,
    acting_as,
    current_principal,
    require_sandbox,
    require_user,
)
from openshell.gateway.auth.tokens import SandboxTokens, load_signing_keys
from openshell.gateway.certificates import Authority, KeyPair, parse_sans
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.pki import ensure_pki

OURS = "3f0c2a52-5a0e-4d5e-9d67-111111111111"
OTHER = "3f0c2a52-5a0e-4d5e-9d67-222222222222"
DELETED = "3f0c2a52-5a0e-4d5e-9d67-333333333333"
NOW = 1_800_000_000.0

TABLE = AuthorizationTable.from_services(gateway_services())
OPENSHELL = "/openshell.v1.OpenShell/"


def describe() -> str:
    match current_principal():
        case UserPrincipal(subject=subject, provider=provider):
            return f"{provider}:{subject}"
        case SandboxPrincipal(sandbox_id=sandbox_id):
            return f"sandbox:{sandbox_id}"
        case Anonymous():
            return "anonymous"


class Handlers(rpc.OpenShellServicer):
    """One handler of each shape that says whom it serves; the others stay unbuilt."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def _reach(self) -> str:
        self.reached.append(describe())
        return self.reached[-1]

    async def Health(self, request: Any, context: Any) -> pb.HealthResponse:
        return pb.HealthResponse(version=self._reach())

    async def GetCurrentUser(self, request: Any, context: Any) -> pb.GetCurrentUserResponse:
        return pb.GetCurrentUserResponse(subject=self._reach())

    async def GetSandboxConfig(self, request: Any, context: Any) -> Any:
        return sandbox_pb2.GetSandboxConfigResponse(workspace=self._reach())

    async def WatchSandbox(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.SandboxStreamEvent]:
        for _ in range(2):
            yield pb.SandboxStreamEvent(warning=pb.SandboxStreamWarning(message=self._reach()))

    async def ExecSandbox(self, request: Any, context: Any) -> None:
        event = pb.ExecSandboxEvent(stdout=pb.ExecSandboxStdout(data=self._reach().encode()))
        await context.write(event)

    async def PushSandboxLogs(self, requests: Any, context: Any) -> pb.PushSandboxLogsResponse:
        async for _ in requests:
            self._reach()
        return pb.PushSandboxLogsResponse()

    async def ConnectSupervisor(
        self, requests: Any, context: Any
    ) -> AsyncIterator[pb.GatewayMessage]:
        async for _ in requests:
            yield pb.GatewayMessage(session_accepted=pb.SessionAccepted(session_id=self._reach()))


@dataclass
class World:
    authority: Authority
    tokens: SandboxTokens
    socket: Path
    handlers: Handlers

    def bearer(self, sandbox_id: str = OURS) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.tokens.issue(sandbox_id).token}"),)

    def client(self, unit: str = "openshell-user") -> KeyPair:
        return self.authority.issue_client("alice", unit)


async def exists(sandbox_id: str) -> bool:
    return sandbox_id != DELETED


@pytest.fixture
def world(tmp_path: Path) -> World:
    paths = ensure_pki(tmp_path / "tls").paths
    keys = load_signing_keys(paths.jwt_signing, paths.jwt_public, paths.jwt_kid)
    tokens = SandboxTokens(keys, gateway_id="g", ttl_seconds=60, now=lambda: NOW)
    return World(Authority(), tokens, tmp_path / "s.sock", Handlers())


@asynccontextmanager
async def serving(
    world: World,
    listener: Listener,
    *,
    certificate: KeyPair | None = None,
    settings: AuthSettings | None = None,
) -> AsyncIterator[rpc.OpenShellStub]:
    """A server with the gate and a client with or without a certificate."""
    settings = settings or AuthSettings.derive(
        tokens=world.tokens, mtls_users=True, allow_unauthenticated_users=False
    )
    server = grpc.aio.server(interceptors=[AuthInterceptor(TABLE, settings, listener, exists)])
    rpc.add_OpenShellServicer_to_server(world.handlers, server)
    ca = world.authority.pair.certificate
    if certificate is None:
        address = f"unix:{world.socket}"
        server.add_insecure_port(address)
        channel = grpc.aio.insecure_channel(address)
    else:
        made = world.authority.issue_server(parse_sans(["127.0.0.1"]))
        credentials = grpc.ssl_server_credentials(
            [(made.key, made.certificate)], ca, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        channel = grpc.aio.secure_channel(
            f"127.0.0.1:{port}",
            grpc.ssl_channel_credentials(ca, certificate.key, certificate.certificate),
        )
    await server.start()
    try:
        async with channel:
            stub = rpc.OpenShellStub(channel)
            stub.channel = channel
            yield stub
    finally:
        await server.stop(None)


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


PD = grpc.StatusCode.PERMISSION_DENIED
UA = grpc.StatusCode.UNAUTHENTICATED


async def test_users_listener(world: World) -> None:
    async with serving(world, Listener.USERS, certificate=world.client()) as stub:
        assert (await stub.Health(pb.HealthRequest())).version == "anonymous"
        answer = await stub.GetCurrentUser(pb.GetCurrentUserRequest())
        assert answer.subject == "mtls:alice"
        events = [e async for e in stub.WatchSandbox(pb.WatchSandboxRequest())]
        assert [e.warning.message for e in events] == ["mtls:alice"] * 2
        chunks = [e async for e in stub.ExecSandbox(pb.ExecSandboxRequest())]
        assert [c.stdout.data for c in chunks] == [b"mtls:alice"]
        # A token beside the certificate wins: the supervisor does not borrow the user.
        config = await stub.GetSandboxConfig(
            sandbox_pb2.GetSandboxConfigRequest(), metadata=world.bearer()
        )
        assert config.workspace == f"sandbox:{OURS}"
        world.handlers.reached.clear()

        code, text = await outcome(
            stub.GetCurrentUser(pb.GetCurrentUserRequest(), metadata=world.bearer())
        )
        assert (code, text) == (PD, "sandbox principals may not call this method")
        code, text = await outcome(
            stub.PushSandboxLogs(iter([pb.PushSandboxLogsRequest(sandbox_id=OURS)]))
        )
        assert (code, text) == (PD, "this method requires a sandbox principal")
        for header in ("Bearer nonsense", "Bearer " + "a.b.c"):
            code, text = await outcome(
                stub.GetCurrentUser(
                    pb.GetCurrentUserRequest(), metadata=(("authorization", header),)
                )
            )
            assert code is UA
            assert "invalid token" in text
        code, text = await outcome(
            stub.GetCurrentUser(
                pb.GetCurrentUserRequest(), metadata=(("authorization", "Bearer x"),) * 2
            )
        )
        assert (code, text) == (UA, "more than one authorization header")
        assert world.handlers.reached == []


async def test_supervisors_certificate_is_no_user(world: World) -> None:
    async with serving(world, Listener.USERS, certificate=world.client(SUPERVISOR_UNIT)) as stub:
        config = await stub.GetSandboxConfig(
            sandbox_pb2.GetSandboxConfigRequest(sandbox_id=OURS), metadata=world.bearer()
        )
        assert config.workspace == f"sandbox:{OURS}"
        for call in (
            stub.GetCurrentUser(pb.GetCurrentUserRequest()),
            stub.GetSandboxConfig(sandbox_pb2.GetSandboxConfigRequest()),
        ):
            code, text = await outcome(call)
            assert code is UA
            assert "belongs to a supervisor" in text


async def test_supervisors_socket(world: World) -> None:
    async with serving(world, Listener.SUPERVISORS) as stub:
        token = world.bearer()
        config = await stub.GetSandboxConfig(
            sandbox_pb2.GetSandboxConfigRequest(sandbox_id=OURS), metadata=token
        )
        assert config.workspace == f"sandbox:{OURS}"
        world.handlers.reached.clear()

        code, text = await outcome(stub.GetSandboxConfig(sandbox_pb2.GetSandboxConfigRequest()))
        assert (code, text) == (UA, "this listener needs the token of a sandbox")
        for call in (
            stub.Health(pb.HealthRequest()),
            stub.GetCurrentUser(pb.GetCurrentUserRequest(), metadata=token),
            stub.CreateProvider(pb.CreateProviderRequest(), metadata=token),
        ):
            code, text = await outcome(call)
            assert code is PD
            assert "supervisors only" in text
        assert world.handlers.reached == []


async def test_supervisors_socket_takes_no_local_developer(world: World) -> None:
    everyone = AuthSettings.derive(
        tokens=world.tokens, mtls_users=False, allow_unauthenticated_users=True
    )
    async with serving(world, Listener.USERS, settings=everyone) as stub:
        answer = await stub.GetSandboxConfig(sandbox_pb2.GetSandboxConfigRequest())
        assert answer.workspace == f"local_dev:{LOCAL_DEV_USER.subject}"
    async with serving(world, Listener.SUPERVISORS, settings=everyone) as stub:
        code, _ = await outcome(stub.GetSandboxConfig(sandbox_pb2.GetSandboxConfigRequest()))
        assert code is UA


async def test_another_sandbox_is_out_of_reach(world: World) -> None:
    async with serving(world, Listener.SUPERVISORS) as stub:
        token = world.bearer()
        code, text = await outcome(
            stub.GetSandboxConfig(
                sandbox_pb2.GetSandboxConfigRequest(sandbox_id=OTHER), metadata=token
            )
        )
        assert (code, text) == (PD, "the token belongs to another sandbox")
        assert world.handlers.reached == []

        batches = [pb.PushSandboxLogsRequest(sandbox_id=i) for i in (OURS, OTHER, OURS)]
        code, text = await outcome(stub.PushSandboxLogs(iter(batches), metadata=token))
        assert (code, text) == (PD, "the token belongs to another sandbox")
        assert world.handlers.reached == [f"sandbox:{OURS}"]

        def hello(sandbox_id: str) -> Any:
            message = pb.SupervisorMessage(hello=pb.SupervisorHello(sandbox_id=sandbox_id))
            return stub.ConnectSupervisor(iter([message]), metadata=token)

        answers = [m async for m in hello(OURS)]
        assert [m.session_accepted.session_id for m in answers] == [f"sandbox:{OURS}"]
        code, text = await outcome(hello(OTHER).read())
        assert (code, text) == (PD, "the token belongs to another sandbox")


async def test_token_of_a_deleted_sandbox_is_worth_nothing(world: World) -> None:
    async with serving(world, Listener.SUPERVISORS) as stub:
        request = sandbox_pb2.GetSandboxConfigRequest()
        await stub.GetSandboxConfig(request, metadata=world.bearer())
        code, text = await outcome(stub.GetSandboxConfig(request, metadata=world.bearer(DELETED)))
        assert (code, text) == (grpc.StatusCode.NOT_FOUND, "sandbox not found")


async def test_unbuilt_and_unknown_methods_say_their_name(world: World) -> None:
    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    async with serving(world, Listener.USERS, certificate=world.client()) as stub:
        calls = {
            "CreateWorkspace": stub.CreateWorkspace(pb.CreateWorkspaceRequest(name="x")),
            "ForwardTcp": stub.ForwardTcp(iter([])).read(),
        }
        for name, call in calls.items():
            code, text = await outcome(call)
            assert (code, text) == (
                unimplemented,
                f"{OPENSHELL}{name} is not built yet in this gateway",
            )
        for path in ("/openshell.v1.OpenShell/Nonsense", "/no.such.Service/Do"):
            code, text = await outcome(stub.channel.unary_unary(path)(b""))
            assert (code, text) == (unimplemented, f"unknown method {path}")
        # Being refused comes first: a supervisor learns nothing about what is built.
        code, _ = await outcome(
            stub.CreateWorkspace(pb.CreateWorkspaceRequest(), metadata=world.bearer())
        )
        assert code is PD
        code, _ = await outcome(
            stub.channel.unary_unary("/no.such.Service/Do")(b"", metadata=world.bearer())
        )
        assert code is PD
    async with serving(world, Listener.SUPERVISORS) as stub:
        code, _ = await outcome(stub.channel.unary_unary("/no.such.Service/Do")(b""))
        assert code is PD
        code, _ = await outcome(stub.channel.unary_unary("/grpc.health.v1.Health/Check")(b""))
        assert code is unimplemented


def settle(**changes: Any) -> AuthSettings:
    whole = {"tokens": None, "mtls_users": False, "allow_unauthenticated_users": False}
    return AuthSettings.derive(**{**whole, **changes})


def certified(make: Callable[[Authority], KeyPair]) -> CallEvidence:
    return CallEvidence(certificate_pem=make(Authority()).certificate)


ALICE = UserPrincipal("alice", IdentityProvider.MTLS, "alice", ("openshell-admin",))


@pytest.mark.parametrize(
    ("settings", "evidence", "expected"),
    [
        pytest.param(settle(), CallEvidence(), LOCAL_DEV_USER, id="no-mechanism-serves-everyone"),
        pytest.param(
            settle(mtls_users=True), CallEvidence(), "missing client certificate", id="mtls-only"
        ),
        pytest.param(
            settle(mtls_users=True),
            certified(lambda a: a.issue_client("alice", "openshell-admin")),
            ALICE,
            id="roles-are-units",
        ),
        pytest.param(
            settle(),
            certified(lambda a: a.issue_client("alice", "openshell-admin")),
            LOCAL_DEV_USER,
            id="certificate-means-nothing-without-mtls-users",
        ),
        pytest.param(
            settle(mtls_users=True, allow_unauthenticated_users=True),
            certified(lambda a: a.issue_client("s", SUPERVISOR_UNIT)),
            "belongs to a supervisor",
            id="supervisor-does-not-fall-through",
        ),
        pytest.param(
            settle(mtls_users=True),
            certified(lambda a: a.issue_server(parse_sans(["localhost"]))),
            "not issued to identify a user",
            id="server-certificate",
        ),
        pytest.param(
            settle(mtls_users=True),
            CallEvidence(certificate_pem=b"nonsense"),
            "cannot be read",
            id="unreadable-certificate",
        ),
    ],
)
def test_evidence(settings: AuthSettings, evidence: CallEvidence, expected: object) -> None:
    rule = TABLE.rule(OPENSHELL + "GetCurrentUser")
    found = authenticate(rule, evidence, settings, Listener.USERS)
    if isinstance(expected, str):
        assert isinstance(found, Denied)
        assert found.code is Code.UNAUTHENTICATED
        assert expected in found.message
    else:
        assert found == expected


@pytest.mark.parametrize("header", ["bearer x", "Basic x", "BEARER x", "Bearer", ""])
def test_other_schemes_are_no_evidence(world: World, header: str) -> None:
    settings = settle(tokens=world.tokens)
    rule = TABLE.rule(OPENSHELL + "GetCurrentUser")
    found = authenticate(rule, CallEvidence((header,)), settings, Listener.USERS)
    assert isinstance(found, Denied)
    assert "missing authorization header" in found.message


def test_handlers_ask_for_the_principal_they_need() -> None:
    supervisor = SandboxPrincipal(OURS, SandboxSource.GATEWAY_TOKEN)
    with pytest.raises(LookupError):
        current_principal()
    with acting_as(supervisor):
        assert require_sandbox() == require_sandbox(OURS) == supervisor
        for wrong in (require_user, lambda: require_sandbox(OTHER)):
            with pytest.raises(ApiError) as caught:
                wrong()
            assert caught.value.code is Code.PERMISSION_DENIED
    with acting_as(LOCAL_DEV_USER):
        assert require_user() is LOCAL_DEV_USER
        with pytest.raises(ApiError):
            require_sandbox()


def test_roles_of_an_identity_provider_bind_certificates_too() -> None:
    policy = RolePolicy(enforced=True)
    assert policy.is_platform_admin(ALICE)
    assert not policy.is_platform_admin(SimpleNamespace(roles=("openshell-user",)))
