"""Which profile an id and a provider's type mean, and that fingerprints miss nothing."""

import dataclasses

import pytest

from openshell.policy.model import GraphqlOperation, L7Rule, Matcher
from openshell.providers.catalogue import build_catalogue, make_entry
from openshell.providers.profile.model import (
    Category,
    ClientCertificate,
    Discovery,
    Refresh,
    Strategy,
)
from unit.providers.provider_cases import changed, endpoint, grant, profile


def entry(profile_id, scope="platform", source="user", revision="1"):
    return make_entry(profile(profile_id), source, scope, revision)


FIXED = entry("github", scope="", source="builtin")
VERTEX = entry("google-vertex-ai", scope="", source="builtin")
PLATFORM = entry("alpha")
ONLY_PLATFORM = entry("beta")
SHADOW = entry("alpha", scope="workspace")
ONLY_WORKSPACE = entry("gamma", scope="workspace")

CATALOGUE = build_catalogue([ONLY_PLATFORM, PLATFORM], [ONLY_WORKSPACE, SHADOW], [VERTEX, FIXED])


@pytest.mark.parametrize(
    ("profile_id", "found"),
    [
        pytest.param("github", FIXED, id="built-in"),
        pytest.param("alpha", SHADOW, id="workspace before platform"),
        pytest.param("beta", ONLY_PLATFORM, id="platform"),
        pytest.param("gamma", ONLY_WORKSPACE, id="workspace"),
        pytest.param("gh", None, id="an alias is no id"),
        pytest.param("delta", None, id="unknown"),
    ],
)
def test_an_id_means(profile_id, found):
    assert CATALOGUE.effective(profile_id) is found


def test_entries_are_sorted_and_the_shadowed_follows_its_shadow():
    assert CATALOGUE.entries() == (
        SHADOW,
        PLATFORM,
        ONLY_PLATFORM,
        ONLY_WORKSPACE,
        FIXED,
        VERTEX,
    )


@pytest.mark.parametrize(
    ("provider_type", "profile_workspace", "found"),
    [
        pytest.param("github", "", FIXED, id="built-in, platform"),
        pytest.param(" GH ", "default", FIXED, id="built-in by alias, whatever the workspace"),
        pytest.param("vertex", "", VERTEX, id="alias"),
        pytest.param("alpha", "", PLATFORM, id="platform beneath a shadow"),
        pytest.param("alpha", "default", SHADOW, id="workspace"),
        pytest.param("beta", "default", ONLY_PLATFORM, id="falls back to platform"),
        pytest.param("gamma", "", None, id="platform has none"),
        pytest.param("Gamma", "default", ONLY_WORKSPACE, id="case"),
        pytest.param("generic", "default", None, id="no profile"),
    ],
)
def test_a_provider_gets(provider_type, profile_workspace, found):
    assert CATALOGUE.for_provider(provider_type, profile_workspace) is found


def test_a_custom_profile_under_the_id_of_an_alias_is_out_of_reach_of_providers():
    catalogue = build_catalogue([entry("gh")], [], [FIXED])
    assert catalogue.effective("gh") is not None
    assert catalogue.for_provider("gh", "") is FIXED


def test_a_stored_profile_that_claims_a_built_in_id_is_left_out_and_named():
    catalogue = build_catalogue(
        [entry("github"), PLATFORM], [entry("github", "workspace")], [FIXED]
    )
    assert catalogue.effective("github") is FIXED
    assert catalogue.effective("alpha") is PLATFORM
    assert len(catalogue.conflicts) == 2
    assert all("'github'" in text and "'builtin'" in text for text in catalogue.conflicts)


BASE = profile(
    endpoints=[endpoint()],
    credentials=[grant("token", {"audience": "a", "path": "/x"})],
    annotations={"a": "1", "b": "2"},
)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(make_entry(BASE, "builtin", "platform", "1"), id="source"),
        pytest.param(make_entry(BASE, "user", "workspace", "1"), id="scope"),
        pytest.param(make_entry(BASE, "user", "platform", "2"), id="revision"),
    ],
)
def test_origin_is_a_part_of_the_fingerprint(other):
    assert other.fingerprint != make_entry(BASE, "user", "platform", "1").fingerprint


CHANGES = {
    "id": "x",
    "display_name": "x",
    "description": "x",
    "category": Category.DATA,
    "credentials": (grant("token", {"audience": "b", "path": "/x"}),),
    "endpoints": (endpoint(graphql_persisted_queries={"q": GraphqlOperation("query")}),),
    "binaries": ("x",),
    "inference_capable": True,
    "discovery": Discovery(()),
    "client_certificate": ClientCertificate("c", "k"),
    "annotations": {"a": "1", "b": "3"},
    "resource_version": 7,
    "source": "x",
    "scope": "x",
}


def test_every_field_of_a_profile_has_a_change():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(BASE)}


def fingerprint(value):
    return make_entry(value, "user", "platform", "1").fingerprint


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_is_a_part_of_the_fingerprint(name):
    assert fingerprint(changed(BASE, **{name: CHANGES[name]})) != fingerprint(BASE)


def test_where_texts_are_cut_counts_and_the_order_of_keys_does_not():
    one = changed(BASE, annotations={"a": "1", "b": "2"})
    turned = changed(BASE, annotations={"b": "2", "a": "1"})
    cut = changed(BASE, display_name="ab", description="c")
    other_cut = changed(BASE, display_name="a", description="bc")
    assert fingerprint(one) == fingerprint(turned)
    assert fingerprint(cut) != fingerprint(other_cut)


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"any_of": ("a",)}, id="matcher kind"),
        pytest.param({"glob": "b"}, id="glob"),
    ],
)
def test_matchers_deep_inside_count(part):
    def with_matcher(matcher):
        return changed(BASE, endpoints=(endpoint(rules=(L7Rule(query={"q": matcher}),)),))

    assert fingerprint(with_matcher(Matcher("a"))) != fingerprint(with_matcher(Matcher(**part)))


def test_a_refresh_counts():
    credential = BASE.credentials[0]
    static = changed(credential, refresh=Refresh(Strategy.STATIC))
    external = changed(credential, refresh=Refresh(Strategy.EXTERNAL))
    assert fingerprint(changed(BASE, credentials=(static,))) != fingerprint(
        changed(BASE, credentials=(external,))
    )


def test_what_is_derived_from_an_entry_is_computed_once_and_takes_no_part_in_equality():
    calls = []

    def compute(of):
        calls.append(of)
        return len(of.profile.endpoints)

    made = make_entry(BASE, "user", "platform", "1")
    assert (made.derive(compute), made.derive(compute)) == (1, 1)
    assert calls == [made]
    assert made == make_entry(BASE, "user", "platform", "1")
