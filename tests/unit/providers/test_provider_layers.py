"""Rules that attached providers add: keys, contents, when there are none, and what they contradict."""

import pytest

from openshell.policy.ambiguity import find_conflicts
from openshell.policy.model import (
    Binary,
    CredentialBinding,
    NetworkRule,
    ProcessPolicy,
    SandboxPolicy,
)
from openshell.providers.fitness import effective_policy
from openshell.providers.layers import compose, layer_conflicts, layers_of, preferred_key
from unit.providers.provider_cases import (
    attached,
    builtin,
    changed,
    endpoint,
    policy,
    profile,
    situation,
)


def layer_rules(found):
    return tuple(layer.rule for layer in layers_of(found))


SPEC = profile(endpoints=[endpoint()], binaries=(Binary("/usr/bin/x"),))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param("my-github", "_provider_my_github", id="dash"),
        pytest.param("Work GitHub!", "_provider_work_github", id="spaces and case"),
        pytest.param("__a__", "_provider_a", id="outer underscores"),
        pytest.param("a__b", "_provider_a__b", id="inner underscores"),
        pytest.param("!!!", "_provider_unnamed", id="nothing left"),
        pytest.param("é", "_provider_unnamed", id="not ASCII"),
    ],
)
def test_keys(name, key):
    assert preferred_key(name) == key
    (rule,) = layer_rules(situation(attached(name, SPEC)))
    assert (rule.key, rule.name) == (key, key)


def test_taken_keys_get_a_number_and_names_stay():
    base = SandboxPolicy(network_policies={"_provider_a": NetworkRule("_provider_a")})
    rules = layer_rules(
        situation(attached("a", SPEC), attached("A", SPEC), attached("a!", SPEC), base=base)
    )
    assert [rule.key for rule in rules] == ["_provider_a_2", "_provider_a_3", "_provider_a_4"]
    assert {rule.name for rule in rules} == {"_provider_a"}


def test_a_number_that_is_a_name_itself_is_not_taken_twice():
    rules = layer_rules(situation(attached("a_2", SPEC), attached("a", SPEC), attached("A", SPEC)))
    assert [rule.key for rule in rules] == ["_provider_a_2", "_provider_a", "_provider_a_3"]


def test_a_layer_is_the_profile_without_what_only_others_may_say():
    spec = profile(
        endpoints=[
            endpoint(
                credential_binding=CredentialBinding("other"),
                provider_credentialed=True,
                advisor_proposed=True,
            )
        ],
        binaries=(Binary("/x"), Binary("/y", advisor_proposed=True)),
    )
    (rule,) = layer_rules(situation(attached("work", spec)))
    assert rule.endpoints == (endpoint(),)
    # The contract lets a profile mark a binary as less trusted.
    assert rule.binaries == spec.binaries


def test_without_a_profile_there_is_no_layer_and_without_endpoints_an_empty_one():
    rules = layer_rules(situation(attached("none"), attached("empty", profile())))
    assert [(rule.key, rule.endpoints) for rule in rules] == [("_provider_empty", ())]


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        pytest.param({}, 1, id="composed"),
        pytest.param({"v2": False}, 0, id="v2 off"),
        pytest.param({"global_policy": policy(endpoint())}, 0, id="global policy"),
        pytest.param({"policy": None}, 0, id="no policy"),
    ],
)
def test_layers_are_composed(overrides, count):
    assert len(layer_rules(situation(attached("work", SPEC), **overrides))) == count


def test_the_effective_policy_is_the_own_one_with_layers_after_it():
    base = policy(endpoint("own.example.com"), process=ProcessPolicy("sandbox"))
    now = situation(attached("work", SPEC), base=base)
    composed = effective_policy(now)
    assert list(composed.network_policies) == ["rule", "_provider_work"]
    assert composed.network_policies["rule"] == base.network_policies["rule"]
    assert composed.process == base.process
    assert now.policy is base
    assert list(base.network_policies) == ["rule"]


def test_a_global_policy_stands_in_place_of_all_that():
    everywhere = policy(endpoint("other.example.com"), key="everywhere")
    assert effective_policy(situation(attached("work", SPEC), global_policy=everywhere)) == (
        everywhere
    )
    assert effective_policy(situation(policy=None)) is None


def test_a_rule_is_never_replaced():
    base = policy(endpoint(), key="_provider_work")
    with pytest.raises(ValueError, match="_provider_work"):
        compose(base, [NetworkRule("_provider_work")])


S3 = builtin("aws-s3")


def test_endpoints_of_one_layer_are_not_compared_with_each_other():
    composed = effective_policy(situation(S3))
    assert find_conflicts(composed) == ()
    rule = composed.network_policies["_provider_aws_s3"]
    # The probe works: as an author's rule the same endpoints contradict each other.
    authored = SandboxPolicy(network_policies={"s3": changed(rule, key="s3")})
    assert find_conflicts(authored) != ()


def test_a_layer_is_compared_with_rules_and_other_layers():
    skip = endpoint(tls="skip", protocol="", access="")
    with_rule = effective_policy(situation(attached("work", SPEC), base=policy(skip)))
    assert [conflict.rules for conflict in layer_conflicts(with_rule)] == [
        ("_provider_work", "rule")
    ]
    other = attached("other", profile("other", [skip], credentials=()))
    with_layer = effective_policy(situation(attached("work", SPEC), other))
    assert [conflict.rules for conflict in layer_conflicts(with_layer)] == [
        ("_provider_other", "_provider_work")
    ]


def test_wildcards_of_two_layers_are_compared():
    spec = profile("wide", [endpoint("*.example.com", tls="skip", protocol="", access="")])
    found = layer_conflicts(effective_policy(situation(attached("a", SPEC), attached("b", spec))))
    assert [conflict.rules for conflict in found] == [("_provider_a", "_provider_b")]


def test_what_an_author_contradicts_alone_is_no_fault_of_layers():
    base = policy(endpoint(), endpoint(tls="skip", protocol="", access=""))
    composed = effective_policy(
        situation(attached("far", profile("far", [endpoint("far.com")])), base=base)
    )
    assert find_conflicts(composed) != ()
    assert layer_conflicts(composed) == ()
