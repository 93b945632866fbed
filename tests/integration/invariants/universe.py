"""Random requests to two gateways about a few profiles, providers and sandboxes.

The universe is small, so that nearly everything touches everything: three types in two scopes, seven
variables, three hosts. A request knows which answers the contract has for it; any other is a failure.
"""

import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio

from openshell._proto import datamodel_pb2, openshell_pb2, openshell_pb2_grpc
from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell._proto import openshell_ext_profiles_pb2_grpc as ext_grpc
from openshell.codec.policy import policy_to_proto
from openshell.codec.profile import profile_to_proto
from openshell.policy.parse import parse_policy
from openshell.providers.profile.model import AudienceOverride, Material, Refresh, Strategy
from support.policies import BOUND, OPEN
from support.profile_values import credential, endpoint, granted, profile

WORKSPACE = "default"
SCOPES = ("", WORKSPACE)
TYPES = ("t1", "t2", "t3")
PROVIDERS = ("p1", "p2", "p3", "p4", "p5")
SANDBOXES = ("b1", "b2", "b3", "b4")
KEYS = ("K1", "K2", "K3", "K4", "K5", "K6", "GCP_PROJECT_ID")
HOSTS = ("a.acme.test", "b.acme.test", "*.acme.test")
PATHS = ("", "", "/v1/**")
CLIENT_SECRET = "cl1ent-s3cret-of-the-walk"
VALUE = "pr0vider-s3cret-of-the-walk"

OK = "OK"
STALE = "ABORTED"
UNFIT = "FAILED_PRECONDITION"
ABSENT = "NOT_FOUND"
TAKEN = "ALREADY_EXISTS"
WRONG = "INVALID_ARGUMENT"


@dataclass
class Request:
    """One call; `event` tells what became of it."""

    verb: str
    about: tuple
    gateway: int
    call: Callable[[], Awaitable] = field(repr=False)
    statuses: frozenset = field(repr=False)
    status: str = ""
    said: str = ""
    began: float = 0.0
    ended: float = 0.0

    @property
    def succeeded(self):
        return self.status == OK and not self.said

    async def run(self):
        self.began = time.monotonic()
        try:
            response = await self.call()
        except grpc.aio.AioRpcError as error:
            self.status, self.said = error.code().name, error.details()
        else:
            self.status, self.said = OK, refusal_in(response)
        self.ended = time.monotonic()

    def __str__(self):
        return (
            f"{self.began:.4f}-{self.ended:.4f} g{self.gateway} {self.verb} {self.about}: "
            f"{self.status} {self.said}"
        )


def refusal_in(response):
    """What an answer that is no error says against the request."""
    for name in ("imported", "updated", "applied"):
        if hasattr(response, name):
            errors = [d.message for d in response.diagnostics if d.severity == "error"]
            assert bool(errors) != getattr(response, name), response
            return "; ".join(errors)
    if hasattr(response, "settings_revision"):
        return ""
    for name in ("attached", "detached", "deleted"):
        if hasattr(response, name) and not getattr(response, name):
            return f"not {name}"
    return ""


