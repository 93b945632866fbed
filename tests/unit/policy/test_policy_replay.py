"""Recorded decisions under a candidate policy."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.policy import ConnectionRequest, L7Request, compile_policy
from openshell.policy import model as m
from openshell.policy.replay import (
    ANCESTOR_DOUBT,
    BODY_DOUBT,
    CUT_DOUBT,
    QUERY_DOUBT,
    UPGRADE_DOUBT,
    DecisionKind,
    RecordedDecision,
    replay,
)
from openshell.policy.trial import Outcome, try_request
from unit.policy import merge_notation as notation
from unit.policy.policy_samples import HOSTS, PATHS, PROGRAMS, rest_policies

ALLOWED, AUDITED, DENIED = Outcome.ALLOWED, Outcome.AUDITED, Outcome.DENIED
CURL = "/usr/bin/curl"


def request(line="GET /v1/a", outcome=ALLOWED, host="a.x.com", **more):
    method, path = line.split(" ")
    return RecordedDecision(
        time_ms=more.pop("time_ms", 1),
        kind=DecisionKind.REQUEST,
        outcome=outcome,
        host=host,
        port=443,
        binary=more.pop("binary", CURL),
        ancestors=more.pop("ancestors", ()),
        scheme="https",
        method=method,
        path=path,
        **more,
    )


def connection(outcome=ALLOWED, host="a.x.com", **more):
    return replace(
        request(outcome=outcome, host=host, **more),
        kind=DecisionKind.CONNECTION,
        scheme="",
        method="",
        path="",
    )


def candidate(text):
    return notation.policy({"r": text})


REST = "a.x.com:443 protocol=rest rules=GET:/v1/** enforcement=enforce | curl"

CASES = {
    "same": (request(), REST, None, ()),
    "same-denied": (request("PUT /v1/a", DENIED), REST, None, ()),
    "request-refused": (request("PUT /v1/a"), REST, DENIED, ()),
    "request-allowed": (request(outcome=DENIED), REST, ALLOWED, ()),
    "only-recorded": (request("PUT /v1/a"), REST.replace("enforcement=enforce ", ""), AUDITED, ()),
    "enforced-now": (request("PUT /v1/a", AUDITED), REST, DENIED, ()),
    "host-refused": (request(host="b.x.com"), REST, DENIED, ()),
    "program-refused": (request(binary="/bin/sh"), REST, DENIED, ()),
    "program-unsure": (request(binary="/bin/sh", ancestors=None), REST, DENIED, (ANCESTOR_DOUBT,)),
    "by-ancestor": (request(binary="/bin/sh", ancestors=(CURL,)), REST, None, ()),
    "no-identity": (request(binary=None), REST, None, ()),
    "connection": (connection(), REST, None, ()),
    "connection-refused": (connection(host="b.x.com"), REST, DENIED, ()),
    "connection-allowed": (connection(DENIED), REST, ALLOWED, ()),
    "uninspected-now": (request("PUT /x", DENIED), "a.x.com:443 | curl", ALLOWED, ()),
    "tls-closed-now": (request("PUT /x", DENIED), REST.replace(" | ", " tls=skip | "), ALLOWED, ()),
    "cut": (request("PUT /v1/a", is_path_cut=True), REST, DENIED, (CUT_DOUBT,)),
}


@pytest.mark.parametrize(("decision", "text", "after", "doubts"), CASES.values(), ids=CASES)
def test_one_decision(decision, text, after, doubts):
    report = replay([decision], candidate(text))
    assert report.total == 1
    assert not report.undecided
    if after is None:
        assert (report.unchanged, report.changes) == (1, ())
        return
    (change,) = report.changes
    assert (change.before, change.after, change.count) == (decision.outcome, after, 1)
    assert change.doubts == doubts
    assert change.example is decision
    assert bool(change.reason) is (after is not ALLOWED)


def with_query(**rules):
    endpoint = m.Endpoint("a.x.com", (443,), protocol="rest", enforcement="enforce", **rules)
    return m.SandboxPolicy(
        network_policies={"r": m.NetworkRule("r", "r", (endpoint,), (m.Binary(CURL),))}
    )


TAGGED = m.L7Rule("GET", "/v1/**", query={"tag": m.Matcher("x")})
PLAIN = m.L7Rule("GET", "/v1/**")
QUERIES = {
    "allow-needs-it": (with_query(rules=(TAGGED,)), None),
    "allow-anyway": (with_query(rules=(TAGGED, PLAIN)), ALLOWED),
    "deny-needs-it": (with_query(rules=(PLAIN,), deny_rules=(TAGGED,)), None),
    "deny-anyway": (with_query(rules=(PLAIN,), deny_rules=(TAGGED, PLAIN)), DENIED),
    "other-path": (with_query(rules=(replace(TAGGED, path="/v2"), PLAIN)), ALLOWED),
}


@pytest.mark.parametrize(("policy", "after"), QUERIES.values(), ids=QUERIES)
def test_what_hangs_on_the_query_is_left_open(policy, after):
    report = replay([request()], policy)
    if after is None:
        (change,) = report.undecided
        assert (change.after, change.doubts, report.changes) == (None, (QUERY_DOUBT,), ())
    else:
        assert not report.undecided
        assert [change.after for change in report.changes] == [after] * (after is not ALLOWED)


def speaking(protocol, **more):
    endpoint = m.Endpoint("a.x.com", (443,), protocol=protocol, enforcement="enforce", **more)
    return m.SandboxPolicy(
        network_policies={"r": m.NetworkRule("r", "r", (endpoint,), (m.Binary(CURL),))}
    )


MCP = speaking("mcp", rules=(m.L7Rule("ping"),))
SOCKET = speaking("websocket", access="read-only")
BEYOND_HEADS = {
    "graphql": (request("POST /g"), speaking("graphql", access="full"), None, BODY_DOUBT),
    "graphql-denied": (
        request("POST /g", DENIED),
        speaking("graphql", access="full"),
        None,
        BODY_DOUBT,
    ),
    "json-rpc": (
        request("POST /g"),
        speaking("json-rpc", rules=(m.L7Rule("*"),)),
        None,
        BODY_DOUBT,
    ),
    "mcp": (request("POST /m"), MCP, None, BODY_DOUBT),
    "mcp-delete": (request("DELETE /m"), MCP, DENIED, ""),
    "mcp-program": (request("POST /m", binary="/bin/sh"), MCP, DENIED, ""),
    "mcp-connection": (connection(DENIED), MCP, ALLOWED, ""),
    "websocket": (request("GET /w"), SOCKET, None, UPGRADE_DOUBT),
    "websocket-no-handshake": (request("GET /w", is_upgrade=False), SOCKET, DENIED, ""),
    "websocket-handshake": (request("GET /w", DENIED, is_upgrade=True), SOCKET, ALLOWED, ""),
    "websocket-message": (request("WEBSOCKET_TEXT /w"), SOCKET, DENIED, ""),
}


@pytest.mark.parametrize(
    ("decision", "policy", "after", "doubt"), BEYOND_HEADS.values(), ids=BEYOND_HEADS
)
def test_what_hangs_on_a_body_is_left_open(decision, policy, after, doubt):
    report = replay([decision], policy)
    (change,) = report.undecided if after is None else report.changes
    assert (change.before, change.after) == (decision.outcome, after)
    assert change.doubts == ((doubt,) if doubt else ())
    assert not (change.reason if after is None else "")


def test_addresses_keep_their_border_to_the_port():
    address = "2001:db8::1"
    tunnel, get = connection(host=address), request("GET /a", host=address)
    assert tunnel.request_line == "CONNECT [2001:db8::1]:443"
    assert get.request_line == "GET https://[2001:db8::1]:443/a"


def test_changes_are_grouped_with_counts_and_one_example_refusals_first():
    decisions = [
        *(request(f"PUT /v1/{n}", DENIED, time_ms=n) for n in range(3)),
        request("PUT /v1/a", time_ms=10),
        request("POST /v1/b", time_ms=11),
        request("PUT /v1/a", host="b.x.com", time_ms=12),
        request(time_ms=13),
    ]
    report = replay(decisions, candidate("a.x.com:443 protocol=rest access=read-only | curl"))
    seen = [
        (c.host, c.before.value, c.after.value, c.count, c.example.time_ms) for c in report.changes
    ]
    assert seen == [
        ("b.x.com", "allowed", "denied", 1, 12),
        ("a.x.com", "denied", "audited", 3, 0),
        ("a.x.com", "allowed", "audited", 2, 10),
    ]
    assert (report.total, report.unchanged) == (7, 1)
    document = json.loads(json.dumps(report.to_json()))
    assert document["changes"][1]["example"]["request"] == "PUT https://a.x.com:443/v1/0"
    assert document["changes"][0]["reason_code"] == "endpoint_not_allowed"


DECISIONS = st.builds(
    RecordedDecision,
    time_ms=st.just(1),
    kind=st.sampled_from(DecisionKind),
    outcome=st.just(ALLOWED),
    host=st.sampled_from(HOSTS),
    port=st.sampled_from([80, 443]),
    binary=st.sampled_from(PROGRAMS),
    ancestors=st.just(()),
    scheme=st.sampled_from(["http", "https"]),
    method=st.sampled_from(["GET", "POST"]),
    path=st.sampled_from(PATHS),
)
QUERY = st.dictionaries(
    st.sampled_from(["p", "q"]), st.sampled_from([("foo-1",), ("1", "2"), ("z",)]), max_size=2
)


@settings(max_examples=200, deadline=None)
@given(rest_policies(), DECISIONS, QUERY)
def test_what_is_not_left_open_is_true_for_every_query(policy, decision, query):
    report = replay([decision], policy)
    trial = try_request(
        compile_policy(policy, generation=1),
        ConnectionRequest(decision.host, decision.port, decision.binary),
        L7Request(decision.method, decision.path, query)
        if decision.kind is DecisionKind.REQUEST
        else None,
        encrypted=decision.scheme == "https",
    )
    told = report.changes[0].after if report.changes else ALLOWED
    assert report.undecided or told is trial.outcome
