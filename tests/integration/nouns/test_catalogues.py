"""Stored profiles that are none: left out, said once, in nobody's way (providers.md 7 and 24)."""

import pytest

from openshell.gateway.services.catalogues import PLATFORM, problems_in, read_catalogue
from openshell.gateway.store import MatchResourceVersion, NewRow
from openshell.providers.profile.builtin import builtin_profiles
from support.profile_values import credential, endpoint, profile


async def damaged(gateway, payload):
    row = await gateway.profile(profile("bad"))
    changed = NewRow(row.id, row.kind, payload, row.workspace, row.name)
    await gateway.store.write(
        lambda tx: tx.put(changed, MatchResourceVersion(row.resource_version))
    )


async def seen(gateway, workspace="default"):
    catalogue = await gateway.store.read(lambda tx: read_catalogue(tx, workspace))
    return {e.profile.id: e for e in catalogue.entries() if e.is_user_managed}


async def problems(gateway, scope=PLATFORM):
    return await gateway.store.read(lambda tx: problems_in(tx, scope))


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        pytest.param(b"\xff", "damaged", id="unreadable"),
        pytest.param(b"", "id", id="empty"),
        pytest.param(profile("bad", endpoints=[endpoint(" ")]), "endpoints[0]", id="lint"),
        pytest.param(
            profile("bad", credentials=[credential("A"), credential("A")]), "duplicate", id="twice"
        ),
        pytest.param(profile("github"), "built-in profile has this id", id="now built in"),
    ],
)
async def test_it_is_left_out_and_the_others_stand(gateway, caplog, stored, says):
    await gateway.profile(profile("fine"))
    if isinstance(stored, bytes):
        await damaged(gateway, stored)
    else:
        await gateway.profile(stored)
    for _ in range(2):
        assert set(await seen(gateway)) == {"fine"}
    (found,) = await problems(gateway)
    assert says in found.message
    assert found.workspace == PLATFORM
    assert found.resource_version
    assert not await problems(gateway, "default")
    assert caplog.text.count("is left out") == 1


async def test_a_corrected_row_is_back_at_once(gateway):
    await gateway.profile(profile("bad", endpoints=[endpoint(" ")]))
    assert not await seen(gateway)
    await gateway.profile(profile("bad"))
    entry = (await seen(gateway))["bad"]
    assert entry.profile.resource_version == 2
    assert (entry.source, entry.scope) == ("user", "platform")
    assert not await problems(gateway)


async def test_the_platform_sees_no_workspace(gateway):
    await gateway.profile(profile("everywhere"))
    await gateway.profile(profile("here"), "default")
    assert set(await seen(gateway)) == {"everywhere", "here"}
    assert set(await seen(gateway, PLATFORM)) == {"everywhere"}
    assert set(await seen(gateway, "other")) == {"everywhere"}


async def test_a_shadow_is_lifted(gateway):
    await gateway.profile(profile(display_name="platform"))
    row = await gateway.profile(profile(display_name="workspace"), "default")

    async def name():
        catalogue = await gateway.store.read(lambda tx: read_catalogue(tx, "default"))
        return catalogue.effective("acme").profile.display_name

    assert await name() == "workspace"
    await gateway.store.write(lambda tx: tx.delete(row.kind, row.id))
    assert await name() == "platform"


async def test_builtin_profiles_are_always_there(gateway):
    catalogue = await gateway.store.read(lambda tx: read_catalogue(tx, PLATFORM))
    assert [e.profile.id for e in catalogue.entries()] == sorted(builtin_profiles())
    assert {e.source for e in catalogue.entries()} == {"builtin"}
