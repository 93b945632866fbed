"""`policy.local` through the real proxy: both doors, every answer, and what an agent might try."""

import asyncio
import json

import pytest

from integration.egress.harness import A, Proxy, parse, problem, rest, rest_policy
from integration.egress.test_capture import SYNTHETIC, Captured
from openshell.egress.policy_local import (
    DeskFault,
    Draft,
    Fault,
    Submitted,
    policy_local,
)
from openshell.egress.policy_local.service import BODY_LIMIT, BURST, MAX_WAITS

ID = "7f1c"


def draft(status="pending", **fields):
    values = {
        "id": ID,
        "status": status,
        "rule_name": "docs",
        "binary": "/usr/bin/curl",
        "rejection_reason": "",
        "validation_result": "validation unavailable",
        "application_error": "",
        "review_token": "",
        "current_hash": "a",
        "candidate_hash": "b",
    }
    return Draft(**values | fields)


class Desk:
    """What a supervisor would do, by hand."""

    def __init__(self):
        self.open = True
        self.yaml = "version: 1\n"
        self.lines = [f"line {n}" for n in range(200)]
        self.submitted = []
        self.answer = Submitted(1, 0, (), (ID,))
        self.drafts = {ID: draft()}
        self.broken = None
        self.covered = False
        self.told = []

    def is_open(self):
        return self.open

    def policy_yaml(self):
        if isinstance(self.yaml, Exception):
            raise self.yaml
        return self.yaml

    def denials(self, last):
        return self.lines[:last]

    def fault(self):
        return self.broken

    async def submit(self, submission):
        self.submitted.append(submission)
        return self.answer

    async def find(self, draft_id):
        found = self.drafts.get(draft_id)
        return found

    def is_in_force(self, draft_id):
        return self.covered

    def decided(self, found):
        self.told.append(found.status)


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
async def proxy(desk):
    async with Served(desk) as proxy:
        yield proxy


class Served(Proxy):
    def __init__(self, desk, policy=None):
        super().__init__(policy or rest_policy())
        self.local = (policy_local(desk),)
        self.may_propose = desk.is_open


PROPOSAL = {
    "intent_summary": "read docs",
    "operations": [
        {
            "addRule": {
                "ruleName": "docs",
                "rule": {
                    "endpoints": [{"host": "docs.example.com", "port": 443}],
                    "binaries": [{"path": "/usr/bin/curl"}],
                },
            }
        }
    ],
}


def get(path, host="policy.local"):
    return f"GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def post(body, path="/v1/proposals"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST http://policy.local{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


ALL = {
    "policy": get("/v1/policy/current"),
    "denials": get("/v1/denials"),
    "propose": post(PROPOSAL),
    "find": get(f"/v1/proposals/{ID}"),
    "wait": get(f"/v1/proposals/{ID}/wait?timeout=1"),
    "nothing": get("/"),
}


@pytest.mark.parametrize("data", ALL.values(), ids=ALL.keys())
async def test_every_route_is_closed_while_proposals_are_off_and_opens_at_once(proxy, desk, data):
    desk.open = False
    status, body = problem(await proxy.say(data))
    assert (status, body["error"]) == (404, "feature_disabled")
    assert desk.submitted == []
    desk.open = True
    assert problem(await proxy.say(data))[1].get("error") != "feature_disabled"


async def test_reading(proxy, desk):
    answer = problem(await proxy.say(get("/v1/policy/current")))
    assert answer == (200, {"format": "yaml", "policy_yaml": "version: 1\n"})
    status, body = problem(await proxy.say(get("/v1/denials?last=3")))
    assert (status, body["denials"], body["log_available"]) == (200, desk.lines[:3], True)
    desk.yaml = None
    assert problem(await proxy.say(get("/v1/policy/current")))[1]["error"] == "policy_unavailable"
    desk.yaml = ValueError("x")
    status, body = problem(await proxy.say(get("/v1/policy/current")))
    assert (status, body["error"]) == (500, "policy_serialize_failed")
    assert proxy.names.asked == []


