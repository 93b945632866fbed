"""Batches, what they do to sandboxes, history and going back, over real gRPC."""

import asyncio

import grpc.aio
import pytest

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.gateway.records import Kind
from support.profile_values import credential, endpoint, granted, profile
from support.statuses import refused

KINDS = (
    Kind.PROVIDER_PROFILE,
    Kind.PROFILE_REVISION,
    Kind.PROVIDER,
    Kind.SANDBOX,
    Kind.SANDBOX_POLICY,
)


def told(response):
    return [(d.source, d.profile_id, d.field, d.severity) for d in response.diagnostics]


async def everything(gateway):
    return [await gateway.rows(kind) for kind in KINDS]


async def test_a_batch_creates_and_updates_together(gateway):
    await gateway.imported(profile("old"))
    response = await gateway.apply(profile("new"), (profile("old", description="x"), 1))
    assert (response.applied, response.valid) == (True, True)
    assert [(p.id, p.resource_version, p.source) for p in response.profiles] == [
        ("new", 1, ""),
        ("old", 2, ""),
    ]
    assert {(p.id, p.description) for p in await gateway.list() if p.source == "user"} == {
        ("new", ""),
        ("old", "x"),
    }


async def test_a_document_may_carry_its_own_version(gateway):
    await gateway.imported(profile("acme"))
    assert (await gateway.apply((profile("acme", resource_version=1), 0))).applied
    code, text = await refused(gateway.apply((profile("acme", resource_version=2), 1)))
    assert code is grpc.StatusCode.ABORTED, "the item's version stands over the document's"
    assert "'acme'" in text


@pytest.mark.parametrize("dry_run", [False, True])
async def test_any_error_keeps_the_whole_batch_out(gateway, dry_run):
    await gateway.imported(profile("old"))
    before = await everything(gateway)
    items = [profile("new"), profile("github"), profile("old"), (profile("gone"), 3)]
    response = await gateway.apply(*items, dry_run=dry_run)
    assert not response.applied
    assert not response.valid
    assert not response.profiles
    assert told(response) == [
        ("github.yaml", "github", "id", "error"),
        ("old.yaml", "old", "id", "error"),
        ("gone", "gone", "id", "error"),
    ]
    assert await everything(gateway) == before


async def test_an_item_whose_payload_has_another_id_is_refused(gateway):
    await gateway.imported(profile("b"))
    request = ext.ApplyProfilesRequest(workspace="default")
    item = request.items.add(id="a", source="a.yaml")
    item.profile.id = "b"
    item.profile.display_name = "b"
    before = await everything(gateway)
    response = await gateway.ext.Apply(request)
    assert "does not match payload id 'b'" in response.diagnostics[0].message
    assert not response.applied
    assert await everything(gateway) == before


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_stale_item_aborts_the_whole_batch(gateway, dry_run):
    await gateway.imported(profile("one"), profile("two"))
    await gateway.update("two", profile("two"), version=1)
    before = await everything(gateway)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.apply((profile("one"), 1), (profile("two"), 1), dry_run=dry_run)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert "'two'" in caught.value.details()
    assert "current resource_version: 2" in caught.value.details()
    metadata = dict(caught.value.trailing_metadata())
    assert metadata["openshell-current-resource-version"] == "2"
    assert metadata["openshell-profile-id"] == "two"
    assert await everything(gateway) == before


async def test_one_profile_twice_in_a_batch_is_refused(gateway):
    response = await gateway.apply(profile("acme"), profile("acme"))
    assert not response.valid
    assert all("duplicate" in d.message for d in response.diagnostics)


async def test_a_dry_run_answers_like_the_real_one_and_writes_nothing(gateway):
    await gateway.v2()
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work")
    changed = profile("acme", endpoints=[endpoint(access="read-only"), endpoint("b.acme.test")])
    before = await everything(gateway)
    gateway.changes.clear()
    dry = await gateway.apply((changed, 1), profile("new"), dry_run=True)
    assert await everything(gateway) == before
    assert gateway.changes == []
    real = await gateway.apply((changed, 1), profile("new"))
    assert (dry.applied, real.applied) == (False, True)
    assert len(gateway.changes) == 1
    real.applied = False
    assert dry == real


async def test_what_a_sandbox_gains_and_loses_is_told(gateway):
    await gateway.v2()
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    box = await gateway.sandbox("box", "work")
    await gateway.sandbox("bystander")
    changed = profile("acme", endpoints=[endpoint(access="read-only"), endpoint("b.acme.test")])
    response = await gateway.apply((changed, 1))
    (impact,) = response.impacts
    assert (impact.workspace, impact.sandbox, impact.sandbox_id) == (
        "default",
        "box",
        box.metadata.id,
    )
    assert [text.split(";")[0] for text in impact.gained] == [
        "/usr/bin/curl to b.acme.test:443: rest"
    ]
    assert list(impact.lost) == [
        "/usr/bin/curl to api.acme.test:443: allow * ** (now GET **, OPTIONS **)"
    ]
    assert list(impact.credentials_bound) == ["work:ACME_KEY b.acme.test:443"]
    assert not impact.credentials_unbound
    assert not impact.conflicts
    back = await gateway.rollback("acme", 1)
    (undone,) = back.impacts
    assert list(undone.credentials_unbound) == ["work:ACME_KEY b.acme.test:443"]
    assert undone.lost == impact.gained


