"""Who owns which key, over gRPC: rows of providers.md 11 and 12 that need profiles or refresh."""

import grpc
import pytest

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.records import Kind
from openshell.providers.profile.model import AudienceOverride, Strategy
from support.policies import BOUND, OPEN
from support.profile_values import credential, endpoint, granted, profile, refreshed
from support.statuses import refused

FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


def update(name="work", **fields):
    message = datamodel_pb2.Provider(metadata=datamodel_pb2.ObjectMeta(name=name), **fields)
    return openshell_pb2.UpdateProviderRequest(provider=message)


async def count(wire, kind):
    return len(await wire.store.read(lambda tx: tx.all(kind)))


# 11, create: values may be missing when the profile says that they come into being later.
@pytest.mark.parametrize(
    ("credentials", "allowed"),
    [
        pytest.param([refreshed()], True, id="refreshed"),
        pytest.param([granted()], True, id="token grant"),
        pytest.param([refreshed(), credential(required=True)], False, id="another is required"),
        pytest.param([refreshed(), credential()], True, id="another is optional"),
        pytest.param([credential()], False, id="static"),
        pytest.param(None, False, id="no profile"),
    ],
)
async def test_a_provider_without_values_is_created_when_its_profile_allows_it(
    wire, credentials, allowed
):
    if credentials is not None:
        await wire.profile(profile(credentials=credentials))
    if allowed:
        assert not (await wire.provider(credentials={}, kind="acme")).credentials
        return
    code, says = await refused(wire.provider(credentials={}, kind="acme"))
    assert code is INVALID_ARGUMENT
    assert "credentials must not be empty" in says
    assert await count(wire, Kind.PROVIDER) == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        pytest.param({"kind": " "}, "type", id="blank type"),
        pytest.param({"scope": "elsewhere"}, "profile_workspace", id="foreign profile workspace"),
        pytest.param({"credentials": {"1X": "v"}}, "1X", id="no environment name"),
        pytest.param({"credentials": {"X": ""}}, "X", id="empty value"),
        pytest.param({"name": "n" * 254}, "name", id="long name"),
        pytest.param({"kind": "t" * 65}, "type", id="long type"),
    ],
)
async def test_a_create_is_refused_before_anything_is_stored(wire, fields, says):
    code, message = await refused(wire.provider(**fields))
    assert code is INVALID_ARGUMENT
    assert says in message
    assert await count(wire, Kind.CREDENTIAL) == 0


# 11, update: keys that a refresh owns, primary and outputs, set or deleted; any other goes through.
async def test_refreshed_keys_are_not_written_by_hand(wire):
    work = await wire.provider(credentials={"A": "1", "B": "2", "C": "3"})
    await wire.refresh(work, "B", outputs={"session_token": "A"})
    for values in ({"A": "x", "B": "", "C": "y"}, {"B": "x", "A": ""}):
        code, says = await refused(wire.UpdateProvider(update(credentials=values)))
        assert code is FAILED_PRECONDITION
        assert "A, B" in says
    assert (await wire.UpdateProvider(update(credentials={"C": "y"}))).provider
    assert (await wire.UpdateProvider(update(config={"x": "y"}))).provider


async def test_keys_that_nobody_mints_stay_the_users(wire):
    work = await wire.provider(credentials={"A": "1"})
    await wire.refresh(work, "A", strategy=Strategy.EXTERNAL)
    assert (await wire.UpdateProvider(update(credentials={"A": "2"}))).provider


# 11, delete: refresh states and what they keep sealed go, too.
async def test_a_deleted_provider_leaves_no_secret(wire):
    work = await wire.provider()
    await wire.refresh(work, "TOKEN")
    other = await wire.provider("other", {"X": "1"})
    await wire.refresh(other, "Y")
    assert await count(wire, Kind.CREDENTIAL) == 4
    assert (await wire.DeleteProvider(openshell_pb2.DeleteProviderRequest(name="work"))).deleted
    assert await count(wire, Kind.CREDENTIAL) == 2
    states = await wire.store.read(lambda tx: tx.all(Kind.REFRESH_STATE))
    assert [state.scope for state in states] == [other.metadata.id]


