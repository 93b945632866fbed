"""What two policies allow, compared; grants of one policy."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.policy import (
    ConnectionAllowed,
    ConnectionRequest,
    L7Request,
    RequestAllowed,
    compile_policy,
)
from openshell.policy import model as m
from openshell.policy.diff import ChangeKind, Effect, diff_policies
from openshell.policy.diff_text import render_diff, summary_of, terms_line
from openshell.policy.globs import GlobError, compile_glob
from openshell.policy.grants import Grants, Reach, samples_of
from unit.policy import merge_notation as notation
from unit.policy.policy_cases import load
from unit.policy.policy_samples import HOSTS, PATHS, PROGRAMS, full_policies, rest_policies

SIGNS = {"gained": "+", "lost": "-", "changed": "~"}


def line(change):
    fields = ", ".join(f"{field.field} {field.effect}" for field in change.fields)
    reach = change.reach
    return f"{SIGNS[change.kind]} {reach.binary} {reach.place} {fields}".strip()


@pytest.mark.parametrize("row", load("diff"))
def test_what_a_change_means(row):
    before, after = notation.policy(row["before"]), notation.policy(row["after"])
    found = diff_policies(before, after)
    assert [line(change) for change in found.network] == row["network"]
    assert found.is_empty is not bool(row["network"])
    back = diff_policies(after, before)
    swapped = {ChangeKind.GAINED: ChangeKind.LOST, ChangeKind.LOST: ChangeKind.GAINED}
    assert [change.kind for change in back.network] == [
        swapped.get(change.kind, change.kind) for change in found.network
    ]


def test_static_sections():
    before = m.SandboxPolicy(
        filesystem=m.FilesystemPolicy(True, ("/usr", "/etc"), ("/tmp",)),
        landlock=m.LandlockPolicy("best_effort"),
    )
    after = m.SandboxPolicy(
        filesystem=m.FilesystemPolicy(False, ("/usr",), ("/tmp", "/data")),
        landlock=m.LandlockPolicy("hard_requirement"),
        process=m.ProcessPolicy("1000"),
    )
    found = diff_policies(before, after).sections
    assert [(c.field, c.effect.value, c.lost, c.gained) for c in found] == [
        ("filesystem_policy.read_only", "narrower", ("/etc",), ()),
        ("filesystem_policy.read_write", "wider", (), ("/data",)),
        ("filesystem_policy.include_workdir", "narrower", ("true",), ("false",)),
        ("landlock.compatibility", "other", ("best_effort",), ("hard_requirement",)),
        ("process.run_as_user", "other", (), ("1000",)),
    ]
    # A missing section behaves as one that gives the workspace alone.
    bare = m.SandboxPolicy(filesystem=m.FilesystemPolicy(True), landlock=m.LandlockPolicy())
    assert diff_policies(m.SandboxPolicy(), bare).is_empty


def test_text_and_json_of_a_difference():
    before = notation.policy(
        {"r": "a:443 protocol=rest rules=GET:/x,PUT:/p enforcement=enforce | curl wget"}
    )
    after = notation.policy(
        {
            "r": "a:443 protocol=rest rules=GET:/y,PUT:/p deny=GET:/y/z | curl",
            "s": "b:1 tls=skip | git",
        }
    )
    found = diff_policies(before, after)
    assert render_diff(found).splitlines() == [
        "/usr/bin/curl",
        "  ~ a:443",
        "      enforcement (wider)",
        "        - enforce",
        "        + audit",
        "      allow (other)",
        "        - GET /x",
        "        + GET /y",
        "        = PUT /p",
        "      deny (narrower)",
        "        + GET /y/z",
        "/usr/bin/git",
        "  + b:1",
        "      not inspected: any traffic; TLS not opened",
        "/usr/bin/wget",
        "  - a:443",
        "      rest; enforce; allow GET /x, PUT /p",
    ]
    assert summary_of(found) == "1 gained, 1 lost, 1 changed"
    document = json.loads(json.dumps(found.to_json()))
    assert [change["change"] for change in document["network"]] == ["changed", "gained", "lost"]
    assert document["network"][1]["before"] is None
    nothing = diff_policies(before, before)
    assert render_diff(nothing) == "No change in what is allowed.\n"
    assert summary_of(nothing) == "no change"


def test_terms_name_everything_a_person_should_see():
    endpoint = m.Endpoint(
        "api.x.com",
        (443,),
        path="/v1/**",
        protocol="rest",
        enforcement="enforce",
        rules=(
            m.L7Rule("GET", "/v1/a", query={"tag": m.Matcher("", ("x", "y-*"))}),
            m.L7Rule("", "/never"),
        ),
        deny_rules=(m.L7Rule("POST", "**"),),
        allowed_ips=("10.0.0.0/8",),
        allow_uninspected_credentials=True,
        credential_binding=m.CredentialBinding("p"),
    )
    policy = m.SandboxPolicy(
        network_policies={"r": m.NetworkRule("r", "r", (endpoint,), (m.Binary("/a"),))}
    )
    (allowance,) = Grants(policy).table()
    assert allowance.reach == Reach("/a", "api.x.com", 443)
    assert terms_line(allowance.terms) == (
        "rest; enforce (within /v1/**); allow GET /v1/a ?tag=x|y-* (within /v1/**); "
        "deny POST ** (within /v1/**); addresses 10.0.0.0/8; credentials p; "
        "allow_uninspected_credentials (within /v1/**)"
    )


PATTERN = st.lists(
    st.sampled_from(["a", "*", "**", "?", "[ab]", "{a,bc}", "x-*", "/", "/", "b"]), max_size=7
).map("".join)


@settings(max_examples=300, deadline=None)
@given(PATTERN)
def test_samples_are_members_of_their_pattern(pattern):
    pattern = f"/{pattern}"
    try:
        matcher = compile_glob(pattern, "/")
    except GlobError:
        return
    samples = samples_of(pattern, "/")
    assert samples is not None
    assert all(matcher(sample) for sample in samples), samples


@settings(max_examples=150, deadline=None)
@given(full_policies(), full_policies())
def test_any_two_policies_can_be_compared(before, after):
    assert diff_policies(before, before).is_empty
    found = diff_policies(before, after)
    json.dumps(found.to_json())
    assert render_diff(found)


@settings(max_examples=200, deadline=None)
@given(rest_policies(), rest_policies())
def test_no_change_means_no_decision_changes(before, after):
    """Of every connection and simple request; and a gain or loss is really one."""
    found = diff_policies(before, after)
    old, new = compile_policy(before, generation=1), compile_policy(after, generation=1)
    changed = {change.reach for change in found.network}

    for host in HOSTS:
        for port in (80, 443, 8443):
            for program in PROGRAMS:
                request = ConnectionRequest(host, port, program)
                one, two = old.connect(request), new.connect(request)
                if isinstance(one, ConnectionAllowed) is not isinstance(two, ConnectionAllowed):
                    assert any(reach.port == port for reach in changed)
                elif found.is_empty and isinstance(one, ConnectionAllowed):
                    for path in PATHS:
                        l7 = L7Request("POST", path)
                        first, second = old.authorize(one, l7), new.authorize(two, l7)
                        assert isinstance(first, RequestAllowed) is isinstance(
                            second, RequestAllowed
                        )
    for change in found.network:
        if "*" in change.reach.binary + change.reach.host or not change.reach.host:
            continue
        request = ConnectionRequest(change.reach.host, change.reach.port, change.reach.binary)
        allowed = [isinstance(p.connect(request), ConnectionAllowed) for p in (old, new)]
        assert allowed == [
            change.kind is not ChangeKind.GAINED,
            change.kind is not ChangeKind.LOST,
        ]


def test_effects_are_of_the_governed_program():
    wide = notation.policy({"r": "a:443 | curl"})
    inspected = replace(
        wide.network_policies["r"].endpoints[0], protocol="rest", enforcement="enforce"
    )
    narrow = m.SandboxPolicy(
        network_policies={
            "r": replace(wide.network_policies["r"], endpoints=(inspected,)),
        }
    )
    (change,) = diff_policies(wide, narrow).network
    assert [field.effect for field in change.fields] == [Effect.NARROWER]