async def test_a_change_without_consequences_tells_of_no_sandbox(gateway):
    await gateway.v2()
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work")
    response = await gateway.apply((profile("acme", description="words"), 1))
    assert response.applied
    assert not response.impacts


async def test_without_composition_only_credentials_change(gateway):
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work")
    response = await gateway.apply((profile("acme", endpoints=[endpoint("b.acme.test")]), 1))
    (impact,) = response.impacts
    assert not impact.gained
    assert list(impact.credentials_bound) == ["work:ACME_KEY b.acme.test:443"]
    assert list(impact.credentials_unbound) == ["work:ACME_KEY api.acme.test:443"]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_batch_that_harms_a_sandbox_is_not_written(gateway, dry_run):
    await gateway.imported(
        profile("one", credentials=[granted("one")]),
        profile("two", credentials=[granted("two")], endpoints=[endpoint("b.acme.test")]),
    )
    await gateway.provider("first", "one", credentials={})
    await gateway.provider("second", "two", credentials={})
    await gateway.sandbox("box", "first", "second")
    before = await everything(gateway)
    response = await gateway.apply(
        (profile("two", credentials=[granted("two")]), 1), profile("new"), dry_run=dry_run
    )
    assert (response.applied, response.valid) == (False, False)
    assert not response.profiles
    assert told(response) == [
        ("two.yaml", "two", "credentials.token_grant.audience_overrides", "error")
    ]
    assert "apply would create ambiguous" in response.diagnostics[0].message
    (impact,) = response.impacts
    assert [conflict.code for conflict in impact.conflicts] == ["ambiguous_token_grants"]
    assert await everything(gateway) == before


async def test_a_fault_of_a_sandbox_that_is_not_concerned_blocks_nothing(gateway):
    conflicting = [profile("one"), profile("two", endpoints=[endpoint(enforcement="audit")])]
    await gateway.imported(*conflicting, profile("acme"))
    for name, kind in (("first", "one"), ("second", "two"), ("work", "acme")):
        await gateway.provider(name, kind, credentials={f"KEY_{name.upper()}": "s3cr3t"})
    await gateway.v2()
    await gateway.sandbox("box", "work")
    refusal = await refused(gateway.sandbox("sick", "first", "second"))
    assert refusal[0] is grpc.StatusCode.FAILED_PRECONDITION, "that one cannot be made"
    await gateway.v2(value=False)
    await gateway.sandbox("sick", "first", "second")
    assert (await gateway.apply((profile("acme", description="x"), 1))).applied


async def test_a_swap_that_is_harmful_one_by_one_is_fine_at_once(gateway):
    """The reason for batches: each half of it alone would be refused."""

    def kind(name, host):
        return profile(name, credentials=[granted(name)], endpoints=[endpoint(host)])

    await gateway.imported(kind("one", "a.acme.test"), kind("two", "b.acme.test"))
    await gateway.provider("first", "one", credentials={})
    await gateway.provider("second", "two", credentials={})
    await gateway.sandbox("box", "first", "second")
    assert not (await gateway.update("one", kind("one", "b.acme.test"), version=1)).updated
    response = await gateway.apply((kind("one", "b.acme.test"), 1), (kind("two", "a.acme.test"), 1))
    assert response.applied, response.diagnostics
    (impact,) = response.impacts
    assert list(impact.credentials_bound) == [
        "first:one b.acme.test:443",
        "second:two a.acme.test:443",
    ]


async def test_of_two_batches_of_one_version_exactly_one_wins(racing):
    await racing[0].imported(profile("one"), profile("two"))
    for version in range(1, 6):
        answers = await asyncio.gather(
            *(
                g.apply(
                    (profile("one", description=f"{number}"), version),
                    (profile("two", description=f"{number}"), version),
                )
                for number, g in enumerate(racing)
            ),
            return_exceptions=True,
        )
        lost = [a for a in answers if isinstance(a, grpc.aio.AioRpcError)]
        assert [error.code() for error in lost] == [grpc.StatusCode.ABORTED]
        pair = {p.description for p in await racing[0].list() if p.id in ("one", "two")}
        assert len(pair) == 1, "never a half of each"


# History


