"""Proposals over the API: handed in by a sandbox's own supervisor, kept as drafts, allowing nothing."""

import pytest

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.gateway.auth.principal import LOCAL_DEV_USER, SandboxPrincipal, SandboxSource
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.records import Kind
from openshell.gateway.store import NewRow, Unconditional

WEB = """
version: 1
network_policies:
  web:
    endpoints: [{host: api.example.com, port: 443, protocol: rest, access: read-only, enforcement: enforce}]
    binaries: [{path: /usr/bin/curl}]
"""


def chunk(name="docs", host="docs.example.com", port=443, binary="/usr/bin/curl", **fields):
    endpoint = fields.pop("endpoint", {"protocol": "rest", "access": "read-only"})
    rule = sandbox_pb2.NetworkPolicyRule(
        name=name,
        endpoints=[sandbox_pb2.NetworkEndpoint(host=host, port=port, ports=[port], **endpoint)],
        binaries=[sandbox_pb2.NetworkBinary(path=binary)] if binary else [],
    )
    return openshell_pb2.PolicyChunk(
        **{"rule_name": name, "proposed_rule": rule, "confidence": 0.75, "hit_count": 1} | fields
    )


async def submit(gateway, *chunks, name="box", mode="agent_authored", workspace=""):
    return await gateway.SubmitPolicyAnalysis(
        openshell_pb2.SubmitPolicyAnalysisRequest(
            name=name, analysis_mode=mode, proposed_chunks=chunks, workspace=workspace
        )
    )


async def drafts(gateway, status="", name="box"):
    answer = await gateway.GetDraftPolicy(
        openshell_pb2.GetDraftPolicyRequest(name=name, status_filter=status)
    )
    return list(answer.chunks)


def act_as(gateway, sandbox):
    """Be the supervisor of a sandbox, or with None a person."""
    source = SandboxSource.GATEWAY_TOKEN
    gateway.principal = SandboxPrincipal(sandbox.metadata.id, source) if sandbox else LOCAL_DEV_USER


@pytest.fixture
async def sandbox(gateway):
    return await gateway.sandbox("box", policy=WEB)


@pytest.fixture
async def box(gateway, sandbox):
    """The gateway as the sandbox's supervisor meets it."""
    act_as(gateway, sandbox)
    return gateway


async def test_a_proposal_is_a_marked_draft_and_allows_nothing(box, sandbox):
    before = await box.config(sandbox)
    sent = chunk(rationale="read the docs")
    sent.proposed_rule.endpoints[0].provider_credentialed = True
    answer = await submit(box, sent)
    assert (answer.accepted_chunks, answer.rejected_chunks) == (1, 0), answer.rejection_reasons
    (draft,) = await drafts(box)
    assert draft.id == answer.accepted_chunk_ids[0]
    assert (draft.status, draft.rule_name, draft.binary) == ("pending", "docs", "/usr/bin/curl")
    (endpoint,) = draft.proposed_rule.endpoints
    assert endpoint.advisor_proposed
    assert not endpoint.provider_credentialed
    # Without a word on enforcement everything would pass.
    assert endpoint.enforcement == "enforce"
    assert all(binary.harness for binary in draft.proposed_rule.binaries)
    assert draft.validation_result == "validation unavailable"
    assert not draft.application_error
    assert draft.current_effective_policy_hash == before.policy_hash
    assert draft.candidate_effective_policy_hash not in ("", before.policy_hash)
    after = await box.config(sandbox)
    assert after == before
    assert box.changes == []


