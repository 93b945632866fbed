"""What stands behind `policy.local`: the sandbox's own policy, refusals and proposals, as plain values.

The only place of the supervisor that takes something from an agent to the gateway. It takes it to its own
sandbox, marks it as proposed, and puts nothing of it in force: that takes a person, and then arrives like
any other policy. What the gateway knows of drafts is asked once for all who wait. Made by `runtime`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import grpc
import grpc.aio

from openshell import ocsf
from openshell._proto import openshell_pb2
from openshell.codec.policy import rule_from_proto, rule_to_proto
from openshell.egress.policy_local import DeskFault, Draft, Fault, Proposal, Submission, Submitted
from openshell.policy.merge import covers
from openshell.policy.model import NetworkRule
from openshell.supervisor.config_source import ConfigSource
from openshell.supervisor.gateway_client import GatewayClient
from openshell.supervisor.recent_denials import RecentDenials

__all__ = ["SETTING", "Advisor"]

SETTING: Final = "agent_policy_proposals_enabled"

_CALL_SECONDS: Final = 10.0
# How long an answer about all drafts serves those who ask about one: agents look once a second.
_FRESH_SECONDS: Final = 0.5
_MAX_REASON: Final = 200
# The contract's numbers for what an agent says of its own rule.
_CONFIDENCE: Final = 0.75

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NOT_REACHED: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)


class Advisor:
    """The desk of one sandbox."""

    def __init__(
        self,
        client: GatewayClient,
        sandbox: str,
        config: ConfigSource,
        refused: RecentDenials,
        emit: Callable[[ocsf.Event], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`sandbox` is the name; which sandbox that is, the gateway reads from our token."""
        self._client = client
        self._sandbox = sandbox
        self._config = config
        self._refused = refused
        self._emit = emit
        self._clock = clock
        self._clock_ms = clock_ms
        self._asking = asyncio.Lock()
        self._drafts: dict[str, Draft] = {}
        self._rules: dict[str, NetworkRule] = {}
        self._known_at: float | None = None

    def is_open(self) -> bool:
        return self._config.is_on(SETTING)

    def policy_yaml(self) -> str | None:
        policy = self._config.policy
        if policy is None:
            return None
        # Loaded by the first agent that reads its policy: YAML costs a sandbox a megabyte.
        from openshell.policy.dump import dump_policy  # noqa: PLC0415

        return dump_policy(policy)

    def denials(self, last: int) -> Sequence[str]:
        return self._refused.lines(last)

    def fault(self) -> DeskFault | None:
        if not self._sandbox:
            return DeskFault(Fault.NAME_UNAVAILABLE, "the sandbox has no name")
        if not self._config.workspace:
            return DeskFault(Fault.WORKSPACE_UNAVAILABLE, "the workspace is not known yet")
        return None

    async def submit(self, submission: Submission) -> Submitted | DeskFault:
        request = openshell_pb2.SubmitPolicyAnalysisRequest(
            name=self._sandbox,
            workspace=self._config.workspace,
            analysis_mode="agent_authored",
            proposed_chunks=[_chunk(item, submission.intent) for item in submission.proposals],
        )
        try:
            answer = await self._client.stub.SubmitPolicyAnalysis(
                request, metadata=self._client.metadata(), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in _NOT_REACHED:
                return DeskFault(Fault.CONNECT_FAILED, "the gateway could not be reached")
            return DeskFault(
                Fault.SUBMIT_FAILED, f"the gateway did not take it ({error.code().name})"
            )
        self._known_at = None
        ids = tuple(answer.accepted_chunk_ids)
        told = submission.proposals if len(ids) == len(submission.proposals) else ()
        for index, draft_id in enumerate(ids):
            what = _summary(told[index].rule) if told else "a rule"
            self._event("proposed", f"proposed {draft_id}: {what}", draft_id)
        return Submitted(
            answer.accepted_chunks, answer.rejected_chunks, tuple(answer.rejection_reasons), ids
        )

    async def find(self, draft_id: str) -> Draft | DeskFault | None:
        # One call at a time, and its answer serves all who asked meanwhile.
        async with self._asking:
            if self._known_at is None or self._clock() - self._known_at > _FRESH_SECONDS:
                fault = await self._ask()
                if fault is not None:
                    return fault
        return self._drafts.get(draft_id)

    async def _ask(self) -> DeskFault | None:
        try:
            answer = await self._client.stub.GetDraftPolicy(
                openshell_pb2.GetDraftPolicyRequest(
                    name=self._sandbox, workspace=self._config.workspace
                ),
                metadata=self._client.metadata(),
                timeout=_CALL_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            return DeskFault(
                Fault.LOOKUP_FAILED, f"the gateway does not answer ({error.code().name})"
            )
        self._drafts = {chunk.id: _draft(chunk) for chunk in answer.chunks}
        self._rules = {
            chunk.id: rule_from_proto(chunk.rule_name, chunk.proposed_rule)
            for chunk in answer.chunks
            if chunk.status == "approved"
        }
        self._known_at = self._clock()
        return None

    def is_in_force(self, draft_id: str) -> bool:
        rule, policy = self._rules.get(draft_id), self._config.policy
        return rule is not None and policy is not None and covers(policy, rule)

    def decided(self, draft: Draft) -> None:
        reason = _CONTROL.sub(" ", draft.rejection_reason).strip()
        if len(reason) > _MAX_REASON:
            reason = f"{reason[:_MAX_REASON]}…"
        if draft.status == "approved":
            self._event("approved", f"proposal {draft.id} was approved", draft.id)
        else:
            said = f'"{reason}"' if reason else "(no guidance)"
            message = f"proposal {draft.id} was rejected: {said}"
            self._event("rejected", message, draft.id, ocsf.Severity.LOW)

    def _event(
        self,
        state: str,
        message: str,
        draft_id: str,
        severity: ocsf.Severity = ocsf.Severity.INFORMATIONAL,
    ) -> None:
        self._emit(
            ocsf.ConfigEvent(
                time_ms=self._clock_ms(),
                state=state,
                message=message,
                severity=severity,
                status=ocsf.Status.SUCCESS,
                unmapped={"chunk_id": draft_id},
            )
        )


def _chunk(proposal: Proposal, intent: str) -> openshell_pb2.PolicyChunk:
    """A proposal for the gateway, all of it marked; the gateway marks it again."""
    rule = proposal.rule
    marked = replace(
        rule,
        endpoints=tuple(replace(item, advisor_proposed=True) for item in rule.endpoints),
        binaries=tuple(replace(item, advisor_proposed=True) for item in rule.binaries),
    )
    return openshell_pb2.PolicyChunk(
        rule_name=proposal.rule_name,
        proposed_rule=rule_to_proto(marked),
        rationale=intent,
        confidence=_CONFIDENCE,
        hit_count=1,
        stage="agent",
        binary=rule.binaries[0].path if rule.binaries else "",
    )


def _draft(chunk: openshell_pb2.PolicyChunk) -> Draft:
    return Draft(
        id=chunk.id,
        status=chunk.status,
        rule_name=chunk.rule_name,
        binary=chunk.binary,
        rejection_reason=chunk.rejection_reason,
        validation_result=chunk.validation_result,
        application_error=chunk.application_error,
        review_token=chunk.review_token,
        current_hash=chunk.current_effective_policy_hash,
        candidate_hash=chunk.candidate_effective_policy_hash,
    )


def _summary(rule: NetworkRule) -> str:
    """The endpoint, the first request it allows and the program; the text of an agent, so bounded."""
    endpoint = rule.endpoints[0]
    parts = [f"{endpoint.host}:{endpoint.ports[0]}"]
    if endpoint.rules:
        parts.append(f"{endpoint.rules[0].method} {endpoint.rules[0].path}")
    if rule.binaries:
        parts.append(f"for {rule.binaries[0].path}")
    return _CONTROL.sub(" ", " ".join(parts))[:_MAX_REASON]
