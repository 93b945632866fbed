"""What a proposal may say, and what is said to one that is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.policy_local.proposal import ProposalRejected, read_proposal
from openshell.policy.model import Binary, Endpoint, L7Rule, NetworkRule

ENDPOINT = {"host": "api.example.com", "port": 443}
CURL = {"path": "/usr/bin/curl"}


def add_rule(rule_name="docs", /, **rule):
    rule = {"endpoints": [ENDPOINT], "binaries": [CURL]} | rule
    return {"operations": [{"addRule": {"ruleName": rule_name, "rule": rule}}]}


def endpoint(**fields):
    return add_rule(endpoints=[ENDPOINT | fields])


def test_a_whole_proposal():
    wide = {
        "host": " api.example.com ",
        "ports": [443, 8443],
        "protocol": "REST",
        "enforcement": "enforce",
        "tls": "terminate",
        "rules": [{"allow": {"method": "GET", "path": "/docs/**"}}],
        "deny_rules": [{"method": "GET", "path": "/docs/private/**"}],
        "allowed_ips": ["10.0.0.0/8"],
        "allow_encoded_slash": True,
        "advisor_proposed": False,
        "unheard_of": [1],
    }
    body = add_rule(" docs ", endpoints=[wide], binaries=[CURL | {"harness": False}])
    read = read_proposal(json.dumps(body | {"intent_summary": "read docs"}).encode())
    assert read.intent == "read docs"
    (proposal,) = read.proposals
    assert proposal.rule_name == "docs"
    assert proposal.rule == NetworkRule(
        key="docs",
        name="docs",
        endpoints=(
            Endpoint(
                host="api.example.com",
                ports=(443, 8443),
                protocol="rest",
                enforcement="enforce",
                tls="terminate",
                rules=(L7Rule(method="GET", path="/docs/**"),),
                deny_rules=(L7Rule(method="GET", path="/docs/private/**"),),
                allowed_ips=("10.0.0.0/8",),
                allow_encoded_slash=True,
            ),
        ),
        binaries=(Binary("/usr/bin/curl"),),
    )


def test_the_name_may_stand_in_the_rule():
    read = read_proposal(json.dumps(add_rule("", name="inside")).encode())
    assert (read.proposals[0].rule_name, read.proposals[0].rule.name) == ("inside", "inside")


REFUSED = {
    "no JSON": (b"{", "invalid JSON"),
    "empty": (b"", "invalid JSON"),
    "no object": (b"[]", "the body must be an object"),
    "key twice": (b'{"operations":[],"operations":[]}', "an object has a key twice"),
    "no operations": ({}, "at least one operation"),
    "operations of another kind": ({"operations": {}}, "operations must be a list"),
    "intent of another kind": (add_rule() | {"intent_summary": 1}, "intent_summary must be"),
    "long intent": (add_rule() | {"intent_summary": "x" * 5000}, "longer than 4096"),
    "too many": ({"operations": [{}] * 17}, "more than 16 operations"),
    "another operation": (
        {"operations": [{"removeRule": {"ruleName": "a"}}]},
        "operations[0] must be an addRule",
    ),
    "two in one": (
        {"operations": [add_rule()["operations"][0] | {"removeRule": {}}]},
        "must be an addRule",
    ),
    "one of two is wrong": (
        {"operations": [*add_rule()["operations"], {}]},
        "operations[1] must be an addRule",
    ),
    "no name": (add_rule(" "), "needs a ruleName"),
    "no rule": ({"operations": [{"addRule": {"ruleName": "a"}}]}, "rule must be an object"),
    "no endpoint": (add_rule(endpoints=[]), "at least one endpoint"),
    "no host": (endpoint(host="  "), "needs a host"),
    "host of another kind": (endpoint(host=["a"]), "host must be a string"),
    "no port": (add_rule(endpoints=[{"host": "a"}]), "needs a port"),
    "port 0": (endpoint(port=0), "needs a port"),
    "port too high": (endpoint(port=65536), "needs a port"),
    "port as text": (endpoint(port="443"), "needs a port"),
    "port true": (endpoint(port=True), "needs a port"),
    "one bad port": (endpoint(ports=[443, 0]), "needs a port"),
    "query in a path": (
        endpoint(rules=[{"allow": {"method": "GET", "path": "/a?token=x"}}]),
        "must not hold a query",
    ),
    "rule without allow": (endpoint(rules=[{}]), "allow must be an object"),
    "a query matcher": (
        endpoint(rules=[{"allow": {"method": "GET", "path": "/a", "query": {}}}]),
        "query cannot be proposed",
    ),
    "a binding": (
        endpoint(credential_binding={"provider": "github"}),
        "credential_binding cannot be proposed",
    ),
    "consent": (
        endpoint(allow_uninspected_credentials=True),
        "allow_uninspected_credentials cannot be proposed",
    ),
    "rewriting": (endpoint(request_body_credential_rewrite=True), "cannot be proposed"),
    "a path scope": (endpoint(path="/v1"), "path cannot be proposed"),
    "flag as text": (endpoint(allow_encoded_slash="yes"), "must be true or false"),
    "binary without path": (add_rule(binaries=[{}]), "needs a path"),
    "half a character": (add_rule(name="a", endpoints=[ENDPOINT | {"host": "\ud800"}]), "Unicode"),
    "a placeholder": (
        add_rule() | {"intent_summary": "openshell:resolve:env:v1_TOKEN"},
        "credential placeholder",
    ),
    "a placeholder, encoded": (
        endpoint(rules=[{"allow": {"path": "/openshell%3Aresolve%3Aenv%3AA"}}]),
        "credential placeholder",
    ),
    "a placeholder as key": (
        add_rule() | {"openshell:resolve:env:A": 1},
        "credential placeholder",
    ),
    "very deep": (b"[" * 200 + b"]" * 200, "nested deeper"),
}


@pytest.mark.parametrize(("body", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_said_in_one_sentence(body, words):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ProposalRejected, match=r".*") as refused:
        read_proposal(data)
    assert words in str(refused.value)


def test_an_escaped_placeholder_is_one():
    body = json.dumps(add_rule() | {"intent_summary": "openshell:resolve:env:A"})
    with pytest.raises(ProposalRejected, match="placeholder"):
        read_proposal(body.replace("resolve", "\\u0072esolve").encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "operations",
                    "addRule",
                    "rule",
                    "ruleName",
                    "endpoints",
                    "host",
                    "port",
                    "rules",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_document_is_read_or_refused(document):
    try:
        read = read_proposal(json.dumps(document).encode())
    except ProposalRejected as refused:
        assert len(str(refused)) < 300
    else:
        assert all(not b.advisor_proposed for p in read.proposals for b in p.rule.binaries)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    with pytest.raises(ProposalRejected):
        read_proposal(data)
