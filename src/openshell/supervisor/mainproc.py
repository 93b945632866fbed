"""The main process: started once, its output kept for whoever attaches, its end the sandbox's end.

Output is kept within a bound, the oldest gives way and the reader is told how much; nobody who
attaches can slow the process down. Input has one owner at a time; others watch. Detaching ends
nothing. The exit is what the gateway reports and what an attached client returns.
"""

import asyncio
from collections.abc import Sequence

from openshell._proto import openshell_ext_pb2
from openshell.supervisor.environment import ProgramRole
from openshell.supervisor.execs import ProgramContext
from openshell.supervisor.execution import Execution
from openshell.supervisor.isolation.model import WORKSPACE
from openshell.supervisor.output import Exit, OutputReader
from openshell.supervisor.tasks import Tasks

__all__ = ["Attachment", "MainProcess"]

# Output that is kept for attachments: the contract's bound.
_OUTPUT_LIMIT = 1 << 20
_COLS, _ROWS = 80, 24


class Attachment:
    """One client's view of the main process."""

    def __init__(self, main: "MainProcess", reader: OutputReader, *, owns_input: bool) -> None:
        self.reader = reader
        self.owns_input = owns_input
        self._main = main

    def release(self) -> None:
        """Detach; the input is free for the next one."""
        self._main._release(self)


class MainProcess:
    """At most one run."""

    def __init__(self, context: ProgramContext, tasks: Tasks) -> None:
        self._context = context
        self._tasks = tasks
        self._execution: Execution | None = None
        self._started = asyncio.Event()
        self._owner: Attachment | None = None
        self._attached: set[Attachment] = set()
        self._delivered = asyncio.Event()

    async def start(self, argv: Sequence[str], *, tty: bool) -> Execution:
        """Start it; a command that cannot be started has ended with the reason."""
        process = await self._context.host.spawn(
            argv,
            self._context.environment(ProgramRole.MAIN, "" if tty else None, {}),
            WORKSPACE,
            (_COLS, _ROWS) if tty else None,
        )
        self._execution = Execution(
            process,
            self._tasks,
            "main",
            terminal=tty,
            waits_for_reader=False,
            limit=_OUTPUT_LIMIT,
        )
        self._started.set()
        return self._execution

    @property
    def execution(self) -> Execution | None:
        return self._execution

    async def attach(self, target: openshell_ext_pb2.AttachTarget) -> tuple[Execution, Attachment]:
        """Join, waiting for the start; the first who wants the input gets it."""
        await self._started.wait()
        execution = self._execution
        if execution is None:
            raise AssertionError("started without an execution")
        attachment = Attachment(
            self, execution.log.reader(), owns_input=target.stdin and self._owner is None
        )
        if attachment.owns_input:
            self._owner = attachment
            await execution.resize(target.cols, target.rows)
        self._attached.add(attachment)
        return execution, attachment

    async def wait(self) -> Exit:
        """The end of the main process."""
        await self._started.wait()
        if self._execution is None:
            raise AssertionError("started without an execution")
        return await self._execution.log.wait_finished()

    def delivered(self) -> None:
        """A client has got everything, the exit included."""
        self._delivered.set()

    async def wait_delivered(self, timeout: float) -> bool:
        """Whether a client got everything within that time, and nobody is still attached."""
        try:
            async with asyncio.timeout(timeout):
                await self._delivered.wait()
        except TimeoutError:
            return False
        return True

    def _release(self, attachment: Attachment) -> None:
        self._attached.discard(attachment)
        if self._owner is attachment:
            self._owner = None
