"""The noun services on a real store, with a second store on the same file for races.

`gateway` calls the services as methods, `wire` calls the same ones through real gRPC.
"""

import asyncio
import contextlib
import functools
import time
import uuid
from pathlib import Path

import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from openshell._proto import datamodel_pb2, openshell_pb2, openshell_pb2_grpc, sandbox_pb2
from openshell.codec.policy import policy_to_proto
from openshell.codec.profile import profile_to_proto
from openshell.gateway.auth.authentication import AuthSettings, Listener
from openshell.gateway.auth.authorization import AuthorizationTable, gateway_services
from openshell.gateway.auth.interceptor import AuthInterceptor
from openshell.gateway.auth.principal import (
    LOCAL_DEV_USER,
    SandboxPrincipal,
    SandboxSource,
    acting_as,
)
from openshell.gateway.auth.tokens import SandboxTokens, SigningKeys
from openshell.gateway.credentials import DatabaseCredentialStore, KeyEncryptionKey
from openshell.gateway.events import CONFIG, Bus
from openshell.gateway.grpc_errors import ErrorInterceptor
from openshell.gateway.listener import bind_tcp, bind_unix, new_server
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.refresh.states import State, put_state, set_handles, state_name
from openshell.gateway.services.admission import admit_sandbox
from openshell.gateway.services.attachments import Attachments
from openshell.gateway.services.config import Config
from openshell.gateway.services.drafts import Drafts
from openshell.gateway.services.logs import Logs
from openshell.gateway.services.policies import Policies
from openshell.gateway.services.provider_environment import ProviderEnvironment
from openshell.gateway.services.providers import Providers
from openshell.gateway.services.settings import Settings
from openshell.gateway.store import MustCreate, Unconditional
from openshell.gateway.store.postgres import PostgresStore
from openshell.gateway.store.sqlite import SqliteStore
from openshell.gateway.workspaces import ensure_default
from openshell.policy.parse import parse_policy
from openshell.providers.profile.model import Strategy

KEY = KeyEncryptionKey(bytes(range(32)))
START_MS = 1_700_000_000_000


