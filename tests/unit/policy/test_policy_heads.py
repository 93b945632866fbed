"""Requests of which only the head is known: what is told without a body is true with every body."""

import random
from collections import Counter

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.policy import (
    ConnectionAllowed,
    ConnectionRequest,
    L7Request,
    compile_policy,
    parse_policy,
)
from openshell.policy.heads import HeadPolicy, Unseen
from openshell.policy.messages import WebSocketMessage, WebSocketUpgrade
from openshell.policy.trial import Outcome, try_request
from unit.policy.policy_cases import load
from unit.policy.policy_choices import PROTOCOLS, Maker
from unit.policy.request_notation import request_of

CURL = "/usr/bin/curl"
CONNECTION = ConnectionRequest("a.x.com", 443, CURL)
BODY, QUERY, UPGRADE = Unseen.BODY, Unseen.QUERY, Unseen.UPGRADE


def policy_of(endpoints):
    place = {"host": "a.x.com", "port": 443, "enforcement": "enforce"}
    rule = {"endpoints": [{**place, **e} for e in endpoints], "binaries": [{"path": CURL}]}
    document = {"version": 1, "network_policies": {"r": rule}}
    return parse_policy(yaml.safe_dump(document), source="case")


def head_of(request, *, with_query):
    return L7Request(request.method, request.path, request.query if with_query else {})


@pytest.mark.parametrize("case", load("protocols"))
def test_what_the_head_decides_is_what_the_whole_request_gets(case):
    policy = policy_of(case["endpoints"])
    compiled = compile_policy(policy, generation=1)
    told = 0
    for line in case["requests"]:
        request = request_of(line)
        whole = try_request(compiled, CONNECTION, request, encrypted=True).outcome
        # A method of that name is taken for a message, and only where messages are looked at.
        is_text = request.method == "WEBSOCKET_TEXT"
        looked_at = case["endpoints"][-1]["protocol"] == "websocket"
        if is_text and not (looked_at and isinstance(request.content, WebSocketMessage)):
            continue
        upgrades = [None] if is_text else [None, _is_upgrade(request)]
        for with_query in (True, False):
            head_policy = HeadPolicy(policy, knows_query=with_query)
            for upgrade in upgrades:
                tried = head_policy.ask(
                    CONNECTION,
                    head_of(request, with_query=with_query),
                    encrypted=True,
                    upgrade=upgrade,
                )
                assert tried.outcome in (None, whole), line
                told += 1
    assert told


def _is_upgrade(request):
    return isinstance(request.content, WebSocketUpgrade)


GRAPHQL = {"protocol": "graphql", "path": "/g", "access": "read-only"}
RPC = {"protocol": "json-rpc", "path": "/r", "rules": [{"allow": {"method": "a"}}]}
MCP = {"protocol": "mcp", "path": "/m", "rules": [{"allow": {"method": "ping"}}]}
SOCKET = {"protocol": "websocket", "path": "/w", "access": "read-only"}
OPERATIONS = {
    "protocol": "websocket",
    "path": "/w",
    "rules": [{"allow": {"method": "GET", "path": "/w"}}, {"allow": {"operation_type": "query"}}],
    "deny_rules": [{"operation_type": "query", "operation_name": "Bad"}],
}
DENY_POST = {
    "protocol": "rest",
    "access": "full",
    "deny_rules": [{"method": "POST", "path": "/*"}],
}
AUDIT = {"enforcement": "audit"}
ROWS = {
    "graphql-post": ([GRAPHQL], "POST /g", BODY),
    "graphql-get": ([GRAPHQL], "GET /g", BODY),
    "graphql-other-method": ([GRAPHQL], "PUT /g", "denied graphql_rejected"),
    "graphql-other-path": ([GRAPHQL], "POST /x", "denied no_allow"),
    "graphql-other-path-recorded-only": ([{**GRAPHQL, **AUDIT}], "POST /x", BODY),
    "graphql-denied-by-head": ([DENY_POST, GRAPHQL], "POST /g", "denied deny_rule"),
    "graphql-beside-rest": ([DENY_POST, GRAPHQL], "GET /other", "allowed"),
    "json-rpc-post": ([RPC], "POST /r", BODY),
    "json-rpc-get": ([RPC], "GET /r", "denied rpc_rejected"),
    "json-rpc-no-route": ([RPC, MCP], "POST /x", "denied no_route"),
    "mcp-post": ([MCP], "POST /m", BODY),
    "mcp-get": ([MCP], "GET /m", BODY),
    "mcp-delete": ([MCP], "DELETE /m", "denied rpc_rejected"),
    "mcp-slash": ([MCP], "POST /m%2Fx", "denied encoded_slash"),
    "websocket-get": ([SOCKET], "GET /w", UPGRADE),
    "websocket-handshake": ([SOCKET], "GET /w | upgrade", "allowed"),
    "websocket-handshake-elsewhere": ([SOCKET], "GET /x | upgrade", "denied no_allow"),
    "websocket-post": ([SOCKET], "POST /w", "denied websocket_required"),
    "websocket-message": ([SOCKET], "TEXT /w", "denied no_allow"),
    "websocket-message-of-graphql": ([OPERATIONS], "TEXT /w", BODY),
    "message-where-nobody-looks": ([DENY_POST], "TEXT /w", "allowed"),
    "unreadable-rule": ([{**RPC, "deny_rules": [{"method": "a", "path": "/"}]}], "POST /r",
                        "denied evaluation_error"),
    "unreadable-query": ([{"protocol": "rest", "rules": [
        {"allow": {"method": "GET", "path": "/q", "query": {"a": "["}}}]}], "GET /q",
        "denied evaluation_error"),
    "query": ([{"protocol": "rest", "rules": [
        {"allow": {"method": "GET", "path": "/q", "query": {"a": "b"}}}]}], "GET /q", QUERY),
}  # fmt: skip


