"""Two gateways on one database, each behind real gRPC, with what profiles have to do with."""

import contextlib
import time
import uuid

import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from openshell._proto import (
    datamodel_pb2,
    openshell_ext_profiles_pb2_grpc,
    openshell_pb2,
    openshell_pb2_grpc,
    sandbox_pb2,
)
from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.codec.policy import policy_to_proto
from openshell.codec.profile import profile_to_proto
from openshell.gateway.auth.authentication import AuthSettings, Listener
from openshell.gateway.auth.authorization import AuthorizationTable, gateway_services
from openshell.gateway.auth.interceptor import AuthInterceptor
from openshell.gateway.auth.tokens import SandboxTokens, SigningKeys
from openshell.gateway.credentials import DatabaseCredentialStore, KeyEncryptionKey
from openshell.gateway.events import CONFIG, Bus
from openshell.gateway.grpc_errors import ErrorInterceptor
from openshell.gateway.listener import bind_tcp, new_server
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.services.admission import admit_sandbox
from openshell.gateway.services.attachments import Attachments
from openshell.gateway.services.config import Config
from openshell.gateway.services.profile_apply import ProfileApply
from openshell.gateway.services.profile_history import ProfileHistory
from openshell.gateway.services.profile_writer import ProfileWriter
from openshell.gateway.services.profiles import Profiles
from openshell.gateway.services.provider_environment import ProviderEnvironment
from openshell.gateway.services.providers import Providers
from openshell.gateway.services.settings import Settings
from openshell.gateway.store import MustCreate
from openshell.gateway.store.postgres import PostgresStore
from openshell.gateway.store.sqlite import SqliteStore
from openshell.gateway.workspaces import ensure_default
from openshell.policy.parse import parse_policy
from openshell.providers.profile.model import ProviderProfile

KEY = KeyEncryptionKey(bytes(range(32)))
START_MS = 1_700_000_000_000
NO_NETWORK = "version: 1\nnetwork_policies: {}\n"


def message_of(profile):
    return profile_to_proto(profile) if isinstance(profile, ProviderProfile) else profile


