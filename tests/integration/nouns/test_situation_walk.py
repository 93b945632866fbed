"""Random writers on two gateways with one database; the invariants are judged by a rule of the test's own.

The world is small, so that everything meets everything: two hosts, a few keys, policies that bind,
audit or do nothing. After each round of concurrent requests no sandbox may break providers.md 10.
"""

import contextlib
import random

import pytest

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.codec.policy import policy_from_proto
from openshell.codec.profile import profile_from_proto, profile_to_proto
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.records import Kind, load, load_all
from openshell.gateway.refresh.minting import Minter
from openshell.gateway.refresh.renewal import Renewals
from openshell.gateway.refresh.states import State, read_states
from openshell.gateway.services.global_policy import global_revision
from openshell.gateway.services.lookup import save_sandbox
from openshell.gateway.services.profile_writer import ProfileWriter
from openshell.gateway.services.profiles import Profiles
from openshell.gateway.services.refresh import Refresh
from openshell.gateway.services.revisions import base_policy
from openshell.gateway.services.settings_rows import GLOBAL, read_values, set_value
from openshell.providers.profile.model import Strategy
from support.policies import BOUND, OPEN
from support.profile_values import credential, endpoint, granted, profile

ROUNDS, AT_ONCE = 50, 5
BACKENDS = ("sqlite", "postgres")
HOSTS = ("a.acme.test", "b.acme.test")
TYPES = ("t1", "t2")
PROVIDERS = ("p1", "p2", "p3")
BOXES = ("b1", "b2")
KEYS = ("K1", "K2", "K3")
EXPECTED = frozenset(
    {
        Code.FAILED_PRECONDITION,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.ABORTED,
        Code.INVALID_ARGUMENT,
    }
)


def audited(host):
    return OPEN.replace("api.example.com", host).replace(
        "enforcement: enforce", "enforcement: audit"
    )


def some_profile(choose, profile_id):
    credentials = [granted("g")] if choose((True, False)) else []
    return profile(
        profile_id,
        credentials=[credential(choose(KEYS)), *credentials],
        endpoints=[endpoint(host) for host in HOSTS if choose((True, False))],
    )


def some_policy(choose):
    bound = BOUND.replace("provider: work", f"provider: {choose(PROVIDERS)}")
    return choose((OPEN, audited(choose(HOSTS)), audited(choose(HOSTS)), bound))


def requests(gateway, boxes, choose):
    """One random request, as a coroutine that is not started yet."""
    name, key, box = choose(PROVIDERS), choose(KEYS), boxes[choose(BOXES)]
    message = datamodel_pb2.Provider(
        metadata=datamodel_pb2.ObjectMeta(name=name),
        credentials={key: choose(("new", ""))},
    )
    candidate = profile_to_proto(some_profile(choose, choose(TYPES)))
    item = openshell_pb2.ProviderProfileImportItem(profile=candidate)
    return choose(
        (
            lambda: gateway.provider(name, {key: "x"}, kind=choose(TYPES)),
            lambda: gateway.UpdateProvider(openshell_pb2.UpdateProviderRequest(provider=message)),
            lambda: gateway.DeleteProvider(openshell_pb2.DeleteProviderRequest(name=name)),
            lambda: gateway.attach(box, name),
            lambda: gateway.attach(box, name),
            lambda: gateway.attach(box, name),
            lambda: gateway.detach(box, name),
            lambda: gateway.set_policy(box, some_policy(choose)),
            lambda: gateway.set_policy(box, some_policy(choose)),
            lambda: gateway.v2(choose((True, False))),
            lambda: gateway.v2(choose((True, False))),
            lambda: gateway.set_global(OPEN),
            gateway.delete_global,
            gateway.delete_global,
            lambda: gateway.ImportProviderProfiles(
                openshell_pb2.ImportProviderProfilesRequest(profiles=[item])
            ),
            lambda: update_profile(gateway, candidate),
            lambda: update_profile(gateway, candidate),
            lambda: gateway.ConfigureProviderRefresh(
                openshell_pb2.ConfigureProviderRefreshRequest(
                    provider=name,
                    credential_key=key,
                    strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS,
                    material={"client_id": "i", "client_secret": "s", "tenant_id": "t"},
                )
            ),
            lambda: gateway.DeleteProviderRefresh(
                openshell_pb2.DeleteProviderRefreshRequest(provider=name, credential_key=key)
            ),
            lambda: gateway.DeleteProviderProfile(
                openshell_pb2.DeleteProviderProfileRequest(id=candidate.id)
            ),
        )
    )


async def update_profile(gateway, candidate):
    row = await gateway.store.read(lambda tx: tx.get(Kind.PROVIDER_PROFILE, "", candidate.id))
    return await gateway.UpdateProviderProfiles(
        openshell_pb2.UpdateProviderProfilesRequest(
            id=candidate.id,
            profile=openshell_pb2.ProviderProfileImportItem(profile=candidate),
            expected_resource_version=row.resource_version if row else 1,
        )
    )


