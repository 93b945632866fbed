"""Who owns a key, where it is bound, what is withheld, and when the revision moves."""

import dataclasses

import pytest

from openshell.policy.model import Binary, CredentialBinding, Endpoint, NetworkRule, SandboxPolicy
from openshell.providers.bindings import (
    FaultKind,
    PolicyBinding,
    check_bindings,
    clear_marks,
    policy_bindings,
    stamp_credentialed,
    uninspected_endpoints,
)
from openshell.providers.env_keys import find_clash
from openshell.providers.environment import Destination, plan_environment
from openshell.providers.records import Handle, ProviderRecord

NOW = 1_000_000


def provider(name="work", keys=("API_KEY",), **overrides):
    fields = {
        "id": f"id-{name}",
        "name": name,
        "workspace": "default",
        "type": "generic",
        "handles": {key: Handle("db", f"v1:{key}") for key in keys},
        "resource_version": 1,
        **overrides,
    }
    return ProviderRecord(**fields)


def endpoint(host="api.example.com", port=443, provider=None, **overrides):
    binding = CredentialBinding(provider) if provider is not None else None
    fields = {"protocol": "rest", **overrides}
    return Endpoint(host=host, ports=(port,), credential_binding=binding, **fields)


def policy(*endpoints):
    rule = NetworkRule("rule", "rule", tuple(endpoints), (Binary("/usr/bin/curl"),))
    return SandboxPolicy(network_policies={"rule": rule})


def test_two_providers_may_not_own_one_key():
    clash = find_clash([provider("a"), provider("b")], NOW)
    assert clash is not None
    assert (clash.key, clash.first, clash.second) == ("API_KEY", "a", "b")


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(provider("b", keys=("OTHER",)), id="other key"),
        pytest.param(provider("b", expires_at_ms={"API_KEY": NOW}), id="expired"),
        pytest.param(provider("a"), id="the same provider twice"),
    ],
)
def test_no_clash(second):
    assert find_clash([provider("a"), second], NOW) is None


@pytest.mark.parametrize(
    ("bound", "kind"),
    [
        pytest.param(endpoint(provider=" "), FaultKind.MALFORMED, id="blank"),
        pytest.param(endpoint(provider=" work"), FaultKind.MALFORMED, id="padded"),
        pytest.param(endpoint(host="", provider="work"), FaultKind.MALFORMED, id="no host"),
        pytest.param(endpoint(port=0, provider="work"), FaultKind.MALFORMED, id="port 0"),
        pytest.param(endpoint(port=65536, provider="work"), FaultKind.MALFORMED, id="port 65536"),
        pytest.param(endpoint(host="a..b", provider="work"), FaultKind.MALFORMED, id="empty label"),
        pytest.param(endpoint(host="{a,b}.c", provider="work"), FaultKind.MALFORMED, id="braces"),
        pytest.param(endpoint(provider="absent"), FaultKind.UNATTACHED, id="not attached"),
    ],
)
def test_a_binding_is_checked(bound, kind):
    assert check_bindings(policy(endpoint(provider="work")), {"work"}) is None
    fault = check_bindings(policy(bound), {"work"})
    assert fault is not None
    assert fault.kind is kind


@pytest.mark.parametrize(
    ("other", "stamped"),
    [
        pytest.param(endpoint(), True, id="same host and port"),
        pytest.param(endpoint(host="API.example.com"), True, id="other case"),
        pytest.param(endpoint(port=8443), False, id="other port"),
        pytest.param(endpoint(host="www.example.com"), False, id="other host"),
        pytest.param(endpoint(host="*.example.com"), True, id="wildcard over it"),
        pytest.param(endpoint(host="*.example.org"), False, id="wildcard elsewhere"),
        pytest.param(endpoint(host="", allowed_ips=("10.0.0.0/8",)), True, id="no host, same port"),
        pytest.param(
            endpoint(provider_credentialed=True, port=1), False, id="a mark that was sent"
        ),
    ],
)
def test_endpoints_over_a_bound_one_are_stamped(other, stamped):
    done = stamp_credentialed(policy(endpoint(provider="work"), other), {"work"})
    bound, judged = done.network_policies["rule"].endpoints
    assert bound.provider_credentialed
    assert judged.provider_credentialed is stamped


def test_a_bound_wildcard_stamps_the_names_below_it():
    done = stamp_credentialed(
        policy(endpoint(host="*.example.com", provider="work"), endpoint()), {"work"}
    )
    assert all(e.provider_credentialed for e in done.network_policies["rule"].endpoints)


