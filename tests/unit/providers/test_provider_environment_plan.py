"""What a supervisor is handed: keys, places, handles, settings, grants, and when the number moves."""

import itertools

import pytest

from openshell.policy.model import CredentialBinding
from openshell.providers.bindings import clear_marks, policy_bindings
from openshell.providers.environment import Destination, plan_environment
from openshell.providers.plugin_env import plugin_environment
from openshell.providers.profile.model import ProfileCredential, Strategy
from openshell.providers.situation import Attached
from openshell.providers.workload_handle import workload_handle
from unit.providers.provider_cases import (
    NOW,
    attached,
    builtin,
    changed,
    endpoint,
    grant,
    policy,
    profile,
    record,
    refresh,
    situation,
)

HERE = Destination("api.example.com", 443, "")
BOUND = policy(endpoint(provider="work"))
WITH = profile(endpoints=[endpoint()])
WITHOUT = profile()


def plan(*items, base=None, **overrides):
    return plan_environment(situation(*items, base=base, **overrides))


@pytest.mark.parametrize(
    ("spec", "base", "endpoints", "reason"),
    [
        pytest.param(WITH, None, (HERE,), "", id="profile endpoints"),
        pytest.param(WITH, BOUND, None, "both its profile and the policy", id="two authorities"),
        pytest.param(WITHOUT, BOUND, (HERE,), "", id="no endpoints, policy binds"),
        pytest.param(WITHOUT, None, None, "no endpoint of the policy", id="no endpoints, nothing"),
        pytest.param(None, BOUND, (HERE,), "", id="no profile, policy binds"),
        pytest.param(None, None, None, "no endpoint of the policy", id="no profile, nothing binds"),
        pytest.param(
            profile(endpoints=[endpoint("a b")]),
            None,
            None,
            "no endpoint of its profile",
            id="unusable",
        ),
    ],
)
def test_where_static_credentials_may_go(spec, base, endpoints, reason):
    other = attached("other", profile("other", [endpoint("o.com")]), keys=("OTHER",))
    found = plan(attached("work", spec), other, base=base)
    mine = [credential for credential in found.credentials if credential.provider.name == "work"]
    assert [credential.endpoints for credential in mine] == ([endpoints] if endpoints else [])
    assert all(reason in withheld.reason for withheld in found.withheld)
    assert len(found.withheld) == (not endpoints)
    # Nobody else suffers.
    assert any(credential.key == "OTHER" for credential in found.credentials)


def test_layers_do_not_matter_for_bindings():
    assert len(plan(attached("work", WITH), v2=False).credentials) == 1
    assert len(plan(attached("work", WITHOUT), base=BOUND, v2=False).credentials) == 1


def test_under_a_global_policy_only_profiles_bind():
    found = plan(
        attached("work", WITHOUT),
        attached("own", profile("own", [endpoint("o.com")]), keys=("OWN",)),
        base=BOUND,
        global_policy=policy(endpoint()),
    )
    assert [credential.key for credential in found.credentials] == ["OWN"]
    assert [withheld.key for withheld in found.withheld] == ["API_KEY"]


def test_every_host_port_and_path_is_a_destination_once():
    spec = profile(
        endpoints=[
            endpoint("API.Example.com", ports=(443, 8443)),
            endpoint("api.example.com", path="/v1/**"),
            endpoint("api.example.com"),
            endpoint("[2001:DB8::1]", ports=(443, 0, 70000)),
        ]
    )
    (credential,) = plan(attached("work", spec)).credentials
    assert credential.endpoints == (
        HERE,
        Destination("api.example.com", 8443, ""),
        Destination("api.example.com", 443, "/v1/**"),
        Destination("2001:db8::1", 443, ""),
    )


def test_expired_and_uninjectable_keys_are_withheld():
    item = builtin("google-vertex-ai", keys=("OLD", "NEW", "GOOGLE_SERVICE_ACCOUNT_KEY", "v1_X"))
    item = changed(item, record=changed(item.record, expires_at_ms={"OLD": NOW, "NEW": NOW + 1}))
    found = plan(item)
    assert [credential.key for credential in found.credentials] == ["NEW"]
    assert found.credentials[0].expires_at_ms == NOW + 1
    assert {withheld.key: withheld.reason for withheld in found.withheld} == {
        "OLD": "expired",
        "GOOGLE_SERVICE_ACCOUNT_KEY": "not injectable",
        "v1_X": "not injectable",
    }


