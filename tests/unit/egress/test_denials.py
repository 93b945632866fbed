"""Every answer is well-formed HTTP with an exact length; bodies say what would help."""

from __future__ import annotations

import json

import h11
import pytest

from openshell.egress.credentials import CredentialRefused
from openshell.egress.denials import Denial, Denials, RequestFacts, bare
from openshell.policy.decide import ConnectionDenied, RequestDenied

MAKE = Denials("demo")
FACTS = RequestFacts("POST", "/v1/[CREDENTIAL]", "api.example", 443, "/usr/bin/curl")
CONNECTION = ConnectionDenied(
    "api.example",
    443,
    "/usr/bin/curl",
    "endpoint_not_allowed",
    "endpoint api.example:443 is not allowed",
    "web",
    "add it",
    3,
)
REQUEST = RequestDenied(
    "web", None, "no_allow", "POST /v1 not permitted", False, "web.endpoints[0]", "add allow", 3
)
MISMATCH = CredentialRefused("credential_endpoint_mismatch", "header")
IN_BODY = CredentialRefused("credential_unavailable", "request-body")
IN_CLEAR = CredentialRefused("credential_needs_tls", "header")
UNAVAILABLE = CredentialRefused("credential_unavailable", "request-target")

ANSWERS: dict[str, tuple[Denial, int, str | None]] = {
    "connect": (MAKE.connect_denied(CONNECTION), 403, "policy_denied"),
    "forward": (MAKE.forward_denied(CONNECTION, FACTS), 403, "policy_denied"),
    "destination": (
        MAKE.destination_refused("CONNECT", "a", 1, "internal address"),
        403,
        "ssrf_denied",
    ),
    "tls": (MAKE.tls_unavailable(), 503, "tls_termination_unavailable"),
    "uninspected": (MAKE.uninspected_credentials("a", 1), 403, "uninspected_credentials"),
    "h2c": (MAKE.unsupported_protocol(prior_knowledge_h2c=True), 403, "unsupported_l7_protocol"),
    "unknown_protocol": (
        MAKE.unsupported_protocol(prior_knowledge_h2c=False),
        403,
        "unsupported_l7_protocol",
    ),
    "unreachable": (MAKE.upstream_unreachable("::1", 1, "timed out"), 502, "upstream_unreachable"),
    "invalid_response": (
        MAKE.upstream_invalid("a", 1, "bare_lf"),
        502,
        "upstream_invalid_response",
    ),
    "https": (MAKE.https_needs_connect(), 400, None),
    "scheme": (MAKE.unsupported_scheme(), 400, "unsupported_proxy_scheme"),
    "not_built": (MAKE.not_supported("policy.local"), 501, "not_supported_yet"),
    "request": (MAKE.request_denied(REQUEST, FACTS), 403, "policy_denied"),
    "target": (MAKE.invalid_target(encoded_slash=True), 400, "invalid_request_target"),
    "placeholder": (MAKE.invalid_placeholder(), 400, "invalid_credential_placeholder"),
    "authority": (MAKE.authority_mismatch(), 403, "request_authority_mismatch"),
    "mismatch_tunnel": (
        MAKE.credential_refused(MISMATCH, tunnel=True),
        403,
        "credential_endpoint_mismatch",
    ),
    "mismatch_forward": (
        MAKE.credential_refused(MISMATCH, tunnel=False),
        403,
        "credential_endpoint_mismatch",
    ),
    "clear_tunnel": (
        MAKE.credential_refused(IN_CLEAR, tunnel=True),
        403,
        "credential_needs_tls",
    ),
    "clear_forward": (
        MAKE.credential_refused(IN_CLEAR, tunnel=False),
        403,
        "credential_needs_tls",
    ),
    "unavailable_tunnel": (
        MAKE.credential_refused(UNAVAILABLE, tunnel=True),
        500,
        "credential_unavailable",
    ),
    "in_body": (MAKE.credential_refused(IN_BODY, tunnel=True), 500, "credential_unavailable"),
    "unavailable_forward": (
        MAKE.credential_refused(UNAVAILABLE, tunnel=False),
        500,
        "credential_injection_failed",
    ),
    "bare_400": (bare(400), 400, None),
    "bare_431": (bare(431), 431, None),
}


