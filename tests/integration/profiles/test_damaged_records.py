"""Rows that do not read any more: each stands in the way of nobody else, and can be removed."""

import dataclasses

import grpc
import pytest

from openshell._proto import openshell_pb2
from openshell.gateway.records import Kind
from openshell.gateway.store import MatchResourceVersion, NewRow
from support.profile_values import profile

UNREADABLE = b"\xff\xff\xff\xff"


async def damage(gateway, kind, wanted=lambda row: True):
    """Only the content: what the row itself says is still known."""

    def write(tx):
        (row,) = (row for row in tx.all(kind) if wanted(row))
        names = {field.name for field in dataclasses.fields(NewRow)}
        new = NewRow(
            **{name: getattr(row, name) for name in names if name != "payload"}, payload=UNREADABLE
        )
        tx.put(new, MatchResourceVersion(row.resource_version))
        return row

    return await gateway.store.write(write)


async def providers_of(gateway):
    return {
        item.metadata.name: item.type
        for item in (
            await gateway.api.ListProviders(openshell_pb2.ListProvidersRequest())
        ).providers
    }


async def remove(gateway, name):
    return (
        await gateway.api.DeleteProvider(openshell_pb2.DeleteProviderRequest(name=name))
    ).deleted


@pytest.fixture
async def two(gateway):
    """Two sandboxes with a provider each, of two profiles."""
    await gateway.imported(profile("acme"), profile("other"))
    await gateway.provider("mine", "acme")
    await gateway.provider("yours", "other")
    await gateway.sandbox("a", "mine")
    await gateway.sandbox("b", "yours")
    return gateway


async def test_a_provider(two):
    await damage(two, Kind.PROVIDER, lambda row: row.name == "mine")
    # Profiles that it may well be of, of the workspace and the platform.
    assert (await two.update("acme", profile("acme", description="new"), version=1)).updated
    assert (await two.imports(profile("wide"), workspace="")).imported
    assert await providers_of(two) == {"mine": "", "yours": "other"}
    await two.provider("third", "generic", {"K": "v"})
    assert (await two.attach("b", "third")).attached
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await two.attach("a", "third")
    assert "provider 'mine' not found" in caught.value.details()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await remove(two, "mine")
    assert "attached to sandbox(es): a" in caught.value.details()
    assert (await two.detach("a", "mine")).detached
    assert await remove(two, "mine")
    assert await providers_of(two) == {"yours": "other", "third": "generic"}


async def test_a_sandbox(two):
    await damage(two, Kind.SANDBOX, lambda row: row.name == "a")
    assert (await two.update("acme", profile("acme", description="new"), version=1)).updated
    assert (await two.detach("b", "yours")).detached
    assert await remove(two, "yours")
    await two.v2()


async def test_a_policy(two):
    named = {row.name: row.id for row in await two.rows(Kind.SANDBOX)}
    await damage(two, Kind.SANDBOX_POLICY, lambda row: row.scope == named["a"])
    assert (await two.update("other", profile("other", description="new"), version=1)).updated
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await two.update("acme", profile("acme", description="new"), version=1)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "policy of sandbox 'a' is damaged" in caught.value.details()


async def test_a_revision_of_a_profile(two):
    await two.update("acme", profile("acme", description="new"), version=1)
    await damage(
        two, Kind.PROFILE_REVISION, lambda row: row.scope.endswith("/acme") and row.version == 1
    )
    found = await two.revisions("acme")
    assert [(item.revision, item.operation) for item in found] == [(2, "update"), (1, "damaged")]
    assert found[-1].id == "acme"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await two.rollback("acme", 1)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (await two.rollback("acme", 2)).applied
