"""What a sandbox's directory says after a restart of the gateway: read, judged, nothing changed.

A directory without a plan was never finished: the plan is written last, so whoever asked for the
sandbox got an error or no answer. One with a plan that cannot be read may hold somebody's work and
perhaps a running supervisor of another version: it is left alone. Called by the driver at its start.
"""

import os
from dataclasses import dataclass
from enum import StrEnum

from openshell.drivers.launch import LaunchPlan, PlanError, decode_plan
from openshell.drivers.local.paths import SandboxPaths
from openshell.drivers.local.processes import has_ended
from openshell.drivers.local.state import FailureRecord, ProcessRecord, open_process, read_record

__all__ = ["Found", "Verdict", "judge"]


class Verdict(StrEnum):
    """What to do about a directory."""

    UNFINISHED = "unfinished"
    UNREADABLE = "unreadable"
    RUNNING = "running"
    GONE = "gone"
    # Its supervisor was forked and had not yet written who it is: only the zygote knows.
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Found:
    """A directory's story. The pidfd belongs to the caller."""

    verdict: Verdict
    plan: LaunchPlan | None = None
    stopped: bool = False
    failure: FailureRecord | None = None
    pid: int = 0
    pidfd: int = -1


def judge(name: str, paths: SandboxPaths, boot: str) -> Found:
    """Read one directory."""
    try:
        with open(paths.plan, "rb") as file:
            plan = decode_plan(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return Found(Verdict.UNFINISHED)
    except (OSError, PlanError):
        return Found(Verdict.UNREADABLE)
    if plan.sandbox_id != name:
        return Found(Verdict.UNREADABLE)
    stopped = os.path.exists(paths.stopped)
    failure = read_record(paths.failure, FailureRecord)
    record = read_record(paths.process, ProcessRecord)
    if record is None:
        verdict = Verdict.GONE if stopped or failure else Verdict.UNCLEAR
        return Found(verdict, plan, stopped, failure)
    pidfd = open_process(record, boot)
    if pidfd is None:
        return Found(Verdict.GONE, plan, stopped, failure)
    if has_ended(pidfd):
        os.close(pidfd)
        return Found(Verdict.GONE, plan, stopped, failure)
    return Found(Verdict.RUNNING, plan, stopped, failure, record.pid, pidfd)
