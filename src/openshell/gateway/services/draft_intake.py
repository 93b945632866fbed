"""What becomes of one submission, inside the transaction that stores it: refused, counted, stored, superseded.

The order is the contract's. A proposal that would not work is refused to an agent, who can do better, and
kept with its error when a mechanistic analysis made it, or when it asks for what no policy can open: that a
person should see. Only what is still pending is ever changed. Called by `drafts.py`; `close_covered` by writers of policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from openshell._proto import openshell_pb2
from openshell.codec.policy import rule_to_proto
from openshell.gateway.services.draft_plan import (
    Evaluation,
    evaluate,
    key_of,
    read_rule,
    refusal_of,
)
from openshell.gateway.services.draft_rows import (
    APPROVED,
    MAX_DRAFTS,
    PENDING,
    Drafted,
    make_room,
    new_draft,
    read_drafts,
    save_draft,
)
from openshell.gateway.services.revisions import latest_revision
from openshell.gateway.store.model import Tx
from openshell.policy.merge import covers
from openshell.policy.model import NetworkRule
from openshell.providers.fitness import effective_policy
from openshell.providers.situation import Situation

__all__ = ["MECHANISTIC", "Intake", "Outcome", "close_covered"]

MECHANISTIC: Final = "mechanistic"
_MAX_HITS_EACH: Final = 100
"""What one submission may count: the contract's number."""


@dataclass(slots=True)
class Outcome:
    ids: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Intake:
    """One submission to one sandbox."""

    def __init__(
        self,
        tx: Tx,
        situation: Situation,
        *,
        is_mechanistic: bool,
        ids: Iterator[str],
    ) -> None:
        """`ids` are drawn outside of the transaction, which may run again."""
        self._tx = tx
        self._situation = situation
        self._is_mechanistic = is_mechanistic
        self._ids = ids
        self._drafts = read_drafts(tx, situation.sandbox_id)
        self._version = 1 + max((d.payload.draft_version for d in self._drafts), default=0)

    def take(self, chunks: list[openshell_pb2.PolicyChunk]) -> Outcome:
        _close_covered(self._tx, self._situation, self._drafts)
        outcome = Outcome()
        for chunk in chunks:
            taken = self._take(chunk)
            (outcome.ids if taken.is_stored else outcome.reasons).append(taken.text)
        return outcome

    def _take(self, chunk: openshell_pb2.PolicyChunk) -> _Taken:
        refusal = refusal_of(chunk)
        if refusal:
            return _Taken(refusal)
        rule = read_rule(chunk)
        if isinstance(rule, str):
            return _Taken(rule)
        dedup_key = key_of(rule).text if self._is_mechanistic else None
        known = self._find(lambda draft: draft.row.dedup_key == dedup_key) if dedup_key else None
        if known is not None:
            self._count(known, chunk)
            return _Taken(known.row.id, is_stored=True)
        evaluation = evaluate(self._situation, rule.key, rule)
        kept = (self._is_mechanistic or evaluation.is_blocked) and not evaluation.is_covered
        if evaluation.error and not kept:
            return _Taken(f"chunk '{rule.key}': {evaluation.error}")
        if not make_room(self._tx, self._drafts):
            return _Taken(
                f"chunk '{rule.key}': {MAX_DRAFTS} proposals of this sandbox are kept already; "
                "a person has to decide about them first"
            )
        draft = self._store(chunk, rule, evaluation, dedup_key)
        self._supersede(draft)
        return _Taken(draft.row.id, is_stored=True)

    def _store(
        self,
        chunk: openshell_pb2.PolicyChunk,
        rule: NetworkRule,
        evaluation: Evaluation,
        dedup_key: str | None,
    ) -> Drafted:
        key, now = key_of(rule), self._tx.now_ms
        payload = openshell_pb2.DraftChunkPayload(
            rule_name=rule.key,
            proposed_rule=rule_to_proto(rule),
            rationale=chunk.rationale,
            confidence=min(max(chunk.confidence, 0.0), 1.0),
            host=key.host,
            port=key.port,
            binary=key.binary,
            draft_version=self._version,
        )
        _note(payload, evaluation)
        draft = new_draft(
            self._tx,
            row_id=next(self._ids),
            sandbox_id=self._situation.sandbox_id,
            workspace=self._situation.workspace,
            dedup_key=dedup_key,
            payload=payload,
            hits=_hits(chunk),
            first_seen_ms=chunk.first_seen_ms if 0 < chunk.first_seen_ms <= now else now,
        )
        self._drafts.append(draft)
        return draft

    def _count(self, draft: Drafted, chunk: openshell_pb2.PolicyChunk) -> None:
        """The same refusal again: it never re-opens what was decided."""
        draft.hits += _hits(chunk)
        if draft.status == PENDING:
            # The stored rule, which a person may have changed.
            rule = draft.rule
            _note(draft.payload, evaluate(self._situation, draft.payload.rule_name, rule))
            draft.payload.draft_version = self._version
        save_draft(self._tx, draft)

    def _supersede(self, draft: Drafted) -> None:
        """One open question for each thing; what an agent asks is never answered by counting."""
        if not all(draft.key):
            return
        approved = self._find(lambda other: other.status == APPROVED and other.key == draft.key)
        if self._is_mechanistic and approved is not None:
            self._reject(
                draft,
                f"already covered by approved chunk {approved.row.id} (agent_authored or prior "
                "auto-approval)",
            )
            return
        for other in self._pending():
            if (
                other.row.id != draft.row.id
                and other.key == draft.key
                and (other.is_mechanistic or not self._is_mechanistic)
            ):
                self._reject(other, f"superseded by chunk {draft.row.id}")

    def _reject(self, draft: Drafted, reason: str) -> None:
        draft.reject(reason, self._tx.now_ms)
        save_draft(self._tx, draft)

    def _pending(self) -> list[Drafted]:
        return [draft for draft in self._drafts if draft.status == PENDING]

    def _find(self, wanted: Callable[[Drafted], bool]) -> Drafted | None:
        return next((draft for draft in self._drafts if wanted(draft)), None)


@dataclass(frozen=True, slots=True)
class _Taken:
    """The identifier of what was stored, or why nothing was."""

    text: str
    is_stored: bool = False


def close_covered(tx: Tx, situation: Situation) -> None:
    """Reject what is pending and in force already; for whoever changes a policy."""
    _close_covered(tx, situation, read_drafts(tx, situation.sandbox_id))


def _close_covered(tx: Tx, situation: Situation, drafts: list[Drafted]) -> None:
    pending = [draft for draft in drafts if draft.status == PENDING]
    policy = effective_policy(situation) if pending else None
    if policy is None:
        return
    latest = latest_revision(tx, situation.sandbox_id)
    version = (latest.version or 0) if latest is not None else 0
    for draft in pending:
        if covers(policy, draft.rule):
            draft.reject(f"covered by active policy revision {version}", tx.now_ms)
            save_draft(tx, draft)


def _note(payload: openshell_pb2.DraftChunkPayload, evaluation: Evaluation) -> None:
    payload.current_effective_policy_hash = evaluation.current_hash
    payload.candidate_effective_policy_hash = evaluation.candidate_hash
    payload.validation_result = evaluation.verdict
    payload.application_error = evaluation.error


def _hits(chunk: openshell_pb2.PolicyChunk) -> int:
    return min(max(chunk.hit_count, 1), _MAX_HITS_EACH)
