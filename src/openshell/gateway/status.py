"""Changes to a sandbox record, each a plain function of the record and what happened. Pure.

Every function says whether it changed the record, so that nothing is written for no reason. Phases
follow `phases.py`. `compute.py` runs these inside a transaction; `project` is applied to every
record that leaves the gateway.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.drivers import base
from openshell.gateway.phases import Event, Phase, classify, compose, next_phase

__all__ = [
    "apply_exit",
    "apply_report",
    "apply_session_lost",
    "apply_session_ready",
    "apply_snapshot",
    "apply_transition",
    "clear_paused",
    "is_paused",
    "main_started",
    "phase_of",
    "project",
    "set_condition",
    "set_paused",
    "setup_failure",
]

REPORT_PHASES_MAX = 32
"""Creation phases on a record: five exist; bounds what a broken supervisor can make us keep."""
REPORT_TEXT_MAX = 2_048
"""Characters of one text in a report: a sentence, not a log."""
REPORT_LAYERS_MAX = 64
REPORT_PATHS_MAX = 2_048
"""Exposed paths and interpreters each: a large PATH has some hundreds."""

READY = "Ready"
PAUSED = "Paused"
READY_PHASE_NAME = "ready"
"""The last creation phase of a supervisor that reports phases: its main process runs."""


def phase_of(sandbox: openshell_pb2.Sandbox) -> Phase:
    return Phase(sandbox.status.phase)


def set_condition(
    sandbox: openshell_pb2.Sandbox,
    status: str,
    reason: str,
    message: str,
    now_ms: int,
    *,
    type_: str = READY,
) -> bool:
    """Sets one condition; its transition time moves only when the status does."""
    for condition in sandbox.status.conditions:
        if condition.type == type_:
            break
    else:
        condition = sandbox.status.conditions.add(type=type_)
    if (condition.status, condition.reason, condition.message) == (status, reason, message):
        return False
    if condition.status != status:
        condition.last_transition_time = _timestamp(now_ms)
    condition.status, condition.reason, condition.message = status, reason, message
    return True


def _timestamp(now_ms: int) -> str:
    moment = dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _set_phase(sandbox: openshell_pb2.Sandbox, phase: Phase) -> None:
    sandbox.status.phase = openshell_pb2.SandboxPhase.ValueType(int(phase))


def apply_transition(
    sandbox: openshell_pb2.Sandbox, event: Event, reason: str, message: str, now_ms: int
) -> bool:
    """A request or an end: the phase of the table, and Ready is False with this reason."""
    phase = next_phase(phase_of(sandbox), event)
    if phase is None:
        return False
    moved = phase is not phase_of(sandbox)
    _set_phase(sandbox, phase)
    if event in {Event.STOP, Event.START, Event.MAIN_EXITED}:
        clear_paused(sandbox)
    if event is Event.START and moved:
        sandbox.status.ClearField("exit_code")
        sandbox.status.ClearField("creation_phases")
    return set_condition(sandbox, "False", reason, message, now_ms) or moved


def is_paused(sandbox: openshell_pb2.Sandbox) -> bool:
    """Whether its processes are to be held."""
    return any(c.type == PAUSED and c.status == "True" for c in sandbox.status.conditions)


def set_paused(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
    """Says so; the phase stays, since the supervisor is there."""
    message = f"resume it with: openshell sandbox resume {sandbox.metadata.name}"
    return set_condition(sandbox, "True", "PausedByUser", message, now_ms, type_=PAUSED)


def clear_paused(sandbox: openshell_pb2.Sandbox) -> bool:
    """Nothing is held any more; False if nothing was."""
    kept = [c for c in sandbox.status.conditions if c.type != PAUSED]
    changed = len(kept) != len(sandbox.status.conditions)
    if changed:
        del sandbox.status.conditions[:]
        sandbox.status.conditions.extend(kept)
    return changed


def apply_snapshot(
    sandbox: openshell_pb2.Sandbox,
    seen: base.SandboxStatus,
    *,
    session_ready: bool,
    now_ms: int,
) -> bool:
    """What a driver observed, composed with the session. Terminal phases stay as they are."""
    stored = phase_of(sandbox)
    if stored in {Phase.ERROR, Phase.DELETING}:
        return False
    changed = _merge_phases(sandbox, (_creation_phase(phase) for phase in seen.phases))
    event = compose(classify(seen.conditions, deleting=seen.deleting), session_ready=session_ready)
    phase = next_phase(stored, event)
    if phase is None:
        return changed
    if phase is not stored:
        _set_phase(sandbox, phase)
        changed = True
    for condition in seen.conditions:
        told = condition
        if condition.type == READY and condition.status == "True":
            told = _ready_condition(phase)
        changed |= set_condition(
            sandbox, told.status, told.reason, told.message, now_ms, type_=told.type
        )
    if phase is Phase.READY:
        told = _ready_condition(phase)
        changed |= set_condition(sandbox, told.status, told.reason, told.message, now_ms)
    return changed


def _ready_condition(phase: Phase) -> base.Condition:
    if phase is Phase.READY:
        return base.Condition(READY, "True", "DependenciesReady", "")
    return base.Condition(
        READY, "False", "SupervisorNotConnected", "the supervisor is not connected yet"
    )


def apply_session_ready(sandbox: openshell_pb2.Sandbox, instance_id: str, now_ms: int) -> bool:
    """A supervisor is connected and has set the sandbox up."""
    phase = next_phase(phase_of(sandbox), Event.SESSION_READY)
    if phase is None:
        return False
    status = sandbox.status
    changed = (
        phase is not phase_of(sandbox)
        or status.main_process_instance_id != instance_id
        or status.HasField("exit_code")
    )
    _set_phase(sandbox, phase)
    status.main_process_instance_id = instance_id
    status.ClearField("exit_code")
    return set_condition(sandbox, "True", "DependenciesReady", "", now_ms) or changed


def apply_session_lost(sandbox: openshell_pb2.Sandbox, now_ms: int) -> bool:
    return apply_transition(
        sandbox,
        Event.SESSION_LOST,
        "DependenciesNotReady",
        "the supervisor's session ended; it reconnects by itself",
        now_ms,
    )


def apply_exit(
    sandbox: openshell_pb2.Sandbox, instance_id: str, exit_code: int, now_ms: int
) -> bool:
    """The main process ended. A report of an older run, and any second report, change nothing."""
    status = sandbox.status
    stored = phase_of(sandbox)
    known = status.main_process_instance_id
    if status.HasField("exit_code"):
        return False
    if stored is Phase.STARTING:
        if known == instance_id:
            return False
    elif known and known != instance_id:
        return False
    phase = next_phase(stored, Event.MAIN_EXITED)
    if phase is None:
        return False
    _set_phase(sandbox, phase)
    status.main_process_instance_id = instance_id
    status.exit_code = exit_code
    set_condition(
        sandbox,
        "False",
        "MainProcessExited",
        f"the main process ended with exit code {exit_code}",
        now_ms,
    )
    return True


def apply_report(
    sandbox: openshell_pb2.Sandbox, report: openshell_ext_pb2.SandboxReport, now_ms: int
) -> bool:
    """A supervisor's own picture: creation phases, what is enforced, and a failure of set-up."""
    phases = [_clipped(phase) for phase in report.phases[:REPORT_PHASES_MAX]]
    changed = _merge_phases(sandbox, phases)
    enforcement = _bounded(report.enforcement)
    if report.HasField("enforcement") and sandbox.status.enforcement != enforcement:
        sandbox.status.enforcement.CopyFrom(enforcement)
        changed = True
    failed = setup_failure(phases)
    if failed is not None:
        changed |= apply_transition(
            sandbox, Event.SETUP_FAILED, failed.error_code, failed.error_message, now_ms
        )
    return changed


