"""When profiles of attached providers begin to add rules to policies, and whether they may.

They do while the setting is on and no gateway-wide policy is in force. The two writes that can begin
it (of the setting, and the deletion of that policy) happen first, then every sandbox is looked at in
the same transaction; one that could not live with its composed policy undoes the write.
"""

from __future__ import annotations

from dataclasses import replace

from openshell.gateway.errors import failed_precondition
from openshell.gateway.services.catalogues import v2_enabled
from openshell.gateway.services.global_policy import global_revision
from openshell.gateway.services.policy_plan import ambiguities
from openshell.gateway.services.situations import Situations, sandboxes_in
from openshell.gateway.store.model import Tx
from openshell.providers.fitness import find_faults
from openshell.providers.situation import FaultCode, Situation

__all__ = ["check_composition", "composes"]


def composes(tx: Tx) -> bool:
    return v2_enabled(tx) and global_revision(tx) is None


def check_composition(tx: Tx) -> None:
    """Raises FAILED_PRECONDITION for the first sandbox whose composed policy cannot be in force."""
    situations = Situations(tx)
    for sandbox in sandboxes_in(tx, None):
        problem = _problem(situations.of(sandbox))
        if problem:
            metadata = sandbox.metadata
            raise failed_precondition(
                "cannot activate provider policy composition: sandbox "
                f"'{metadata.workspace}/{metadata.name}' has an invalid effective policy: {problem}"
            )


def _problem(situation: Situation) -> str:
    # Rules of its own that an older version let through: layers are not laid over a doubt.
    own = ambiguities(situation.policy) if situation.policy is not None else ""
    if own:
        return own
    # A way that nothing inspects, and that is there without composition, is no worse with it: the
    # proxy refuses it either way.
    known = [
        fault
        for fault in find_faults(replace(situation, v2=False), gate=True)
        if fault.code is FaultCode.UNINSPECTED
    ]
    faults = [fault for fault in find_faults(situation, gate=True) if fault not in known]
    return "; ".join(fault.message for fault in faults)
