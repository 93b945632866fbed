"""What is proposed of denials: the smallest rule, a name, a confidence; and what is proposed of none."""

import pytest

from openshell import ocsf
from openshell.gateway.services.draft_plan import read_rule, refusal_of
from openshell.policy.model import Binary, Endpoint, L7Rule
from openshell.supervisor.proposing import propose
from openshell.supervisor.tally import Tally

CURL = "/usr/bin/curl"


def refused(host="a.example", port=443, *, code="no_policy", stage="connect", who=CURL, at=1):
    return ocsf.NetworkEvent(
        time_ms=at,
        activity=ocsf.NetActivity.OPEN,
        action=ocsf.Action.DENIED,
        dst=ocsf.HostPort(host, port),
        process=ocsf.ProcessRef(who, 7),
        engine="ssrf" if stage == "ssrf" else "opa",
        refusal=ocsf.Refusal(code, stage, "connect_policy"),
    )


def request(path="/x", method="GET", *, engine="l7", stage="forward-l7-deny", code="no_allow"):
    return ocsf.HttpEvent(
        time_ms=1,
        method=method,
        action=ocsf.Action.DENIED,
        host="a.example",
        port=80,
        path=path,
        process=ocsf.ProcessRef(CURL, 7),
        engine=engine,
        refusal=ocsf.Refusal(code, stage, "l7_policy"),
    )


def proposed(*events):
    tally = Tally()
    for event in events:
        tally.add(event)
    return propose(tally.take_denials())


def rule_of(chunk):
    assert refusal_of(chunk) == ""
    rule = read_rule(chunk)
    assert not isinstance(rule, str), rule
    return rule


def test_a_place_that_no_rule_declares():
    (chunk,) = proposed(refused(at=5), refused(at=9))
    assert (chunk.rule_name, chunk.binary, chunk.stage) == ("allow_a_example_443", CURL, "connect")
    assert (chunk.hit_count, chunk.first_seen_ms, chunk.last_seen_ms) == (2, 5, 9)
    assert (chunk.status, chunk.rationale) == (
        "pending",
        "Allow curl to connect to a.example:443 (HTTPS)",
    )
    # Marked already here, so that approval alone does not earn an exact host's trust.
    assert chunk.proposed_rule.endpoints[0].advisor_proposed
    assert chunk.proposed_rule.binaries[0].harness
    rule = rule_of(chunk)
    assert rule.endpoints == (Endpoint(host="a.example", ports=(443,), advisor_proposed=True),)
    assert rule.binaries == (Binary(CURL, advisor_proposed=True),)


def test_requests_are_rules_of_their_own():
    (chunk,) = proposed(
        request("/posts/42", "PUT"), request("/posts/43", "PUT"), request("/posts/7")
    )
    (endpoint,) = rule_of(chunk).endpoints
    assert (endpoint.protocol, endpoint.enforcement) == ("rest", "enforce")
    assert endpoint.rules == (
        L7Rule(method="GET", path="/posts/7"),
        L7Rule(method="PUT", path="/posts/*"),
    )
    assert chunk.rationale.endswith("a.example:80 (HTTP) for GET /posts/7, PUT /posts/*")


@pytest.mark.parametrize(
    ("path", "general"),
    [
        ("/posts/42", "/posts/*"),
        ("/posts/7", "/posts/7"),
        ("/c/550e8400-e29b-41d4-a716-446655440000", "/c/*"),
        ("/j/abc123def456abcd0099", "/j/*"),
        ("/json/?a=b", "/json/"),
        ("/api/v1", "/api/v1"),
        ("/users/42/posts", "/users/42/posts"),
        ("/", "/"),
    ],
)
def test_the_last_segment_is_left_open_where_it_is_an_identifier(path, general):
    (chunk,) = proposed(request(path))
    assert [rule.path for rule in rule_of(chunk).endpoints[0].rules] == [general]


@pytest.mark.parametrize(
    ("count", "port", "stage", "confidence"),
    [
        (10, 443, "connect", 0.85),
        (1, 443, "connect", 0.65),
        (5, 80, "ssrf", 0.55),
        (1, 9999, "connect", 0.5),
        (1, 9999, "ssrf", 0.3),
        (1, 22, "connect", 0.5),
    ],
)
def test_confidence(count, port, stage, confidence):
    (chunk,) = proposed(*[refused(port=port, stage=stage)] * count)
    assert chunk.confidence == pytest.approx(confidence)


def test_the_likeliest_first_and_names_that_differ():
    chunks = proposed(refused("a-b.example", 9999), refused("a.b.example", 9999), refused())
    assert chunks[0].rule_name == "allow_a_example_443"
    names = [chunk.rule_name for chunk in chunks[1:]]
    assert names[0] == "allow_a_b_example_9999"
    assert names[1].startswith("allow_a_b_example_9999_")


@pytest.mark.parametrize("stage", ["transparent-tcp", "bypass"])
def test_a_direct_connection(stage):
    (chunk,) = proposed(refused(port=5432, stage=stage))
    protocol = "tcp" if stage == "transparent-tcp" else ""
    assert rule_of(chunk).endpoints[0].protocol == protocol


NOTHING = {
    "a program without a name": [refused(who="-")],
    "loopback": [refused("127.0.0.1")],
    "mapped loopback": [refused("::ffff:127.0.0.1")],
    "link-local": [refused("169.254.169.254", 80, stage="ssrf")],
    "unspecified": [refused("0.0.0.0")],
    "localhost": [refused("LocalHost.")],
    "metadata": [refused("Metadata.google.internal.")],
    "no port": [refused(port=0)],
    "a rule would not help": [refused(code="uninspected_credentials")],
    "not declared as plain": [refused(code="plain_tcp_not_declared", stage="bypass")],
    "a body decides": [request(engine="l7-graphql")],
    "signs of globs": [request("/a*")],
    "a redacted path": [request("/[CREDENTIAL]/x")],
    "a path that was cut": [request("/" + "x" * 300)],
    "a made-up method": [request(method="-")],
    "a deny rule": [request(code="deny_rule")],
}


@pytest.mark.parametrize("events", NOTHING.values(), ids=NOTHING.keys())
def test_nothing_is_proposed(events):
    assert proposed(*events, refused("control.example"))[0].rule_name == "allow_control_example_443"
    assert proposed(*events) == []


def test_one_request_that_can_be_named_does_not_open_the_others():
    (chunk,) = proposed(request("/a*"), request("/b"))
    assert [rule.path for rule in rule_of(chunk).endpoints[0].rules] == ["/b"]