class Gateway:
    """One gateway's stubs, and what a test wants of its store."""

    def __init__(self, store, channel, bus):
        self.store = store
        self.api = openshell_pb2_grpc.OpenShellStub(channel)
        self.ext = openshell_ext_profiles_pb2_grpc.ProviderProfilesStub(channel)
        self.changes = []
        bus.listen(CONFIG, lambda key, reason: self.changes.append((key, reason)))

    # Profiles

    async def imports(self, *profiles, workspace="default", source="file.yaml"):
        items = [
            openshell_pb2.ProviderProfileImportItem(profile=message_of(profile), source=source)
            for profile in profiles
        ]
        return await self.api.ImportProviderProfiles(
            openshell_pb2.ImportProviderProfilesRequest(profiles=items, workspace=workspace)
        )

    async def imported(self, *profiles, workspace="default"):
        response = await self.imports(*profiles, workspace=workspace)
        assert response.imported, response.diagnostics
        return response.profiles[0]

    async def update(self, target, profile, *, expected=0, version=0, workspace="default"):
        message = openshell_pb2.ProviderProfile()
        message.CopyFrom(message_of(profile))
        message.resource_version = version
        return await self.api.UpdateProviderProfiles(
            openshell_pb2.UpdateProviderProfilesRequest(
                id=target,
                profile=openshell_pb2.ProviderProfileImportItem(
                    profile=message, source="file.yaml"
                ),
                expected_resource_version=expected,
                workspace=workspace,
            )
        )

    async def delete(self, profile_id, workspace="default"):
        return await self.api.DeleteProviderProfile(
            openshell_pb2.DeleteProviderProfileRequest(id=profile_id, workspace=workspace)
        )

    async def get(self, profile_id, workspace="default"):
        request = openshell_pb2.GetProviderProfileRequest(id=profile_id, workspace=workspace)
        return (await self.api.GetProviderProfile(request)).profile

    async def list(self, workspace="default", **fields):
        request = openshell_pb2.ListProviderProfilesRequest(workspace=workspace, **fields)
        return list((await self.api.ListProviderProfiles(request)).profiles)

    async def lint(self, *profiles, workspace="default"):
        items = [
            openshell_pb2.ProviderProfileImportItem(profile=message_of(profile), source="f")
            for profile in profiles
        ]
        return await self.api.LintProviderProfiles(
            openshell_pb2.LintProviderProfilesRequest(profiles=items, workspace=workspace)
        )

    async def apply(self, *items, workspace="default", dry_run=False):
        """Items are profiles, to be created, or pairs of a profile and its expected version."""
        pairs = [item if isinstance(item, tuple) else (item, 0) for item in items]
        return await self.ext.Apply(
            ext.ApplyProfilesRequest(
                workspace=workspace,
                dry_run=dry_run,
                items=[
                    ext.ApplyProfilesItem(
                        id=profile.id,
                        profile=message_of(profile),
                        expected_resource_version=version,
                        source=f"{profile.id}.yaml",
                    )
                    for profile, version in pairs
                ],
            )
        )

    async def rollback(self, profile_id, to, *, workspace="default", **fields):
        return await self.ext.Rollback(
            ext.RollbackProfileRequest(workspace=workspace, id=profile_id, to_revision=to, **fields)
        )

    async def revisions(self, profile_id, workspace="default", **fields):
        request = ext.ListProfileRevisionsRequest(workspace=workspace, id=profile_id, **fields)
        return list((await self.ext.ListRevisions(request)).revisions)

    async def revision(self, profile_id, number=0, workspace="default"):
        request = ext.GetProfileRevisionRequest(workspace=workspace, id=profile_id, revision=number)
        return (await self.ext.GetRevision(request)).revision

    # What uses them

    async def provider(self, name, kind, credentials=None, *, own=True, workspace="default"):
        """`own`: its type is looked for in its workspace first."""
        return await self.api.CreateProvider(
            openshell_pb2.CreateProviderRequest(
                workspace=workspace,
                provider=datamodel_pb2.Provider(
                    metadata=datamodel_pb2.ObjectMeta(name=name),
                    type=kind,
                    credentials={"ACME_KEY": "s3cr3t"} if credentials is None else credentials,
                    profile_workspace=workspace if own else "",
                ),
            )
        )

    async def sandbox(self, name="box", *providers, policy=NO_NETWORK, workspace="default"):
        message = openshell_pb2.Sandbox()
        message.metadata.id = str(uuid.uuid4())
        message.metadata.name = name
        message.metadata.workspace = workspace
        message.spec.providers.extend(providers)
        message.status.phase = openshell_pb2.SANDBOX_PHASE_READY
        message.spec.policy.CopyFrom(policy_to_proto(parse_policy(policy, source="test")))

        def insert(tx):
            message.metadata.created_at_ms = tx.now_ms
            admit_sandbox(tx, message)
            return tx.put(to_row(Kind.SANDBOX, message), MustCreate())

        return load(await self.store.write(insert), openshell_pb2.Sandbox)

    async def attach(self, sandbox, provider, workspace="default"):
        return await self.api.AttachSandboxProvider(
            openshell_pb2.AttachSandboxProviderRequest(
                sandbox_name=sandbox, provider_name=provider, workspace=workspace
            )
        )

    async def detach(self, sandbox, provider, workspace="default"):
        return await self.api.DetachSandboxProvider(
            openshell_pb2.DetachSandboxProviderRequest(
                sandbox_name=sandbox, provider_name=provider, workspace=workspace
            )
        )

    async def v2(self, value=True):
        await self.api.UpdateConfig(
            openshell_pb2.UpdateConfigRequest(
                setting_key="providers_v2_enabled",
                setting_value=sandbox_pb2.SettingValue(bool_value=value),
                **{"global": True},
            )
        )

    async def workspace(self, name, phase=datamodel_pb2.WORKSPACE_PHASE_ACTIVE):
        message = datamodel_pb2.Workspace(
            metadata=datamodel_pb2.ObjectMeta(id=str(uuid.uuid4()), name=name),
            status=datamodel_pb2.WorkspaceStatus(phase=phase),
        )
        await self.store.write(lambda tx: tx.put(to_row(Kind.WORKSPACE, message), MustCreate()))

    async def rows(self, kind):
        return await self.store.read(lambda tx: tx.all(kind))

    async def stored(self, profile, *, workspace="default", name=None):
        """A row as an older version, or nobody, would have written it: nothing is checked."""
        message = openshell_pb2.StoredProviderProfile(profile=message_of(profile))
        message.metadata.id = str(uuid.uuid4())
        message.metadata.name = name or profile.id
        message.metadata.workspace = workspace
        row = to_row(Kind.PROVIDER_PROFILE, message)
        return await self.store.write(lambda tx: tx.put(row, MustCreate()))