REFUSED = {
    "no name": (chunk(" "), "chunk missing rule_name"),
    "reserved": (chunk("_provider_x"), "chunk '_provider_x' uses reserved '_provider_'"),
    "control": (chunk("a\x1b[2J"), "must be printable"),
    "long": (chunk("a" * 200), "at most 128"),
    "no rule": (
        openshell_pb2.PolicyChunk(rule_name="a"),
        "chunk 'a' missing proposed_rule",
    ),
    "no endpoint": (
        openshell_pb2.PolicyChunk(
            rule_name="a", proposed_rule=sandbox_pb2.NetworkPolicyRule(name="a")
        ),
        "merge failed: add_rule needs at least one endpoint",
    ),
    "binding": (
        chunk(
            endpoint={
                "protocol": "rest",
                "access": "full",
                "credential_binding": sandbox_pb2.NetworkEndpoint(
                    credential_binding={"provider": "x"}
                ).credential_binding,
            }
        ),
        "field 'credential_binding' cannot be proposed",
    ),
    "consent": (
        chunk(endpoint={"allow_uninspected_credentials": True}),
        "field 'allow_uninspected_credentials' cannot be proposed",
    ),
    "large": (chunk(endpoint={"allowed_ips": ["10.0.0.1"] * 2000}), "larger than 8192"),
    "invalid": (chunk(endpoint={"protocol": "rest"}), "candidate invalid"),
    "raw over inspected": (
        chunk("raw", host="api.example.com", endpoint={"tls": "skip"}, binary="/usr/bin/wget"),
        "advisor_proposed",
    ),
    "in force": (
        chunk("web2", host="api.example.com"),
        "the policy in force covers the rule already",
    ),
}