class Universe:
    """Makes requests. `choose` is a `random.Random`."""

    def __init__(self, choose, channels, token_url):
        self._random = choose
        self._choice = choose.choice
        self._apis = [openshell_pb2_grpc.OpenShellStub(channel) for channel in channels]
        self._exts = [ext_grpc.ProviderProfilesStub(channel) for channel in channels]
        self._token_url = token_url
        self._providers, self._sandboxes = list(PROVIDERS), list(SANDBOXES)
        self._weights = {
            self.import_profiles: 8,
            self.update_profile: 9,
            self.delete_profile: 6,
            self.apply: 5,
            self.roll_back: 2,
            self.create_provider: 12,
            self.update_provider: 9,
            self.delete_provider: 6,
            self.create_sandbox: 5,
            self.delete_sandbox: 2,
            self.attach: 20,
            self.detach: 9,
            self.configure: 8,
            self.forget: 3,
            self.rotate: 5,
            self.set_policy: 10,
            self.set_v2: 10,
            self.set_global: 1,
            self.delete_global: 4,
        }

    def requests(self, count):
        """They are about a few of the names, others each time, so that they meet."""
        self._providers = self._random.sample(PROVIDERS, 2) * 4 + list(PROVIDERS)
        self._sandboxes = self._random.sample(SANDBOXES, 2) * 4 + list(SANDBOXES)
        makers = self._random.choices(
            tuple(self._weights), weights=tuple(self._weights.values()), k=count
        )
        return [make(self._random.randrange(2)) for make in makers]

    def _maybe(self, chance):
        return self._random.random() < chance

    def _request(self, gateway, about, method, message, *statuses, stub=None):
        verb = method if isinstance(method, str) else method.__name__
        call = (
            functools.partial(getattr((stub or self._apis)[gateway], verb), message)
            if isinstance(method, str)
            else method
        )
        return Request(verb, about, gateway, call, frozenset({OK, *statuses}))

    # -- profiles

    def _profile(self, profile_id=None):
        credentials = [credential(key) for key in KEYS[:4] if self._maybe(0.3)]
        if self._maybe(0.7):
            overrides = ()
            if self._maybe(0.3):
                overrides = (AudienceOverride(audience="x", path=self._choice(PATHS)),)
            credentials.append(granted("grant", audience_overrides=overrides))
        if self._maybe(0.7):
            described = Refresh(
                strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS,
                token_url=self._token_url,
                material=(Material("client_id", required=True),),
            )
            credentials.append(credential("TOKEN", refresh=described))
        return profile(
            profile_id or self._choice(TYPES),
            credentials=credentials,
            endpoints=[
                endpoint(
                    host,
                    enforcement=self._choice(("enforce", "enforce", "enforce", "audit")),
                    path=self._choice(PATHS),
                )
                for host in HOSTS
                if self._maybe(0.4)
            ],
        )

    def _items(self, count):
        ids = self._random.sample(TYPES, count)
        return [
            openshell_pb2.ProviderProfileImportItem(profile=profile_to_proto(self._profile(each)))
            for each in ids
        ]

    def import_profiles(self, gateway):
        scope, items = self._choice(SCOPES), self._items(self._choice((1, 1, 2)))
        message = openshell_pb2.ImportProviderProfilesRequest(workspace=scope, profiles=items)
        about = (scope, *(item.profile.id for item in items))
        return self._request(gateway, about, "ImportProviderProfiles", message)

    def update_profile(self, gateway):
        scope, (item,), stale = self._choice(SCOPES), self._items(1), self._maybe(0.1)
        api, profile_id = self._apis[gateway], item.profile.id

        async def UpdateProviderProfiles():
            versions = await self._versions(gateway, scope)
            return await api.UpdateProviderProfiles(
                openshell_pb2.UpdateProviderProfilesRequest(
                    workspace=scope,
                    id=profile_id,
                    profile=item,
                    expected_resource_version=versions.get(profile_id, 1) + stale,
                )
            )

        return self._request(gateway, (scope, profile_id), UpdateProviderProfiles, None, STALE)

    def delete_profile(self, gateway):
        scope, profile_id = self._choice(SCOPES), self._choice(TYPES)
        message = openshell_pb2.DeleteProviderProfileRequest(workspace=scope, id=profile_id)
        about = (scope, profile_id)
        return self._request(gateway, about, "DeleteProviderProfile", message, ABSENT, UNFIT)

    def apply(self, gateway):
        scope, items = self._choice(SCOPES), self._items(self._choice((1, 2, 3)))
        stale = self._maybe(0.1)

        async def Apply():
            versions = await self._versions(gateway, scope)
            return await self._exts[gateway].Apply(
                ext.ApplyProfilesRequest(
                    workspace=scope,
                    items=[
                        ext.ApplyProfilesItem(
                            id=item.profile.id,
                            profile=item.profile,
                            expected_resource_version=versions.get(item.profile.id, 0) + stale,
                        )
                        for item in items
                    ],
                )
            )

        about = (scope, *(item.profile.id for item in items))
        return self._request(gateway, about, Apply, None, STALE)

    async def _versions(self, gateway, scope):
        """What a client reads before it writes, by id."""
        listed = await self._apis[gateway].ListProviderProfiles(
            openshell_pb2.ListProviderProfilesRequest(workspace=scope, limit=1000)
        )
        wanted = "workspace" if scope else "platform"
        return {p.id: p.resource_version for p in listed.profiles if p.scope == wanted}

    def roll_back(self, gateway):
        scope, profile_id, number = (
            self._choice(SCOPES),
            self._choice(TYPES),
            self._choice((1, 2, 3)),
        )
        message = ext.RollbackProfileRequest(workspace=scope, id=profile_id, to_revision=number)
        about = (scope, profile_id, number)
        allowed = (STALE, ABSENT, UNFIT)
        return self._request(gateway, about, "Rollback", message, *allowed, stub=self._exts)

    # -- providers

    def create_provider(self, gateway):
        name, kind = (
            self._choice(self._providers),
            self._choice((*TYPES, *TYPES, "generic", "google-cloud")),
        )
        keys = self._random.sample(KEYS, self._choice((0, 1, 1, 1, 2)))
        record = datamodel_pb2.Provider(
            metadata=datamodel_pb2.ObjectMeta(name=name),
            type=kind,
            profile_workspace=self._choice(SCOPES),
            credentials=dict.fromkeys(keys, VALUE),
            config={"project_id": "project-1"} if kind == "google-cloud" else {},
        )
        message = openshell_pb2.CreateProviderRequest(provider=record)
        # WRONG: no values, and the type's profile does not say where they come from.
        allowed = (TAKEN,) if keys else (TAKEN, WRONG)
        return self._request(gateway, (name, kind, *keys), "CreateProvider", message, *allowed)

    def update_provider(self, gateway):
        name, key, value = (
            self._choice(self._providers),
            self._choice(KEYS),
            self._choice((VALUE, VALUE, "")),
        )
        metadata = datamodel_pb2.ObjectMeta(
            name=name, resource_version=self._choice((0, 0, 0, 1, 2))
        )
        record = datamodel_pb2.Provider(metadata=metadata, credentials={key: value})
        message = openshell_pb2.UpdateProviderRequest(provider=record)
        about = (name, "sets" if value else "removes", key)
        return self._request(gateway, about, "UpdateProvider", message, ABSENT, UNFIT, STALE)

    def delete_provider(self, gateway):
        name = self._choice(self._providers)
        message = openshell_pb2.DeleteProviderRequest(name=name)
        return self._request(gateway, (name,), "DeleteProvider", message, UNFIT)

    def configure(self, gateway):
        name, key = self._choice(self._providers), self._choice(("TOKEN", "TOKEN", *KEYS))
        message = openshell_pb2.ConfigureProviderRefreshRequest(
            provider=name,
            credential_key=key,
            strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS,
            material={"client_id": "agent", "client_secret": CLIENT_SECRET},
        )
        # Far from its end, so that the worker does not take part.
        message.expires_at_ms = (time.time_ns() // 1_000_000) + 86_400_000
        allowed = (ABSENT, UNFIT, STALE)
        return self._request(gateway, (name, key), "ConfigureProviderRefresh", message, *allowed)

    def forget(self, gateway):
        name, key = self._choice(self._providers), self._choice(("TOKEN", *KEYS))
        message = openshell_pb2.DeleteProviderRefreshRequest(provider=name, credential_key=key)
        return self._request(gateway, (name, key), "DeleteProviderRefresh", message, ABSENT)

    def rotate(self, gateway):
        name = self._choice(self._providers)
        message = openshell_pb2.RotateProviderCredentialRequest(
            provider=name, credential_key="TOKEN"
        )
        # WRONG: it was configured without what its type's profile would have added.
        allowed = (ABSENT, UNFIT, STALE, WRONG)
        return self._request(gateway, (name,), "RotateProviderCredential", message, *allowed)

    # -- sandboxes

    def create_sandbox(self, gateway):
        name = self._choice(self._sandboxes)
        providers = self._random.sample(PROVIDERS, self._choice((0, 1, 1, 2)))
        spec = openshell_pb2.SandboxSpec(
            command=["sleep", "9"], providers=providers, policy=as_policy(OPEN)
        )
        message = openshell_pb2.CreateSandboxRequest(name=name, spec=spec)
        return self._request(gateway, (name, *providers), "CreateSandbox", message, TAKEN, UNFIT)

    def delete_sandbox(self, gateway):
        name = self._choice(self._sandboxes)
        message = openshell_pb2.DeleteSandboxRequest(name=name)
        # UNFIT: it is the other gateway's.
        return self._request(gateway, (name,), "DeleteSandbox", message, ABSENT, UNFIT)

    def attach(self, gateway):
        name, provider = self._choice(self._sandboxes), self._choice(self._providers)
        message = openshell_pb2.AttachSandboxProviderRequest(
            sandbox_name=name, provider_name=provider
        )
        return self._request(
            gateway, (name, provider), "AttachSandboxProvider", message, ABSENT, UNFIT
        )

    def detach(self, gateway):
        name, provider = self._choice(self._sandboxes), self._choice(self._providers)
        message = openshell_pb2.DetachSandboxProviderRequest(
            sandbox_name=name, provider_name=provider
        )
        return self._request(
            gateway, (name, provider), "DetachSandboxProvider", message, ABSENT, UNFIT
        )

    def set_policy(self, gateway):
        name, host = self._choice(self._sandboxes), self._choice(HOSTS[:2])
        text, about = self._choice(
            (
                (OPEN, "open"),
                (audited(host), f"audits {host}"),
                (audited(host), f"audits {host}"),
                (BOUND.replace("provider: work", "provider: p1"), "binds p1"),
            )
        )
        message = openshell_pb2.UpdateConfigRequest(name=name, policy=as_policy(text))
        return self._request(gateway, (name, about), "UpdateConfig", message, ABSENT, UNFIT)

    def set_v2(self, gateway):
        value = self._maybe(0.7)
        message = openshell_pb2.UpdateConfigRequest(
            setting_key="providers_v2_enabled",
            setting_value={"bool_value": value},
            **{"global": True},
        )
        return self._request(gateway, ("v2", value), "UpdateConfig", message, UNFIT)

    def set_global(self, gateway):
        message = openshell_pb2.UpdateConfigRequest(policy=as_policy(OPEN), **{"global": True})
        return self._request(gateway, ("global",), "UpdateConfig", message)

    def delete_global(self, gateway):
        message = openshell_pb2.UpdateConfigRequest(
            setting_key="policy", delete_setting=True, **{"global": True}
        )
        return self._request(gateway, ("no global",), "UpdateConfig", message, UNFIT)


def audited(host):
    return OPEN.replace("api.example.com", host).replace(
        "enforcement: enforce", "enforcement: audit"
    )


@functools.cache
def as_policy(text):
    return policy_to_proto(parse_policy(text, source="test"))
