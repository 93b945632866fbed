"""The phase table: every phase against every event, and the words of the contract's rows."""

import itertools

import pytest

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.drivers.base import Condition, SandboxStatus
from openshell.drivers.base import Phase as StepPhase
from openshell.gateway import status
from openshell.gateway.phases import TABLE, Event, Phase, classify, compose, next_phase

P, E = Phase, Event


def test_numbers_are_those_of_the_api():
    for phase in Phase:
        assert openshell_pb2.SandboxPhase.Name(phase) == f"SANDBOX_PHASE_{phase.name}"
    assert len(Phase) == len(openshell_pb2.SandboxPhase.keys())


def test_what_is_not_in_the_table_changes_nothing():
    for phase, event in itertools.product(Phase, Event):
        assert next_phase(phase, event) == TABLE.get((phase, event))


@pytest.mark.parametrize(
    "event", [e for e in Event if e is not Event.MAIN_EXITED and e is not Event.DELETE]
)
def test_error_is_terminal(event):
    assert next_phase(P.ERROR, event) is None


@pytest.mark.parametrize("event", list(Event))
def test_nothing_leaves_deleting(event):
    assert next_phase(P.DELETING, event) is None


@pytest.mark.parametrize("phase", [p for p in Phase if p is not P.DELETING])
def test_everything_else_can_be_deleted(phase):
    assert next_phase(phase, E.DELETE) is P.DELETING


