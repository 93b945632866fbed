"""Explanations of single requests, and requests read from text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.policy import (
    ConnectionAllowed,
    ConnectionRequest,
    L7Request,
    RequestAllowed,
    RequestAudited,
    compile_policy,
)
from openshell.policy.asked import AskedRequest, RequestTextError
from openshell.policy.explain import explain
from openshell.policy.trial import Outcome
from unit.policy import merge_notation as notation
from unit.policy.policy_samples import HOSTS, PATHS, PROGRAMS, rest_policies

POLICY = notation.policy(
    {
        "api": "api.x.com:443,80 protocol=rest rules=GET:/v1/**,POST:/v1/items "
        "deny=GET:/v1/secret enforcement=enforce binding=p | curl",
        "loose": "log.x.com:443 protocol=rest rules=GET:/a | /opt/**",
        "raw": "raw.x.com:22 ips=10.0.0.0/8 binding=p | ssh",
        "skip": "skip.x.com:443,80 protocol=rest rules=GET:/a enforcement=enforce tls=skip | curl",
        "slash": "slash.x.com:443 protocol=rest access=full flag=allow_encoded_slash | curl",
        "nobody": "nobody.x.com:443",
    }
)
CURL = "/usr/bin/curl"

CASES = {
    "allowed": ("GET https://api.x.com/v1/a?x=1", CURL, "allowed", "", "rules pass"),
    "head": ("HEAD https://api.x.com/v1/a", CURL, "allowed", "", "rules pass"),
    "no-allow": ("PUT https://api.x.com/v1/a", CURL, "denied", "no_allow", "enforcement fail"),
    "deny-rule": ("GET https://api.x.com/v1/secret", CURL, "denied", "deny_rule", "rules fail"),
    "canonical": (
        "GET https://api.x.com/v1/x/../secret",
        CURL,
        "denied",
        "deny_rule",
        "target pass",
    ),
    "program": (
        "GET https://api.x.com/v1/a",
        "/bin/sh",
        "denied",
        "binary_not_allowed",
        "binary fail",
    ),
    "port": (
        "GET https://api.x.com:8443/",
        CURL,
        "denied",
        "endpoint_not_allowed",
        "endpoint fail",
    ),
    "host": ("GET https://b.x.com/", CURL, "denied", "endpoint_not_allowed", "endpoint fail"),
    "audit": ("POST https://log.x.com/a", "/opt/a/b", "audited", "no_allow", "enforcement note"),
    "target": (
        "GET https://api.x.com/../a",
        CURL,
        "denied",
        "invalid_request_target",
        "target fail",
    ),
    "target-in-audit": (
        "GET https://log.x.com/%zz",
        "/opt/x",
        "denied",
        "invalid_request_target",
        "target fail",
    ),
    "slash": ("GET https://slash.x.com/a%2Fb", CURL, "allowed", "", "rules pass"),
    "no-slash": (
        "GET https://api.x.com/v1%2Fb",
        CURL,
        "denied",
        "invalid_request_target",
        "target fail",
    ),
    "opaque": ("raw.x.com:22", "/usr/bin/ssh", "allowed", "", "inspection note"),
    "closed": ("POST https://skip.x.com/b", CURL, "allowed", "", "inspection note"),
    "closed-in-clear": ("POST http://skip.x.com/b", CURL, "denied", "no_allow", "rules fail"),
    "anyone": ("GET https://api.x.com/v1/a", None, "allowed", "", "binary note"),
    "connection-only": ("api.x.com:443", CURL, "allowed", "", "inspection pass"),
    "no-binaries": (
        "GET https://nobody.x.com/",
        CURL,
        "denied",
        "binary_not_allowed",
        "binary fail",
    ),
}


@pytest.mark.parametrize(("text", "binary", "outcome", "code", "step"), CASES.values(), ids=CASES)
def test_explained(text, binary, outcome, code, step):
    found = explain(POLICY, AskedRequest.parse(text), binary=binary)
    assert (found.outcome.value, found.reason_code) == (outcome, code)
    assert step in [f"{one.name} {one.verdict}" for one in found.steps]
    assert bool(found.reason) is bool(code)
    json.dumps(found.to_json())


SPEAKING = notation.policy(
    {
        "g": "g.x.com:443 protocol=graphql access=full enforcement=enforce | curl",
        "m": "m.x.com:443 path=/m protocol=mcp mcp=profile enforcement=enforce | curl",
        "w": "w.x.com:443 protocol=websocket rules=GET:/w enforcement=enforce | curl",
        "o": "o.x.com:443 protocol=websocket rules=GET:/w,op-query enforcement=enforce | curl",
    }
)
BEYOND_HEADS = {
    "graphql": ("POST https://g.x.com/", None, "body note its operations decide"),
    "graphql-method": ("PUT https://g.x.com/", "denied", "rules fail GraphQL request rejected"),
    "mcp": ("POST https://m.x.com/m", None, "body note its calls decide"),
    "mcp-stream": ("GET https://m.x.com/m", None, "body note passes only as an MCP client"),
    "mcp-path": ("POST https://m.x.com/x", "denied", "rules fail POST /x not permitted"),
    "handshake": ("GET https://w.x.com/w", "allowed", "handshake note taken for a WebSocket"),
    "handshake-url": ("wss://w.x.com/w", "allowed", "rules pass an allow rule matches"),
    "handshake-path": ("wss://w.x.com/x", "denied", "rules fail GET /x not permitted"),
    "messages": (
        "wss://w.x.com/w",
        "allowed",
        "messages note text messages of the client: denied (WEBSOCKET_TEXT /w not permitted",
    ),
    "messages-graphql": ("wss://o.x.com/w", "allowed", "messages note each text message is judged"),
    "no-handshake": ("POST https://w.x.com/w", "denied", "rules fail websocket endpoint requires"),
}


@pytest.mark.parametrize(("text", "outcome", "step"), BEYOND_HEADS.values(), ids=BEYOND_HEADS)
def test_what_a_request_line_cannot_tell(text, outcome, step):
    found = explain(SPEAKING, AskedRequest.parse(text), binary=CURL)
    assert (found.outcome.value if found.outcome else None) == outcome
    assert found.to_json()["outcome"] == outcome
    steps = [f"{one.name} {one.verdict.value} {one.detail}" for one in found.steps]
    assert [one for one in steps if one.startswith(step)], steps
    assert not any(one.startswith("rules pass") for one in steps if outcome is None)


def test_an_address_keeps_its_border_to_the_port():
    policy = notation.policy({"r": "[2001:db8::1]:443 | curl"})
    found = explain(policy, AskedRequest.parse("[2001:db8::1]:443"), binary=CURL)
    assert found.steps[0].detail.startswith("[2001:db8::1]:443 is named by")


def test_a_refusal_carries_the_words_of_the_decision():
    found = explain(POLICY, AskedRequest.parse("PUT https://api.x.com/v1/a"), binary=CURL)
    assert found.matched_policy == "api"
    assert found.nearest_rule == "api.endpoints[0].rules[0]"
    assert found.suggestion == "add allow {method: PUT, path: /v1/a} to api.endpoints[0].rules"
    assert "credentials of provider 'p' are put in" in " ".join(s.detail for s in found.steps)


def test_a_parent_program_may_be_what_is_named():
    asked = AskedRequest.parse("GET https://api.x.com/v1/a")
    assert explain(POLICY, asked, binary="/bin/sh").outcome is Outcome.DENIED
    assert explain(POLICY, asked, binary="/bin/sh", ancestors=(CURL,)).outcome is Outcome.ALLOWED


def test_a_binding_without_inspection_is_told():
    found = explain(POLICY, AskedRequest.parse("raw.x.com:22"), binary="/usr/bin/ssh")
    details = {step.name: step.detail for step in found.steps}
    assert "the gateway refuses such a policy" in details["credentials"]
    assert "10.0.0.0/8" in details["destination"]


@settings(max_examples=150, deadline=None)
@given(
    rest_policies(),
    st.sampled_from(HOSTS),
    st.sampled_from([80, 443]),
    st.sampled_from(PROGRAMS),
    st.sampled_from(["GET", "POST", "HEAD"]),
    st.sampled_from(PATHS[:-1]),
)
def test_the_explanation_never_differs_from_the_decision(policy, host, port, binary, method, path):
    asked = AskedRequest(host, port, "https", method, path)
    found = explain(policy, asked, binary=binary)
    compiled = compile_policy(policy, generation=1)
    connection = compiled.connect(ConnectionRequest(host, port, binary))
    if not isinstance(connection, ConnectionAllowed):
        assert found.outcome is Outcome.DENIED
        return
    answer = compiled.authorize(connection, L7Request(method, path))
    expected = (
        Outcome.ALLOWED
        if isinstance(answer, RequestAllowed)
        else Outcome.AUDITED
        if isinstance(answer, RequestAudited)
        else Outcome.DENIED
    )
    assert found.outcome is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET https://a.com/x?y=1#z", AskedRequest("a.com", 443, "https", "GET", "/x?y=1")),
        ("https://a.com", AskedRequest("a.com", 443, "https", "GET", "/")),
        ("  post   HTTP://A.com:81?q ", AskedRequest("a.com", 81, "http", "post", "/?q")),
        ("GET https://[2001:DB8::1]:444/", AskedRequest("2001:db8::1", 444, "https", "GET", "/")),
        ("a.com:22", AskedRequest("a.com", 22)),
        ("[::1]:22", AskedRequest("::1", 22)),
        ("wss://a.com/w", AskedRequest("a.com", 443, "https", "GET", "/w")),
        ("ws://a.com/w", AskedRequest("a.com", 80, "http", "GET", "/w")),
    ],
)
def test_requests_read_from_text(text, expected):
    assert AskedRequest.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.com",
        "GET a.com/x",
        "GET /x",
        "GET ftp://a.com/",
        "GET https://",
        "GET https://user:secret@a.com/",
        "GET https://a.com:0/",
        "GET https://a.com:99999/",
        "GET https://a.com/ x",
        "GE(T https://a.com/",
        "GET https://a b.com/",
        "a.com:22:33",
    ],
)
def test_texts_that_name_no_request(text):
    with pytest.raises(RequestTextError) as error:
        AskedRequest.parse(text)
    assert "secret" not in str(error.value)


def test_a_plain_connection_is_said_to_be_one():
    policy = notation.policy({"db": "db.x.com:5432 protocol=tcp | psql"})
    asked = AskedRequest.parse("db.x.com:5432")
    steps = {s.name: s.detail for s in explain(policy, asked, binary="/usr/bin/psql").steps}
    assert steps["inspection"].startswith("protocol: tcp: bytes pass unseen")
