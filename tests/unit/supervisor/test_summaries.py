"""Counting of decisions, its bounds, and what the gateway is sent."""

import asyncio

import grpc.aio
import pytest

from openshell import ocsf
from openshell.supervisor.summaries import Summaries
from openshell.supervisor.tally import Tally, summary_of

DENIED = ocsf.Action.DENIED
CURL = ocsf.ProcessRef("/usr/bin/curl", 7)


def refused(host="a.example", port=443, at=1, stage="connect", group="connect_policy", who=CURL):
    return ocsf.NetworkEvent(
        time_ms=at,
        activity=ocsf.NetActivity.OPEN,
        action=DENIED,
        dst=ocsf.HostPort(host, port),
        process=who,
        detail="no rule",
        refusal=ocsf.Refusal("no_policy", stage, group, ancestors=("/usr/bin/bash",)),
    )


def refused_request(path="/x", at=1, method="PUT", host="a.example"):
    return ocsf.HttpEvent(
        time_ms=at,
        method=method,
        action=DENIED,
        host=host,
        port=80,
        path=path,
        process=CURL,
        refusal=ocsf.Refusal("no_allow", "forward-l7-deny", "l7_policy"),
    )


def allowed():
    return ocsf.NetworkEvent(time_ms=1, activity=ocsf.NetActivity.OPEN, action=ocsf.Action.ALLOWED)


def tally(*events):
    made = Tally()
    for item in events:
        made.add(item)
    return made


def denials(made):
    return [summary_of(each, "box") for each in made.take_denials()]


def test_equal_denials_are_one_summary():
    made = tally(refused(at=5), refused(at=9), refused(port=80), allowed())
    first, second = denials(made)
    assert (first.host, first.port, first.binary) == ("a.example", 443, "/usr/bin/curl")
    assert (first.count, first.first_seen_ms, first.last_seen_ms) == (2, 5, 9)
    assert (first.denial_stage, first.deny_reason, first.sandbox_id) == (
        "connect",
        "no rule",
        "box",
    )
    assert list(first.ancestors) == ["/usr/bin/bash"]
    assert (second.port, second.count) == (80, 1)
    assert denials(made) == []


def test_requests_are_samples():
    made = tally(refused_request(), refused_request(), refused_request("/y"))
    (summary,) = denials(made)
    assert [(s.method, s.path, s.count) for s in summary.l7_request_samples] == [
        ("PUT", "/x", 2),
        ("PUT", "/y", 1),
    ]
    assert summary.l7_inspection_active


def test_activity_is_numbers_of_known_groups():
    made = tally(
        allowed(),
        refused(),
        refused(group="ssrf"),
        refused(group="made up", stage=""),
        refused_request(),
        ocsf.BaseEvent(time_ms=1, message="no decision"),
    )
    activity = made.take_activity()
    assert (activity.network_activity_count, activity.denied_action_count) == (5, 4)
    assert {g.deny_group: g.denied_count for g in activity.denials_by_group} == {
        "connect_policy": 1,
        "ssrf": 1,
        "unknown": 1,
        "l7_policy": 1,
    }
    assert made.take_activity() is None


def test_an_agent_cannot_make_it_large():
    made = Tally()
    for number in range(2000):
        made.add(refused(f"{number}.example", at=number))
        made.add(refused_request("/" + str(number) + "x" * 4000, method="M" * 4000))
    summaries = denials(made)
    assert len(summaries) == 64
    assert max(len(s.l7_request_samples) for s in summaries) == 20
    assert sum(s.ByteSize() for s in summaries) < 1 << 19
    assert made.take_activity().denied_action_count == 4000


class Gateway:
    def __init__(self):
        self.stub = self
        self.sent = []
        self.error = None

    def metadata(self):
        return ()

    async def SubmitPolicyAnalysis(self, request, metadata, timeout):
        self.sent.append(request)
        if self.error is not None:
            raise self.error


async def test_nothing_is_sent_before_the_place_is_known():
    gateway, place = Gateway(), [""]
    summaries = Summaries(gateway, "id", "box", lambda: place[0], say=print, seconds=0.01)
    running = asyncio.create_task(summaries.run())
    summaries.emit(refused())
    await asyncio.sleep(0.05)
    assert gateway.sent == []
    place[0] = "default"
    async with asyncio.timeout(5):
        while len(gateway.sent) < 2:
            await asyncio.sleep(0.01)
    running.cancel()
    denial, activity = gateway.sent
    assert (denial.name, denial.workspace, denial.analysis_mode) == (
        "box",
        "default",
        "mechanistic",
    )
    assert [s.host for s in denial.summaries] == ["a.example"]
    assert [chunk.rule_name for chunk in denial.proposed_chunks] == ["allow_a_example_443"]
    assert activity.analysis_mode == "activity"
    assert "a.example" not in str(activity)


async def test_a_gateway_that_is_away_ends_nothing():
    gateway = Gateway()
    gateway.error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata()
    )
    summaries = Summaries(gateway, "id", "box", lambda: "default", say=print)
    for _ in range(2):
        summaries.emit(refused())
        await summaries.flush()
    assert len(gateway.sent) == 4


@pytest.mark.parametrize("event", [refused(host=""), ocsf.BaseEvent(time_ms=1, message="m")])
def test_what_has_no_place_is_no_denial(event):
    assert denials(tally(event)) == []


async def test_what_is_left_goes_out_when_the_sandbox_ends():
    gateway, said = Gateway(), []
    known = Summaries(gateway, "id", "box", lambda: "default", say=said.append)
    unknown = Summaries(gateway, "id", "box", lambda: "", say=said.append)
    for summaries in (known, unknown):
        await summaries.finish()
        summaries.emit(refused())
    assert (gateway.sent, said) == ([], [])
    await known.finish()
    assert [request.analysis_mode for request in gateway.sent] == ["mechanistic", "activity"]
    assert said == []
    await unknown.finish()
    assert len(gateway.sent) == 2
    assert said == ["the last summaries are lost: the workspace was never known"]


async def test_one_call_stays_below_what_the_gateway_takes():
    gateway = Gateway()
    summaries = Summaries(gateway, "id", "box", lambda: "default", say=print)
    for host in range(64):
        name = f"{host}.example"
        for number in range(30):
            path = f"/{number}/" + "x" * 240
            summaries.emit(refused_request(path, method="M" * 30, host=name))
    await summaries.flush()
    assert [len(request.proposed_chunks) for request in gateway.sent] == [32, 32, 0]
    assert max(request.ByteSize() for request in gateway.sent) < 1 << 19
    assert max(c.proposed_rule.ByteSize() for r in gateway.sent for c in r.proposed_chunks) < 8192
