"""Cutting policies into parts changes nothing about what is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.gateway.services.profile_diff import PolicyComparer, _changed_parts, _compare, _Part
from openshell.policy.model import Binary, Endpoint, L7Rule, NetworkRule, SandboxPolicy

HOSTS = ("a.test", "A.test", "b.test", "*.test", "x.a.test", "**.test", "10.0.0.1", "")

endpoints = st.builds(
    Endpoint,
    host=st.sampled_from(HOSTS),
    ports=st.sampled_from([(443,), (80,), (80, 443), ()]),
    protocol=st.sampled_from(["", "rest"]),
    access=st.sampled_from(["", "read-only", "full"]),
    enforcement=st.sampled_from(["", "enforce"]),
    allowed_ips=st.sampled_from([(), ("10.0.0.0/8",)]),
    provider_credentialed=st.booleans(),
)
rules = st.builds(
    lambda found, binaries: NetworkRule("", "", tuple(found), tuple(binaries)),
    st.lists(endpoints, max_size=2),
    st.lists(
        st.sampled_from([Binary("/usr/bin/curl"), Binary("/usr/bin/*")]), min_size=1, max_size=2
    ),
)
policies = st.dictionaries(st.sampled_from("abcdef"), rules, max_size=5).map(
    lambda found: SandboxPolicy(network_policies=found)
)


@given(policies, policies)
def test_parts_tell_what_the_whole_tells(before, after):
    whole = _compare(
        _Part(dict(before.network_policies), dict(after.network_policies), frozenset())
    )
    parts = PolicyComparer().compare(before, after)
    assert parts.gained == tuple(sorted(whole.gained))
    assert parts.lost == tuple(sorted(whole.lost))


def policy(**hosts):
    return SandboxPolicy(
        network_policies={
            key: NetworkRule(
                key,
                key,
                (Endpoint(host=host, ports=(443,), protocol="rest", access="read-only"),),
                (Binary("/usr/bin/curl"),),
            )
            for key, host in hosts.items()
        }
    )


@pytest.mark.parametrize(
    ("hosts", "touched"),
    [
        pytest.param({"base": "a.test"}, {"new"}, id="apart"),
        pytest.param({"base": "new.test"}, {"base", "new"}, id="same-host"),
        pytest.param({"base": "*.test", "more": "a.test"}, {"base", "more", "new"}, id="pattern"),
        pytest.param({"base": "NEW.test"}, {"base", "new"}, id="spelling"),
    ],
)
def test_only_rules_with_a_place_in_common_are_compared(hosts, touched):
    before, after = policy(**hosts), policy(**hosts, new="new.test")
    parts = list(_changed_parts(before.network_policies, after.network_policies))
    assert {key for part in parts for key in part.after} == touched


def test_equal_parts_of_two_sandboxes_are_compared_once(monkeypatch):
    calls = []

    def counting(part):
        calls.append(part)
        return _compare(part)

    monkeypatch.setattr("openshell.gateway.services.profile_diff._compare", counting)
    comparer = PolicyComparer()
    for own in ("one.test", "two.test"):
        before = policy(base=own, layer="old.test")
        after = policy(base=own, layer="new.test")
        difference = comparer.compare(before, after)
        assert [text.split(":")[0] for text in difference.gained] == ["/usr/bin/curl to new.test"]
        assert [text.split(":")[0] for text in difference.lost] == ["/usr/bin/curl to old.test"]
    assert len(calls) == 1


def test_a_denial_counts_as_a_loss():
    before = policy(base="a.test")
    (rule,) = before.network_policies.values()
    denying = Endpoint(
        host="a.test",
        ports=(443,),
        protocol="rest",
        access="read-only",
        deny_rules=(L7Rule(method="GET", path="/admin"),),
    )
    after = SandboxPolicy(
        network_policies={"base": NetworkRule("base", "base", (denying,), rule.binaries)}
    )
    comparer = PolicyComparer()
    assert comparer.compare(before, after).lost == (
        "/usr/bin/curl to a.test:443: denied now: GET /admin",
    )
    assert comparer.compare(after, before).gained == (
        "/usr/bin/curl to a.test:443: no longer denied: GET /admin",
    )