class Gateway:
    """One gateway's services, without a network: RPCs are called as methods."""

    def __init__(self, store, clock):
        self.store = store
        self.clock = clock
        self.principal = LOCAL_DEV_USER
        self.bus = Bus()
        self.changes = []
        self.bus.listen(CONFIG, lambda key, reason: self.changes.append((key, reason)))
        self.credentials = credentials = DatabaseCredentialStore(KEY)
        self.parts = (
            Providers(store, credentials, self.bus),
            Attachments(store, self.bus),
            Config(store, self.bus),
            Policies(store, self.bus),
            Drafts(store, self.bus, new_id=lambda: str(uuid.uuid4())),
            Settings(store),
            Logs(store, self.bus),
            ProviderEnvironment(store, credentials),
        )

    def __getattr__(self, method):
        for part in self.parts:
            if hasattr(part, method):
                return functools.partial(self._call, getattr(part, method))
        raise AttributeError(method)

    async def _call(self, method, request):
        with acting_as(self.principal):
            return await method(request, None)

    @contextlib.contextmanager
    def as_sandbox(self, sandbox):
        before = self.principal
        self.principal = SandboxPrincipal(sandbox.metadata.id, SandboxSource.GATEWAY_TOKEN)
        try:
            yield
        finally:
            self.principal = before

    async def sandbox(self, name="box", *, providers=(), policy=None, phase=None):
        message = openshell_pb2.Sandbox()
        message.metadata.id = str(uuid.uuid4())
        message.metadata.name = name
        message.metadata.workspace = "default"
        message.spec.providers.extend(providers)
        message.status.phase = phase or openshell_pb2.SANDBOX_PHASE_READY
        if policy is not None:
            message.spec.policy.CopyFrom(as_policy(policy))

        def insert(tx):
            admit_sandbox(tx, message)
            message.metadata.created_at_ms = tx.now_ms
            return tx.put(to_row(Kind.SANDBOX, message), MustCreate())

        return load(await self.store.write(insert), openshell_pb2.Sandbox)

    async def reload(self, sandbox):
        row = await self.store.read(lambda tx: tx.get_by_id(Kind.SANDBOX, sandbox.metadata.id))
        return load(row, openshell_pb2.Sandbox)

    async def provider(self, name="work", credentials=None, **fields):
        values = {"API_KEY": "s3cr3t"} if credentials is None else credentials
        message = provider_message(name, values, **fields)
        response = await self.CreateProvider(openshell_pb2.CreateProviderRequest(provider=message))
        return response.provider

    async def profile(self, profile, workspace=""):
        """Stores a profile, or another content of a stored one, as its RPCs would."""

        def put(tx):
            row = tx.get(Kind.PROVIDER_PROFILE, workspace, profile.id)
            message = openshell_pb2.StoredProviderProfile(profile=profile_to_proto(profile))
            message.metadata.id = row.id if row else str(uuid.uuid4())
            message.metadata.name = profile.id
            message.metadata.workspace = workspace
            message.metadata.created_at_ms = tx.now_ms
            return tx.put(to_row(Kind.PROVIDER_PROFILE, message), Unconditional())

        return await self.store.write(put)

    async def refresh(self, provider, key, *, outputs=None, epoch="", strategy=None):
        """Stores what a credential is refreshed by, with one secret, or another version of it."""
        ref = provider.metadata.id
        prepared = await self.credentials.prepare(ref, {"refresh-client-secret": "sealed"})

        def put(tx):
            over = tx.get(Kind.REFRESH_STATE, "default", state_name(ref, key))
            state = load(over, State) if over else State()
            state.metadata.id = state.metadata.id or str(uuid.uuid4())
            state.metadata.name = state_name(ref, key)
            state.metadata.workspace = "default"
            state.provider_id, state.provider_name = ref, provider.metadata.name
            state.credential_key = key
            state.strategy = strategy or Strategy.OAUTH2_CLIENT_CREDENTIALS
            state.authorization_epoch = epoch or state.authorization_epoch or "first"
            state.additional_output_keys.update(outputs or {})
            if over is None:
                self.credentials.commit(tx, prepared)
                set_handles(
                    state,
                    self.credentials.driver,
                    {"client_secret": prepared.handles["refresh-client-secret"]},
                )
            return put_state(tx, state, over)

        return await self.store.write(put)

    async def v2(self, value=True):
        return await self.UpdateConfig(
            openshell_pb2.UpdateConfigRequest(
                setting_key="providers_v2_enabled",
                setting_value={"bool_value": value},
                **{"global": True},
            )
        )

    async def set_global(self, text):
        return await self.UpdateConfig(
            openshell_pb2.UpdateConfigRequest(policy=as_policy(text), **{"global": True})
        )

    async def delete_global(self):
        return await self.UpdateConfig(
            openshell_pb2.UpdateConfigRequest(
                setting_key="policy", delete_setting=True, **{"global": True}
            )
        )

    async def attach(self, sandbox, provider, expected=0):
        return await self.AttachSandboxProvider(
            openshell_pb2.AttachSandboxProviderRequest(
                sandbox_name=sandbox.metadata.name,
                provider_name=provider,
                expected_resource_version=expected,
            )
        )

    async def detach(self, sandbox, provider, expected=0):
        return await self.DetachSandboxProvider(
            openshell_pb2.DetachSandboxProviderRequest(
                sandbox_name=sandbox.metadata.name,
                provider_name=provider,
                expected_resource_version=expected,
            )
        )

    async def set_policy(self, sandbox, text, **fields):
        return await self.UpdateConfig(
            openshell_pb2.UpdateConfigRequest(
                name=sandbox.metadata.name, policy=as_policy(text), **fields
            )
        )

    async def config(self, sandbox):
        return await self.GetSandboxConfig(
            sandbox_pb2.GetSandboxConfigRequest(sandbox_id=sandbox.metadata.id)
        )

    async def environment(self, sandbox, *, bindings=True):
        with self.as_sandbox(sandbox):
            return await self.GetSandboxProviderEnvironment(
                openshell_pb2.GetSandboxProviderEnvironmentRequest(
                    sandbox_id=sandbox.metadata.id, supports_static_credential_bindings=bindings
                )
            )

    async def status(self, sandbox, version=0):
        return await self.GetSandboxPolicyStatus(
            openshell_pb2.GetSandboxPolicyStatusRequest(name=sandbox.metadata.name, version=version)
        )

    async def report(self, sandbox, version, status, load_error=""):
        with self.as_sandbox(sandbox):
            return await self.ReportPolicyStatus(
                openshell_pb2.ReportPolicyStatusRequest(
                    sandbox_id=sandbox.metadata.id,
                    version=version,
                    status=status,
                    load_error=load_error,
                )
            )