@pytest.mark.parametrize(("denial", "status", "code"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_client_can_read_it(denial: Denial, status: int, code: str | None) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(denial.render())
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == status
    assert (b"connection", b"close") in list(response.headers)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert (b"content-length", b"%d" % len(body)) in list(response.headers)
    # A shell's prompt begins on a line of its own behind what curl printed.
    assert not body or body.endswith(b"\n")
    assert b"\n" not in body[:-1]
    if code is not None:
        assert json.loads(body)["error"] == code
    assert denial.render(with_body=False).endswith(b"\r\n\r\n")


def test_a_refused_connection_says_what_would_help() -> None:
    body = json.loads(MAKE.connect_denied(CONNECTION).body)
    assert body == {
        "error": "policy_denied",
        "detail": "CONNECT api.example:443 not permitted by policy",
        "reason": "endpoint api.example:443 is not allowed",
        "reason_code": "endpoint_not_allowed",
        "nearest_rule": "web",
        "suggestion": "add it",
        "command": "openshell policy update demo --add-endpoint api.example:443 --binary /usr/bin/curl",
    }


@pytest.mark.parametrize(
    ("path", "host", "code", "change"),
    [
        (
            "/v1/items",
            "api.example",
            "no_allow",
            "update demo --add-allow api.example:443:POST:/v1/items",
        ),
        ("/v1/items", "api.example", "deny_rule", "set demo --policy FILE"),
        ("/v1/*", "api.example", "no_allow", "set demo --policy FILE"),
        ("/v1/[CREDENTIAL]", "api.example", "no_allow", "set demo --policy FILE"),
        ("/v1;rm -rf ~", "api.example", "no_allow", "set demo --policy FILE"),
        ("/$(id)", "api.example", "no_allow", "set demo --policy FILE"),
        ("/v1", "2606::1", "no_allow", "set demo --policy FILE"),
    ],
)
def test_the_command_for_a_request_holds_nothing_that_a_shell_or_glob_reads(
    path: str, host: str, code: str, change: str
) -> None:
    denied = RequestDenied("web", None, code, "no", False, None, "allow it", 1)
    facts = RequestFacts("POST", path, host, 443, "/usr/bin/curl")
    body = json.loads(MAKE.request_denied(denied, facts).body)
    assert body["command"] == f"openshell policy {change}"


@pytest.mark.parametrize(
    ("host", "binary", "change"),
    [
        (
            "api.example",
            "/opt/a b;c",
            "update demo --add-endpoint api.example:443 --binary '/opt/a b;c'",
        ),
        ("api.example", None, "set demo --policy FILE"),
        ("a$(id)", "/usr/bin/curl", "set demo --policy FILE"),
        ("2606::1", "/usr/bin/curl", "set demo --policy FILE"),
    ],
)
def test_the_command_for_a_connection_is_safe_to_paste(
    host: str, binary: str | None, change: str
) -> None:
    denied = ConnectionDenied(host, 443, binary, "endpoint_not_allowed", "no", None, "add it", 1)
    body = json.loads(MAKE.connect_denied(denied).body)
    assert body["command"] == f"openshell policy {change}"


def test_no_command_on_the_policy_is_told_for_what_comes_with_a_provider() -> None:
    told = "openshell provider profile update ID -f FILE"
    place = "_provider_mine.endpoints[0]"
    request = RequestDenied("_provider_mine", None, "no_allow", "no", False, place, "add allow", 1)
    facts = RequestFacts("POST", "/v1", "api.example", 443, "/usr/bin/curl")
    assert json.loads(MAKE.request_denied(request, facts).body)["command"] == told
    connection = ConnectionDenied(
        "api.example", 443, "/usr/bin/git", "binary_not_allowed", "no", "_provider_mine", "add", 1
    )
    assert json.loads(MAKE.connect_denied(connection).body)["command"] == told


def test_a_refused_request_carries_the_contract_fields() -> None:
    denial = MAKE.request_denied(REQUEST, FACTS)
    body = json.loads(denial.body)
    place = {
        "method": "POST",
        "path": "/v1/[CREDENTIAL]",
        "host": "api.example",
        "port": 443,
        "binary": "/usr/bin/curl",
    }
    assert body["rule_missing"] == {"type": "rest_allow", "layer": "l7", **place}
    assert {key: body[key] for key in place} == place
    assert (body["layer"], body["protocol"], body["rule"]) == (
        "l7",
        "rest",
        "POST /v1/[CREDENTIAL]",
    )
    assert body["next_steps"] == []
    assert (b"X-OpenShell-Policy", b"web") in denial.headers


def test_a_policy_name_cannot_add_a_field() -> None:
    hostile = RequestDenied("a\r\nX: é", None, "no_allow", "x", False, None, "", 1)
    denial = MAKE.request_denied(hostile, FACTS)
    assert (b"X-OpenShell-Policy", b"a??X: ?") in denial.headers


def test_a_method_that_a_shell_would_read_is_not_in_the_command() -> None:
    facts = RequestFacts("GET`id`", "/v1", "api.example", 443, "/usr/bin/curl")
    body = json.loads(MAKE.request_denied(REQUEST, facts).body)
    assert body["command"] == "openshell policy set demo --policy FILE"


@pytest.mark.parametrize("made", ["connect", "forward", "request"])
def test_an_agent_that_may_propose_is_told_how_and_another_is_not(made):
    state = [False]
    make = Denials("demo", lambda: state[0])
    answer = {
        "connect": lambda: make.connect_denied(CONNECTION),
        "forward": lambda: make.forward_denied(CONNECTION, FACTS),
        "request": lambda: make.request_denied(REQUEST, FACTS),
    }[made]
    off = json.loads(answer().body)
    assert not off.get("next_steps")
    assert "agent_guidance" not in off
    state[0] = True
    on = json.loads(answer().body)
    assert [step["action"] for step in on["next_steps"]] == [
        "read_skill",
        "inspect_policy",
        "inspect_recent_denials",
        "submit_proposal",
    ]
    assert "policy_reloaded: true" in on["agent_guidance"]
