"""Sandboxes as a transaction sees them, and the refusal of what may not be.

Every writer that touches a sandbox's policy, its providers or what they stand for writes its rows
first, then reads the situations concerned from the same transaction and refuses their faults: an
error undoes the write. What counts as a fault is `openshell.providers.fitness`' part, so there is
one set of rules. Delivery asks the same question before it answers.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Final

from google.protobuf.message import DecodeError

from openshell._proto import openshell_pb2
from openshell.codec.policy import policy_from_proto
from openshell.gateway.errors import ApiError, failed_precondition, invalid_argument
from openshell.gateway.records import Kind, load_all
from openshell.gateway.refresh.states import read_states
from openshell.gateway.services.catalogues import read_catalogue, v2_enabled
from openshell.gateway.services.global_policy import global_revision
from openshell.gateway.services.provider_records import record_from_row
from openshell.gateway.services.revisions import base_policy, payload_of
from openshell.gateway.store.model import Row, Tx
from openshell.policy.model import SandboxPolicy
from openshell.providers.catalogue import Catalogue
from openshell.providers.fitness import find_faults
from openshell.providers.situation import Attached, Fault, FaultCode, Situation

__all__ = [
    "Situations",
    "refuse_faults",
    "sandboxes_in",
    "sandboxes_using",
    "situation_of",
]

_log = logging.getLogger(__name__)

_ASKED_WRONGLY: Final = frozenset({FaultCode.BINDING_MALFORMED, FaultCode.TOO_MANY_PROVIDERS})
"""Wrong whatever else there is; every other fault depends on what is stored beside it."""


class Situations:
    """Reads many situations of one transaction; what they share is read once.

    Make it after the writes: it does not see those that come later.
    """

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._v2 = v2_enabled(tx)
        revision = global_revision(tx)
        self._global: SandboxPolicy | None = (
            policy_from_proto(payload_of(revision).policy) if revision is not None else None
        )
        self._catalogues: dict[str, Catalogue] = {}
        self._attached: dict[tuple[str, str], Attached | None] = {}

    def of(self, sandbox: openshell_pb2.Sandbox) -> Situation:
        workspace = sandbox.metadata.workspace
        names = list(dict.fromkeys(sandbox.spec.providers))
        found = [(name, self._find(workspace, name)) for name in names]
        return Situation(
            workspace=workspace,
            sandbox=sandbox.metadata.name,
            sandbox_id=sandbox.metadata.id,
            policy=self._policy(sandbox),
            attached=tuple(attached for _name, attached in found if attached is not None),
            missing=tuple(name for name, attached in found if attached is None),
            v2=self._v2,
            global_policy=self._global,
            now_ms=self._tx.now_ms,
        )

    def catalogue(self, workspace: str) -> Catalogue:
        if workspace not in self._catalogues:
            self._catalogues[workspace] = read_catalogue(self._tx, workspace)
        return self._catalogues[workspace]

    def _find(self, workspace: str, name: str) -> Attached | None:
        """None where it is missing, which a damaged one is as well: nothing of it is handed out."""
        key = (workspace, name)
        if key not in self._attached:
            row = self._tx.get(Kind.PROVIDER, workspace, name)
            self._attached[key] = self._attach(row) if row is not None else None
        return self._attached[key]

    def _attach(self, row: Row) -> Attached | None:
        try:
            record = record_from_row(row)
            states = read_states(self._tx, row.id)
        except DecodeError:
            _log.error("provider '%s' or one of its refreshes is stored damaged", row.name)
            return None
        entry = self.catalogue(row.workspace).for_provider(record.type, record.profile_workspace)
        return Attached(record, entry, states)

    def _policy(self, sandbox: openshell_pb2.Sandbox) -> SandboxPolicy | None:
        try:
            return base_policy(self._tx, sandbox)
        except DecodeError:
            raise failed_precondition(
                f"the stored policy of sandbox '{sandbox.metadata.name}' is damaged; delete the sandbox"
            ) from None


def situation_of(tx: Tx, sandbox: openshell_pb2.Sandbox) -> Situation:
    """One sandbox; its record need not be stored yet, its policy revision and providers must be."""
    return Situations(tx).of(sandbox)


def sandboxes_in(tx: Tx, workspace: str | None) -> list[openshell_pb2.Sandbox]:
    """The sandboxes that have providers, of one workspace or (None) of all, oldest first."""
    sandboxes = load_all(tx.all(Kind.SANDBOX, workspace=workspace), openshell_pb2.Sandbox)
    return [sandbox for sandbox in sandboxes if sandbox.spec.providers]


def sandboxes_using(tx: Tx, workspace: str, provider: str) -> list[openshell_pb2.Sandbox]:
    return [s for s in sandboxes_in(tx, workspace) if provider in s.spec.providers]


def refuse_faults(
    situation: Situation, *, gate: bool, known: Collection[Fault] = (), named: bool = False
) -> None:
    """Raises for faults that are not `known`, those that were there before this write.

    `gate`: ways on which credentials would leave uninspected count, too. `named`: the caller did not
    ask about this sandbox, so the message says which one it is.
    """
    faults = [fault for fault in find_faults(situation, gate=gate) if fault not in known]
    if not faults:
        return
    error = _refusal(faults)
    if named:
        error = failed_precondition(
            f"sandbox '{situation.sandbox}': {error.message}", **error.details
        )
    raise error


def _refusal(faults: Iterable[Fault]) -> ApiError:
    """The first kind of fault, with everything that is wrong in that way."""
    first, *others = faults
    same = [first, *(fault for fault in others if fault.code is first.code)]
    make = invalid_argument if first.code in _ASKED_WRONGLY else failed_precondition
    return make("; ".join(fault.message for fault in same), fault=first.code.value)
