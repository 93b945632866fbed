"""The two written forms of events: exact lines, one line each, and OCSF field pairs."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell import ocsf
from openshell.ocsf import (
    Action,
    ConfigEvent,
    Disposition,
    FindingEvent,
    HostPort,
    HttpEvent,
    NetActivity,
    NetworkEvent,
    ProcActivity,
    ProcessEvent,
    ProcessRef,
    Severity,
)

T = 1786439642507

LINES = {
    "allowed connection": (
        NetworkEvent(
            time_ms=T,
            activity=NetActivity.OPEN,
            action=Action.ALLOWED,
            process=ProcessRef("/usr/bin/git", 214),
            dst=HostPort("code.example.net", 443),
            policy="source_hosts",
            engine="opa",
        ),
        (
            "NET:OPEN [INFO] ALLOWED /usr/bin/git(214) -> code.example.net:443"
            " [policy:source_hosts engine:opa]"
        ),
    ),
    "denied request": (
        HttpEvent(
            time_ms=T,
            method="DELETE",
            severity=Severity.MEDIUM,
            action=Action.DENIED,
            scheme="https",
            host="items.example.org",
            port=443,
            path="/v2/7",
            policy="items_ro",
            engine="l7",
            detail="method not permitted",
        ),
        (
            "HTTP:DELETE [MED] DENIED DELETE https://items.example.org/v2/7"
            " [policy:items_ro engine:l7] [reason:method not permitted]"
        ),
    ),
    "refused direct connection": (
        NetworkEvent(
            time_ms=T,
            activity=NetActivity.REFUSE,
            severity=Severity.MEDIUM,
            action=Action.DENIED,
            process=ProcessRef("-"),
            dst=HostPort("192.0.2.9", 6379),
            policy="bypass-detect",
            engine="nftables",
            detail="no\nway",
        ),
        (
            "NET:REFUSE [MED] DENIED -(0) -> 192.0.2.9:6379"
            " [policy:bypass-detect engine:nftables] [reason:no way]"
        ),
    ),
    "IPv6 and another port": (
        HttpEvent(
            time_ms=T,
            method="GET",
            action=Action.ALLOWED,
            host="2001:db8::1",
            port=8080,
            process=ProcessRef("/bin/x", 5),
        ),
        "HTTP:GET [INFO] ALLOWED /bin/x(5) -> GET http://[2001:db8::1]:8080/",
    ),
    "finding": (
        FindingEvent(
            time_ms=T,
            uid="bypass-detect",
            title='Proxy "Bypass"',
            disposition=Disposition.BLOCKED,
            confidence="high",
        ),
        'FINDING:BLOCKED [MED] "Proxy \\"Bypass\\"" [type:bypass-detect confidence:high]',
    ),
    "end of a process": (
        ProcessEvent(time_ms=T, activity=ProcActivity.TERMINATE, exit_code=137),
        "PROC:TERMINATE [INFO] unknown(0) [exit:137]",
    ),
    "configuration": (
        ConfigEvent(
            time_ms=T, state="loaded", message="policy loaded", unmapped={"policy_version": "7"}
        ),
        "CONFIG:LOADED [INFO] policy loaded [version:7]",
    ),
    "listener has only a message": (
        NetworkEvent(time_ms=T, activity=NetActivity.LISTEN, message="proxy ready"),
        "NET:LISTEN [INFO] [msg:proxy ready]",
    ),
}


@pytest.mark.parametrize(("event", "line"), LINES.values(), ids=LINES.keys())
def test_shorthand(event, line):
    assert ocsf.to_line(event) == line


def test_a_long_reason_is_cut_on_a_character():
    event = NetworkEvent(
        time_ms=T, activity=NetActivity.OPEN, action=Action.DENIED, detail="é" * 400
    )
    reason = ocsf.to_line(event).split("reason:")[1]
    assert reason == "é" * 128 + "...]"


@given(st.text(), st.text(), st.text())
def test_no_text_breaks_the_line(host, path, reason):
    events = [
        HttpEvent(
            time_ms=T,
            method=path,
            action=Action.DENIED,
            host=host,
            path=path,
            detail=reason,
            policy=host,
            process=ProcessRef(path, 1),
            unmapped={host: path},
        ),
        ConfigEvent(time_ms=T, state=host, message=reason),
        FindingEvent(time_ms=T, uid=host, title=reason),
        ProcessEvent(time_ms=T, activity=ProcActivity.LAUNCH, command_line=reason),
    ]
    for event in events:
        assert ocsf.to_line(event).isprintable()


def test_a_path_that_is_no_text_is_written_all_the_same():
    event = NetworkEvent(
        time_ms=T,
        activity=NetActivity.OPEN,
        action=Action.DENIED,
        process=ProcessRef(os.fsdecode(b"/tmp/\xff"), 1),
    )
    document = json.loads(ocsf.to_json(event))
    assert document["actor"]["process"]["name"] == "/tmp/\\udcff"
    assert "\\u{dcff}" in ocsf.to_line(event)


def test_json_pairs_numbers_and_labels():
    event, _ = LINES["denied request"]
    doc = json.loads(ocsf.to_json(event, ocsf.EventContext(sandbox_id="s1", sandbox_name="box")))
    assert (doc["class_uid"], doc["activity_id"], doc["type_uid"]) == (4002, 2, 400202)
    assert (doc["severity_id"], doc["severity"]) == (3, "Medium")
    assert (doc["action_id"], doc["action"]) == (2, "Denied")
    assert doc["metadata"]["version"] == "1.8.0"
    assert doc["metadata"]["uid"] == "s1"
    assert doc["http_request"]["url"]["hostname"] == "items.example.org"
    assert doc["firewall_rule"] == {"name": "items_ro", "type": "l7"}
    assert "unmapped" not in doc


@pytest.mark.parametrize("event", [e for e, _ in LINES.values()], ids=LINES.keys())
def test_json_is_one_line(event):
    assert b"\n" not in ocsf.to_json(event)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("a.example", "a.example:80"),
        ("10.0.0.1", "10.0.0.1:80"),
        ("2001:db8::1", "[2001:db8::1]:80"),
    ],
)
def test_an_end_is_written_as_in_urls(host, shown):
    assert str(HostPort(host, 80)) == shown