@pytest.mark.parametrize(
    ("overrides", "gaps"),
    [
        pytest.param({}, 0, id="rest"),
        pytest.param({"protocol": ""}, 1, id="opaque"),
        pytest.param({"protocol": "tcp"}, 1, id="tcp"),
        pytest.param({"tls": "Skip"}, 1, id="tls skip"),
        pytest.param({"protocol": "", "allow_uninspected_credentials": True}, 0, id="consent"),
    ],
)
def test_credentials_go_only_where_traffic_is_inspected(overrides, gaps):
    found = uninspected_endpoints(
        stamp_credentialed(policy(endpoint(provider="work", **overrides)), {"work"})
    )
    assert len(found) == gaps


def test_many_patterns_end_in_the_safe_answer_not_in_a_long_wait():
    many = [endpoint(host=f"*a*b*c*d{i}*.example.com", provider="work") for i in range(1500)]
    done = stamp_credentialed(policy(*many), {"work"})
    assert all(e.provider_credentialed for e in done.network_policies["rule"].endpoints)


def test_marks_of_a_client_are_cleared():
    marked = policy(endpoint(provider_credentialed=True, advisor_proposed=True))
    rule = dataclasses.replace(marked.network_policies["rule"], binaries=(Binary("/x", True),))
    cleared = clear_marks(dataclasses.replace(marked, network_policies={"rule": rule}))
    (only,) = cleared.network_policies["rule"].endpoints
    assert not only.provider_credentialed
    assert not only.advisor_proposed
    assert cleared.network_policies["rule"].binaries == (Binary("/x"),)


BOUND = PolicyBinding("work", "api.example.com", 443, "")


def test_a_bound_key_is_planned_with_its_endpoints_and_identity():
    plan = plan_environment([provider()], policy_bindings(policy(endpoint(provider="work"))), NOW)
    (credential,) = plan.credentials
    assert credential.key == "API_KEY"
    assert credential.endpoints == (Destination("api.example.com", 443, ""),)
    assert credential.identity == "id-work:API_KEY"
    assert plan.withheld == ()


def test_an_unbound_provider_is_withheld_alone():
    plan = plan_environment([provider(), provider("other", keys=("TOKEN",))], (BOUND,), NOW)
    assert [c.key for c in plan.credentials] == ["API_KEY"]
    assert [(w.provider, w.key) for w in plan.withheld] == [("other", "TOKEN")]


def test_expired_and_uninjectable_keys_are_withheld():
    record = provider(
        keys=("OLD", "NEW", "GOOGLE_SERVICE_ACCOUNT_KEY"),
        type="vertex",
        expires_at_ms={"OLD": NOW, "NEW": NOW + 1},
    )
    plan = plan_environment([record], (BOUND,), NOW)
    assert [c.key for c in plan.credentials] == ["NEW"]
    assert {w.key for w in plan.withheld} == {"OLD", "GOOGLE_SERVICE_ACCOUNT_KEY"}


BASE = ([provider()], (BOUND,), NOW)


@pytest.mark.parametrize(
    ("records", "bindings", "now"),
    [
        pytest.param([provider(resource_version=2)], (BOUND,), NOW, id="provider written"),
        pytest.param([provider(id="other")], (BOUND,), NOW, id="provider replaced"),
        pytest.param([], (BOUND,), NOW, id="detached"),
        pytest.param([provider(), provider("b", keys=("B",))], (BOUND,), NOW, id="attached"),
        pytest.param([provider(keys=("API_KEY", "B"))], (BOUND,), NOW, id="key added"),
        pytest.param([provider(expires_at_ms={"API_KEY": NOW + 9})], (BOUND,), NOW, id="expiry"),
        pytest.param([provider()], (), NOW, id="binding removed"),
        pytest.param(
            [provider()], (dataclasses.replace(BOUND, path="/v1/**"),), NOW, id="binding path"
        ),
    ],
)
def test_the_revision_moves(records, bindings, now):
    assert plan_environment(records, bindings, now).revision != plan_environment(*BASE).revision


def test_the_revision_moves_when_a_key_expires():
    record = [provider(expires_at_ms={"API_KEY": NOW + 10})]
    before = plan_environment(record, (BOUND,), NOW).revision
    assert plan_environment(record, (BOUND,), NOW + 5).revision == before
    assert plan_environment(record, (BOUND,), NOW + 10).revision != before


def test_the_revision_follows_the_order_of_attachment_but_not_of_bindings():
    a, b = provider("a", keys=("A",)), provider("b", keys=("B",))
    other = dataclasses.replace(BOUND, port=444)
    assert plan_environment([a, b], (), NOW).revision != plan_environment([b, a], (), NOW).revision
    assert (
        plan_environment([a], (BOUND, other), NOW).revision
        == plan_environment([a], (other, BOUND), NOW).revision
    )