@pytest.mark.parametrize(
    ("phase", "event", "then"),
    [
        (P.PROVISIONING, E.SESSION_READY, P.READY),
        (P.STARTING, E.SESSION_READY, P.READY),
        (P.STOPPING, E.SESSION_READY, None),
        (P.STOPPED, E.SESSION_READY, None),
        (P.READY, E.SESSION_LOST, P.PROVISIONING),
        (P.STOPPING, E.SESSION_LOST, None),
        (P.STOPPING, E.SEEN_EXITED, P.STOPPED),
        (P.STOPPING, E.SEEN_FAILED, P.ERROR),
        (P.STOPPING, E.SEEN_READY, None),
        (P.STOPPED, E.SEEN_READY, None),
        (P.READY, E.SEEN_EXITED, P.ERROR),
        (P.STARTING, E.SEEN_PROVISIONING, None),
        (P.STOPPED, E.MAIN_EXITED, None),
        (P.STOPPING, E.MAIN_EXITED, None),
        (P.PROVISIONING, E.STOP, None),
        (P.READY, E.STOP, P.STOPPING),
        (P.STOPPED, E.START, P.STARTING),
        (P.READY, E.START, None),
        (P.READY, E.MISSING, None),
        (P.STOPPED, E.MISSING, P.ERROR),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_rows_of_the_contract(phase, event, then):
    assert next_phase(phase, event) is then


@pytest.mark.parametrize(
    ("conditions", "deleting", "event"),
    [
        ([], False, E.SEEN_PROVISIONING),
        ([Condition("Ready", "True")], True, E.SEEN_DELETING),
        ([Condition("Suspended", "True"), Condition("Ready", "True")], False, E.SEEN_STOPPED),
        ([Condition("Ready", "True")], False, E.SEEN_READY),
        ([Condition("Ready", "Unknown")], False, E.SEEN_PROVISIONING),
        ([Condition("Ready", "False", "STARTING")], False, E.SEEN_PROVISIONING),
        ([Condition("Ready", "False", "ContainerExited")], False, E.SEEN_EXITED),
        ([Condition("Ready", "False", "NoSuchReason")], False, E.SEEN_FAILED),
    ],
)
def test_conditions_are_classified(conditions, deleting, event):
    assert classify(conditions, deleting=deleting) is event


def test_only_the_session_makes_ready():
    assert compose(E.SEEN_READY, session_ready=False) is E.SEEN_PROVISIONING
    assert compose(E.SEEN_PROVISIONING, session_ready=True) is E.SEEN_READY
    assert compose(E.SEEN_FAILED, session_ready=True) is E.SEEN_FAILED


# Changes to records


def record(phase=P.PROVISIONING, instance="", exit_code=None):
    sandbox = openshell_pb2.Sandbox()
    sandbox.status.phase = int(phase)
    sandbox.status.main_process_instance_id = instance
    if exit_code is not None:
        sandbox.status.exit_code = exit_code
    return sandbox


def ready(sandbox):
    return next((c.status, c.reason) for c in sandbox.status.conditions if c.type == "Ready")


def seen(*conditions, phases=()):
    return SandboxStatus("id", "name", "default", tuple(conditions), phases=phases)


def test_session_ready_and_lost():
    sandbox = record()
    assert status.apply_session_ready(sandbox, "i1", 1000)
    assert (sandbox.status.phase, ready(sandbox)) == (P.READY, ("True", "DependenciesReady"))
    assert not status.apply_session_ready(sandbox, "i1", 2000)
    assert status.apply_session_lost(sandbox, 3000)
    assert (sandbox.status.phase, ready(sandbox)) == (
        P.PROVISIONING,
        ("False", "DependenciesNotReady"),
    )


@pytest.mark.parametrize(
    ("stored", "instance", "recorded"),
    [
        pytest.param(record(P.READY, "i1"), "i1", True, id="running"),
        pytest.param(record(P.PROVISIONING), "i1", True, id="before the first session"),
        pytest.param(record(P.READY, "i2"), "i1", False, id="stale instance"),
        pytest.param(record(P.STARTING, "i1"), "i1", False, id="old run while starting"),
        pytest.param(record(P.STARTING, "i1"), "i2", True, id="new run while starting"),
        pytest.param(record(P.ERROR, "i1", 3), "i1", False, id="second report"),
        pytest.param(record(P.ERROR, "i1"), "i1", True, id="driver saw the end first"),
        pytest.param(record(P.STOPPED, "i1"), "i1", False, id="stopped"),
        pytest.param(record(P.DELETING, "i1"), "i1", False, id="deleting"),
    ],
)
def test_exit_report(stored, instance, recorded):
    sandbox = openshell_pb2.Sandbox()
    sandbox.CopyFrom(stored)
    assert status.apply_exit(sandbox, instance, 0, 1000) is recorded
    if recorded:
        assert sandbox.status.phase == P.ERROR
        assert sandbox.status.HasField("exit_code")
        assert ready(sandbox) == ("False", "MainProcessExited")
    else:
        assert sandbox == stored


def test_snapshot_without_session_says_who_is_missing():
    sandbox = record()
    snapshot = seen(Condition("Ready", "True", "BackendReady"))
    assert status.apply_snapshot(sandbox, snapshot, session_ready=False, now_ms=1)
    assert ready(sandbox) == ("False", "SupervisorNotConnected")
    assert status.apply_snapshot(sandbox, snapshot, session_ready=True, now_ms=2)
    assert (sandbox.status.phase, ready(sandbox)) == (P.READY, ("True", "DependenciesReady"))
    assert not status.apply_snapshot(sandbox, snapshot, session_ready=True, now_ms=3)


def test_failed_backend_keeps_its_reason_and_is_not_revived():
    sandbox = record()
    failed = seen(Condition("Ready", "False", "ContainerStartFailed", "no namespaces"))
    assert status.apply_snapshot(sandbox, failed, session_ready=False, now_ms=1)
    assert (sandbox.status.phase, ready(sandbox)) == (P.ERROR, ("False", "ContainerStartFailed"))
    better = seen(Condition("Ready", "True"))
    assert not status.apply_snapshot(sandbox, better, session_ready=True, now_ms=2)


def phase(name, started, ended=0, code=""):
    return openshell_ext_pb2.CreationPhase(
        name=name, started_at_ms=started, ended_at_ms=ended, error_code=code, error_message=code
    )


def test_creation_phases_merge_by_name_and_never_go_back():
    sandbox = record()
    snapshot = seen(Condition("Ready", "True"), phases=(StepPhase("rootfs", 1, 5),))
    status.apply_snapshot(sandbox, snapshot, session_ready=False, now_ms=1)
    report = openshell_ext_pb2.SandboxReport(phases=[phase("rootfs", 1), phase("ready", 6)])
    assert status.apply_report(sandbox, report, 7)
    assert [(p.name, p.ended_at_ms) for p in sandbox.status.creation_phases] == [
        ("rootfs", 5),
        ("ready", 0),
    ]
    assert not status.main_started(sandbox.status.creation_phases)
    status.apply_report(sandbox, openshell_ext_pb2.SandboxReport(phases=[phase("ready", 6, 9)]), 9)
    assert status.main_started(sandbox.status.creation_phases)


def test_failed_set_up_is_an_error_with_its_code():
    sandbox = record()
    report = openshell_ext_pb2.SandboxReport(phases=[phase("isolation", 1, 2, "landlock")])
    assert status.apply_report(sandbox, report, 3)
    assert (sandbox.status.phase, ready(sandbox)) == (P.ERROR, ("False", "landlock"))


def test_ready_is_shown_only_while_leased():
    sandbox = record(P.READY)
    assert status.project(sandbox, leased=True, now_ms=1) is sandbox
    shown = status.project(sandbox, leased=False, now_ms=1)
    assert (shown.status.phase, ready(shown)) == (
        P.PROVISIONING,
        ("False", "SupervisorNotConnected"),
    )
    assert sandbox.status.phase == P.READY
    stopped = record(P.STOPPED)
    assert status.project(stopped, leased=False, now_ms=1) is stopped


def test_condition_time_moves_with_the_status_only():
    sandbox = record()
    status.set_condition(sandbox, "False", "A", "", 1_000)
    status.set_condition(sandbox, "False", "B", "", 2_000)
    assert sandbox.status.conditions[0].last_transition_time == "1970-01-01T00:00:01.000Z"
    status.set_condition(sandbox, "True", "C", "", 3_000)
    assert sandbox.status.conditions[0].last_transition_time == "1970-01-01T00:00:03.000Z"


def test_a_report_cannot_fill_the_record():
    sandbox = record()
    for round_ in range(5):
        phases = [phase(f"{round_}-{i}", 1) for i in range(40)]
        layers = [ext_layer("x" * 10_000) for _ in range(100)]
        enforcement = openshell_ext_pb2.EnforcementReport(
            layers=layers, exposed_paths=["/a"] * 5_000
        )
        status.apply_report(
            sandbox, openshell_ext_pb2.SandboxReport(phases=phases, enforcement=enforcement), 1
        )
    assert len(sandbox.status.creation_phases) == status.REPORT_PHASES_MAX
    assert len(sandbox.status.enforcement.layers) == status.REPORT_LAYERS_MAX
    assert len(sandbox.status.enforcement.exposed_paths) == status.REPORT_PATHS_MAX
    assert len(sandbox.status.enforcement.layers[0].detail) == status.REPORT_TEXT_MAX


def ext_layer(detail):
    return openshell_ext_pb2.EnforcementReport.Layer(name="n", status="off", detail=detail)