@pytest.mark.parametrize(
    ("provider_type", "config", "expected"),
    [
        pytest.param(
            "gcp",
            {"project_id": " p ", "region": "r", "service_account_email": "e", "other": "x"},
            {
                "GCP_PROJECT_ID": "p",
                "GOOGLE_CLOUD_PROJECT": "p",
                "CLOUD_ML_REGION": "r",
                "GCP_LOCATION": "r",
                "GCP_SERVICE_ACCOUNT_EMAIL": "e",
                "GCE_METADATA_HOST": "gcp.metadata.openshell.internal",
            },
            id="google-cloud",
        ),
        pytest.param(
            "vertex",
            {"VERTEX_AI_PROJECT_ID": "p", "VERTEX_AI_REGION": "r"},
            {
                "GCP_PROJECT_ID": "p",
                "GOOGLE_CLOUD_PROJECT": "p",
                "ANTHROPIC_VERTEX_PROJECT_ID": "p",
                "CLOUD_ML_REGION": "r",
                "GCP_LOCATION": "r",
                "VERTEX_LOCATION": "r",
                "GOOSE_PROVIDER": "gcp_vertex_ai",
            },
            id="vertex",
        ),
        pytest.param(
            "google-cloud",
            {"project_id": " ", "region": "a\0b"},
            {"GCE_METADATA_HOST": "gcp.metadata.openshell.internal"},
            id="blank and unusable settings",
        ),
        pytest.param("github", {"project_id": "p"}, {}, id="other types have none"),
    ],
)
def test_settings_that_become_variables(provider_type, config, expected):
    item = Attached(record(type=provider_type, config=config), None)
    assert plugin_environment(item.record) == expected
    found = plan(item)
    assert found.config == expected
    assert found.non_secret_keys == tuple(sorted(expected))


def test_the_first_provider_that_derives_a_setting_wins_and_a_credential_wins_over_it():
    one = Attached(record("one", ("X",), type="gcp", config={"project_id": "1"}), None)
    two = Attached(record("two", ("Y",), type="gcp", config={"project_id": "2"}), None)
    assert plan(one, two).config["GCP_PROJECT_ID"] == "1"
    own = Attached(record("own", ("GCP_PROJECT_ID",), type="gcp", config={"project_id": "3"}), None)
    found = plan(own)
    assert "GCP_PROJECT_ID" not in found.config
    assert found.config["GOOGLE_CLOUD_PROJECT"] == "3"


def test_grants_are_handed_out_by_key_and_are_no_variables():
    spec = profile(
        endpoints=[endpoint()], credentials=[grant("token", {"path": "/a", "audience": "a"})]
    )
    found = plan(attached("work", spec, keys=()), v2=False)
    assert list(found.dynamic_credentials) == [
        "api.example.com\t443\t\twork:token",
        "api.example.com\t443\t/a\twork:token",
    ]
    assert found.credentials == ()
    assert found.config == {}


REFRESHED = attached("work", WITH, refresh=[refresh()])


def credential_of(item, **overrides):
    return plan(item, **overrides).credentials[0]


def test_a_refreshed_key_is_known_by_a_handle_that_outlives_rotations():
    first = credential_of(REFRESHED)
    assert len(first.handle) == 64
    assert first.identity == f"refresh:{first.handle}"
    for version in range(2, 14):
        rotated = changed(
            REFRESHED,
            record=changed(REFRESHED.record, resource_version=version),
            refresh=(refresh(resource_version=version),),
        )
        assert credential_of(rotated).handle == first.handle


@pytest.mark.parametrize(
    ("item", "overrides"),
    [
        pytest.param(changed(REFRESHED, refresh=(refresh(epoch="e2"),)), {}, id="reconfigured"),
        pytest.param(
            attached("work", profile(endpoints=[endpoint(path="/v1")]), refresh=[refresh()]),
            {},
            id="endpoint edited",
        ),
        pytest.param(
            changed(REFRESHED, record=changed(REFRESHED.record, id="new")),
            {},
            id="provider replaced",
        ),
        pytest.param(REFRESHED, {"sandbox_id": "sandbox-2"}, id="another sandbox"),
    ],
)
def test_the_handle_changes_with(item, overrides):
    handle = credential_of(item, **overrides).handle
    assert handle
    assert handle != credential_of(REFRESHED).handle


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(refresh(strategy=Strategy.EXTERNAL), id="not minted by the gateway"),
        pytest.param(refresh("OTHER"), id="another key"),
    ],
)
def test_no_handle(state):
    credential = credential_of(attached("work", WITH, refresh=[state]))
    assert credential.handle == ""
    assert credential.identity == "id-work:API_KEY"


def test_outputs_of_a_refresh_have_handles_of_their_own():
    state = refresh(outputs={"session_token": "SESSION"})
    item = attached("work", WITH, keys=("API_KEY", "SESSION"), refresh=[state])
    handles = [credential.handle for credential in plan(item).credentials]
    assert all(handles)
    assert len(set(handles)) == 2


def test_spelling_and_order_of_endpoints_do_not_change_a_handle():
    places = [
        Destination("api.example.com", 443, ""),
        Destination("b.example.com", 443, "/x"),
        Destination("c.example.com", 1, "/**"),
    ]
    spelled = [
        Destination(" API.example.com. ", 443, "/**"),
        Destination("b.example.com", 443, "/x"),
        Destination("c.example.com", 1, "**"),
    ]
    handles = {
        workload_handle("s", "p", "K", "e", order)
        for group in (places, spelled, spelled + places)
        for order in itertools.permutations(group)
    }
    assert len(handles) == 1
    assert workload_handle("s", "p", "K", "e", places[:2]) not in handles


