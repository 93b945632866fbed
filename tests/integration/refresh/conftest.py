"""Two gateways on one database, a real authorization server, and a clock that can be moved on."""

import datetime as dt
import ssl
import time
import uuid

import pytest

from integration.nouns.conftest import Gateway
from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.credentials.model import CredentialRef
from openshell.gateway.records import Kind, load
from openshell.gateway.refresh.minting import Minter
from openshell.gateway.refresh.renewal import Renewals
from openshell.gateway.refresh.states import State
from openshell.gateway.refresh.token_endpoint import TokenEndpoint
from openshell.gateway.refresh.worker import RefreshWorker
from openshell.gateway.services.refresh import Refresh
from openshell.gateway.store.sqlite import SqliteStore
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import ensure_default
from openshell.providers.profile.model import Material, Strategy
from openshell.providers.profile.model import Refresh as Described
from support.aws_account import aws_account
from support.oauth_server import oauth_issuer
from support.profile_values import credential, profile

CLIENT_SECRET = "cl1ent-s3cret-of-the-tests"


class Clock:
    """The real time, for issuers judge by theirs, moved on by tests."""

    def __init__(self):
        self.ahead = dt.timedelta()

    def __call__(self):
        return time.time_ns() // 1_000_000 + int(self.ahead / dt.timedelta(milliseconds=1))

    def advance(self, seconds):
        self.ahead += dt.timedelta(seconds=seconds)


class Refreshing(Gateway):
    """A gateway's services with those of refresh."""

    def __init__(self, store, clock, minter=None):
        super().__init__(store, clock)
        self.tasks = Tasks()
        # The issuer speaks plain HTTP; no authority is needed and loading them takes its time.
        self.use(minter or Minter(TokenEndpoint(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))))

    def use(self, minter):
        self.renewals = Renewals(self.store, self.credentials, self.bus, minter)
        self.worker = RefreshWorker(self.store, self.renewals)
        kept = tuple(part for part in self.parts if not isinstance(part, Refresh))
        service = Refresh(self.store, self.credentials, self.bus, self.renewals, tasks=self.tasks)
        self.parts = (*kept, service)

    async def configure(self, key="TOKEN", *, provider="work", strategy=None, **fields):
        fields.setdefault("material", {"client_id": "agent", "client_secret": CLIENT_SECRET})
        request = openshell_pb2.ConfigureProviderRefreshRequest(
            provider=provider,
            credential_key=key,
            strategy=strategy or Strategy.OAUTH2_CLIENT_CREDENTIALS,
            **fields,
        )
        return (await self.ConfigureProviderRefresh(request)).status

    async def configure_grant(self, refresh_token, **fields):
        return await self.configure(
            strategy=Strategy.OAUTH2_REFRESH_TOKEN,
            material={
                "client_id": "agent",
                "client_secret": CLIENT_SECRET,
                "refresh_token": refresh_token,
            },
            **fields,
        )

    async def rotate(self, key="TOKEN", provider="work"):
        request = openshell_pb2.RotateProviderCredentialRequest(
            provider=provider, credential_key=key
        )
        return (await self.RotateProviderCredential(request)).status

    async def forget(self, key="TOKEN", provider="work"):
        request = openshell_pb2.DeleteProviderRefreshRequest(provider=provider, credential_key=key)
        return (await self.DeleteProviderRefresh(request)).deleted

    async def statuses(self, key="", provider="work"):
        request = openshell_pb2.GetProviderRefreshStatusRequest(
            provider=provider, credential_key=key
        )
        return list((await self.GetProviderRefreshStatus(request)).credentials)

    async def record(self, name="work"):
        request = openshell_pb2.GetProviderRequest(name=name)
        return (await self.GetProvider(request)).provider

    async def state(self):
        """The one stored state."""
        (row,) = await self.store.read(lambda tx: tx.all(Kind.REFRESH_STATE))
        return load(row, State)

    async def sealed(self):
        """How many secrets there are, of providers and of refresh material together."""
        return len(await self.store.read(lambda tx: tx.all(Kind.CREDENTIAL)))

    async def value(self, key="TOKEN", provider="work"):
        """What is in the credential store, opened."""

        def read(tx):
            row = tx.get(Kind.PROVIDER, "default", provider)
            handles = load(row, datamodel_pb2.Provider).credential_handles
            if key not in handles:
                return None
            return self.credentials.load(tx, [CredentialRef(handles[key].handle, row.id, key)])

        loaded = await self.store.read(read)
        if loaded is None:
            return None
        (value,) = (await self.credentials.open(loaded)).values()
        return value


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def issuer():
    with oauth_issuer() as started:
        started.register(
            "agent", secret=CLIENT_SECRET, grants=("client_credentials", "refresh_token")
        )
        yield started


@pytest.fixture
def aws():
    with aws_account() as account:
        yield account


@pytest.fixture
async def gateways(tmp_path, clock, issuer):
    """Two of them, and the profile `graph` whose token is renewed at the issuer."""
    path = str(tmp_path / "openshell.db")
    stores = [await SqliteStore.open(path, clock_ms=clock) for _ in range(2)]
    await stores[0].write(lambda tx: ensure_default(tx, str(uuid.uuid4())))
    both = [Refreshing(store, clock) for store in stores]
    await both[0].profile(graph(issuer.url))
    yield both
    for each in both:
        await each.tasks.close()
    for store in stores:
        await store.close()


@pytest.fixture
def gateway(gateways):
    return gateways[0]


def graph(token_url, **fields):
    described = Described(
        strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS,
        token_url=token_url,
        material=(Material("client_id", required=True),),
        **fields,
    )
    return profile("graph", credentials=(credential("TOKEN", refresh=described),))