async def test_proposing(proxy, desk):
    status, body = problem(await proxy.say(post(PROPOSAL)))
    assert (status, body["status"], body["accepted_chunk_ids"]) == (202, "submitted", [ID])
    (submission,) = desk.submitted
    assert submission.intent == "read docs"
    assert submission.proposals[0].rule.endpoints[0].host == "docs.example.com"
    status, body = problem(await proxy.say(post({"operations": []})))
    assert (status, body["error"]) == (400, "invalid_proposal")
    assert len(desk.submitted) == 1


async def test_a_body_in_chunks_and_a_client_that_waits_to_be_asked(proxy, desk):
    data = json.dumps(PROPOSAL).encode()
    head = (
        b"POST http://policy.local/v1/proposals HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
    )
    sent = head + b"\r\n\r\n" + b"%x\r\n" % len(data) + data + b"\r\n0\r\n\r\n"
    assert parse(await proxy.say(sent))[0] == 202
    client = await proxy.connect()
    head = b"POST http://policy.local/v1/proposals HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    await client.send(head + b"Content-Length: %d\r\n\r\n" % len(data))
    assert (await client.head()).startswith(b"HTTP/1.1 100 ")
    assert (await client.request(data))[0] == 202
    client.close()
    assert len(desk.submitted) == 2


async def test_bodies_that_are_too_large_or_break_off(proxy, desk):
    status, body = problem(await proxy.say(post(b" " * (BODY_LIMIT + 1))))
    assert (status, body["error"]) == (413, "invalid_proposal")
    client = await proxy.connect()
    await client.send(post(PROPOSAL)[:-5])
    client.writer.write_eof()
    assert await client.rest() == b""
    client.close()
    assert desk.submitted == []


FAULTS = {fault.code: fault for fault in Fault}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_faults_of_the_desk_are_answers(proxy, desk, fault):
    if fault.status == 503:
        desk.broken = DeskFault(fault, "because")
    elif fault is Fault.LOOKUP_FAILED:
        desk.drafts[ID] = DeskFault(fault, "because")
    else:
        desk.answer = DeskFault(fault, "because")
    data = get(f"/v1/proposals/{ID}") if fault is Fault.LOOKUP_FAILED else post(PROPOSAL)
    assert problem(await proxy.say(data)) == (
        fault.status,
        {"error": fault.code, "detail": "because"},
    )


async def test_looking_up(proxy, desk):
    status, body = problem(await proxy.say(get(f"/v1/proposals/{ID}")))
    assert (status, body["chunk_id"], body["status"]) == (200, ID, "pending")
    assert "policy_reloaded" not in body
    desk.drafts[ID] = draft("approved")
    desk.covered = True
    body = problem(await proxy.say(get(f"/v1/proposals/{ID}")))[1]
    assert body["policy_reloaded"] is False
    status, body = problem(await proxy.say(get("/v1/proposals/another")))
    assert (status, body["error"]) == (404, "chunk_not_found")


async def test_waiting_ends_with_the_time_or_the_decision(proxy, desk):
    body = problem(await proxy.say(get(f"/v1/proposals/{ID}/wait?timeout=1")))[1]
    assert (body["status"], body["timed_out"]) == ("pending", True)
    assert desk.told == []
    waiting = asyncio.ensure_future(proxy.say(get(f"/v1/proposals/{ID}/wait?timeout=20")))
    await asyncio.sleep(0.05)
    desk.drafts[ID] = draft("rejected", rejection_reason="narrow it to /v2")
    body = problem(await waiting)[1]
    assert (body["status"], body["rejection_reason"]) == ("rejected", "narrow it to /v2")
    assert "policy_reloaded" not in body
    assert desk.told == ["rejected"]


