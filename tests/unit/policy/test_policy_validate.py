"""Findings of validation: one row for each check, and nothing reported beside it."""

import time
from dataclasses import replace

import pytest
import yaml

from openshell.policy import check_authored, parse_policy, validate_policy
from openshell.policy.model import Endpoint, FilesystemPolicy, NetworkRule, SandboxPolicy
from unit.policy.policy_cases import load


def parsed(document):
    return parse_policy(yaml.safe_dump({"version": 1, **document}), source="case")


def codes(findings, severity):
    return sorted(f.code for f in findings if f.severity == severity)


@pytest.mark.parametrize("case", load("findings"))
def test_findings(case):
    document = case.get("policy") or {
        "network_policies": {"r": {"endpoints": [case["endpoint"]], "binaries": [{"path": "/a"}]}}
    }
    findings = validate_policy(parsed(document))
    assert codes(findings, "error") == sorted(case.get("error", []))
    assert codes(findings, "warning") == sorted(case.get("warning", []))
    assert all(f.location and f.message for f in findings)


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
