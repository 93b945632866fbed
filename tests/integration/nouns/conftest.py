"""The noun services on a real store, with a second store on the same file for races."""

import asyncio
import contextlib
import functools
import uuid
from pathlib import Path

import pytest

from openshell._proto import datamodel_pb2, openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_to_proto
from openshell.gateway.auth.principal import (
    LOCAL_DEV_USER,
    SandboxPrincipal,
    SandboxSource,
    acting_as,
)
from openshell.gateway.credentials import DatabaseCredentialStore, KeyEncryptionKey
from openshell.gateway.events import CONFIG, Bus
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.services.admission import admit_sandbox
from openshell.gateway.services.attachments import Attachments
from openshell.gateway.services.config import Config
from openshell.gateway.services.logs import Logs
from openshell.gateway.services.policies import Policies
from openshell.gateway.services.provider_environment import ProviderEnvironment
from openshell.gateway.services.providers import Providers
from openshell.gateway.services.settings import Settings
from openshell.gateway.store import MustCreate
from openshell.gateway.store.sqlite import SqliteStore
from openshell.gateway.workspaces import ensure_default
from openshell.policy.parse import parse_policy

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
        credentials = DatabaseCredentialStore(KEY)
        self.parts = (
            Providers(store, credentials, self.bus),
            Attachments(store, self.bus),
            Config(store, self.bus),
            Policies(store, self.bus),
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
        message = provider_message(name, credentials or {"API_KEY": "s3cr3t"}, **fields)
        response = await self.CreateProvider(openshell_pb2.CreateProviderRequest(provider=message))
        return response.provider

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


def provider_message(name, credentials, *, kind="generic", config=None, expires=None, version=0):
    return datamodel_pb2.Provider(
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
async def gateways(tmp_path: Path, clock):
    """Two gateways on one database."""
    path = str(tmp_path / "openshell.db")
    stores = [await SqliteStore.open(path, clock_ms=clock) for _ in range(2)]
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
