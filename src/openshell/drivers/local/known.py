"""One sandbox as the local driver knows it: its plan, its process, how it ended.

Changed only by the driver, under the sandbox's own lock, on the event loop.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field

from openshell.drivers.base import DriverError, DriverErrorCode, SandboxStatus
from openshell.drivers.launch import LaunchPlan
from openshell.drivers.local import processes
from openshell.drivers.local.observe import Backend, Facts, conditions_of
from openshell.drivers.local.paths import SandboxPaths
from openshell.drivers.local.state import (
    FailureRecord,
    IsolationRecord,
    open_process,
    read_record,
)

__all__ = ["KnownSandbox"]

# A killed process ends in milliseconds; one in an uninterruptible wait may take longer.
_KILL_SECONDS = 10.0


@dataclass(slots=True)
class KnownSandbox:
    """What is known about one sandbox."""

    plan: LaunchPlan
    paths: SandboxPaths
    backend: Backend = Backend.PREPARING
    stopped: bool = False
    deleting: bool = False
    exit_code: int | None = None
    failure: FailureRecord | None = None
    pid: int = 0
    pidfd: int = -1
    exit_known: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def status(self) -> SandboxStatus:
        """What the gateway is told."""
        return SandboxStatus(
            id=self.plan.sandbox_id,
            name=self.plan.name,
            workspace=self.plan.workspace,
            conditions=conditions_of(
                Facts(self.backend, self.stopped, self.exit_code, self.failure)
            ),
            instance_id=self.plan.instance_id,
            deleting=self.deleting,
            phases=self.failure.phases if self.failure else (),
        )

    def forget_process(self) -> None:
        """Close the descriptor of the supervisor."""
        if self.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1

    async def kill(self, boot: str) -> None:
        """End the supervisor and the first process inside; answer when both have ended.

        Either one's death takes everything else along; both are ended so that there is something
        to wait for.
        """
        record = read_record(self.paths.isolation, IsolationRecord)
        init = open_process(record.init, boot) if record else None
        pidfds = [fd for fd in (init, self.pidfd) if fd is not None and fd >= 0]
        try:
            for pidfd in pidfds:
                processes.send(pidfd, signal.SIGKILL)
            if not await processes.wait_ended(pidfds, _KILL_SECONDS):
                raise DriverError(
                    DriverErrorCode.INTERNAL,
                    f"processes of sandbox '{self.plan.name}' do not end: the kernel keeps them "
                    "in an uninterruptible wait; try again later",
                )
        finally:
            if init is not None:
                os.close(init)
        self.forget_process()
        self.backend = Backend.GONE

    async def clean_leftovers(self, boot: str) -> None:
        """What outlives the supervisor: a first process that is still ending, control groups."""
        record = read_record(self.paths.isolation, IsolationRecord)
        init = open_process(record.init, boot) if record else None
        if init is not None:
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, init)
                processes.send(init, signal.SIGKILL)
                await processes.wait_ended((init,), _KILL_SECONDS)
        groups = set(record.cgroups if record else ())
        groups.update(processes.find_cgroups(self.plan.sandbox_id))
        left = await processes.remove_cgroups(tuple(groups))
        if left:
            raise DriverError(
                DriverErrorCode.INTERNAL, f"the control group {left[0]} cannot be removed"
            )
