"""Decisions read from stored events, as the proxy writes them."""

import json

import pytest

from openshell import ocsf
from openshell._proto import openshell_pb2
from openshell.egress.events import Actor, EventLog, Where
from openshell.policy.replay import DecisionKind
from openshell.policy.trial import Outcome
from openshell.sdk.replay import DecisionReader, decision_of

ACTOR = Actor(ocsf.HostPort("10.200.0.1", 40000), ocsf.ProcessRef("/usr/bin/curl", 7), ("/bin/sh",))
WHERE = Where("PUT", "https", "api.x.com", 443, "/v1/a")
DST = ocsf.HostPort("api.x.com", 443)


def written(write):
    """The JSON form of the event that the proxy's own event log makes."""
    events = []
    write(EventLog(events.append, lambda: 1234))
    (event,) = events
    return ocsf.to_json(event)


def refusal(code="no_allow", ancestors=("/bin/sh",)):
    return ocsf.Refusal(code, ancestors=ancestors)


def denied_request(engine="l7", code="no_allow", **more):
    return written(
        lambda log: log.request_denied(
            ACTOR, WHERE, "api", engine=engine, reason="no", refusal=refusal(code, **more)
        )
    )


def test_an_allowed_connection():
    found = decision_of(written(lambda log: log.connection_allowed(ACTOR, DST, "api", "CONNECT")))
    assert (found.kind, found.outcome) == (DecisionKind.CONNECTION, Outcome.ALLOWED)
    assert (found.host, found.port, found.binary) == ("api.x.com", 443, "/usr/bin/curl")
    assert (found.policy, found.time_ms, found.ancestors) == ("api", 1234, ("/bin/sh",))
    assert found.request_line == "CONNECT api.x.com:443"


@pytest.mark.parametrize(
    ("ancestors", "told"),
    [
        pytest.param((), None, id="none"),
        pytest.param(("/bin/sh", "/bin/bash"), ("/bin/sh", "/bin/bash"), id="some"),
        pytest.param(("/" + "x" * 4095,), ("/" + "x" * 4095,), id="as long as fits"),
        pytest.param(("/" + "x" * 4095, "/"), None, id="too long to be kept"),
    ],
)
def test_parents_of_an_allowed_program(ancestors, told):
    actor = Actor(ACTOR.src, ACTOR.process, ancestors)
    event = written(lambda log: log.connection_allowed(actor, DST, "api", "CONNECT"))
    assert decision_of(event).ancestors == told
    assert b"ancestors" in event or told is None


def test_a_denied_connection_to_an_address():
    found = decision_of(
        written(
            lambda log: log.connection_denied(
                ACTOR,
                ocsf.HostPort("2001:db8::1", 443),
                engine="opa",
                reason="no",
                refusal=refusal("endpoint_not_allowed"),
            )
        )
    )
    assert (found.outcome, found.host) == (Outcome.DENIED, "2001:db8::1")
    assert (found.policy, found.reason_code) == ("", "endpoint_not_allowed")
    assert found.ancestors == ("/bin/sh",)


def test_requests():
    allowed = written(lambda log: log.request_allowed(ACTOR, WHERE, "api", engine="l7", message=""))
    audited = written(
        lambda log: log.request_allowed(
            ACTOR, WHERE, "api", engine="l7", message="", detail="PUT /v1/a not permitted"
        )
    )
    outcomes = [decision_of(event).outcome for event in (allowed, audited, denied_request())]
    assert outcomes == [Outcome.ALLOWED, Outcome.AUDITED, Outcome.DENIED]
    found = decision_of(allowed)
    assert found.request_line == "PUT https://api.x.com:443/v1/a"
    assert not found.is_path_cut
    assert decision_of(denied_request(ancestors=())).ancestors == ()