@pytest.mark.parametrize(("sent", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_could_not_work_is_refused_and_the_rest_is_kept(box, sent, words):
    answer = await submit(box, sent, chunk())
    assert (answer.accepted_chunks, answer.rejected_chunks) == (1, 1)
    assert words in answer.rejection_reasons[0]
    assert [draft.rule_name for draft in await drafts(box)] == ["docs"]


@pytest.mark.parametrize("host", ["169.254.169.254", "localhost", "metadata.google.internal"])
async def test_what_no_policy_can_open_is_kept_for_people_to_see(box, host):
    await submit(box, chunk(host=host))
    (draft,) = await drafts(box)
    assert "always blocked" in draft.application_error
    assert not draft.candidate_effective_policy_hash


async def test_a_refinement_takes_the_place_of_what_came_before(box):
    first = (await submit(box, chunk())).accepted_chunk_ids[0]
    second = (await submit(box, chunk("narrow"))).accepted_chunk_ids[0]
    found = {draft.id: draft for draft in await drafts(box)}
    assert found[first].status == "rejected"
    assert found[first].rejection_reason == f"superseded by chunk {second}"
    assert found[second].status == "pending"
    assert [d.id for d in await drafts(box, "pending")] == [second]
    assert await drafts(box, "unheard of") == []
    act_as(box, None)
    history = await box.GetDraftHistory(openshell_pb2.GetDraftHistoryRequest(name="box"))
    assert [entry.event_type for entry in history.entries].count("proposed") == 2
    assert "Rule 'docs' rejected" in [entry.description for entry in history.entries]


async def test_refusals_that_repeat_are_counted_and_never_replace_what_an_agent_asks(box):
    agent = (await submit(box, chunk("mine"))).accepted_chunk_ids[0]
    one = await submit(box, chunk(hit_count=3), mode="mechanistic")
    two = await submit(box, chunk(hit_count=5000), mode="mechanistic")
    assert one.accepted_chunk_ids == two.accepted_chunk_ids
    found = {draft.id: draft for draft in await drafts(box)}
    assert found[one.accepted_chunk_ids[0]].hit_count == 103
    assert found[agent].status == "pending"
    # And the other way round.
    await submit(box, chunk("mine2"))
    again = await submit(box, chunk(), mode="mechanistic")
    found = {draft.id: draft for draft in await drafts(box)}
    assert found[again.accepted_chunk_ids[0]].status == "rejected"
    assert found[again.accepted_chunk_ids[0]].hit_count == 104


async def test_what_a_person_has_allowed_meanwhile_is_asked_no_more(box, sandbox):
    await submit(box, chunk())
    act_as(box, None)
    wider = WEB + (
        "  docs:\n    endpoints: [{host: docs.example.com, port: 443, protocol: rest,"
        " access: read-only, enforcement: enforce}]\n    binaries: [{path: /usr/bin/curl}]\n"
    )
    await box.set_policy(sandbox, wider)
    # At once: an agent that waits is told.
    (draft,) = await drafts(box)
    assert draft.rejection_reason == "covered by active policy revision 2"
    act_as(box, sandbox)
    await submit(box, chunk("other", host="other.example.com"))
    found = {draft.rule_name: draft for draft in await drafts(box)}
    assert found["docs"].rejection_reason == "covered by active policy revision 2"
    assert found["other"].status == "pending"


async def test_an_agent_cannot_fill_the_store(box):
    for start in range(0, 320, 64):
        await submit(box, *(chunk(host=f"h{start + n}.example.com") for n in range(64)))
    kept = await drafts(box)
    assert len(kept) == 256
    full = await submit(box, chunk(host="one.more.example.com"))
    assert "a person has to decide" in full.rejection_reasons[0]
    size = (await box.GetDraftPolicy(openshell_pb2.GetDraftPolicyRequest(name="box"))).ByteSize()
    assert size < 4 << 20


async def test_rows_that_were_replaced_make_room(box):
    for _ in range(300):
        answer = await submit(box, chunk())
        assert answer.accepted_chunks == 1
    kept = await drafts(box)
    assert len(kept) == 256
    assert [draft.status for draft in kept].count("pending") == 1


BOUNDS = {
    "chunks": [chunk(host=f"h{n}.example.com") for n in range(65)],
    "rationale": [chunk(rationale="x" * 5000)],
}


@pytest.mark.parametrize("sent", BOUNDS.values(), ids=BOUNDS.keys())
async def test_too_much_is_refused_as_a_whole(box, sent):
    with pytest.raises(ApiError) as refused:
        await submit(box, *sent)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert await drafts(box) == []


async def test_other_sandboxes_do_not_exist_for_a_supervisor(box, sandbox):
    await submit(box, chunk())
    act_as(box, None)
    act_as(box, await box.sandbox("other"))
    for name in ("box", sandbox.metadata.id, "no-such"):
        for call in (submit(box, chunk(), name=name), drafts(box, name=name)):
            with pytest.raises(ApiError) as refused:
                await call
            assert refused.value.code is Code.PERMISSION_DENIED
            assert refused.value.message == "sandbox not found or not owned by caller"
    assert await drafts(box, name="other") == []


async def test_people_see_drafts_and_ask_for_unknown_sandboxes_in_vain(box):
    await submit(box, chunk(endpoint={"access": "full", "protocol": "rest"}, host="*.example.org"))
    act_as(box, None)
    (draft,) = await drafts(box)
    assert "wildcard" in draft.security_notes
    assert "Every method" in draft.security_notes
    with pytest.raises(ApiError) as refused:
        await drafts(box, name="no-such")
    assert refused.value.code is Code.NOT_FOUND


async def test_counters_alone_store_nothing(box):
    answer = await box.SubmitPolicyAnalysis(
        openshell_pb2.SubmitPolicyAnalysisRequest(
            name="box",
            analysis_mode="activity",
            network_activity_summaries=[
                openshell_pb2.NetworkActivitySummary(network_activity_count=3)
            ],
        )
    )
    assert answer == openshell_pb2.SubmitPolicyAnalysisResponse()
    assert await drafts(box) == []
    rows = await box.store.read(lambda tx: tx.all(Kind.DRAFT_POLICY_CHUNK))
    assert rows == []


async def test_a_damaged_draft_is_left_out_and_stands_in_nobodys_way(box, sandbox):
    await submit(box, chunk(), chunk("other", host="other.example.com"))

    def spoil(tx):
        row = tx.all(Kind.DRAFT_POLICY_CHUNK)[0]
        spoilt = NewRow(
            id=row.id,
            kind=row.kind,
            workspace=row.workspace,
            scope=row.scope,
            status=row.status,
            hit_count=row.hit_count,
            payload=b"\xff",
        )
        tx.put(spoilt, Unconditional())

    await box.store.write(spoil)
    assert len(await drafts(box)) == 1
    act_as(box, None)
    await box.set_policy(sandbox, WEB.replace("read-only", "full"))
    act_as(box, sandbox)
    assert (await submit(box, chunk())).accepted_chunks == 1
