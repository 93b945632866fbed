"""Requests of the protocols that look beyond the head: one row for each sentence of the contract."""

from dataclasses import replace

import pytest
import yaml

from openshell.policy import ConnectionRequest, RequestAllowed, RequestAudited, compile_policy
from openshell.policy.decide import word_of
from openshell.policy.messages import GraphqlCall, GraphqlRequest, RpcCall, RpcRequest
from openshell.policy.model import (
    Binary,
    Endpoint,
    GraphqlOperation,
    L7Rule,
    Matcher,
    NetworkRule,
    SandboxPolicy,
)
from openshell.policy.parse import parse_policy
from unit.policy.policy_cases import load
from unit.policy.request_notation import request_of

ASKED = ConnectionRequest("a.x.com", 443, "/a")


def compiled_of(*endpoints):
    rule = NetworkRule("r", "r", endpoints, (Binary("/a"),))
    policy = SandboxPolicy(network_policies={"r": rule})
    return compile_policy(policy, generation=1)


def outcome(decision):
    if isinstance(decision, RequestAllowed):
        return "allow"
    kind = "audit" if isinstance(decision, RequestAudited) else "deny"
    if kind == "deny" and decision.hard:
        kind = "hard"
    return f"{kind} {decision.reason_code}"


@pytest.mark.parametrize("case", load("protocols"))
def test_requests(case):
    plain = {"host": "a.x.com", "port": 443, "enforcement": "enforce"}
    rule = {
        "endpoints": [{**plain, **endpoint} for endpoint in case["endpoints"]],
        "binaries": [{"path": "/a"}],
    }
    text = yaml.safe_dump({"version": 1, "network_policies": {"r": rule}})
    compiled = compile_policy(parse_policy(text, source="case"), generation=1)
    connection = compiled.connect(ASKED)
    for line, wanted in case["requests"].items():
        decision = compiled.authorize(connection, request_of(line))
        assert outcome(decision) == wanted, line
        if wanted == "allow":
            continue
        assert decision.reason
        assert decision.nearest_rule.startswith("r.endpoints[")
        if not wanted.startswith("hard"):
            assert decision.suggestion
        assert decision.reason == case.get("reasons", {}).get(line, decision.reason)


SUGGESTIONS = {
    "operation": (
        Endpoint(protocol="graphql", rules=(L7Rule(operation_type="query", fields=("a",)),)),
        "POST /g | graphql query: a b",
        "add allow {operation_type: query, fields: [a, b]} to r.endpoints[0].rules",
    ),
    "preset": (
        Endpoint(protocol="graphql", access="read-only"),
        "POST /g | graphql mutation: a",
        "set access: read-write at r.endpoints[0]",
    ),
    "registry": (
        Endpoint(protocol="graphql", access="full"),
        "POST /g | graphql persisted h1",
        (
            "set persisted_queries: allow_registered and add h1 to "
            "r.endpoints[0].graphql_persisted_queries"
        ),
    ),
    "tool": (
        Endpoint(protocol="mcp", rules=(L7Rule("tools/call", params={"name": Matcher("a")}),)),
        "POST /m | rpc tools/call b",
        "add allow {method: tools/call, tool: b} to r.endpoints[0].rules",
    ),
    "method": (
        Endpoint(protocol="json-rpc", rules=(L7Rule("a"),)),
        "POST /m | rpc b\n\x1b[31m",
        r"add allow {method: 'b\n\x1b[31m'} to r.endpoints[0].rules",
    ),
    "websocket": (
        Endpoint(protocol="websocket", access="read-only"),
        "TEXT /w | text",
        "set access: read-write at r.endpoints[0]",
    ),
}


@pytest.mark.parametrize("name", SUGGESTIONS)
def test_the_smallest_change_is_named(name):
    endpoint, line, wanted = SUGGESTIONS[name]
    compiled = compiled_of(replace(endpoint, host="a.x.com", ports=(443,)))
    decision = compiled.authorize(compiled.connect(ASKED), request_of(line))
    assert decision.suggestion == wanted


