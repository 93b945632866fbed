"""Update, delete, get and list over real gRPC: explicit targets, versions, and what stays untouched."""

import asyncio

import grpc.aio
import pytest

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.gateway.auth.authorization import RolePolicy
from openshell.gateway.auth.principal import IdentityProvider, UserPrincipal, acting_as
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.events import Bus
from openshell.gateway.records import Kind
from openshell.gateway.services.profile_apply import ProfileApply
from openshell.gateway.services.profile_history import ProfileHistory
from openshell.gateway.services.profile_writer import ProfileWriter
from openshell.gateway.services.profiles import Profiles
from openshell.gateway.store import MatchResourceVersion, MustCreate, NewRow
from support.profile_values import credential, endpoint, granted, profile
from support.statuses import refused


def told(response):
    return [(d.source, d.profile_id, d.field) for d in response.diagnostics]


async def row_of(gateway, profile_id, workspace="default"):
    return await gateway.store.read(lambda tx: tx.get(Kind.PROVIDER_PROFILE, workspace, profile_id))


async def label(gateway, profile_id):
    """Gives the stored object what no profile RPC can set."""
    row = await row_of(gateway, profile_id)
    stored = openshell_pb2.StoredProviderProfile.FromString(row.payload)
    stored.metadata.labels["team"] = "a"
    stored.metadata.annotations["note"] = "n"
    changed = NewRow(
        id=row.id,
        kind=row.kind,
        workspace=row.workspace,
        name=row.name,
        payload=stored.SerializeToString(),
        labels={"team": "a"},
        created_at_ms=row.created_at_ms,
    )
    await gateway.store.write(
        lambda tx: tx.put(changed, MatchResourceVersion(row.resource_version))
    )


async def test_an_update_replaces_the_payload_and_keeps_the_object(gateway):
    await gateway.imported(profile("acme"))
    await label(gateway, "acme")
    before = await row_of(gateway, "acme")
    response = await gateway.update(" ACME ", profile("acme", description="new"), version=2)
    assert response.updated
    assert not response.diagnostics
    assert (response.profile.description, response.profile.resource_version) == ("new", 3)
    assert (response.profile.source, response.profile.scope) == ("", "")
    after = await row_of(gateway, "acme")
    assert (after.id, after.name, after.created_at_ms, after.labels) == (
        before.id,
        before.name,
        before.created_at_ms,
        {"team": "a"},
    )
    stored = openshell_pb2.StoredProviderProfile.FromString(after.payload)
    assert dict(stored.metadata.annotations) == {"note": "n"}
    assert stored.profile.resource_version == 0


async def test_a_file_of_one_profile_edited_to_another_id_changes_neither(gateway):
    await gateway.imported(profile("a"), profile("b", description="b"))
    assert (await row_of(gateway, "a")).resource_version == 1
    assert (await row_of(gateway, "b")).resource_version == 1
    untouched = await gateway.rows(Kind.PROVIDER_PROFILE)
    edited = profile("b", description="from a")
    for expected in (0, 1):
        response = await gateway.update("a", edited, version=1, expected=expected)
        assert not response.updated
        assert not response.HasField("profile")
        assert told(response) == [("file.yaml", "b", "id")]
        assert "does not match payload id 'b'" in response.diagnostics[0].message
    assert await gateway.rows(Kind.PROVIDER_PROFILE) == untouched
    # The same documents under their own names are taken.
    assert (await gateway.update("b", edited, version=1)).updated


@pytest.mark.parametrize(
    ("target", "document", "version", "expected"),
    [
        pytest.param(
            "github",
            "github",
            1,
            [("github", "github", "id", "managed by source 'builtin' and cannot be updated")],
            id="built-in",
        ),
        pytest.param(
            "gone",
            "gone",
            1,
            [("gone", "gone", "id", "custom provider profile 'gone' does not exist")],
            id="missing",
        ),
        pytest.param(
            "acme",
            "acme",
            0,
            [("file.yaml", "acme", "resource_version", "non-zero resource_version")],
            id="no-version",
        ),
        pytest.param(
            "acme",
            "github",
            1,
            [
                ("file.yaml", "github", "id", "does not match payload id 'github'"),
                ("file.yaml", "github", "id", "managed by source 'builtin'"),
            ],
            id="payload-built-in",
        ),
        pytest.param(
            "gone",
            "acme",
            0,
            [
                ("file.yaml", "acme", "id", "does not match payload id 'acme'"),
                ("gone", "gone", "id", "does not exist"),
                ("file.yaml", "acme", "resource_version", "non-zero resource_version"),
            ],
            id="all-at-once",
        ),
    ],
)
async def test_what_an_update_is_refused_for_is_a_diagnostic(
    gateway, target, document, version, expected
):
    await gateway.imported(profile("acme"))
    assert (await gateway.update("acme", profile("acme"), version=1)).updated, "the probe works"
    response = await gateway.update(target, profile(document), version=version)
    assert not response.updated
    assert told(response) == [part[:3] for part in expected]
    for diagnostic, part in zip(response.diagnostics, expected, strict=True):
        assert part[3] in diagnostic.message
    assert (await row_of(gateway, "acme")).resource_version == 2