SHADOWED = attached("work", WITH, scope="platform")
BASE = situation(
    changed(REFRESHED, refresh=(refresh(outputs={"o": "O"}), refresh("B", id="state-b"))),
    attached("open", WITHOUT, keys=("OPEN",), expires_at_ms={"OPEN": NOW + 10}),
    base=policy(endpoint(provider="open")),
)


def first(**overrides):
    return changed(BASE, attached=(changed(BASE.attached[0], **overrides), BASE.attached[1]))


def of_record(**overrides):
    return first(record=changed(BASE.attached[0].record, **overrides))


def of_refresh(**overrides):
    states = BASE.attached[0].refresh
    return first(refresh=(changed(states[0], **overrides), states[1]))


def of_open(**overrides):
    item = BASE.attached[1]
    return changed(
        BASE, attached=(BASE.attached[0], changed(item, record=changed(item.record, **overrides)))
    )


MOVES = {
    "provider written": of_record(resource_version=2),
    "provider written twice": of_record(resource_version=3),
    "provider replaced": of_record(id="other"),
    "provider renamed": of_record(name="other"),
    "type": of_record(type="elsewhere"),
    "key added": of_record(handles={**BASE.attached[0].record.handles, "NEW": None}),
    "expiry": of_open(expires_at_ms={"OPEN": NOW + 11}),
    "a key expires": changed(BASE, now_ms=NOW + 10),
    "refresh rotated": of_refresh(resource_version=2),
    "refresh reconfigured": of_refresh(epoch="epoch-2"),
    "refresh strategy": of_refresh(strategy=Strategy.OAUTH2_REFRESH_TOKEN),
    "refresh replaced": of_refresh(id="other"),
    "refresh output": of_refresh(outputs={"o": "P"}),
    "refresh deleted": first(refresh=BASE.attached[0].refresh[:1]),
    "profile edited": first(entry=attached(spec=profile(endpoints=[endpoint(path="/")])).entry),
    "override edited": first(
        entry=attached(
            spec=profile(endpoints=[endpoint()], credentials=[grant("token", {"audience": "a"})])
        ).entry
    ),
    "profile from the platform": first(entry=SHADOWED.entry),
    "profile gone": first(entry=None),
    "detached": changed(BASE, attached=BASE.attached[:1]),
    "attached": changed(BASE, attached=(*BASE.attached, attached("more", keys=("M",)))),
    "attached in another order": changed(BASE, attached=BASE.attached[::-1]),
    "binding removed": changed(BASE, policy=policy(endpoint())),
    "binding path": changed(BASE, policy=policy(endpoint(provider="open", path="/v1/**"))),
    "binding port": changed(BASE, policy=policy(endpoint(provider="open", port=8443))),
    "global policy set": changed(BASE, global_policy=policy()),
}


def test_the_revision_moves_on_everything_and_never_comes_back():
    revisions = {name: plan_environment(moved).revision for name, moved in MOVES.items()}
    assert plan_environment(BASE).revision not in revisions.values()
    # Both leave the second provider without a place.
    assert revisions.pop("global policy set") == revisions["binding removed"]
    assert len(set(revisions.values())) == len(revisions)
    assert 0 not in revisions.values()


def test_an_edit_beneath_a_shadow_moves_the_revision_of_who_looks_beneath_it():
    before = situation(SHADOWED)
    edited = attached("work", profile(endpoints=[endpoint(port=1)]), scope="platform")
    assert plan_environment(before).revision != plan_environment(situation(edited)).revision


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(changed(BASE, now_ms=NOW + 9), id="time before the expiry"),
        pytest.param(first(refresh=BASE.attached[0].refresh[::-1]), id="order of refresh states"),
        pytest.param(
            of_record(handles=dict(reversed(BASE.attached[0].record.handles.items()))),
            id="order of keys",
        ),
        pytest.param(changed(BASE, v2=False), id="layers"),
        pytest.param(changed(BASE, policy=clear_marks(BASE.policy)), id="equal policy"),
    ],
)
def test_the_revision_stays(same):
    assert plan_environment(same).revision == plan_environment(BASE).revision


def test_bindings_of_a_policy_are_sorted_and_once():
    double = policy(
        endpoint("B.com", provider="p", ports=(2, 1)),
        endpoint("a.com", provider="p"),
        endpoint("a.com", credential_binding=CredentialBinding("p")),
    )
    found = policy_bindings(double)
    assert [(b.host, b.port) for b in found] == [("a.com", 443), ("b.com", 1), ("b.com", 2)]


def test_values_of_settings_are_in_no_repr():
    item = Attached(record(type="gcp", config={"project_id": "my-project"}), None)
    assert "my-project" not in repr(plan(item))


def test_a_profile_credential_without_value_yields_nothing():
    spec = profile(
        endpoints=[endpoint()], credentials=[ProfileCredential(name="k", env_vars=("K",))]
    )
    found = plan(attached("work", spec, keys=()))
    assert (found.credentials, found.withheld) == ((), ())