def _clipped(phase: openshell_ext_pb2.CreationPhase) -> openshell_ext_pb2.CreationPhase:
    return openshell_ext_pb2.CreationPhase(
        name=phase.name[:REPORT_TEXT_MAX],
        started_at_ms=phase.started_at_ms,
        ended_at_ms=phase.ended_at_ms,
        error_code=phase.error_code[:REPORT_TEXT_MAX],
        error_message=phase.error_message[:REPORT_TEXT_MAX],
    )


def _bounded(
    report: openshell_ext_pb2.EnforcementReport,
) -> openshell_ext_pb2.EnforcementReport:
    return openshell_ext_pb2.EnforcementReport(
        layers=[
            openshell_ext_pb2.EnforcementReport.Layer(
                name=layer.name[:REPORT_TEXT_MAX],
                status=layer.status[:REPORT_TEXT_MAX],
                detail=layer.detail[:REPORT_TEXT_MAX],
            )
            for layer in report.layers[:REPORT_LAYERS_MAX]
        ],
        exposed_paths=report.exposed_paths[:REPORT_PATHS_MAX],
        interpreters=report.interpreters[:REPORT_PATHS_MAX],
    )


def setup_failure(
    phases: Iterable[openshell_ext_pb2.CreationPhase],
) -> openshell_ext_pb2.CreationPhase | None:
    """The first creation phase that failed."""
    return next((phase for phase in phases if phase.error_code), None)


def main_started(phases: Iterable[openshell_ext_pb2.CreationPhase]) -> bool:
    """Whether the last phase of creation is over, without error."""
    return any(
        phase.name == READY_PHASE_NAME and phase.ended_at_ms and not phase.error_code
        for phase in phases
    )


def _merge_phases(
    sandbox: openshell_pb2.Sandbox, phases: Iterable[openshell_ext_pb2.CreationPhase]
) -> bool:
    """Newer phases replace those of the same name; an ended one is never reopened by an old view."""
    present = sandbox.status.creation_phases
    changed = False
    for phase in phases:
        for known in present:
            if known.name != phase.name:
                continue
            stale = phase.started_at_ms < known.started_at_ms or (
                phase.started_at_ms == known.started_at_ms
                and known.ended_at_ms
                and not phase.ended_at_ms
            )
            if not stale and known != phase:
                known.CopyFrom(phase)
                changed = True
            break
        else:
            if len(present) < REPORT_PHASES_MAX:
                present.append(phase)
                changed = True
    return changed


def _creation_phase(phase: base.Phase) -> openshell_ext_pb2.CreationPhase:
    return openshell_ext_pb2.CreationPhase(
        name=phase.name,
        started_at_ms=phase.started_at_ms,
        ended_at_ms=phase.ended_at_ms,
        error_code=phase.error_code,
        error_message=phase.error_message,
    )


def project(sandbox: openshell_pb2.Sandbox, *, leased: bool, now_ms: int) -> openshell_pb2.Sandbox:
    """The record as it may be shown: Ready only while its supervisor renews the lease."""
    if leased or phase_of(sandbox) is not Phase.READY:
        return sandbox
    shown = openshell_pb2.Sandbox()
    shown.CopyFrom(sandbox)
    _set_phase(shown, Phase.PROVISIONING)
    set_condition(
        shown,
        "False",
        "SupervisorNotConnected",
        "the supervisor has not been heard of; it reconnects by itself if it is alive",
        now_ms,
    )
    return shown
