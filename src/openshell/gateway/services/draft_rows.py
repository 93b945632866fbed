"""Proposals as rows: one for each, in the scope of its sandbox, with a status and a count of hits.

Every function runs inside a transaction of the caller. What a mechanistic analysis proposes has a key, under
which the same refusal is counted for ever; what an agent proposes has none. Rows go with their sandbox
(`compute.remove_sandbox`). Notes are made when a row is read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from openshell._proto import openshell_pb2
from openshell.codec.policy import rule_from_proto
from openshell.gateway.records import Kind
from openshell.gateway.store.model import MatchResourceVersion, MustCreate, NewRow, Row, Tx
from openshell.policy.model import NetworkRule
from openshell.policy.security_notes import security_notes

__all__ = [
    "APPROVED",
    "MAX_DRAFTS",
    "PENDING",
    "REJECTED",
    "Drafted",
    "chunk_message",
    "make_room",
    "new_draft",
    "read_drafts",
    "save_draft",
]

_log = logging.getLogger(__name__)

PENDING: Final = "pending"
APPROVED: Final = "approved"
REJECTED: Final = "rejected"

MAX_DRAFTS: Final = 256
"""Of one sandbox. An agent proposes what it likes; a person reads all of it, and one answer carries it."""
MAX_HITS: Final = 2**31 - 1


@dataclass(slots=True)
class Drafted:
    """One stored proposal with its row; `save_draft` writes what was changed in it."""

    row: Row
    payload: openshell_pb2.DraftChunkPayload
    status: str
    hits: int

    @property
    def is_mechanistic(self) -> bool:
        return self.row.dedup_key is not None

    @property
    def rule(self) -> NetworkRule:
        return rule_from_proto(self.payload.rule_name, self.payload.proposed_rule)

    @property
    def key(self) -> tuple[str, int, str]:
        return self.payload.host, self.payload.port, self.payload.binary

    def reject(self, reason: str, now_ms: int) -> None:
        self.status = REJECTED
        self.payload.rejection_reason = reason
        self.payload.decided_at_ms = now_ms


def read_drafts(tx: Tx, sandbox_id: str) -> list[Drafted]:
    """All of a sandbox that read, oldest first; a damaged one must not stand in a policy's way."""
    found = []
    for row in tx.all(Kind.DRAFT_POLICY_CHUNK, scope=sandbox_id):
        try:
            found.append(_drafted(row))
        except DecodeError:
            _log.error("the stored proposal %s is damaged and left out", row.id)
    return found


def _drafted(row: Row) -> Drafted:
    payload = openshell_pb2.DraftChunkPayload.FromString(row.payload)
    return Drafted(row, payload, row.status or PENDING, row.hit_count)


def make_room(tx: Tx, drafts: list[Drafted]) -> bool:
    """Room for one more: the oldest goes that was replaced by another. False when there is none."""
    if len(drafts) < MAX_DRAFTS:
        return True
    for draft in drafts:
        # What a person decided stays, and so does what answers a refusal that may come again.
        if (
            draft.status == REJECTED
            and not draft.is_mechanistic
            and draft.payload.rejection_reason.startswith("superseded by ")
        ):
            tx.delete(Kind.DRAFT_POLICY_CHUNK, draft.row.id)
            drafts.remove(draft)
            return True
    return False


def new_draft(
    tx: Tx,
    *,
    row_id: str,
    sandbox_id: str,
    workspace: str,
    dedup_key: str | None,
    payload: openshell_pb2.DraftChunkPayload,
    hits: int,
    first_seen_ms: int,
) -> Drafted:
    row = NewRow(
        id=row_id,
        kind=Kind.DRAFT_POLICY_CHUNK,
        workspace=workspace,
        scope=sandbox_id,
        status=PENDING,
        dedup_key=dedup_key,
        hit_count=hits,
        payload=payload.SerializeToString(deterministic=True),
        created_at_ms=first_seen_ms,
    )
    return _drafted(tx.put(row, MustCreate()))


def save_draft(tx: Tx, draft: Drafted) -> None:
    row = draft.row
    changed = NewRow(
        id=row.id,
        kind=row.kind,
        workspace=row.workspace,
        name=row.name,
        scope=row.scope,
        version=row.version,
        status=draft.status,
        dedup_key=row.dedup_key,
        hit_count=min(draft.hits, MAX_HITS),
        payload=draft.payload.SerializeToString(deterministic=True),
        labels=row.labels,
        created_at_ms=row.created_at_ms,
    )
    draft.row = tx.put(changed, MatchResourceVersion(row.resource_version))


def chunk_message(draft: Drafted) -> openshell_pb2.PolicyChunk:
    row, payload = draft.row, draft.payload
    notes: Sequence[str] = security_notes(draft.rule)
    return openshell_pb2.PolicyChunk(
        id=row.id,
        status=draft.status,
        rule_name=payload.rule_name,
        proposed_rule=payload.proposed_rule,
        rationale=payload.rationale,
        security_notes=" ".join(notes),
        confidence=payload.confidence,
        created_at_ms=row.created_at_ms,
        decided_at_ms=payload.decided_at_ms,
        hit_count=draft.hits,
        first_seen_ms=row.created_at_ms,
        last_seen_ms=row.updated_at_ms,
        binary=payload.binary,
        validation_result=payload.validation_result,
        rejection_reason=payload.rejection_reason,
        application_error=payload.application_error,
        review_token=payload.review_token,
        current_effective_policy_hash=payload.current_effective_policy_hash,
        candidate_effective_policy_hash=payload.candidate_effective_policy_hash,
    )
