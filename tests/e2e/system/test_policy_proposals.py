"""A refused agent reads why, proposes a rule and waits; people see a draft, and nothing is allowed by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from openshell._proto import openshell_pb2
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import DraftClient
from openshell.sdk.refs import SandboxRef
from support import inside
from support.private_gateway import (
    PREFIX,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.upstream import ALIAS, Upstream

CLIENT = Path(inside.__file__).read_text()
SKILLS = (
    "/etc/openshell/skills/policy_advisor.md",
    "/etc/openshell/skills/policy-advisor/SKILL.md",
)
# Straight to the name, without the proxy's variables, so that the capture serves it.
DIRECT = """
import http.client
connection = http.client.HTTPConnection("policy.local", 80, timeout=10)
connection.request("GET", "/v1/denials?last=5")
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


@dataclass
class Agent:
    gateway: PrivateGateway
    client: SandboxClient
    ref: SandboxRef

    def run(self, *argv: str, stdin: bytes = b"") -> str:
        ran = self.client.exec(
            self.ref.id,
            list(argv),
            env={"PYTHONHOME": PREFIX, "LD_LIBRARY_PATH": f"{PREFIX}/lib"},
            stdin=stdin,
            timeout_seconds=30,
        )
        assert ran.exit_code == 0, ran.stderr
        return ran.stdout if isinstance(ran.stdout, str) else ran.stdout.decode()

    def send(self, method: str, url: str, body: object = None) -> tuple[int, dict[str, object]]:
        """One request as programs send it that know of the proxy; status and JSON body."""
        data = b"" if body is None else json.dumps(body).encode()
        host = url.split("/")[2]
        text = f"{method} {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n"
        text += f"Connection: close\r\n\r\n{data.decode()}"
        script = json.dumps([{"op": "raw", "send": text}]).encode()
        (answer,) = json.loads(self.run(PYTHON, "-S", "-c", CLIENT, stdin=script))
        head, _, rest = answer.partition("\r\n\r\n")
        return int(head[9:12]), json.loads(rest) if rest.startswith("{") else {}

    def ask(self, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        return self.send("POST" if body is not None else "GET", f"http://policy.local{path}", body)

    def drafts(self) -> list[openshell_pb2.PolicyChunk]:
        """What was proposed by the agent itself."""
        chunks = DraftClient(self.client).get(self.ref.name, workspace="default").chunks
        return [chunk for chunk in chunks if not chunk.rule_name.startswith("allow_")]


@pytest.fixture(scope="module")
def agent(gateway: PrivateGateway, client: SandboxClient) -> Iterator[Agent]:
    with ready_sandbox(client, sandbox_spec()) as ref:
        yield Agent(gateway, client, ref)


def setting(agent: Agent, value: str) -> None:
    ran = agent.gateway.cli(
        "settings",
        "set",
        agent.ref.name,
        "--key",
        "agent_policy_proposals_enabled",
        "--value",
        value,
    )
    assert ran.returncode == 0, ran.stderr
    assert "no effect" not in ran.stdout + ran.stderr


def test_from_a_refusal_to_a_draft(agent: Agent, upstream: Upstream) -> None:
    place = f"{ALIAS}:{upstream.port}"
    wanted = f"http://{place}/docs/1"
    # Off: nothing is offered, nothing is taken.
    assert agent.ask("/v1/policy/current")[1]["error"] == "feature_disabled"
    assert "next_steps" not in agent.send("GET", wanted)[1]
    setting(agent, "true")
    wait_until(lambda: agent.ask("/v1/policy/current")[0] == 200)

    status, refused = agent.send("GET", wanted)
    assert (status, refused["error"]) == (403, "policy_denied")
    steps = refused["next_steps"]
    assert isinstance(steps, list)
    assert steps[0]["path"] == SKILLS[0]
    for skill in SKILLS:
        assert "http://policy.local/v1/proposals" in agent.run("cat", skill)
    assert "not writable" in agent.run(
        "sh", "-c", f"echo x 2>/dev/null >> {SKILLS[0]} || echo not writable"
    )
    assert "filesystem_policy" in str(agent.ask("/v1/policy/current")[1]["policy_yaml"])
    denials = agent.ask("/v1/denials?last=5")[1]["denials"]
    assert isinstance(denials, list)
    assert place in denials[0]
    assert " OCSF " in denials[0]
    assert agent.run(PYTHON, "-S", "-c", DIRECT).startswith("200 ")

    rule = {
        "endpoints": [
            {
                "host": ALIAS,
                "port": upstream.port,
                "protocol": "rest",
                "rules": [{"allow": {"method": "GET", "path": "/docs/*"}}],
                "advisor_proposed": False,
            }
        ],
        "binaries": [{"path": PYTHON, "harness": False}],
    }
    body = {
        "intent_summary": "read the docs",
        "operations": [
            {"addRule": {"ruleName": "docs", "rule": rule}},
            {"addRule": {"ruleName": "_provider_docs", "rule": rule}},
        ],
    }
    status, answer = agent.ask("/v1/proposals", body)
    assert (status, answer["accepted_chunks"], answer["rejected_chunks"]) == (202, 1, 1), answer
    assert "_provider_" in str(answer["rejection_reasons"])
    ids = answer["accepted_chunk_ids"]
    assert isinstance(ids, list)
    (draft_id,) = ids

    # A person sees a marked draft; the agent that it waits.
    (draft,) = agent.drafts()
    assert (draft.id, draft.status, draft.rationale) == (draft_id, "pending", "read the docs")
    (endpoint,) = draft.proposed_rule.endpoints
    assert (endpoint.advisor_proposed, endpoint.enforcement) == (True, "enforce")
    assert all(binary.harness for binary in draft.proposed_rule.binaries)
    shown = agent.gateway.cli("rule", "get", agent.ref.name)
    assert draft_id in shown.stdout
    assert "allow GET /docs/*" in shown.stdout
    assert "proposed" in agent.gateway.cli("rule", "history", agent.ref.name).stdout
    status, waited = agent.ask(f"/v1/proposals/{draft_id}/wait?timeout=1")
    assert (status, waited["status"], waited["timed_out"]) == (200, "pending", True)
    assert agent.ask("/v1/proposals/another")[1]["error"] == "chunk_not_found"
    wait_until(lambda: "CONFIG:PROPOSED" in agent.gateway.cli("logs", agent.ref.name).stdout)

    # Nothing is allowed by it.
    before = upstream.connections
    assert agent.send("GET", wanted)[0] == 403
    assert upstream.connections == before
    setting(agent, "false")
    wait_until(lambda: agent.ask("/v1/policy/current")[1].get("error") == "feature_disabled")
    assert agent.ask("/v1/proposals", body)[0] == 404
    assert "next_steps" not in agent.send("GET", wanted)[1]


def test_one_agent_learns_nothing_of_another(agent: Agent, client: SandboxClient) -> None:
    (draft,) = agent.drafts()
    with ready_sandbox(client, sandbox_spec()) as ref:
        other = Agent(agent.gateway, client, ref)
        setting(other, "true")
        wait_until(lambda: other.ask("/v1/policy/current")[0] == 200)
        assert other.ask(f"/v1/proposals/{draft.id}")[1]["error"] == "chunk_not_found"
        assert other.ask("/v1/denials")[1]["denials"] == []
        assert other.drafts() == []


def test_an_agent_that_attacks_the_door_gets_answers_and_nothing_else(agent: Agent) -> None:
    setting(agent, "true")
    wait_until(lambda: agent.ask("/v1/policy/current")[0] == 200)
    before = len(agent.drafts())
    endpoint = {"host": "a.example.com", "port": 443}
    rule = {"endpoints": [endpoint], "binaries": [{"path": "/usr/bin/curl"}]}
    huge = {"operations": [], "intent_summary": "x" * 70_000}
    assert agent.ask("/v1/proposals", huge)[0] == 413
    for key in ("allow_uninspected_credentials", "credential_binding", "credential_signing"):
        asked = {**rule, "endpoints": [{**endpoint, key: True}]}
        body = {"operations": [{"addRule": {"ruleName": "a", "rule": asked}}]}
        status, answer = agent.ask("/v1/proposals", body)
        assert (status, answer["error"]) == (400, "invalid_proposal")
        assert key in str(answer["detail"])
    # Nobody decides from inside.
    for path in ("/v1/proposals/x/approve", "/v1/drafts"):
        assert agent.ask(path, {})[1]["error"] == "not_found"
    # A flood is turned away, and one answer carries all that came of it.
    body = {"operations": [{"addRule": {"ruleName": "a", "rule": rule}}]}
    answers = [agent.ask("/v1/proposals", body)[0] for _ in range(30)]
    assert 202 in answers
    assert set(answers) <= {202, 429}
    drafts = agent.drafts()
    assert len(drafts) <= before + 30
    assert [draft.status for draft in drafts if draft.rule_name == "a"].count("pending") == 1
    # A refusal says what it refuses, without the query that came with it.
    agent.send("GET", "http://nowhere.example.com/a?token=s3cret-in-a-query")
    text = json.dumps(agent.ask("/v1/denials?last=100")[1])
    assert "nowhere.example.com" in text
    assert "s3cret-in-a-query" not in text


def test_what_was_refused_is_proposed_when_the_sandbox_ends(client: SandboxClient) -> None:
    """Also of a program that knows nothing of proposals; and nothing becomes allowed by it."""
    script = (
        "import socket\n"
        "for line in ('CONNECT nowhere.example.com:443', 'PUT http://other.example.com/posts/42'):\n"
        "    s = socket.create_connection(('10.200.0.1', 3128))\n"
        "    host = line.split()[1].removeprefix('http://').split('/')[0]\n"
        "    s.sendall(f'{line} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n'.encode())\n"
        "    assert b' 403 ' in s.recv(65536)\n"
    )
    spec = sandbox_spec(command=(PYTHON, "-S", "-c", script))
    spec.environment.update({"PYTHONHOME": PREFIX, "LD_LIBRARY_PATH": f"{PREFIX}/lib"})
    ref = client.create(workspace="default", spec=spec)
    try:
        drafts = DraftClient(client)

        def found() -> list[openshell_pb2.PolicyChunk]:
            return sorted(
                drafts.get(ref.name, workspace="default").chunks, key=lambda each: each.rule_name
            )

        # Long before the ten seconds of the first summary.
        wait_until(lambda: len(found()) == 2, seconds=8)
        tunnel, request = found()
        assert (tunnel.rule_name, tunnel.status) == ("allow_nowhere_example_com_443", "pending")
        (endpoint,) = request.proposed_rule.endpoints
        assert (endpoint.protocol, endpoint.enforcement) == ("rest", "enforce")
        assert [(r.allow.method, r.allow.path) for r in endpoint.rules] == [("PUT", "/posts/*")]
    finally:
        client.delete(ref.name, workspace="default")
        client.wait_deleted(ref.name, workspace="default")