@pytest.mark.parametrize(("endpoints", "line", "wanted"), ROWS.values(), ids=ROWS)
def test_which_heads_decide(endpoints, line, wanted):
    request = request_of(line)
    upgrade = True if _is_upgrade(request) else None
    tried = HeadPolicy(policy_of(endpoints), knows_query=False).ask(
        CONNECTION, head_of(request, with_query=True), encrypted=True, upgrade=upgrade
    )
    if isinstance(wanted, Unseen):
        assert (tried.unseen, tried.outcome) == (wanted, None)
        return
    refusal = tried.trial.refusal
    word = tried.outcome.value if tried.outcome else "open"
    assert (f"{word} {refusal.reason_code}" if refusal else word) == wanted


def test_what_is_known_to_be_no_handshake_is_refused():
    tried = HeadPolicy(policy_of([SOCKET]), knows_query=False).ask(
        CONNECTION, L7Request("GET", "/w"), encrypted=True, upgrade=False
    )
    assert tried.outcome is Outcome.DENIED
    assert tried.trial.refusal.reason_code == "websocket_required"


def test_without_a_request_only_the_connection_is_asked_about():
    policy = HeadPolicy(policy_of([GRAPHQL]), knows_query=True)
    assert policy.ask(CONNECTION, None, encrypted=False).outcome is Outcome.ALLOWED
    stranger = ConnectionRequest("a.x.com", 443, "/bin/sh")
    request = L7Request("POST", "/g")
    assert policy.ask(stranger, request, encrypted=False).outcome is Outcome.DENIED


def compared(data, focus):
    """Asks about random requests as a whole and by their heads; yields what the head told."""
    maker = Maker(data, focus)
    connection = maker.connection()
    requests = [maker.request() for _ in range(3)]
    policy = maker.policy()
    compiled = compile_policy(policy, generation=1)
    heads = [(knows, HeadPolicy(policy, knows_query=knows)) for knows in (True, False)]
    for request in requests:
        whole = try_request(compiled, connection, request, encrypted=True)
        answer = whole.connection
        governing = (
            compiled.governing(answer, request.path)
            if isinstance(answer, ConnectionAllowed)
            else None
        )
        is_text = request.method == "WEBSOCKET_TEXT"
        if is_text and not (governing and governing.protocol == "websocket"):
            continue
        for knows, policy_of_heads in heads:
            for upgrade in (None, _is_upgrade(request)):
                head = head_of(request, with_query=knows)
                tried = policy_of_heads.ask(connection, head, encrypted=True, upgrade=upgrade)
                assert tried.outcome in (None, whole.outcome)
                yield tried.unseen or tried.outcome


@pytest.mark.parametrize("focus", PROTOCOLS)
@settings(max_examples=150, deadline=None)
@given(data=st.binary(min_size=160, max_size=160))
def test_a_head_never_tells_what_the_whole_request_does_not_get(focus, data):
    for _ in compared(data, focus):
        pass


@pytest.mark.parametrize("focus", PROTOCOLS)
def test_the_comparison_meets_what_is_told_and_what_is_open(focus):
    spread = random.Random(3)
    told = [one for _ in range(150) for one in compared(spread.randbytes(160), focus)]
    seen = Counter(told)
    wanted = {"rest": QUERY, "websocket": UPGRADE}.get(focus, BODY)
    assert {Outcome.ALLOWED, Outcome.DENIED, wanted} <= set(seen), seen
