"""Import and lint over real gRPC: all or nothing, and what each refusal is told by."""

import asyncio

import pytest

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.records import Kind
from support.profile_values import blind, credential, endpoint, granted, profile
from support.statuses import refused


def told(response):
    return [(d.profile_id, d.field, d.severity) for d in response.diagnostics]


async def test_an_imported_profile_is_stored_bare_and_found_with_its_source_and_scope(gateway):
    response = await gateway.imports(profile("alex-api", source="x", scope="y", resource_version=9))
    assert response.imported
    assert not response.diagnostics
    (answered,) = response.profiles
    assert (answered.id, answered.resource_version) == ("alex-api", 1)
    assert (answered.source, answered.scope) == ("", "")
    (row,) = await gateway.rows(Kind.PROVIDER_PROFILE)
    stored = openshell_pb2.StoredProviderProfile.FromString(row.payload)
    assert (row.workspace, row.name) == ("default", "alex-api")
    assert (stored.profile.resource_version, stored.profile.source, stored.profile.scope) == (
        0,
        "",
        "",
    )
    assert not row.labels
    found = await gateway.get(" Alex-API ")
    assert (found.source, found.scope, found.resource_version) == ("user", "workspace", 1)
    assert found.endpoints == answered.endpoints


async def test_one_bad_profile_keeps_the_whole_batch_out(gateway):
    assert (await gateway.imports(profile("probe"))).imported
    response = await gateway.imports(profile("good"), profile("bad", display_name="bad\x07"))
    assert not response.imported
    assert not response.profiles
    assert told(response) == [("bad", "display_name", "error")]
    assert [row.name for row in await gateway.rows(Kind.PROVIDER_PROFILE)] == ["probe"]
    assert [row.scope for row in await gateway.rows(Kind.PROFILE_REVISION)] == ["default/probe"]


async def test_three_spellings_give_three_diagnostics(gateway):
    response = await gateway.imports(
        profile(" alex-api "), profile("alex_api"), profile("Alex-API")
    )
    assert told(response) == [
        (" alex-api ", "id", "error"),
        ("alex_api", "id", "error"),
        ("Alex-API", "id", "error"),
    ]
    assert all("lowercase kebab-case" in d.message for d in response.diagnostics)


async def test_built_in_and_existing_ids_are_refused_and_told_before_other_faults(gateway):
    await gateway.imported(profile("acme"))
    response = await gateway.imports(
        profile("github", display_name="x\x07"), profile("acme"), profile("acme")
    )
    assert not response.imported
    assert told(response) == [
        ("github", "id", "error"),
        ("acme", "id", "error"),
        ("acme", "id", "error"),
        ("github", "display_name", "error"),
        ("acme", "id", "error"),
        ("acme", "id", "error"),
    ]
    messages = [d.message for d in response.diagnostics]
    assert "managed by source 'builtin'" in messages[0]
    assert "cannot be overwritten" in messages[0]
    assert "already exists" in messages[1]
    assert "duplicate id" in messages[4]
    assert {d.source for d in response.diagnostics} == {"file.yaml"}


async def test_a_workspace_profile_may_shadow_the_platforms_and_says_so(gateway):
    await gateway.imported(profile("acme", description="p"), workspace="")
    response = await gateway.imports(profile("acme", description="w"))
    assert response.imported
    assert told(response) == [("acme", "id", "warning")]
    assert "shadows a platform-scoped profile" in response.diagnostics[0].message
    assert (await gateway.get("acme")).description == "w"
    assert (await gateway.get("acme", workspace="")).description == "p"
    both = [p for p in await gateway.list() if p.id == "acme"]
    assert [p.scope for p in both] == ["workspace", "platform"]


async def test_one_id_may_be_in_two_workspaces(gateway):
    await gateway.workspace("other")
    await gateway.imported(profile("acme"))
    assert not (await gateway.imports(profile("acme"), workspace="other")).diagnostics


async def test_empty_items_bindings_and_no_items_are_told(gateway):
    bound = openshell_pb2.ProviderProfile(id="acme", display_name="a")
    bound.endpoints.add(host="a.test", ports=[443]).credential_binding.provider = "x"
    request = openshell_pb2.ImportProviderProfilesRequest(workspace="default")
    request.profiles.add(source="empty.yaml")
    request.profiles.add(source="bound.yaml", profile=bound)
    response = await gateway.api.ImportProviderProfiles(request)
    assert [(d.source, d.field) for d in response.diagnostics] == [
        ("empty.yaml", "profile"),
        ("bound.yaml", "endpoints[0].credential_binding"),
    ]
    nothing = await gateway.imports()
    assert [(d.field, d.source) for d in nothing.diagnostics] == [("profiles", "")]
    assert not nothing.imported