async def test_every_change_is_one_revision_with_its_author(gateway):
    await gateway.imported(profile("acme"))
    await gateway.update("acme", profile("acme", description="two"), version=1)
    await gateway.apply((profile("acme", description="three"), 2))
    await gateway.rollback("acme", 2)
    await gateway.delete("acme")
    await gateway.imported(profile("acme", description="again"))
    history = await gateway.revisions(" ACME ")
    assert [(r.revision, r.operation, r.resource_version, r.restored_from) for r in history] == [
        (6, "import", 1, 0),
        (5, "delete", 0, 0),
        (4, "rollback", 4, 2),
        (3, "apply", 3, 0),
        (2, "update", 2, 0),
        (1, "import", 1, 0),
    ]
    assert {r.author for r in history} == {"unauthenticated-local-dev"}
    assert all(r.created_at_ms and r.id == "acme" and not r.HasField("profile") for r in history)
    assert [r.revision for r in await gateway.revisions("acme", limit=2, offset=1)] == [5, 4]


async def test_a_revision_has_the_content_of_its_time(gateway):
    await gateway.imported(profile("acme", description="one"))
    await gateway.update("acme", profile("acme", description="two"), version=1)
    first = await gateway.revision("acme", 1)
    assert (first.profile.description, first.profile.resource_version) == ("one", 1)
    assert (await gateway.revision("acme")).profile.description == "two"
    await gateway.delete("acme")
    assert not (await gateway.revision("acme")).HasField("profile")
    assert (await gateway.revision("acme", 2)).profile.description == "two"


@pytest.mark.parametrize(("profile_id", "number"), [("acme", 2), ("other", 0), ("other", 1)])
async def test_a_revision_that_is_not_there(gateway, profile_id, number):
    await gateway.imported(profile("acme"))
    assert (await gateway.revision("acme", 1)).revision == 1
    code, _text = await refused(gateway.revision(profile_id, number))
    assert code is grpc.StatusCode.NOT_FOUND
    assert await gateway.revisions("other") == []


async def test_scopes_have_histories_of_their_own(gateway):
    await gateway.imported(profile("acme"))
    assert await gateway.revisions("acme", workspace="") == []
    await gateway.imported(profile("acme", description="p"), workspace="")
    assert (await gateway.revision("acme", workspace="")).profile.description == "p"
    assert (await gateway.revision("acme")).profile.description == ""


async def test_what_was_refused_leaves_no_trace(gateway):
    await gateway.imported(profile("acme"))
    await gateway.update("acme", profile("acme", display_name="\x07"), version=1)
    await refused(gateway.update("acme", profile("acme"), version=9))
    assert len(await gateway.revisions("acme")) == 1


async def test_going_back_is_a_new_revision(gateway):
    await gateway.imported(profile("acme", description="one"))
    await gateway.update("acme", profile("acme", description="two"), version=1)
    dry = await gateway.rollback("acme", 1, dry_run=True)
    assert (dry.applied, dry.valid) == (False, True)
    assert (await gateway.get("acme")).description == "two"
    response = await gateway.rollback("acme", 1, expected_resource_version=2)
    assert response.applied
    assert (await gateway.get("acme")).description == "one"
    assert (await gateway.get("acme")).resource_version == 3
    code, _text = await refused(gateway.rollback("acme", 2, expected_resource_version=2))
    assert code is grpc.StatusCode.ABORTED


async def test_going_back_brings_a_deleted_profile_to_life(gateway):
    await gateway.imported(profile("acme", description="one"))
    (before,) = await gateway.rows(Kind.PROVIDER_PROFILE)
    await gateway.delete("acme")
    response = await gateway.rollback("acme", 1)
    assert response.applied, response.diagnostics
    (after,) = await gateway.rows(Kind.PROVIDER_PROFILE)
    assert after.id != before.id
    assert after.resource_version == 1
    assert (await gateway.revision("acme")).revision == 3


@pytest.mark.parametrize(
    ("number", "code"),
    [(0, "INVALID_ARGUMENT"), (9, "NOT_FOUND"), (2, "FAILED_PRECONDITION")],
)
async def test_revisions_to_which_there_is_no_going_back(gateway, number, code):
    await gateway.imported(profile("acme"))
    await gateway.delete("acme")
    found, _text = await refused(gateway.rollback("acme", number))
    assert found.name == code


async def test_going_back_is_checked_like_an_update(gateway):
    await gateway.imported(profile("one", credentials=[granted("one")]))
    await gateway.imported(profile("two", credentials=[granted("two")]))
    fine = profile("two", credentials=[granted("two")], endpoints=[endpoint("b.acme.test")])
    await gateway.update("two", fine, version=1)
    await gateway.provider("first", "one", credentials={})
    await gateway.provider("second", "two", credentials={})
    await gateway.sandbox("box", "first", "second")
    response = await gateway.rollback("two", 1)
    assert not response.applied
    assert told(response) == [
        ("revision 1", "two", "credentials.token_grant.audience_overrides", "error")
    ]
    assert len(await gateway.revisions("two")) == 2


async def test_long_lists_are_cut(gateway):
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work")
    many = [endpoint(f"h{number}.acme.test") for number in range(70)]
    response = await gateway.apply((profile("acme", endpoints=many), 1))
    bound = response.impacts[0].credentials_bound
    assert len(bound) == 51
    assert bound[-1] == "and 20 more"
    assert credential().env_vars == ("ACME_KEY",)
