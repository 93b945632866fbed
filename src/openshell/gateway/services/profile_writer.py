"""Every change of provider profiles: planned, written, checked and told in one transaction each.

The services say what they want by a function that plans; this carries the plan out, undoes it when
it would harm a sandbox or was only asked for, and tells the sandboxes concerned after the commit.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell._proto import openshell_pb2
from openshell.gateway.auth.principal import UserPrincipal, current_principal
from openshell.gateway.errors import failed_precondition, invalid_argument, not_found
from openshell.gateway.events import Bus
from openshell.gateway.records import Kind
from openshell.gateway.services.catalogues import read_catalogue
from openshell.gateway.services.profile_change import (
    Snapshot,
    fault_diagnostics,
    measure,
    refuse_stale,
    write_all,
)
from openshell.gateway.services.profile_history import Deed, Operation, append_revision
from openshell.gateway.services.profile_impact import impact_messages
from openshell.gateway.services.profile_plan import Diagnostic, Plan
from openshell.gateway.services.profile_rows import find_row, open_scope, shown
from openshell.gateway.services.situations import Situations
from openshell.gateway.store.model import Store, Tx
from openshell.gateway.tasks import Tasks

__all__ = ["MAX_ITEMS", "Outcome", "ProfileWriter", "check_count"]

MAX_ITEMS: Final = 500
"""Of one request: all are judged against all sandboxes in one transaction, and others wait."""
MAX_NAMED: Final = 100
"""Sandboxes named in one refusal: a status travels in headers, which clients cut at 8 kB."""


@dataclass(frozen=True, slots=True)
class Outcome:
    diagnostics: Sequence[Diagnostic]
    profiles: Sequence[openshell_pb2.ProviderProfile] = ()
    """As stored, or as they would be; none when a diagnostic is an error."""
    impacts: Sequence[ext.SandboxImpact] = ()
    """Of sandboxes for which anything changes; only when asked for."""
    written: bool = False
    valid: bool = False


Planner: TypeAlias = Callable[[Tx, str], Plan]
"""Given the transaction and the scope; may run more than once."""


class _Undone(Exception):
    """Takes the transaction back; the caller gets what it carries as an ordinary answer."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("undone")
        self.outcome = outcome


def check_count(items: Sized) -> None:
    """Of any request. Bytes are bounded by `listener`, and for each profile by its lint."""
    if len(items) > MAX_ITEMS:
        raise invalid_argument(
            f"the request has {len(items)} profiles, at most {MAX_ITEMS} may be sent at once; send "
            "them in several requests"
        )


class ProfileWriter:
    """Shared by the services that change profiles."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        tasks: Tasks | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._new_id = new_id
        self._tasks = tasks or Tasks()

    async def change(
        self,
        workspace: str,
        operation: Operation,
        planner: Planner,
        *,
        restored_from: int = 0,
        impacts: bool = False,
        dry_run: bool = False,
    ) -> Outcome:
        """Writes all that is planned, or nothing. Raises ABORTED for a stale version."""
        deed = Deed(operation, _author(), restored_from)

        def write(tx: Tx) -> tuple[Outcome, list[str]]:
            scope = open_scope(tx, workspace, must_be_active=True)
            plan = planner(tx, scope)
            if not plan.writes:
                return Outcome(plan.diagnostics), []
            outcome, sandbox_ids = self._carry_out(tx, scope, plan, deed, impacts=impacts)
            if not outcome.valid:
                raise _Undone(outcome)
            refuse_stale(plan.writes)
            if dry_run:
                raise _Undone(outcome)
            return replace(outcome, written=True), sandbox_ids

        async def run() -> Outcome:
            outcome, sandbox_ids = await self._store.write(write)
            self._bus.config_changed(sandbox_ids, "providers")
            return outcome

        try:
            # A caller that hangs up must not separate the write from what follows it.
            return await self._tasks.complete(f"{operation.value} profiles", run())
        except _Undone as undone:
            return undone.outcome

    def _carry_out(
        self, tx: Tx, scope: str, plan: Plan, deed: Deed, *, impacts: bool
    ) -> tuple[Outcome, list[str]]:
        snapshot = Snapshot(tx, scope)
        rows = write_all(tx, scope, plan.writes, deed, self._new_id)
        now = Situations(tx)
        users = snapshot.users(now)
        measured = measure(users, now, effects=impacts)
        faults = fault_diagnostics(users, measured, plan.writes, deed, scope)
        outcome = Outcome(
            diagnostics=(*plan.diagnostics, *faults),
            profiles=() if faults else [shown(row) for row in rows],
            # Here and not for the answer: the event loop has better to do.
            impacts=impact_messages(measured) if impacts else (),
            valid=not faults,
        )
        return outcome, [user.id for user in users]

    async def delete(self, workspace: str, profile_id: str) -> None:
        """Raises NOT_FOUND, and FAILED_PRECONDITION for built-in profiles and used ones."""
        deed = Deed(Operation.DELETE, _author())

        def write(tx: Tx) -> None:
            scope = open_scope(tx, workspace)
            row = find_row(tx, scope, profile_id)
            if row is None:
                entry = read_catalogue(tx, scope).effective(profile_id)
                if entry is not None and not entry.is_user_managed:
                    raise failed_precondition(
                        f"provider profile '{profile_id}' is managed by source '{entry.source}' and "
                        "cannot be deleted"
                    )
                raise not_found(f"provider profile '{profile_id}' not found")
            snapshot = Snapshot(tx, scope)
            tx.delete(Kind.PROVIDER_PROFILE, row.id, row.resource_version)
            append_revision(tx, scope, profile_id, deed, None)
            # Asked of the catalogue without it, so that every way of reaching it counts.
            users = snapshot.users(Situations(tx))
            if users:
                names = sorted(user.shown(scope) for user in users)
                more = len(names) - MAX_NAMED
                rest = f" and {more} more" if more > 0 else ""
                raise failed_precondition(
                    f"provider profile '{profile_id}' is in use by sandbox(es): "
                    f"{', '.join(names[:MAX_NAMED])}{rest}; detach their providers of this type first"
                )

        await self._store.write(write)


def _author() -> str:
    principal = current_principal()
    return principal.subject if isinstance(principal, UserPrincipal) else ""
