"""What a request comes to, as a function of documents and facts."""

import pytest

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell._proto import openshell_pb2
from openshell.codec.profile import profile_to_proto
from openshell.gateway.services.profile_facts import (
    Document,
    Facts,
    TargetDocument,
    document_of,
    ids_of,
)
from openshell.gateway.services.profile_plan import (
    ERROR,
    MAX_DIAGNOSTICS,
    WARNING,
    Diagnostic,
    bounded,
    plan_apply,
    plan_import,
    plan_update,
)
from openshell.gateway.store.model import Row
from openshell.providers.catalogue import build_catalogue, make_entry
from support.profile_values import profile


def row(name, version=3):
    return Row(
        id=f"id-{name}",
        kind="provider_profile",
        workspace="default",
        name=name,
        scope=None,
        version=None,
        status=None,
        dedup_key=None,
        hit_count=0,
        payload=b"",
        labels={},
        resource_version=version,
        created_at_ms=1,
        updated_at_ms=1,
    )


def facts(*stored, platform=()):
    """`github` is built in."""
    builtin = make_entry(profile("github"), "builtin", "", "r")
    return Facts(
        "default",
        build_catalogue([], [], [builtin]),
        {name: row(name) for name in stored},
        frozenset(platform),
    )


def document(profile_id="acme", **fields):
    message = profile_to_proto(profile(profile_id, **fields))
    return Document(f"{profile_id}.yaml", message)


def target(name, doc, expected=0):
    return TargetDocument(doc, name, expected)


def told(plan):
    return [(d.source, d.profile_id, d.field, d.severity) for d in plan.diagnostics]


def test_a_plan_without_errors_writes_documents_without_what_the_server_sets():
    plan = plan_import([document(resource_version=7, source="x", scope="y")], facts())
    (write,) = plan.writes
    assert (write.profile.resource_version, write.profile.source, write.profile.scope) == (
        0,
        "",
        "",
    )
    assert (write.row, write.expected, write.source) == (None, 0, "acme.yaml")


def test_warnings_stop_nothing_and_errors_stop_everything():
    warned = plan_import([document()], facts(platform=["acme"]))
    assert told(warned) == [("acme.yaml", "acme", "id", WARNING)]
    assert warned.writes
    refused = plan_import([document("fine"), document("github")], facts())
    assert not refused.writes


def test_a_blank_id_has_no_profile_id_in_its_diagnostic():
    plan = plan_import([document("  ")], facts())
    assert told(plan) == [("  .yaml", "", "id", ERROR)]


def test_items_come_first_then_the_catalogue_then_each_profile():
    bound = document("acme", display_name="\x07")
    bound.message.endpoints[0].credential_binding.provider = "p"
    plan = plan_import([Document("none", None), bound], facts("acme"))
    assert told(plan) == [
        ("none", "", "profile", ERROR),
        ("acme.yaml", "acme", "endpoints[0].credential_binding", ERROR),
        ("acme.yaml", "acme", "id", ERROR),
        ("acme.yaml", "acme", "display_name", ERROR),
    ]


def test_nothing_at_all_is_told_only_when_nothing_else_is():
    assert told(plan_import([], facts())) == [("", "", "profiles", ERROR)]
    assert told(plan_apply([], facts())) == [("", "", "profiles", ERROR)]
    assert [d.field for d in plan_import([Document("e", None)], facts()).diagnostics] == ["profile"]


@pytest.mark.parametrize(
    ("expected", "own", "wanted"),
    [(0, 5, 5), (4, 5, 4), (4, 0, 4)],
    ids=["documents", "requests-first", "requests"],
)
def test_the_expected_version_of_an_update(expected, own, wanted):
    plan = plan_update(target("acme", document(resource_version=own), expected), facts("acme"))
    (write,) = plan.writes
    assert (write.row.id, write.expected) == ("id-acme", wanted)


def test_an_update_without_a_document_is_told():
    plan = plan_update(target("acme", Document("", None), 1), facts("acme"))
    assert [d.field for d in plan.diagnostics] == ["profile"]
    assert not plan.writes


def test_a_managed_target_is_not_looked_for():
    plan = plan_update(target("github", document("github"), 1), facts())
    assert told(plan) == [("github", "github", "id", ERROR)]
    assert "managed by source 'builtin'" in plan.diagnostics[0].message


def test_an_applied_document_with_a_version_updates_and_one_without_creates():
    plan = plan_apply(
        [target("old", document("old"), 3), target("new", document("new"))], facts("old")
    )
    assert [(w.profile.id, w.row and w.row.id, w.expected) for w in plan.writes] == [
        ("old", "id-old", 3),
        ("new", None, 0),
    ]


def test_a_batch_cannot_write_one_profile_twice():
    plan = plan_apply([target("acme", document(), 3), target("acme", document(), 3)], facts("acme"))
    assert [d.field for d in plan.diagnostics] == ["id", "id"]
    assert not plan.writes


def test_a_batch_cannot_reach_a_profile_by_another_ones_name():
    plan = plan_apply([target("a", document("b"), 3)], facts("a", "b"))
    assert not plan.writes
    created = plan_apply([target("a", document("b"))], facts())
    assert "does not match payload id 'b'" in created.diagnostics[0].message
    assert not created.writes


def test_ids_are_looked_up_in_their_normal_form():
    spelt = [document(" Alex-API "), document("a_b"), Document("", None)]
    assert ids_of(spelt) == ["alex-api", "a_b", ""]


@pytest.mark.parametrize("severity", [ERROR, WARNING])
def test_too_many_diagnostics_are_counted_by_their_severity(severity):
    rest = Diagnostic(field="x", severity=severity)
    many = [Diagnostic(field="x", severity=WARNING)] * MAX_DIAGNOSTICS
    assert bounded(many) == many
    cut = bounded([*many, rest, rest])
    assert len(cut) == MAX_DIAGNOSTICS + 1
    assert cut[-1].severity == severity
    assert "2 more" in cut[-1].message


@pytest.mark.parametrize(
    "kind",
    [openshell_pb2.ProviderProfileImportItem, ext.ApplyProfilesItem],
    ids=["import", "apply"],
)
def test_what_a_client_sent_is_quoted_in_part(kind):
    """A megabyte of a name or an id, said again by each of many diagnostics, would be an answer of hundreds."""
    sent = kind(source="s" * 900_000)
    sent.profile.CopyFrom(profile_to_proto(profile("acme")))
    sent.profile.id = "I" * 200_000
    for _ in range(150):
        sent.profile.endpoints.add(host="*", port=1)
    plans = [
        plan_import([document_of(sent)], facts()),
        plan_apply([TargetDocument(document_of(sent), "acme", 3)], facts("acme")),
    ]
    for plan in plans:
        assert len(plan.diagnostics) > 100
        assert {diagnostic.source[:5] for diagnostic in plan.diagnostics} >= {"sssss"}
        assert sum(diagnostic.ByteSize() for diagnostic in plan.diagnostics) < 1_000_000