def test_only_trusted_endpoints_allow_and_register_on_private_addresses():
    """What the advisor proposed may neither allow nor vouch for what is sent to a private address."""
    named = Endpoint("a.x.com", (443,), protocol="graphql", access="read-only")
    marked = replace(
        named,
        access="full",
        advisor_proposed=True,
        persisted_queries="allow_registered",
        graphql_persisted_queries={"h": GraphqlOperation("query")},
    )
    compiled = compiled_of(named, marked)
    connection = compiled.connect(ASKED)
    for line, trusted in (
        ("POST /g | graphql query: a", "allow"),
        ("POST /g | graphql mutation: a", "audit no_allow"),
        ("POST /g | graphql persisted h", "audit unregistered_query"),
    ):
        assert outcome(compiled.authorize(connection, request_of(line))) == "allow"
        decision = compiled.authorize(connection, request_of(line), trusted_only=True)
        assert outcome(decision) == trusted


def test_endpoints_that_register_one_key_differently_must_all_allow_it():
    one = Endpoint(
        "a.x.com",
        (443,),
        protocol="graphql",
        enforcement="enforce",
        persisted_queries="allow_registered",
        graphql_persisted_queries={"h": GraphqlOperation("query")},
        rules=(L7Rule(operation_type="query"),),
    )
    two = replace(one, graphql_persisted_queries={"h": GraphqlOperation("mutation")})
    request = request_of("POST /g | graphql persisted h")
    alone = compiled_of(one)
    assert outcome(alone.authorize(alone.connect(ASKED), request)) == "allow"
    both = compiled_of(one, two)
    assert outcome(both.authorize(both.connect(ASKED), request)) == "deny no_allow"


def test_the_proxy_learns_how_to_read_a_request_from_the_governing_endpoint():
    compiled = compiled_of(
        Endpoint("a.x.com", (443,), protocol="rest", access="full"),
        Endpoint("a.x.com", (443,), path="/g", protocol="graphql", graphql_max_body_bytes=9),
        Endpoint("a.x.com", (443,), path="/m", protocol="mcp"),
        Endpoint(
            "a.x.com", (443,), path="/w", protocol="websocket", persisted_queries="allow_registered"
        ),
    )
    connection = compiled.connect(ASKED)

    def governing(path):
        config = compiled.governing(connection, path)
        return config.protocol, config.judges_graphql, config.body_bytes

    assert governing("/x") == ("rest", False, 0)
    assert governing("/g") == ("graphql", True, 9)
    assert governing("/m") == ("mcp", False, 65536)
    assert governing("/w") == ("websocket", True, 0)
    alone = compiled_of(Endpoint("a.x.com", (443,)))
    assert alone.governing(alone.connect(ASKED), "/x") is None


@pytest.mark.parametrize(
    ("line", "enforcement", "word"),
    [
        ("GET /w | upgrade", "enforce", "allow_upgrade"),
        ("TEXT /w | text", "enforce", "deny"),
        ("TEXT /w | text", "audit", "audit"),
        ("GET /w", "audit", "deny"),
    ],
)
def test_words_of_decisions(line, enforcement, word):
    endpoint = Endpoint(
        "a.x.com", (443,), protocol="websocket", access="read-only", enforcement=enforcement
    )
    compiled = compiled_of(endpoint)
    decision = compiled.authorize(compiled.connect(ASKED), request_of(line))
    assert word_of(decision, upgrade=line.endswith("upgrade")) == word


def test_a_rule_for_a_tool_is_found_by_method_and_name_alone():
    """`params.name` of another method is no tool."""
    endpoint = Endpoint(
        "a.x.com",
        (443,),
        protocol="mcp",
        enforcement="enforce",
        rules=(L7Rule("prompts/get", params={"name": Matcher("a")}),),
    )
    compiled = compiled_of(endpoint)
    request = request_of("POST /m | rpc prompts/get a")
    assert outcome(compiled.authorize(compiled.connect(ASKED), request)) == "deny no_allow"


def test_long_lists_of_operations_stay_cheap():
    import time

    rules = tuple(L7Rule(operation_type="query", fields=(f"f{i}*",)) for i in range(50))
    compiled = compiled_of(
        Endpoint("a.x.com", (443,), protocol="graphql", rules=rules),
        Endpoint("a.x.com", (443,), path="/m", protocol="mcp", rules=(L7Rule("a.*"),)),
    )
    connection = compiled.connect(ASKED)
    calls = GraphqlRequest((GraphqlCall("query", fields=tuple(f"f{i}x" for i in range(50))),) * 20)
    many = RpcRequest((RpcCall("a." + "b" * 5000),) * 200)
    started = time.process_time()
    compiled.authorize(connection, replace_content(request_of("POST /g"), calls))
    compiled.authorize(connection, replace_content(request_of("POST /m"), many))
    assert time.process_time() - started < 2


def replace_content(request, content):
    return type(request)(request.method, request.path, request.query, content)
