"""Whether a sandbox can be asked something now, and if not, what to tell the caller.

Used by everything that opens a relay: exec, SSH sessions, forwards.
"""

from __future__ import annotations

from openshell._proto import openshell_pb2
from openshell.gateway import status
from openshell.gateway.errors import ApiError, failed_precondition, not_found
from openshell.gateway.hosting import refuse_foreign
from openshell.gateway.phases import Phase
from openshell.gateway.records import Kind, load
from openshell.gateway.sessions import Sessions
from openshell.gateway.store import Store

__all__ = ["Readiness", "paused_error"]


def paused_error() -> ApiError:
    """What a paused sandbox answers to everything that would run or reach something in it."""
    return failed_precondition(
        "the sandbox is paused: resume it with 'openshell sandbox resume NAME'"
    )


class Readiness:
    """Answers from the live session; the store is asked only to say what is wrong."""

    def __init__(self, store: Store, sessions: Sessions, *, host_id: str) -> None:
        self._store = store
        self._sessions = sessions
        self._host_id = host_id

    async def require(self, sandbox_id: str) -> None:
        """Raises NOT_FOUND or FAILED_PRECONDITION unless the sandbox is ready, or about to be again."""
        if sandbox_id in self._sessions.paused:
            raise paused_error()
        if self._sessions.is_ready(sandbox_id):
            # A ready session proves the rest.
            return
        row = await self._store.look_up(lambda tx: tx.get_by_id(Kind.SANDBOX, sandbox_id))
        if row is None:
            raise not_found("sandbox not found")
        refuse_foreign(row, self._host_id)
        # As stored, not as shown: a supervisor on its way is waited for when the relay is opened.
        phase = status.phase_of(load(row, openshell_pb2.Sandbox))
        if phase is not Phase.READY:
            raise failed_precondition(f"sandbox is not ready (it is {phase.name})")