def violations(tx):
    """What must not be, written straight from the contract for this small world."""
    profiles = {
        message.metadata.name: profile_from_proto(message.profile)
        for message in load_all(tx.all(Kind.PROVIDER_PROFILE), openshell_pb2.StoredProviderProfile)
    }
    composes = (
        read_values(tx, GLOBAL).values.get("providers_v2_enabled") is True
        and global_revision(tx) is None
    )
    for sandbox in load_all(tx.all(Kind.SANDBOX), openshell_pb2.Sandbox):
        where = sandbox.metadata.name
        owners, places, hosts, blank = {}, {}, set(), set()
        for name in sandbox.spec.providers:
            row = tx.get(Kind.PROVIDER, "default", name)
            if row is None:
                yield f"{where}: {name} is dangling"
                continue
            provider = load(row, datamodel_pb2.Provider)
            keys = set(provider.credential_handles)
            keys.update(key for state in read_states(tx, row.id) for key in state.keys)
            for key in keys:
                if owners.setdefault(key, name) != name:
                    yield f"{where}: {key} belongs to {owners[key]} and {name}"
            meant = profiles.get(provider.type)
            if meant is None or not meant.endpoints:
                blank.add(name)
            for at in meant.endpoints if meant else ():
                hosts.add(at.host)
                if any(c.token_grant for c in meant.credentials) and (
                    places.setdefault(at.host, name) != name
                ):
                    yield f"{where}: grants of {places[at.host]} and {name} meet at {at.host}"
        for rule in base_policy(tx, sandbox).network_policies.values():
            for at in rule.endpoints:
                if composes and at.enforcement == "audit" and at.host in hosts:
                    yield f"{where}: a layer enforces what the policy audits at {at.host}"
                if at.credential_binding and at.credential_binding.provider not in blank:
                    yield f"{where}: {at.credential_binding.provider} is bound twice or not there"


def sealed(tx):
    """Handles that exist, and those that a record or a refresh points at."""
    held = [
        handle.handle
        for row in tx.all(Kind.PROVIDER)
        for handle in load(row, datamodel_pb2.Provider).credential_handles.values()
    ]
    held += [
        handle.handle
        for row in tx.all(Kind.REFRESH_STATE)
        for handle in load(row, State).secret_material_handles.values()
    ]
    return sorted(row.id for row in tx.all(Kind.CREDENTIAL)), sorted(held)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
async def test_no_interleaving_breaks_an_invariant(gateways, race, seed):
    choose = random.Random(seed).choice
    for gateway in gateways:
        store, safe, bus = gateway.store, gateway.credentials, gateway.bus
        gateway.parts += (
            Profiles(store, ProfileWriter(store, bus)),
            # Nothing here rotates, so nothing is asked of any issuer.
            Refresh(store, safe, bus, Renewals(store, safe, bus, Minter())),
        )
    boxes = {name: await gateways[0].sandbox(name, policy=OPEN) for name in BOXES}
    done = 0
    for _ in range(ROUNDS):
        calls = [requests(choose(gateways), boxes, choose)() for _ in range(AT_ONCE)]
        for result in await race(*calls):
            if isinstance(result, BaseException):
                assert isinstance(result, ApiError), repr(result)
                assert result.code in EXPECTED, repr(result)
            else:
                done += 1
        assert not await gateways[0].store.read(lambda tx: list(violations(tx)))
        for box in boxes.values():
            config = await gateways[1].config(box)
            environment = await gateways[1].environment(box)
            assert config.provider_env_revision == environment.provider_env_revision
            assert policy_from_proto(config.policy)
    assert done > ROUNDS
    there, held = await gateways[0].store.read(sealed)
    assert there == held


async def test_the_rule_of_the_test_sees_what_must_not_be(gateway):
    """The control: rows that no writer would leave behind."""
    await gateway.profile(profile("t1", credentials=[granted("g")], endpoints=[endpoint(HOSTS[0])]))
    await gateway.provider("p1", {"K1": "x"}, kind="t1")
    box = await gateway.sandbox("b1", providers=["p1"], policy=audited(HOSTS[0]))
    assert not await gateway.store.read(lambda tx: list(violations(tx)))
    await gateway.provider("p2", {"K1": "x"}, kind="t1")

    def spoil(tx):
        set_value(tx, GLOBAL, "providers_v2_enabled", value=True)
        row = tx.get_by_id(Kind.SANDBOX, box.metadata.id)
        sandbox = load(row, openshell_pb2.Sandbox)
        sandbox.spec.providers.extend(["p2", "p3"])
        save_sandbox(tx, row, sandbox)

    await gateway.store.write(spoil)
    found = "\n".join(await gateway.store.read(lambda tx: list(violations(tx))))
    for says in ("p3 is dangling", "K1 belongs to", "grants of p1 and p2", "policy audits"):
        assert says in found
    with contextlib.suppress(ApiError):
        await gateway.config(box)
        pytest.fail("delivered all the same")
