"""Programs started for exec requests: each under the gateway's id, its exit kept until fetched.

A request with a known id does not start anything again: it gets what is left of the first one, so
that a gateway that lost the stream can still learn how the program ended. Programs whose requester
went away are ended; exits that nobody fetches are forgotten after a while.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from openshell._proto import openshell_ext_pb2
from openshell.egress.generation import GenerationHolder
from openshell.supervisor.environment import ProgramRole, child_environment
from openshell.supervisor.execution import Execution
from openshell.supervisor.isolation.model import WORKSPACE
from openshell.supervisor.process import ProcessHost, SandboxGone
from openshell.supervisor.tasks import Tasks

__all__ = ["ExecRefused", "Execs", "ProgramContext"]

# Output that may wait for the stream of one exec before its program has to.
_OUTPUT_LIMIT = 512 << 10
# Programs of execs at one time in one sandbox, and exits that wait to be fetched.
_MAX_RUNNING = 256
_MAX_KEPT = 256
_KEPT_SECONDS = 60.0


class ExecRefused(Exception):
    """The request cannot be carried out; one sentence."""


@dataclass(frozen=True, slots=True)
class ProgramContext:
    """What every program of a sandbox gets."""

    host: ProcessHost
    holder: GenerationHolder
    user_env: Mapping[str, str]
    path: str
    trust_directory: str | None

    def environment(
        self, role: ProgramRole, terminal: str | None, extra: Mapping[str, str]
    ) -> dict[str, str]:
        """The environment of a program that starts now."""
        provider_env = self.holder.current.credentials.child_environment()
        made = child_environment(
            role=role,
            user_env=self.user_env,
            provider_env=provider_env,
            terminal=terminal,
            path=self.path,
            trust_directory=self.trust_directory,
        )
        # A caller's own choice for this one program is over everything but what is ours alone.
        return {**made, **extra}


@dataclass(slots=True, eq=False)
class _Known:
    """One request: when it was asked for, and what came of it once it is begun."""

    at: float
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    execution: Execution | None = None
    refusal: ExecRefused | SandboxGone | None = None

    @property
    def is_running(self) -> bool:
        """Also while it is being started; one that was refused is not in the table."""
        return self.execution is None or self.execution.log.exit is None


class Execs:
    """The table of running and unfetched programs."""

    def __init__(
        self, context: ProgramContext, tasks: Tasks, clock: Callable[[], float] | None = None
    ) -> None:
        self._context = context
        self._tasks = tasks
        self._clock = clock or asyncio.get_running_loop().time
        self._known: dict[str, _Known] = {}

    async def open(self, target: openshell_ext_pb2.ExecTarget) -> Execution:
        """The program of a request: started now, or the one that was."""
        known = self._known.get(target.exec_id)
        if known is None:
            self._forget_old()
            if sum(each.is_running for each in self._known.values()) >= _MAX_RUNNING:
                raise ExecRefused(f"{_MAX_RUNNING} commands already run in this sandbox")
            if not target.argv:
                raise ExecRefused("the command is empty")
            # In the table before anything is awaited: the same request may come twice at once.
            known = self._known[target.exec_id] = _Known(self._clock())
            self._tasks.start(self._begin(target, known), f"exec {target.exec_id} start")
        try:
            await known.begun.wait()
        except asyncio.CancelledError:
            self._tasks.start(self.abandoned(target.exec_id), f"exec {target.exec_id} end")
            raise
        if known.execution is None:
            raise known.refusal or SandboxGone
        return known.execution

    def fetched(self, exec_id: str) -> None:
        """The exit was delivered."""
        self._known.pop(exec_id, None)

    async def abandoned(self, exec_id: str) -> None:
        """Nobody waits for this program any more: it ends."""
        known = self._known.get(exec_id)
        if known is None:
            return
        await known.begun.wait()
        if known.execution is not None and known.is_running:
            await known.execution.kill()

    async def _begin(self, target: openshell_ext_pb2.ExecTarget, known: _Known) -> None:
        try:
            known.execution = await self._start(target)
        except (ExecRefused, SandboxGone) as error:
            known.refusal = error
        finally:
            if known.execution is None:
                # It may be tried again.
                self._known.pop(target.exec_id, None)
            known.begun.set()

    async def _start(self, target: openshell_ext_pb2.ExecTarget) -> Execution:
        size = (target.cols or 80, target.rows or 24) if target.tty else None
        extra = dict(target.environment)
        terminal = extra.get("TERM", "") if target.tty else None
        try:
            process = await self._context.host.spawn(
                list(target.argv),
                self._context.environment(ProgramRole.EXEC, terminal, extra),
                target.workdir or WORKSPACE,
                size,
            )
        except ValueError as error:
            # Larger than process 1 takes; the text names no value.
            raise ExecRefused(str(error)) from None
        execution = Execution(
            process,
            self._tasks,
            f"exec {target.exec_id}",
            terminal=target.tty,
            waits_for_reader=True,
            limit=_OUTPUT_LIMIT,
            timeout=float(target.timeout_seconds),
        )
        if not target.has_stdin and not target.tty:
            await execution.end_input()
        return execution

    def _forget_old(self) -> None:
        """Drop exits that were not fetched in time, the oldest first."""
        now = self._clock()
        ended = [key for key, known in self._known.items() if not known.is_running]
        for index, key in enumerate(ended):
            if now - self._known[key].at > _KEPT_SECONDS or len(ended) - index > _MAX_KEPT:
                del self._known[key]