async def test_marks_of_the_gateway_are_not_taken_from_a_payload(gateway):
    message = openshell_pb2.ProviderProfile(id="acme", display_name="a")
    message.endpoints.add(
        host="a.test", ports=[443], advisor_proposed=True, provider_credentialed=True
    )
    (stored,) = (await gateway.imports(message)).profiles
    assert not stored.endpoints[0].advisor_proposed
    assert not stored.endpoints[0].provider_credentialed


async def test_too_many_at_once_are_refused(gateway):
    many = [profile(f"p{number}") for number in range(501)]
    code, text = await refused(gateway.imports(*many))
    assert code.name == "INVALID_ARGUMENT"
    assert "at most 500" in text


async def test_lint_writes_nothing_and_looks_at_no_sandbox(gateway):
    await gateway.imported(profile("acme"))
    response = await gateway.lint(profile("acme"), profile("new", endpoints=[endpoint("")]))
    assert not response.valid
    assert told(response) == [("acme", "id", "error"), ("new", "endpoints[0]", "error")]
    assert (await gateway.lint(profile("new"))).valid
    assert len(await gateway.rows(Kind.PROVIDER_PROFILE)) == 1


async def test_an_import_may_not_make_token_grants_of_a_sandbox_ambiguous(gateway):
    await gateway.imported(profile("one", credentials=[granted("one")]))
    await gateway.provider("first", "one", credentials={})
    await gateway.provider("second", "two", credentials={"OTHER_KEY": "s3cr3t"})
    await gateway.sandbox("box", "first", "second")
    elsewhere = profile("two", credentials=[granted("two")], endpoints=[endpoint("b.acme.test")])
    response = await gateway.imports(profile("two", credentials=[granted("two")]))
    assert not response.imported
    assert ("two", "credentials.token_grant.audience_overrides", "error") in told(response)
    (message,) = [d.message for d in response.diagnostics if "audience_overrides" in d.field]
    assert "import would create ambiguous dynamic token grants on sandbox 'box'" in message
    assert [row.name for row in await gateway.rows(Kind.PROVIDER_PROFILE)] == ["one"]
    assert (await gateway.imports(elsewhere)).imported


async def test_with_composition_an_import_may_not_make_layers_contradict(gateway):
    await gateway.imported(profile("one"))
    await gateway.provider("first", "one")
    await gateway.provider("second", "two", credentials={"OTHER_KEY": "s3cr3t"})
    await gateway.sandbox("box", "first", "second")
    contrary = profile(
        "two",
        credentials=[credential("OTHER_KEY")],
        endpoints=[endpoint(enforcement="audit")],
    )
    dry = await gateway.apply(contrary, dry_run=True)
    assert dry.valid, "without composition there is nothing to contradict"
    await gateway.v2()
    response = await gateway.imports(contrary)
    assert told(response) == [("two", "endpoints", "error")]
    assert (
        "sandbox 'box' would have conflicting endpoint metadata" in response.diagnostics[0].message
    )


@pytest.mark.parametrize(
    ("workspace", "code"),
    [("nowhere", "NOT_FOUND"), ("ending", "FAILED_PRECONDITION")],
)
async def test_the_workspace_must_exist_and_be_active(gateway, workspace, code):
    await gateway.workspace("ending", datamodel_pb2.WORKSPACE_PHASE_TERMINATING)
    await gateway.imported(profile("acme"))
    found, _text = await refused(gateway.imports(profile("acme"), workspace=workspace))
    assert found.name == code


async def test_of_two_imports_of_one_id_exactly_one_wins(racing):
    for number in range(5):
        answers = await asyncio.gather(
            *(g.imports(profile(f"acme-{number}", description=str(g))) for g in racing)
        )
        assert sorted(a.imported for a in answers) == [False, True]
        (lost,) = [a for a in answers if not a.imported]
        assert "already exists" in lost.diagnostics[0].message


async def test_an_import_racing_a_create_leaves_no_ambiguous_sandbox(racing):
    one, two = racing
    await one.imported(profile("one", credentials=[granted("one")]))
    await one.provider("first", "one", credentials={})
    for number in range(5):
        kind = f"two-{number}"
        await one.provider(kind, kind, credentials={f"KEY_{number}": "s3cr3t"})
        imported, created = await asyncio.gather(
            one.imports(profile(kind, credentials=[granted("two")])),
            two.sandbox(f"box-{number}", "first", kind),
            return_exceptions=True,
        )
        assert imported.imported == isinstance(created, BaseException)


async def test_an_endpoint_that_nothing_inspects_is_told(gateway):
    response = await gateway.lint(profile("acme", endpoints=[blind()]))
    assert told(response) == [("acme", "endpoints[0].allow_uninspected_credentials", "error")]
