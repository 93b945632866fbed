"""Findings of validation: one row for each check, and nothing reported beside it."""

import time
from dataclasses import replace

import pytest
import yaml

from openshell._proto.sandbox_pb2 import SandboxPolicy as SandboxPolicyMessage
from openshell.codec.policy import policy_from_proto, policy_to_proto
from openshell.policy import check_authored, errors_of, parse_policy, validate_policy
from openshell.policy.features import ENFORCED, EVERY_FEATURE, Feature
from openshell.policy.model import (
    Endpoint,
    FilesystemPolicy,
    L7Rule,
    Matcher,
    MiddlewareConfig,
    NetworkRule,
    SandboxPolicy,
)
from unit.policy.policy_cases import load


def parsed(document):
    return parse_policy(yaml.safe_dump({"version": 1, **document}), source="case")


def codes(findings, severity):
    return sorted(f.code for f in findings if f.severity == severity)


def one_endpoint(endpoint):
    rule = {"endpoints": [endpoint], "binaries": [{"path": "/a"}]}
    return parsed({"network_policies": {"r": rule}})


def as_on_the_wire(policy, case):
    """What no YAML could carry, put into the model."""
    (endpoint,) = policy.network_policies["r"].endpoints
    if "ports" in case:
        endpoint = replace(endpoint, ports=tuple(case["ports"]))
    if "query" in case:
        query = {
            k: Matcher(v.get("glob", ""), tuple(v.get("any", ()))) for k, v in case["query"].items()
        }
        endpoint = replace(endpoint, rules=(L7Rule("GET", "/", query=query),))
    rule = replace(policy.network_policies["r"], endpoints=(endpoint,))
    return replace(policy, network_policies={"r": rule})


@pytest.mark.parametrize("case", load("findings"))
def test_findings(case):
    policy = one_endpoint(case["endpoint"]) if "endpoint" in case else parsed(case["policy"])
    if "wire" in case:
        policy = as_on_the_wire(policy, case["wire"])
    findings = validate_policy(policy, features=EVERY_FEATURE)
    assert codes(findings, "error") == sorted(case.get("error", []))
    assert codes(findings, "warning") == sorted(case.get("warning", []))
    assert all(f.location and f.message for f in findings)
    assert case.get("says", "") in (findings[0].message if findings else "")
    if "at" in case:
        place = "network_policies.r.endpoints[0]." if "endpoint" in case else ""
        assert findings[0].location == place + case["at"]
    # The supervisor reads messages, not YAML, and must find the same.
    sent = policy_from_proto(
        SandboxPolicyMessage.FromString(policy_to_proto(policy).SerializeToString())
    )
    assert validate_policy(sent, features=EVERY_FEATURE) == findings


@pytest.mark.parametrize("case", load("features"))
def test_features_that_are_not_enforced_are_refused_by_name(case):
    if "middlewares" in case:
        policy = parsed({"network_middlewares": case["middlewares"]})
    else:
        policy = one_endpoint(case["endpoint"])
    assert errors_of(validate_policy(policy, features=EVERY_FEATURE)) == ()
    findings = errors_of(validate_policy(policy))
    assert [f.code for f in findings] == ["not_supported_yet"] * len(case["needs"])
    for finding, feature in zip(findings, case["needs"], strict=True):
        word = "websocket" if feature == "graphql" and len(findings) == 2 else feature
        assert word in finding.message.lower()
    assert case.get("says", "") in "".join(f.message for f in findings)
    assert validate_policy(policy, features=[*ENFORCED, *map(Feature, case["needs"])]) == (
        validate_policy(policy, features=EVERY_FEATURE)
    )


def test_every_feature_has_a_case():
    needed = {feature for case in load("features") for feature in case.values[0]["needs"]}
    assert needed | set(ENFORCED) == EVERY_FEATURE


@pytest.mark.parametrize("case", load("ambiguity"))
def test_ambiguity(case):
    rules = {}
    for key, text in (("one", case["one"]), ("two", case["two"])):
        endpoint = {"port": 443, **text}
        rules[key] = {"endpoints": [endpoint], "binaries": [{"path": "/a"}]}
    policy = parsed({"network_policies": rules})
    if case.get("mark"):
        two = policy.network_policies["two"]
        marked = replace(two, endpoints=(replace(two.endpoints[0], advisor_proposed=True),))
        policy = replace(policy, network_policies={**policy.network_policies, "two": marked})
    found = [f for f in validate_policy(policy) if f.code == "ambiguous_endpoints"]
    assert len(found) == ("conflict" in case)
    if found:
        assert f"disagree on {case['conflict']} (" in found[0].message
        assert "'one'" in found[0].message and "'two'" in found[0].message


def test_too_many_and_too_long_paths():
    many = SandboxPolicy(filesystem=FilesystemPolicy(read_only=("/a",) * 257))
    assert codes(validate_policy(many), "error") == ["too_many_paths"]
    just = SandboxPolicy(filesystem=FilesystemPolicy(read_only=("/a",) * 256))
    assert validate_policy(just) == ()
    long = SandboxPolicy(filesystem=FilesystemPolicy(read_only=("x" * 4097 + "/..",)))
    (finding,) = validate_policy(long)
    assert finding.code == "path_too_long"
    assert len(finding.message) < 200


def test_too_many_middlewares_and_selectors():
    def attached(count, patterns):
        return SandboxPolicy(
            network_middlewares={
                f"m{i}": MiddlewareConfig(f"m{i}", "x", order=i, include=("a.x.com",) * patterns)
                for i in range(count)
            }
        )

    assert validate_policy(attached(10, 32), features=EVERY_FEATURE) == ()
    many = validate_policy(attached(11, 1), features=EVERY_FEATURE)
    assert codes(many, "error") == ["too_many_middlewares"]
    wide = validate_policy(attached(1, 33), features=EVERY_FEATURE)
    assert codes(wide, "error") == ["too_many_selectors"]


def test_reserved_keys_are_for_composition_only():
    policy = SandboxPolicy(network_policies={"_provider_x": NetworkRule("_provider_x")})
    assert [f.code for f in check_authored(policy)] == ["reserved_key"]
    assert codes(validate_policy(policy), "error") == []


def test_comparing_endpoints_is_bounded():
    rules = {
        f"r{i}": NetworkRule(
            f"r{i}",
            endpoints=(
                Endpoint(host=f"*a*b*{i}*.x.com", ports=(443,), tls="skip" if i % 2 else "x"),
            ),
        )
        for i in range(1500)
    }
    start = time.process_time()
    findings = validate_policy(SandboxPolicy(network_policies=rules))
    assert codes(findings, "error")
    assert time.process_time() - start < 15
