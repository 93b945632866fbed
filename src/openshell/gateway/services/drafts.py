"""Proposed rules over the API: a supervisor hands them in, people and that supervisor read them.

A stored proposal changes nothing: no policy, no setting, no other sandbox. Deciding about them
(ApproveDraftChunk and its kin) is not built, and those methods say so by their code. What becomes of a
submission is `draft_intake.py`'s part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from openshell._proto import openshell_pb2
from openshell.gateway.auth.principal import Principal, SandboxPrincipal, current_principal
from openshell.gateway.errors import invalid_argument, permission_denied
from openshell.gateway.events import SANDBOX, Bus
from openshell.gateway.records import Kind, load
from openshell.gateway.services.draft_intake import MECHANISTIC, Intake, Outcome
from openshell.gateway.services.draft_rows import PENDING, Drafted, chunk_message, read_drafts
from openshell.gateway.services.lookup import find_sandbox, refuse_deleting, require_field
from openshell.gateway.services.situations import situation_of
from openshell.gateway.store.model import Store, Tx
from openshell.gateway.workspaces import open_workspace

__all__ = ["Drafts"]

MAX_CHUNKS: Final = 64
"""Of one call."""
MAX_RATIONALE_BYTES: Final = 4096


class Drafts:
    """The methods of the API that bring and show proposals."""

    def __init__(self, store: Store, bus: Bus, *, new_id: Callable[[], str]) -> None:
        self._store = store
        self._bus = bus
        self._new_id = new_id

    async def SubmitPolicyAnalysis(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.SubmitPolicyAnalysisRequest, _context: Any
    ) -> openshell_pb2.SubmitPolicyAnalysisResponse:
        require_field(request.name, "name")
        chunks = list(request.proposed_chunks)
        if len(chunks) > MAX_CHUNKS:
            raise invalid_argument(f"more than {MAX_CHUNKS} proposed_chunks; send several calls")
        for chunk in chunks:
            if len(chunk.rationale.encode()) > MAX_RATIONALE_BYTES:
                raise invalid_argument(f"a rationale is longer than {MAX_RATIONALE_BYTES} bytes")
        ids = [self._new_id() for _ in chunks]
        # Asked here: transactions run on threads of the database.
        principal = current_principal()

        def write(tx: Tx) -> tuple[str, Outcome]:
            sandbox = _find(tx, principal, request.workspace, request.name)
            refuse_deleting(sandbox)
            if not chunks:
                return "", Outcome()
            intake = Intake(
                tx,
                situation_of(tx, sandbox),
                is_mechanistic=request.analysis_mode == MECHANISTIC,
                ids=iter(ids),
            )
            return sandbox.metadata.id, intake.take(chunks)

        concerned, outcome = await self._store.write(write)
        if concerned:
            self._bus.publish(SANDBOX, concerned)
        return openshell_pb2.SubmitPolicyAnalysisResponse(
            accepted_chunks=len(outcome.ids),
            rejected_chunks=len(outcome.reasons),
            rejection_reasons=outcome.reasons,
            accepted_chunk_ids=outcome.ids,
        )

    async def GetDraftPolicy(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetDraftPolicyRequest, _context: Any
    ) -> openshell_pb2.GetDraftPolicyResponse:
        drafts = await self._read(request.workspace, request.name)
        wanted = request.status_filter
        return openshell_pb2.GetDraftPolicyResponse(
            chunks=[
                chunk_message(draft)
                for draft in reversed(drafts)
                if not wanted or draft.status == wanted
            ],
            draft_version=max((d.payload.draft_version for d in drafts), default=0),
            last_analyzed_at_ms=max((d.row.created_at_ms for d in drafts), default=0),
        )

    async def GetDraftHistory(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetDraftHistoryRequest, _context: Any
    ) -> openshell_pb2.GetDraftHistoryResponse:
        entries = [
            entry
            for draft in await self._read(request.workspace, request.name)
            for entry in _history(draft)
        ]
        return openshell_pb2.GetDraftHistoryResponse(
            entries=sorted(entries, key=lambda entry: entry.timestamp_ms)
        )

    async def _read(self, workspace: str, name: str) -> list[Drafted]:
        require_field(name, "name")
        principal = current_principal()

        def read(tx: Tx) -> list[Drafted]:
            return read_drafts(tx, _find(tx, principal, workspace, name).metadata.id)

        return await self._store.read(read)


def _find(tx: Tx, principal: Principal, workspace: str, name: str) -> openshell_pb2.Sandbox:
    """The sandbox of a name; to a supervisor only its own exists."""
    if not isinstance(principal, SandboxPrincipal):
        return find_sandbox(tx, open_workspace(tx, workspace), name)[1]
    row = tx.get_by_id(Kind.SANDBOX, principal.sandbox_id)
    if row is not None:
        sandbox = load(row, openshell_pb2.Sandbox)
        metadata = sandbox.metadata
        if name in (metadata.name, metadata.id) and workspace in ("", metadata.workspace):
            return sandbox
    raise permission_denied("sandbox not found or not owned by caller")


def _history(draft: Drafted) -> list[openshell_pb2.DraftHistoryEntry]:
    name, payload = draft.payload.rule_name, draft.payload
    entries = [
        openshell_pb2.DraftHistoryEntry(
            timestamp_ms=draft.row.created_at_ms,
            event_type="proposed",
            description=f"Rule '{name}' proposed (confidence: {payload.confidence:.0%})",
            chunk_id=draft.row.id,
        )
    ]
    if draft.status != PENDING and payload.decided_at_ms:
        entries.append(
            openshell_pb2.DraftHistoryEntry(
                timestamp_ms=payload.decided_at_ms,
                event_type=draft.status,
                description=f"Rule '{name}' {draft.status}",
                chunk_id=draft.row.id,
            )
        )
    return entries