def test_a_cut_path_and_a_program_without_a_name():
    where = Where("GET", "http", "a", 80, "/" + "x" * 255)
    actor = Actor(ocsf.HostPort("10.200.0.1", 1))
    event = written(lambda log: log.request_allowed(actor, where, "api", engine="opa", message=""))
    found = decision_of(event)
    assert found.is_path_cut
    assert found.binary is None


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (denied_request("ssrf", "x"), "decided by ssrf, not by the policy"),
        (
            denied_request("opa", "identity_unknown"),
            "denied as identity_unknown, not by the policy",
        ),
        (
            written(lambda log: log.connection_closed(ACTOR, DST, "api", "reload")),
            "denied as closed_by_reload, not by the policy",
        ),
        (
            written(
                lambda log: log.connection_denied(
                    ACTOR, None, engine="opa", reason="x", refusal=refusal()
                )
            ),
            "destination not recorded",
        ),
        (written(lambda log: log.connection_failed(ACTOR, DST, "no route")), ""),
        (written(lambda log: log.finding("uid", "title", "text")), ""),
        (
            written(
                lambda log: log.connection_allowed(ACTOR, DST, "api", "", engine="l7-websocket")
            ),
            "",
        ),
        (written(lambda log: log.listener("up", ocsf.Severity.LOW)), ""),
        (b"{}", ""),
        (b"[]", "unreadable event"),
        (b'{"class_uid": 4002, "time', "unreadable event"),
        (b'{"class_uid": "4002"}', "unreadable event"),
        (b"\xff", "unreadable event"),
    ],
)
def test_what_is_not_replayed_says_why(event, reason):
    assert decision_of(event) == reason


SPOKEN = {
    "graphql": ("l7-graphql", "unregistered_query", None),
    "graphql-body": ("l7-graphql", "graphql_rejected", None),
    "json-rpc": ("l7-jsonrpc", "rpc_response", None),
    "mcp": ("l7-mcp", "rpc_rejected", None),
    "websocket": ("l7-websocket", "no_allow", True),
    "no-handshake": ("l7-websocket", "websocket_required", False),
}


@pytest.mark.parametrize(("engine", "code", "upgrade"), SPOKEN.values(), ids=SPOKEN)
def test_protocols_whose_refusals_are_the_policys(engine, code, upgrade):
    found = decision_of(denied_request(engine, code))
    assert (found.outcome, found.reason_code) == (Outcome.DENIED, code)
    assert found.is_upgrade is upgrade


@pytest.mark.parametrize(
    ("engine", "upgrade"), [("l7-websocket", True), ("l7", None), ("l7-mcp", None)]
)
def test_what_passed_at_a_websocket_endpoint_was_a_handshake(engine, upgrade):
    found = decision_of(
        written(lambda log: log.request_allowed(ACTOR, WHERE, "api", engine=engine, message=""))
    )
    assert found.is_upgrade is upgrade


def test_a_handshake_that_is_none_is_not_the_policys_word():
    reason = "denied as websocket, not by the policy"
    assert decision_of(denied_request("l7-websocket", "websocket")) == reason


def line(level="OCSF", **fields):
    return openshell_pb2.SandboxLogLine(level=level, message="m", fields=fields)


def test_lines_of_a_log():
    good = denied_request().decode()
    reader = DecisionReader()
    found = [
        *reader.read(
            [
                line(ocsf=good),
                line("INFO"),
                line(),
                line(ocsf=good[:-20]),
                line(ocsf=denied_request("credentials", "x").decode()),
                line(ocsf=json.dumps({"class_uid": 1007, "action": "Allowed"})),
            ]
        ),
        *reader.read([line(ocsf=good), line()]),
    ]
    assert len(found) == 2
    assert reader.skipped == {
        "decided by credentials, not by the policy": 1,
        "event kept without its JSON form": 2,
        "unreadable event": 1,
    }


def events(*calls):
    made = []
    log = EventLog(made.append, lambda: 1)
    for call in calls:
        call(log)
    return [line(ocsf=ocsf.to_json(event).decode()) for event in made]


def with_ancestors(lines):
    return [found.ancestors for found in DecisionReader().read(lines)]


def test_requests_have_the_parents_of_their_connection():
    other = Actor(ACTOR.src, ocsf.ProcessRef("/bin/other", 8))
    elsewhere = Actor(ocsf.HostPort("10.200.0.1", 40001), ACTOR.process)

    def opened(*ancestors):
        actor = Actor(ACTOR.src, ACTOR.process, ancestors)
        return events(lambda log: log.connection_allowed(actor, DST, "api", "CONNECT"))

    def asked(actor):
        return events(lambda log: log.request_allowed(actor, WHERE, "api", engine="l7", message=""))

    requests = asked(ACTOR) + asked(other) + asked(elsewhere)
    assert with_ancestors([*opened("/bin/sh"), *requests]) == [
        ("/bin/sh",),
        ("/bin/sh",),
        None,
        None,
    ]
    assert with_ancestors(requests) == [None, None, None]
    # The port was used again.
    again = [*opened("/bin/sh"), *opened("/bin/bash"), *asked(ACTOR)]
    assert with_ancestors(again)[-1] == ("/bin/bash",)
