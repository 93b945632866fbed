"""The desk behind `policy.local`: what goes to the gateway, what comes back, what it costs."""

import asyncio
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest

from openshell._proto import openshell_pb2
from openshell.codec.policy import rule_to_proto
from openshell.egress.policy_local import DeskFault, Fault, Proposal, Submission
from openshell.ocsf import to_line
from openshell.policy.model import Binary, Endpoint, L7Rule, NetworkRule, SandboxPolicy
from openshell.supervisor.advisor import Advisor
from openshell.supervisor.recent_denials import RecentDenials

RULE = NetworkRule(
    "docs",
    "docs",
    endpoints=(
        Endpoint("docs.example.com", (443,), protocol="rest", rules=(L7Rule("GET", "/docs/*"),)),
    ),
    binaries=(Binary("/usr/bin/curl"),),
)


def failing(code):
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "words within")


class Gateway:
    """The two calls of a gateway; `error` ends each."""

    def __init__(self):
        self.sent = []
        self.asked = 0
        self.error = None
        self.answer = openshell_pb2.SubmitPolicyAnalysisResponse(
            accepted_chunks=1, accepted_chunk_ids=["one"]
        )
        self.chunks = []

    async def SubmitPolicyAnalysis(self, request, **_):
        if self.error:
            raise self.error
        self.sent.append(request)
        return self.answer

    async def GetDraftPolicy(self, request, **_):
        self.asked += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return openshell_pb2.GetDraftPolicyResponse(chunks=self.chunks)


class Config:
    policy = None
    workspace = "default"
    on = True

    def is_on(self, setting):
        return self.on and setting == "agent_policy_proposals_enabled"


@pytest.fixture
def made():
    gateway, config, events = Gateway(), Config(), []
    client = SimpleNamespace(stub=gateway, metadata=lambda: ())
    now = [0.0]
    desk = Advisor(
        client,
        "box",
        config,
        RecentDenials(),
        events.append,
        clock=lambda: now[0],
        clock_ms=lambda: 0,
    )
    return SimpleNamespace(gateway=gateway, config=config, events=events, desk=desk, now=now)


async def test_a_proposal_goes_out_marked_and_is_recorded(made):
    told = await made.desk.submit(Submission("why", (Proposal("docs", RULE),)))
    assert (told.accepted, told.ids) == (1, ("one",))
    (request,) = made.gateway.sent
    assert (request.name, request.workspace) == ("box", "default")
    assert request.analysis_mode == "agent_authored"
    (chunk,) = request.proposed_chunks
    assert chunk.proposed_rule.endpoints[0].advisor_proposed
    assert chunk.proposed_rule.binaries[0].harness
    assert (chunk.rationale, chunk.confidence, chunk.hit_count) == ("why", 0.75, 1)
    (line,) = map(to_line, made.events)
    assert line.startswith("CONFIG:PROPOSED [INFO] proposed one: docs.example.com:443 GET /docs/*")


CODES = {
    "away": (grpc.StatusCode.UNAVAILABLE, Fault.CONNECT_FAILED),
    "slow": (grpc.StatusCode.DEADLINE_EXCEEDED, Fault.CONNECT_FAILED),
    "refused": (grpc.StatusCode.INVALID_ARGUMENT, Fault.SUBMIT_FAILED),
    "not built": (grpc.StatusCode.UNIMPLEMENTED, Fault.SUBMIT_FAILED),
}


@pytest.mark.parametrize(("code", "fault"), CODES.values(), ids=CODES.keys())
async def test_a_gateway_that_fails_is_a_fault_without_its_words(made, code, fault):
    made.gateway.error = failing(code)
    told = await made.desk.submit(Submission("why", (Proposal("docs", RULE),)))
    assert isinstance(told, DeskFault)
    assert told.fault is fault
    assert "words within" not in told.detail
    found = await made.desk.find("one")
    assert isinstance(found, DeskFault)
    assert found.fault is Fault.LOOKUP_FAILED


async def test_many_who_wait_are_one_question(made):
    made.gateway.chunks = [openshell_pb2.PolicyChunk(id="one", status="pending")]
    found = await asyncio.gather(*(made.desk.find("one") for _ in range(50)))
    assert {draft.status for draft in found} == {"pending"}
    assert await made.desk.find("two") is None
    assert made.gateway.asked == 1
    made.now[0] = 1.0
    await made.desk.find("one")
    assert made.gateway.asked == 2
    # What was just proposed is there at once.
    await made.desk.submit(Submission("why", (Proposal("docs", RULE),)))
    await made.desk.find("one")
    assert made.gateway.asked == 3


async def test_in_force_is_what_the_policy_here_covers(made):
    made.gateway.chunks = [
        openshell_pb2.PolicyChunk(
            id="one", status="approved", rule_name="docs", proposed_rule=rule_to_proto(RULE)
        )
    ]
    await made.desk.find("one")
    assert not made.desk.is_in_force("one")
    made.config.policy = SandboxPolicy(network_policies={"docs": RULE})
    assert made.desk.is_in_force("one")
    assert not made.desk.is_in_force("two")
    assert "docs.example.com" in made.desk.policy_yaml()


async def test_reasons_reach_the_log_cleaned(made):
    made.gateway.chunks = [
        openshell_pb2.PolicyChunk(
            id="one", status="rejected", rejection_reason="no\x1b[2J\nway " + "x" * 400
        ),
        openshell_pb2.PolicyChunk(id="two", status="rejected"),
    ]
    for draft_id in ("one", "two"):
        made.desk.decided(await made.desk.find(draft_id))
    first, second = made.events
    assert "\x1b" not in first.message
    assert len(first.message) < 300
    assert "(no guidance)" in second.message


def test_what_is_missing_and_what_is_off(made):
    assert made.desk.fault() is None
    made.config.workspace = ""
    assert made.desk.fault().fault is Fault.WORKSPACE_UNAVAILABLE
    assert made.desk.is_open()
    made.config.on = False
    assert not made.desk.is_open()
    assert made.desk.policy_yaml() is None