class Doors:
    """Stubs for a user and, by sandbox, for supervisors."""

    def __init__(self, user, supervisor, tokens):
        self.user = user
        self.supervisor = supervisor
        self._tokens = tokens

    def token(self, sandbox):
        sandbox_id = sandbox if isinstance(sandbox, str) else sandbox.metadata.id
        token = self._tokens.issue(sandbox_id).token
        return {"metadata": (("authorization", f"Bearer {token}"),)}


class Wire(Gateway):
    """The same through gRPC: as a user, or as the supervisor of `as_sandbox`."""

    def __init__(self, gateway, doors):
        super().__init__(gateway.store, gateway.clock)
        self._doors = doors
        self.changes = gateway.changes

    def __getattr__(self, method):
        if method.startswith("_") or not method[0].isupper():
            raise AttributeError(method)
        return functools.partial(self._send, method)

    async def _send(self, method, request):
        if isinstance(self.principal, SandboxPrincipal):
            return await getattr(self._doors.supervisor, method)(
                request, **self._doors.token(self.principal.sandbox_id)
            )
        return await getattr(self._doors.user, method)(request)


def provider_message(
    name, credentials, *, kind="generic", config=None, expires=None, version=0, scope=""
):
    return datamodel_pb2.Provider(
        profile_workspace=scope,
        metadata=datamodel_pb2.ObjectMeta(name=name, resource_version=version),
        type=kind,
        credentials=credentials,
        config=config or {},
        credential_expires_at_ms=expires or {},
    )


def as_policy(text):
    return policy_to_proto(parse_policy(text, source="test"))


class Clock:
    def __init__(self):
        self.now = START_MS

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def backend():
    """Races are run on both databases."""
    return "sqlite"


@pytest.fixture
async def gateways(tmp_path: Path, clock, backend, request):
    """Two gateways on one database."""
    if backend == "sqlite":
        path = str(tmp_path / "openshell.db")
        stores = [await SqliteStore.open(path, clock_ms=clock) for _ in range(2)]
    else:
        url = request.getfixturevalue("database_url")
        stores = [await PostgresStore.open(url, clock_ms=clock) for _ in range(2)]
    await stores[0].write(lambda tx: ensure_default(tx, str(uuid.uuid4())))
    yield [Gateway(store, clock) for store in stores]
    for store in stores:
        await store.close()


@pytest.fixture
def gateway(gateways):
    return gateways[0]


@pytest.fixture
def race():
    """Runs awaitables together; results and the errors of ApiError's kind, in order."""

    async def run(*calls):
        return await asyncio.gather(*calls, return_exceptions=True)

    return run


@pytest.fixture
async def doors(gateway, tmp_path):
    private = Ed25519PrivateKey.generate()
    keys = SigningKeys(private, private.public_key(), "kid")
    tokens = SandboxTokens(keys, gateway_id="g", ttl_seconds=60, now=time.time)
    auth = AuthSettings.derive(tokens=tokens, mtls_users=False, allow_unauthenticated_users=True)
    table = AuthorizationTable.from_services(gateway_services())
    servicer = openshell_pb2_grpc.OpenShellServicer()
    for part in gateway.parts:
        for name in dir(part):
            if hasattr(openshell_pb2_grpc.OpenShellServicer, name) and not name.startswith("_"):
                setattr(servicer, name, getattr(part, name))
    servers = [
        new_server([AuthInterceptor(table, auth, listener), ErrorInterceptor()])
        for listener in (Listener.USERS, Listener.SUPERVISORS)
    ]
    for server in servers:
        openshell_pb2_grpc.add_OpenShellServicer_to_server(servicer, server)
    port = bind_tcp(servers[0], "127.0.0.1", 0, None)
    path = str(tmp_path / "s.sock")
    bind_unix(servers[1], path)
    for server in servers:
        await server.start()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as user,
        grpc.aio.insecure_channel(f"unix:{path}") as supervisor,
    ):
        yield Doors(
            openshell_pb2_grpc.OpenShellStub(user),
            openshell_pb2_grpc.OpenShellStub(supervisor),
            tokens,
        )
    for server in servers:
        await server.stop(None)


@pytest.fixture
def wire(gateway, doors):
    return Wire(gateway, doors)