# 12, the table of clashes.
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            {"credentials": {"K": "1"}}, {"credentials": {"K": "2"}}, id="the same credential key"
        ),
        pytest.param(
            {"credentials": {"GCP_PROJECT_ID": "1"}},
            {"kind": "google-cloud", "credentials": {"T": "1"}, "config": {"project_id": "p"}},
            id="a credential and a plain setting",
        ),
        pytest.param(
            {"kind": "google-cloud", "credentials": {"T": "1"}, "config": {"project_id": "p"}},
            {"credentials": {"GCP_PROJECT_ID": "1"}},
            id="a plain setting and a credential",
        ),
    ],
)
async def test_two_providers_may_not_claim_one_key(wire, first, second):
    await wire.provider("one", **first)
    await wire.provider("two", **second)
    box = await wire.sandbox(providers=["one"])
    for call in (wire.attach(box, "two"), wire.sandbox("new", providers=["one", "two"])):
        code, says = await refused(call)
        assert code is FAILED_PRECONDITION
        assert "one" in says
        assert "two" in says
    assert list((await wire.reload(box)).spec.providers) == ["one"]


async def test_two_providers_may_have_the_same_plain_setting(wire):
    for name in ("one", "two"):
        await wire.provider(
            name, {f"T_{name}": "1"}, kind="google-cloud", config={"project_id": name}
        )
    box = await wire.sandbox(providers=["one", "two"])
    assert (await wire.environment(box)).environment["GCP_PROJECT_ID"] == "one"


@pytest.mark.parametrize("key", ["TOKEN", "SESSION"])
async def test_a_key_that_is_refreshed_is_owned_before_it_has_a_value(wire, key):
    one = await wire.provider("one", {"A": "1"})
    await wire.refresh(one, "TOKEN", outputs={"session_token": "SESSION"})
    await wire.provider("two", {key: "2"})
    box = await wire.sandbox(providers=["one"])
    code, says = await refused(wire.attach(box, "two"))
    assert code is FAILED_PRECONDITION
    assert f"'{key}'" in says


async def test_an_update_that_makes_a_clash_names_the_sandbox(wire):
    one = await wire.provider("one", {"A": "1"})
    await wire.refresh(one, "TOKEN")
    await wire.provider("two", {"B": "2"})
    await wire.sandbox(providers=["one", "two"])
    code, says = await refused(wire.UpdateProvider(update("two", credentials={"TOKEN": "x"})))
    assert code is FAILED_PRECONDITION
    assert "sandbox 'box'" in says
    found = await wire.GetProvider(openshell_pb2.GetProviderRequest(name="two"))
    assert list(found.provider.credentials) == ["B"]


# 9 by way of 12: two grants for one destination.
async def test_ambiguous_token_grants_are_refused(wire):
    await wire.profile(profile("one", credentials=[granted("g1")]))
    await wire.profile(profile("two", credentials=[granted("g2")]))
    narrow = AudienceOverride(path="/v2/**", audience="v2")
    await wire.profile(
        profile(
            "three",
            credentials=[granted("g3", audience_overrides=(narrow,))],
            endpoints=[endpoint(path="/v3/**")],
        )
    )
    for name in ("one", "two", "three"):
        await wire.provider(name, {}, kind=name)
    box = await wire.sandbox(providers=["one"])
    for call in (wire.attach(box, "two"), wire.sandbox("new", providers=["one", "two"])):
        code, says = await refused(call)
        assert code is FAILED_PRECONDITION
        assert "one:g1" in says
        assert "two:g2" in says
    assert (await wire.attach(box, "three")).attached


# 12, detach: what was wrong before does not keep anybody from taking things away.
async def test_detaching_helps_out_of_a_broken_state(wire):
    for name in ("one", "two", "three"):
        await wire.provider(name, {name.upper(): "x"})
    box = await wire.sandbox(providers=["one", "two", "three"])

    def lose(tx):
        for name in ("one", "two"):
            tx.delete(Kind.PROVIDER, tx.get(Kind.PROVIDER, "default", name).id)

    await wire.store.write(lose)
    for call in (wire.config(box), wire.attach(box, "one")):
        code, says = await refused(call)
        assert code is FAILED_PRECONDITION
        assert "provider 'one' not found" in says
    await wire.UpdateProvider(update("three", credentials={"THREE": "y"}))
    for name in ("one", "two"):
        assert (await wire.detach(box, name)).detached
    assert (await wire.config(box)).version == 1


async def test_a_bound_provider_stays(wire):
    await wire.provider()
    box = await wire.sandbox(providers=["work"], policy=BOUND)
    code, says = await refused(wire.detach(box, "work"))
    assert code is FAILED_PRECONDITION
    assert "not attached" in says
    await wire.set_policy(box, OPEN)
    assert (await wire.detach(box, "work")).detached