def _parts(store, bus):
    credentials = DatabaseCredentialStore(KEY)
    writer = ProfileWriter(store, bus)
    return (
        Providers(store, credentials, bus),
        Attachments(store, bus),
        Config(store, bus),
        Settings(store),
        ProviderEnvironment(store, credentials),
        Profiles(store, writer),
        ProfileApply(writer),
        ProfileHistory(store),
    )


def _servicer(base, parts):
    servicer = base()
    for part in parts:
        for name in dir(part):
            if hasattr(base, name) and not name.startswith("_"):
                setattr(servicer, name, getattr(part, name))
    return servicer


async def _serve(store, bus, stack):
    private = Ed25519PrivateKey.generate()
    keys = SigningKeys(private, private.public_key(), "kid")
    tokens = SandboxTokens(keys, gateway_id="g", ttl_seconds=60, now=time.time)
    auth = AuthSettings.derive(tokens=tokens, mtls_users=False, allow_unauthenticated_users=True)
    table = AuthorizationTable.from_services(gateway_services())
    server = new_server([AuthInterceptor(table, auth, Listener.USERS), ErrorInterceptor()])
    parts = _parts(store, bus)
    openshell_pb2_grpc.add_OpenShellServicer_to_server(
        _servicer(openshell_pb2_grpc.OpenShellServicer, parts), server
    )
    openshell_ext_profiles_pb2_grpc.add_ProviderProfilesServicer_to_server(
        _servicer(openshell_ext_profiles_pb2_grpc.ProviderProfilesServicer, parts), server
    )
    port = bind_tcp(server, "127.0.0.1", 0, None)
    await server.start()
    stack.push_async_callback(server.stop, None)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    stack.push_async_callback(channel.close)
    return channel


@contextlib.asynccontextmanager
async def _two(open_store):
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            store = await open_store()
            stack.push_async_callback(store.close)
            bus = Bus()
            made.append(Gateway(store, await _serve(store, bus, stack), bus))
        await made[0].store.write(lambda tx: ensure_default(tx, str(uuid.uuid4())))
        yield made


@pytest.fixture
async def gateways(tmp_path):
    async with _two(
        lambda: SqliteStore.open(str(tmp_path / "db"), clock_ms=lambda: START_MS)
    ) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
async def racing(request, tmp_path):
    """As `gateways`, on each kind of database."""
    if request.param == "sqlite":
        async with _two(
            lambda: SqliteStore.open(str(tmp_path / "db"), clock_ms=lambda: START_MS)
        ) as made:
            yield made
        return
    with request.getfixturevalue("postgres").database() as url:
        async with _two(lambda: PostgresStore.open(url, clock_ms=lambda: START_MS)) as made:
            yield made


@pytest.fixture
def gateway(gateways):
    return gateways[0]
