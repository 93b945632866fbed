"""What the gateway sent becomes one generation, or nothing of it does."""

import pytest

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.egress.credentials import CredentialSet
from openshell.egress.generation import Generation
from openshell.policy.compile import quarantine
from openshell.policy.decide import ConnectionAllowed, ConnectionRequest
from openshell.supervisor.candidate import Candidate, build_generation

FIRST = Generation(4, quarantine("nothing yet", 4), CredentialSet())
CURL = ConnectionRequest(host="example.com", port=443, binary="/usr/bin/curl")


def config(*, protocol="", mode="", version=2):
    made = sandbox_pb2.GetSandboxConfigResponse(
        version=version, policy_validation_failure_mode=mode
    )
    made.policy.version = 1
    rule = made.policy.network_policies["r"]
    rule.name = "r"
    rule.endpoints.add(host="example.com", port=443, protocol=protocol)
    rule.binaries.add(path="/usr/bin/curl")
    return made


def environment(**values):
    made = openshell_pb2.GetSandboxProviderEnvironmentResponse(provider_env_revision=9)
    for key, value in values.items():
        made.environment[key] = value
        binding = made.static_credential_bindings[key]
        binding.credential_identity = f"p/{key}"
        binding.endpoints.add(host="example.com", port=443)
    return made


def test_a_good_candidate_is_the_next_generation():
    outcome = build_generation(Candidate(config(), environment(KEY="secret")), FIRST, None)
    assert outcome.policy_error == outcome.credential_error == ""
    assert outcome.generation.number == 5
    assert isinstance(outcome.generation.policy.connect(CURL), ConnectionAllowed)
    inside = outcome.generation.credentials.child_environment()
    assert inside["KEY"].startswith("openshell:resolve:env:")
    assert "secret" not in repr(outcome)


def test_no_policy_is_the_restrictive_default():
    empty = sandbox_pb2.GetSandboxConfigResponse(version=1)
    outcome = build_generation(Candidate(empty, environment()), FIRST, None)
    assert outcome.policy_error == ""
    assert not isinstance(outcome.generation.policy.connect(CURL), ConnectionAllowed)


@pytest.mark.parametrize("protocol", ["sql", "nonsense"])
def test_an_unusable_policy_quarantines(protocol):
    good = build_generation(Candidate(config(), environment()), FIRST, None)
    bad = build_generation(
        Candidate(config(protocol=protocol, version=3), environment()), good.generation, good.policy
    )
    assert protocol in bad.policy_error
    assert bad.policy is None
    assert bad.generation.policy.is_quarantined
    assert "version 3" in bad.generation.policy.connect(CURL).reason


def test_the_last_valid_policy_stays_where_it_is_asked_for():
    good = build_generation(Candidate(config(), environment()), FIRST, None)
    bad = config(protocol="sql", mode="retain_last_valid")
    kept = build_generation(Candidate(bad, environment()), good.generation, good.policy)
    assert kept.policy_error
    assert isinstance(kept.generation.policy.connect(CURL), ConnectionAllowed)
    never = build_generation(Candidate(bad, environment()), FIRST, None)
    assert never.generation.policy.is_quarantined


def test_without_an_environment_credentials_are_withheld():
    good = build_generation(Candidate(config(), environment(KEY="secret")), FIRST, None)
    lost = build_generation(Candidate(config(), None), good.generation, good.policy)
    assert lost.credential_error
    assert lost.policy_error == ""


def test_contradictions_withhold_all_credentials_and_show_no_value():
    broken = environment(KEY="the-secret")
    broken.static_credential_bindings["KEY"].endpoints.add(host="{bad}", port=443)
    outcome = build_generation(Candidate(config(), broken), FIRST, None)
    assert outcome.credential_error
    assert "the-secret" not in outcome.credential_error
    assert "KEY" not in outcome.generation.credentials.child_environment()