async def test_an_approval_is_told_when_it_is_in_force_here(proxy, desk):
    desk.drafts[ID] = draft("approved")
    body = problem(await proxy.say(get(f"/v1/proposals/{ID}/wait?timeout=1")))[1]
    assert body["policy_reloaded"] is False
    waiting = asyncio.ensure_future(proxy.say(get(f"/v1/proposals/{ID}/wait?timeout=20")))
    await asyncio.sleep(0.05)
    desk.covered = True
    assert problem(await waiting)[1]["policy_reloaded"] is True


async def test_waits_and_submissions_are_bounded(proxy, desk):
    waiting = [await proxy.connect() for _ in range(MAX_WAITS)]
    for client in waiting:
        await client.send(get(f"/v1/proposals/{ID}/wait?timeout=300"))
    await asyncio.sleep(0.3)
    status, body = problem(await proxy.say(get(f"/v1/proposals/{ID}/wait")))
    assert (status, body["error"]) == (503, "too_many_waits")
    for client in waiting:
        client.close()
    async with asyncio.timeout(10):
        while proxy.proxy.connections:
            await asyncio.sleep(0.05)
    # Nobody waits for agents that have gone.
    assert parse(await proxy.say(get(f"/v1/proposals/{ID}/wait?timeout=1")))[0] == 200
    for _ in range(BURST):
        assert parse(await proxy.say(post(PROPOSAL)))[0] == 202
    status, body = problem(await proxy.say(post(PROPOSAL)))
    assert (status, body["error"]) == (429, "too_many_proposals")
    assert len(desk.submitted) == BURST


ELSEWHERE = {
    "port": get("/v1/denials", "policy.local:8080"),
    "https": b"GET https://policy.local/v1/denials HTTP/1.1\r\nHost: a\r\n\r\n",
    "ftp": b"GET ftp://policy.local/ HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("data", ELSEWHERE.values(), ids=ELSEWHERE.keys())
async def test_it_is_nowhere_else(proxy, data):
    status, body = problem(await proxy.say(data))
    assert (status, body["error"]) == (400, "invalid_policy_local_scheme")


async def test_a_tunnel_to_the_name_is_an_ordinary_question(proxy):
    status, body = problem(await proxy.say(b"CONNECT policy.local:80 HTTP/1.1\r\n\r\n"))
    assert (status, body["error"]) == (403, "policy_denied")
    assert proxy.names.asked == []


@pytest.mark.parametrize("host", ["POLICY.local", "policy.local.", "policy.local:80"])
async def test_other_spellings_are_the_name(proxy, host):
    assert parse(await proxy.say(get("/v1/denials", host)))[0] == 200


async def test_a_captured_client_gets_the_same_answers(desk):
    class Direct(Served, Captured):
        def __init__(self):
            Captured.__init__(self, rest_policy(), (SYNTHETIC, 80), {SYNTHETIC: "policy.local"})
            self.local = (policy_local(desk),)
            self.may_propose = desk.is_open

    async with Direct() as proxy:
        client = await proxy.connect_directly()
        await client.send(b"GET /v1/denials?last=1 HTTP/1.1\r\nHost: policy.local\r\n\r\n")
        assert problem(await client.rest())[1]["denials"] == ["line 0"]
        client.close()
        dns = proxy.proxy._dns
        assert dns._could_resolve("policy.local")
        assert not dns._could_resolve("elsewhere.local")


async def test_refusals_name_it_only_while_proposals_are_on(proxy, desk):
    denied = get("/x", "nowhere.example")
    on = problem(await proxy.say(denied))[1]
    assert on["next_steps"][-1]["url"] == "http://policy.local/v1/proposals"
    desk.open = False
    off = problem(await proxy.say(denied))[1]
    assert "next_steps" not in off
    assert "agent_guidance" not in off


async def test_a_connection_that_was_used_for_others_may_end_with_it(desk):
    async with Served(desk, rest_policy(rest(A, 80))) as proxy:
        client = await proxy.connect()
        await client.send(get("/v1/policy/current") + get("/v1/denials"))
        answer = await client.rest()
        client.close()
    # The second request is not answered: every answer is the last one.
    assert answer.count(b"HTTP/1.1 ") == 1
