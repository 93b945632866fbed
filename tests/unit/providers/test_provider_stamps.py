"""Which endpoints of a policy credentials could take, and that only the gateway says so."""

import pytest

from openshell.policy.model import Binary
from openshell.providers.bindings import clear_marks
from openshell.providers.credentialed import find_gaps, scopes_of, stamp_policy
from openshell.providers.fitness import effective_policy
from unit.providers.provider_cases import (
    attached,
    changed,
    endpoint,
    policy,
    profile,
    situation,
)

SPEC = profile(endpoints=[endpoint()])


def stamps(now):
    rules = effective_policy(now).network_policies
    return [e.provider_credentialed for e in rules["rule"].endpoints]


OTHERS = [
    pytest.param(endpoint(), True, id="same host and port"),
    pytest.param(endpoint(host="API.example.com"), True, id="other case"),
    pytest.param(endpoint(path="/elsewhere"), True, id="paths do not count"),
    pytest.param(endpoint(port=8443), False, id="other port"),
    pytest.param(endpoint(ports=()), True, id="any port"),
    pytest.param(endpoint(host="www.example.com"), False, id="other host"),
    pytest.param(endpoint(host="*.example.com"), True, id="wildcard over it"),
    pytest.param(endpoint(host="*.example.org"), False, id="wildcard elsewhere"),
    pytest.param(endpoint(host="", allowed_ips=("10.0.0.0/8",)), True, id="no host, same port"),
    pytest.param(endpoint(host="", port=1, allowed_ips=("10.0.0.0/8",)), False, id="no host"),
    pytest.param(endpoint(provider_credentialed=True, port=1), False, id="a mark that was sent"),
]


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize(("other", "stamped"), OTHERS)
def test_endpoints_over_those_of_a_profile_are_stamped(other, stamped, v2):
    assert stamps(situation(attached("work", SPEC), base=policy(other), v2=v2)) == [stamped]
    assert stamps(situation(base=policy(other), v2=v2)) == [False]


@pytest.mark.parametrize("spec", [None, profile()], ids=["no profile", "no endpoints"])
@pytest.mark.parametrize(("other", "stamped"), OTHERS)
def test_endpoints_over_a_bound_one_are_stamped(other, stamped, spec):
    base = policy(endpoint(provider="work"), other)
    assert stamps(situation(attached("work", spec), base=base)) == [True, stamped]
    # A binding to nobody is no place for credentials.
    assert stamps(situation(attached("other", spec), base=base)) == [False, False]


@pytest.mark.parametrize(
    ("scope", "host", "stamped"),
    [
        pytest.param("*.example.com", "api.example.com", True, id="a name below"),
        pytest.param("*.example.com", "a.b.example.com", False, id="too far below"),
        pytest.param("**.example.com", "a.b.example.com", True, id="any depth"),
        pytest.param("**.example.com", "example.com", False, id="the name itself"),
        pytest.param("api?.example.com", "api1.example.com", True, id="question mark"),
        pytest.param("api?.example.com", "api*.example.com", True, id="two patterns"),
        pytest.param("api[12].example.com", "api3.example.com", False, id="class"),
        pytest.param("a*.example.com", "*b.example.com", True, id="patterns that meet"),
        pytest.param("a*.example.com", "b*.example.com", False, id="patterns apart"),
        pytest.param("2001:db8::1", "[2001:DB8:0::1]", True, id="one address, two spellings"),
        pytest.param("bad{host", "api.example.com", True, id="unreadable counts as everything"),
    ],
)
def test_patterns(scope, host, stamped):
    item = attached("work", profile(endpoints=[endpoint(scope)]))
    assert stamps(situation(item, base=policy(endpoint(host)), v2=False)) == [stamped]


def test_profiles_without_credentials_make_no_scope():
    item = attached("work", profile(endpoints=[endpoint()], credentials=()), keys=())
    assert stamps(situation(item, base=policy(endpoint()))) == [False]
    signing = profile(endpoints=[endpoint(credential_signing="sigv4")], credentials=())
    assert stamps(situation(attached("work", signing), base=policy(endpoint()))) == [True]


def test_a_global_policy_is_stamped_by_profiles_and_not_by_own_bindings():
    everywhere = policy(endpoint(), endpoint("bound.example.com"))
    now = situation(
        attached("work", SPEC),
        attached("own", keys=("K",)),
        base=policy(endpoint("bound.example.com", provider="own")),
        global_policy=everywhere,
    )
    assert stamps(now) == [True, False]


def test_many_patterns_end_in_the_safe_answer_not_in_a_long_wait():
    def hosts(start, count):
        return [f"*a*b*c{i:04}?.example.com" for i in range(start, start + count)]

    def stamped(count):
        bound = [endpoint(host, provider="work") for host in hosts(0, count)]
        others = [endpoint(host) for host in hosts(5000, count)]
        return stamps(situation(attached("work"), base=policy(*bound, *others)))[count:]

    assert stamped(3) == [False] * 3
    assert stamped(200)[-1]


def test_stamping_twice_changes_nothing():
    now = situation(attached("work", SPEC), base=policy(endpoint(), endpoint("o.com")))
    once = effective_policy(now)
    assert stamp_policy(once, scopes_of(now)) == once


def test_gaps_name_every_provider_whose_credentials_could_go_there():
    raw = policy(endpoint("*.example.com", protocol="", access=""))
    now = situation(
        attached("a", SPEC),
        attached("b", profile("b", [endpoint("b.example.com")]), keys=("B",)),
        attached("c", profile("c", [endpoint("c.com")]), keys=("C",)),
        base=raw,
    )
    (gap,) = find_gaps(raw, scopes_of(now), frozenset())
    assert gap.providers == ("a", "b")
    assert list(find_gaps(raw, scopes_of(now), frozenset(["rule"]))) == []


def test_marks_of_a_client_are_cleared():
    marked = policy(endpoint(provider_credentialed=True, advisor_proposed=True))
    rule = changed(marked.network_policies["rule"], binaries=(Binary("/x", True),))
    cleared = clear_marks(changed(marked, network_policies={"rule": rule}))
    (only,) = cleared.network_policies["rule"].endpoints
    assert not only.provider_credentialed
    assert not only.advisor_proposed
    assert cleared.network_policies["rule"].binaries == (Binary("/x"),)