async def test_a_profile_of_the_platform_cannot_be_updated_from_a_workspace(gateway):
    await gateway.imported(profile("acme"), workspace="")
    response = await gateway.update("acme", profile("acme"), version=1)
    assert told(response) == [("acme", "acme", "id")]
    assert (await gateway.update("acme", profile("acme"), version=1, workspace="")).updated


async def test_a_stale_version_is_aborted_and_names_the_current_one(gateway):
    await gateway.imported(profile("acme"))
    await gateway.update("acme", profile("acme", description="two"), version=1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.update("acme", profile("acme", description="lost"), version=1)
    error = caught.value
    assert error.code() is grpc.StatusCode.ABORTED
    assert "current resource_version: 2" in error.details()
    assert dict(error.trailing_metadata())["openshell-current-resource-version"] == "2"
    assert (await gateway.get("acme")).description == "two"
    # What is wrong with the document is told first: it must be mended anyhow.
    both = await gateway.update("acme", profile("acme", display_name="\x07"), version=1)
    assert told(both) == [("file.yaml", "acme", "display_name")]


async def test_the_requests_version_stands_over_the_documents(gateway):
    await gateway.imported(profile("acme"))
    assert (await gateway.update("acme", profile("acme"), version=7, expected=1)).updated
    code, _text = await refused(gateway.update("acme", profile("acme"), version=2, expected=1))
    assert code is grpc.StatusCode.ABORTED


@pytest.mark.parametrize("target", ["", "  ", "a_b", "a--b"])
async def test_a_malformed_target_is_an_error(gateway, target):
    code, _text = await refused(gateway.update(target, profile("acme"), version=1))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_update_may_not_make_token_grants_of_a_sandbox_ambiguous(gateway):
    await gateway.imported(
        profile("one", credentials=[granted("one")]),
        profile("two", credentials=[granted("two")], endpoints=[endpoint("b.acme.test")]),
    )
    await gateway.provider("first", "one", credentials={})
    await gateway.provider("second", "two", credentials={})
    await gateway.sandbox("box", "first", "second")
    clash = profile("two", credentials=[granted("two")])
    response = await gateway.update("two", clash, version=1)
    assert not response.updated
    assert told(response) == [("file.yaml", "two", "credentials.token_grant.audience_overrides")]
    assert "update would create ambiguous dynamic token grants" in response.diagnostics[0].message
    assert (await row_of(gateway, "two")).resource_version == 1
    await gateway.detach("box", "second")
    assert (await gateway.update("two", clash, version=1)).updated


async def test_an_update_may_not_leave_static_values_without_an_endpoint(gateway):
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work")
    response = await gateway.update("acme", profile("acme", endpoints=[]), version=1)
    assert told(response) == [("file.yaml", "acme", "endpoints")]
    assert "'work' on sandbox 'box'" in response.diagnostics[0].message


BOUND = """
version: 1
network_policies:
  own:
    endpoints:
      - host: own.acme.test
        port: 443
        protocol: rest
        access: read-only
        credential_binding: {provider: work}
    binaries: [{path: /usr/bin/curl}]
"""


async def test_an_update_may_not_make_a_second_authority_beside_a_policys_binding(gateway):
    await gateway.imported(profile("acme", endpoints=[]))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work", policy=BOUND)
    response = await gateway.update("acme", profile("acme"), version=1)
    assert told(response) == [("file.yaml", "acme", "endpoints")]
    assert (await gateway.update("acme", profile("acme", endpoints=[]), version=1)).updated


BLIND = """
version: 1
network_policies:
  own:
    endpoints: [{host: late.acme.test, port: 443}]
    binaries: [{path: /usr/bin/curl}]
"""


async def test_an_update_may_not_bring_credentials_where_a_policy_inspects_nothing(gateway):
    """Had it come first, the sandbox could not have been made."""
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work", policy=BLIND)
    late = profile("acme", endpoints=[endpoint("late.acme.test")])
    response = await gateway.update("acme", late, version=1)
    assert told(response) == [("file.yaml", "acme", "endpoints")]
    assert "late.acme.test" in response.diagnostics[0].message
    await gateway.detach("box", "work")
    assert (await gateway.update("acme", late, version=1)).updated
    code, _text = await refused(gateway.attach("box", "work"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_an_import_may_not_leave_static_values_without_an_endpoint(gateway):
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work")
    response = await gateway.imports(profile("acme", endpoints=[]))
    assert told(response) == [("file.yaml", "acme", "endpoints")]
    assert (await gateway.imports(profile("acme"))).imported


async def test_a_fault_that_was_there_before_does_not_stand_in_the_way(gateway):
    await gateway.imported(profile("acme", endpoints=[]))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work")
    response = await gateway.update(
        "acme", profile("acme", endpoints=[], description="new"), version=1
    )
    assert response.updated, response.diagnostics


async def test_an_update_tells_the_sandboxes_that_use_it_and_no_other(gateway):
    await gateway.imported(profile("acme"), profile("other"))
    await gateway.provider("work", "acme")
    await gateway.provider("idle", "other")
    box = await gateway.sandbox("box", "work")
    await gateway.sandbox("bystander", "idle")
    gateway.changes.clear()
    assert (await gateway.update("acme", profile("acme", description="x"), version=1)).updated
    assert gateway.changes == [(box.metadata.id, "providers")]


async def test_providers_and_policies_stay_byte_for_byte_what_they_were(gateway):
    await gateway.v2()
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    await gateway.sandbox("box", "work")
    kinds = (Kind.PROVIDER, Kind.SANDBOX, Kind.SANDBOX_POLICY, Kind.CREDENTIAL)
    before = [await gateway.rows(kind) for kind in kinds]
    assert all(before)
    changed = profile("acme", endpoints=[endpoint("new.acme.test")])
    assert (await gateway.update("acme", changed, version=1)).updated
    assert (await gateway.apply((profile("acme"), 2))).applied
    assert (await gateway.rollback("acme", 2)).applied
    assert [await gateway.rows(kind) for kind in kinds] == before


async def test_of_two_updates_of_one_version_exactly_one_wins(racing):
    await racing[0].imported(profile("acme"))
    for version in range(1, 6):
        answers = await asyncio.gather(
            *(
                g.update("acme", profile("acme", description=f"{g}{version}"), version=version)
                for g in racing
            ),
            return_exceptions=True,
        )
        lost = [a for a in answers if isinstance(a, grpc.aio.AioRpcError)]
        assert [error.code() for error in lost] == [grpc.StatusCode.ABORTED]
        assert sum(getattr(a, "updated", False) for a in answers) == 1


# Deletion


async def test_an_unused_profile_is_deleted_by_any_spelling_of_its_id(gateway):
    await gateway.imported(profile("alex-api"))
    await gateway.provider("work", "alex-api")
    assert (await gateway.delete(" Alex-API ")).deleted
    assert not await gateway.rows(Kind.PROVIDER_PROFILE)
    code, _text = await refused(gateway.delete("alex-api"))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_built_in_profile_is_not_deleted(gateway):
    code, text = await refused(gateway.delete("github"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "managed by source 'builtin'" in text


async def test_a_profile_in_use_is_not_deleted_and_its_sandboxes_are_named(gateway):
    await gateway.imported(profile("acme"))
    await gateway.provider("work", "acme")
    await gateway.sandbox("two", "work")
    await gateway.sandbox("one", "work")
    code, text = await refused(gateway.delete("acme"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "sandbox(es): one, two;" in text
    assert len(await gateway.revisions("acme")) == 1
    for name in ("one", "two"):
        await gateway.detach(name, "work")
    assert (await gateway.delete("acme")).deleted


async def test_users_by_fallback_keep_a_platform_profile_from_deletion(gateway):
    await gateway.imported(profile("acme"), workspace="")
    await gateway.provider("work", "acme", own=True)
    await gateway.sandbox("box", "work")
    code, text = await refused(gateway.delete("acme", workspace=""))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "default/box" in text
    # A profile of the workspace takes its place; then the platform's is free.
    assert (await gateway.imports(profile("acme"))).imported
    assert (await gateway.delete("acme", workspace="")).deleted


async def test_a_provider_that_looks_to_the_platform_sees_beneath_a_shadow(gateway):
    await gateway.imported(profile("acme", description="p"), workspace="")
    await gateway.imported(profile("acme", description="w"))
    await gateway.provider("low", "acme", own=False)
    await gateway.sandbox("box", "low")
    assert (await gateway.delete("acme")).deleted, "nobody uses the workspace's"
    code, _text = await refused(gateway.delete("acme", workspace=""))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_deletion_racing_an_attachment_leaves_exactly_one_of_them(racing):
    one, two = racing
    for number in range(5):
        kind = f"acme-{number}"
        await one.imported(profile(kind))
        await one.provider(kind, kind)
        await one.sandbox(f"box-{number}")
        deleted, attached = await asyncio.gather(
            one.delete(kind), two.attach(f"box-{number}", kind), return_exceptions=True
        )
        if isinstance(deleted, grpc.aio.AioRpcError):
            assert deleted.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert attached.attached
        else:
            # A provider without a profile may be attached, and then uses none.
            assert deleted.deleted
        users = await refused(one.delete(kind))
        assert users[0] in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)


# What newer rules refuse


@pytest.fixture
async def spoilt(gateway):
    """A stored profile that no rule of today would let in, beside a good one."""
    await gateway.imported(profile("good"))
    await gateway.stored(profile("bad", endpoints=[endpoint("")]))
    return gateway


async def test_an_invalid_stored_profile_blocks_nothing(spoilt):
    ids = {p.id for p in await spoilt.list()}
    assert "good" in ids
    assert "bad" not in ids
    assert (await spoilt.get("good")).id == "good"
    assert (await spoilt.update("good", profile("good", description="x"), version=1)).updated
    await spoilt.provider("work", "good")
    await spoilt.sandbox("box", "work")
    assert (await spoilt.imports(profile("third"))).imported
    assert (await spoilt.delete("third")).deleted


async def test_an_invalid_stored_profile_is_told(spoilt):
    code, text = await refused(spoilt.get("bad"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "'bad' (resource_version 1) is not in use: endpoints[0]" in text
    linted = await spoilt.lint(profile("new"))
    assert linted.valid
    assert [(d.profile_id, d.severity) for d in linted.diagnostics] == [("bad", "warning")]


async def test_an_invalid_stored_profile_can_be_mended(spoilt):
    assert (await spoilt.update("bad", profile("bad"), version=1)).updated
    assert (await spoilt.get("bad")).resource_version == 2


async def test_an_invalid_stored_profile_can_be_deleted_while_a_provider_names_it(spoilt):
    await spoilt.provider("work", "bad")
    await spoilt.sandbox("box", "work")
    assert (await spoilt.delete("bad")).deleted


async def test_a_stored_profile_whose_id_became_built_in_can_be_deleted(gateway):
    await gateway.stored(profile("github"))
    assert (await gateway.get("github")).source == "builtin"
    assert (await gateway.delete("github")).deleted
    assert (await gateway.get("github")).source == "builtin"


async def test_a_damaged_row_can_be_mended_and_deleted(gateway):
    for profile_id in ("one", "two"):
        row = NewRow(
            id=f"id-{profile_id}",
            kind=Kind.PROVIDER_PROFILE,
            workspace="default",
            name=profile_id,
            payload=b"\xff\xff",
        )
        await gateway.store.write(lambda tx, row=row: tx.put(row, MustCreate()))
    assert "github" in {p.id for p in await gateway.list()}
    assert (await gateway.update("one", profile("one"), version=1)).updated
    assert (await row_of(gateway, "one")).id == "id-one"
    assert (await gateway.delete("two")).deleted


# Scopes and roles


async def test_lists_are_sorted_and_paged(gateway):
    await gateway.imported(profile("zeta"), profile("acme"))
    everything = await gateway.list()
    assert [p.id for p in everything] == sorted(p.id for p in everything)
    assert {(p.source, p.scope) for p in everything} == {("user", "workspace"), ("builtin", "")}
    assert {p.resource_version for p in everything if p.source == "builtin"} == {0}
    assert await gateway.list(limit=2, offset=1) == everything[1:3]
    assert {p.id for p in await gateway.list("")} == {
        p.id for p in everything if p.source == "builtin"
    }


@pytest.mark.parametrize(
    ("profile_id", "code"),
    [("claude", "NOT_FOUND"), (" ", "INVALID_ARGUMENT"), ("a b", "INVALID_ARGUMENT")],
)
async def test_ids_have_no_aliases_and_must_be_ids(gateway, profile_id, code):
    assert (await gateway.get("claude-code")).id == "claude-code"
    found, _text = await refused(gateway.get(profile_id))
    assert found.name == code


def _requests():
    """Every method of the two services, with a request for a scope."""
    return {
        "ListProviderProfiles": openshell_pb2.ListProviderProfilesRequest(),
        "GetProviderProfile": openshell_pb2.GetProviderProfileRequest(id="github"),
        "LintProviderProfiles": openshell_pb2.LintProviderProfilesRequest(),
        "ImportProviderProfiles": openshell_pb2.ImportProviderProfilesRequest(),
        "UpdateProviderProfiles": openshell_pb2.UpdateProviderProfilesRequest(id="acme"),
        "DeleteProviderProfile": openshell_pb2.DeleteProviderProfileRequest(id="acme"),
        "Apply": ext.ApplyProfilesRequest(),
        "Rollback": ext.RollbackProfileRequest(id="acme", to_revision=1),
        "ListRevisions": ext.ListProfileRevisionsRequest(id="acme"),
        "GetRevision": ext.GetProfileRevisionRequest(id="acme"),
    }


@pytest.mark.parametrize("method", list(_requests()))
async def test_the_platforms_profiles_are_for_its_admins(gateway, method):
    roles = RolePolicy(enforced=True)
    store = gateway.store
    writer = ProfileWriter(store, Bus())
    parts = (
        Profiles(store, writer, roles=roles),
        ProfileApply(writer, roles=roles),
        ProfileHistory(store, roles=roles),
    )
    (part,) = [part for part in parts if hasattr(part, method)]

    async def call(role, workspace):
        request = _requests()[method]
        request.workspace = workspace
        with acting_as(UserPrincipal("ann", IdentityProvider.OIDC, roles=(role,))):
            try:
                return await getattr(part, method)(request, None)
            except ApiError as error:
                return error.code

    assert await call("openshell-user", "") is Code.PERMISSION_DENIED
    assert await call("openshell-admin", "") is not Code.PERMISSION_DENIED
    assert await call("openshell-user", "default") is not Code.PERMISSION_DENIED


async def test_a_deletion_needs_no_active_workspace_but_an_update_does(gateway):
    await gateway.workspace("ending", datamodel_pb2.WORKSPACE_PHASE_TERMINATING)
    await gateway.stored(profile("acme"), workspace="ending")
    code, _text = await refused(
        gateway.update("acme", profile("acme"), version=1, workspace="ending")
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert (await gateway.delete("acme", workspace="ending")).deleted


async def test_an_update_in_one_workspace_looks_at_its_sandboxes_only(gateway):
    await gateway.workspace("other")
    for workspace in ("default", "other"):
        await gateway.imported(profile("acme"), workspace=workspace)
        await gateway.provider("work", "acme", workspace=workspace)
        await gateway.sandbox("box", "work", workspace=workspace)
    gateway.changes.clear()
    changed = profile("acme", credentials=[credential(), credential("MORE")])
    assert (await gateway.update("acme", changed, version=1)).updated
    assert len(gateway.changes) == 1


async def test_a_platform_update_sees_what_workspaces_add(gateway):
    """The sandbox's own catalogue counts: its other provider has a profile of the workspace."""
    far = profile("far", credentials=[granted("far")], endpoints=[endpoint("b.acme.test")])
    await gateway.imported(far, workspace="")
    await gateway.imported(profile("near", credentials=[granted("near")]))
    await gateway.provider("first", "far", credentials={}, own=False)
    await gateway.provider("second", "near", credentials={})
    await gateway.sandbox("box", "first", "second")
    clash = profile("far", credentials=[granted("far")])
    response = await gateway.update("far", clash, version=1, workspace="")
    assert told(response) == [("file.yaml", "far", "credentials.token_grant.audience_overrides")]
    assert "sandbox 'default/box'" in response.diagnostics[0].message


async def test_a_shadow_does_not_change_what_lies_beneath_it(gateway):
    await gateway.imported(profile("acme"), workspace="")
    await gateway.provider("low", "acme", own=False)
    await gateway.provider("high", "acme", credentials={"HIGH_KEY": "s3cr3t"})
    low = await gateway.sandbox("low", "low")
    high = await gateway.sandbox("high", "high")
    gateway.changes.clear()
    assert (await gateway.imports(profile("acme", description="w"))).imported
    assert gateway.changes == [(high.metadata.id, "providers")]
    gateway.changes.clear()
    assert (await gateway.update("acme", profile("acme"), version=1, workspace="")).updated
    assert gateway.changes == [(low.metadata.id, "providers")]
