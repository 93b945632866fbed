"""Phases of a sandbox: one enum, one table of what follows on what. Pure.

A pair that is not in the table is refused: the phase stays. `status.py` carries the change into a
record; `docs/architecture.md` draws its diagram from here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from openshell.drivers.base import Condition

__all__ = ["TABLE", "Event", "Phase", "classify", "compose", "next_phase"]


class Phase(enum.IntEnum):
    """Numbers of the API's SandboxPhase."""

    UNSPECIFIED = 0
    PROVISIONING = 1
    READY = 2
    ERROR = 3
    DELETING = 4
    UNKNOWN = 5
    STOPPING = 6
    STOPPED = 7
    STARTING = 8


class Event(enum.Enum):
    """What can happen to a sandbox, as far as its phase is concerned."""

    # A driver's snapshot, already composed with the session.
    SEEN_PROVISIONING = "seen_provisioning"
    SEEN_READY = "seen_ready"
    SEEN_FAILED = "seen_failed"
    SEEN_EXITED = "seen_exited"
    SEEN_STOPPED = "seen_stopped"
    SEEN_DELETING = "seen_deleting"
    # The compute is gone although nobody asked for it.
    MISSING = "missing"
    # The supervisor's session.
    SESSION_READY = "session_ready"
    SESSION_LOST = "session_lost"
    SETUP_FAILED = "setup_failed"
    MAIN_EXITED = "main_exited"
    # Requests of users.
    STOP = "stop"
    STOP_DONE = "stop_done"
    START = "start"
    DELETE = "delete"


_P = Phase
_E = Event
_COMING_UP = (_P.UNSPECIFIED, _P.PROVISIONING, _P.READY, _P.UNKNOWN)


def _build() -> dict[tuple[Phase, Event], Phase]:
    table: dict[tuple[Phase, Event], Phase] = {}
    for phase in _COMING_UP:
        table[phase, _E.SEEN_PROVISIONING] = _P.PROVISIONING
        table[phase, _E.SEEN_READY] = _P.READY
        table[phase, _E.SEEN_FAILED] = _P.ERROR
        table[phase, _E.SEEN_EXITED] = _P.ERROR
        table[phase, _E.SEEN_STOPPED] = _P.STOPPED
        table[phase, _E.SEEN_DELETING] = _P.DELETING
    # Whatever ends while stopping was stopped; only a failure is one.
    table[_P.STOPPING, _E.SEEN_STOPPED] = _P.STOPPED
    table[_P.STOPPING, _E.SEEN_EXITED] = _P.STOPPED
    table[_P.STOPPING, _E.SEEN_FAILED] = _P.ERROR
    table[_P.STARTING, _E.SEEN_READY] = _P.READY
    table[_P.STARTING, _E.SEEN_FAILED] = _P.ERROR
    table[_P.STARTING, _E.SEEN_EXITED] = _P.ERROR
    for phase in (_P.STOPPING, _P.STOPPED, _P.STARTING):
        table[phase, _E.MISSING] = _P.ERROR
    for phase in (*_COMING_UP, _P.STARTING):
        table[phase, _E.SESSION_READY] = _P.READY
        table[phase, _E.SETUP_FAILED] = _P.ERROR
        table[phase, _E.MAIN_EXITED] = _P.ERROR
    # An exit code may still arrive for a sandbox that the driver already saw end.
    table[_P.ERROR, _E.MAIN_EXITED] = _P.ERROR
    table[_P.READY, _E.SESSION_LOST] = _P.PROVISIONING
    table[_P.READY, _E.STOP] = _P.STOPPING
    table[_P.STOPPING, _E.STOP] = _P.STOPPING
    table[_P.STOPPING, _E.STOP_DONE] = _P.STOPPED
    table[_P.STOPPED, _E.START] = _P.STARTING
    table[_P.STARTING, _E.START] = _P.STARTING
    for phase in Phase:
        if phase is not _P.DELETING:
            table[phase, _E.DELETE] = _P.DELETING
    return table


TABLE: Mapping[tuple[Phase, Event], Phase] = MappingProxyType(_build())


def next_phase(phase: Phase, event: Event) -> Phase | None:
    """The phase that follows, or None when the event changes nothing in this phase."""
    return TABLE.get((phase, event))


# Compared without case. Reasons for not being ready that will pass.
_TRANSIENT = frozenset(
    {
        "reconcilererror",
        "dependenciesnotready",
        "supervisornotconnected",
        "starting",
        "containerstarting",
        "containercreated",
        "healthcheckstarting",
        "inspectfailed",
    }
)
_EXITED = frozenset({"containerexited", "containerstopped"})


def classify(conditions: Sequence[Condition], *, deleting: bool) -> Event:
    """What a driver's conditions say of the compute alone."""
    if deleting:
        return Event.SEEN_DELETING
    by_type = {condition.type: condition for condition in conditions}
    suspended = by_type.get("Suspended")
    if suspended is not None and suspended.status == "True":
        return Event.SEEN_STOPPED
    ready = by_type.get("Ready")
    if ready is None or ready.status not in {"True", "False"}:
        return Event.SEEN_PROVISIONING
    if ready.status == "True":
        return Event.SEEN_READY
    reason = ready.reason.lower()
    if reason in _TRANSIENT:
        return Event.SEEN_PROVISIONING
    return Event.SEEN_EXITED if reason in _EXITED else Event.SEEN_FAILED


def compose(seen: Event, *, session_ready: bool) -> Event:
    """The session decides readiness; only an end seen by the driver outranks it."""
    if seen in {Event.SEEN_READY, Event.SEEN_PROVISIONING}:
        return Event.SEEN_READY if session_ready else Event.SEEN_PROVISIONING
    return seen
