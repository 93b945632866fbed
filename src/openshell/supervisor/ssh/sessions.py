"""What a session channel can ask for: a shell, a command, files, the main process.

Programs are started as those of an exec are, by process 1 and under the same restrictions, through the
login shell, as SSH clients expect. A client that leaves hangs its program up and ends nothing else, so
that what was put into the background stays, as editors rely on.
"""

import asyncio
import contextlib
import signal

from openshell._proto import openshell_ext_pb2
from openshell.supervisor.environment import ProgramRole
from openshell.supervisor.execs import ProgramContext
from openshell.supervisor.execution import Execution, InputRefused
from openshell.supervisor.isolation.model import WORKSPACE
from openshell.supervisor.mainproc import MainProcess
from openshell.supervisor.process import Process, SandboxGone
from openshell.supervisor.ssh.channel import Channel
from openshell.supervisor.tasks import Tasks

__all__ = ["MAIN_SUBSYSTEM", "SFTP_SUBSYSTEM", "Session"]

MAIN_SUBSYSTEM = "openshell-main"
SFTP_SUBSYSTEM = "sftp"
READ_ONLY = "OPENSHELL_MAIN_READ_ONLY"
"""Variable of a client that only wants to watch the main process."""

_SHELLS = ("/bin/bash", "/bin/sh")
# Output that may wait for the client before the program has to.
_OUTPUT_LIMIT = 512 << 10
_NOT_FOUND = 127
_UNKNOWN = 255
# Ctrl-P, then Ctrl-Q: leave the main process running.
_DETACH_FIRST, _DETACH_SECOND = 0x10, 0x11
# Of the client's environment what every SSH server takes: how text is to be written.
_LOCALE = ("LANG", "LC_", "COLORTERM")

_OTHER_OWNS_INPUT = (
    b"openshell: another client owns the input of this process; attached read-only\r\n"
)
_NO_MAIN = b"openshell: this sandbox has no main process; run a command instead\r\n"


class Session(Channel):
    """A session channel of one connection."""

    def __init__(self, context: ProgramContext, main: MainProcess | None, tasks: Tasks) -> None:
        super().__init__(tasks)
        self._context = context
        self._main = main

    def offers(self, subsystem: str) -> bool:
        return subsystem in {MAIN_SUBSYSTEM, SFTP_SUBSYSTEM}

    async def run(self) -> int:
        try:
            if self.asked.subsystem == MAIN_SUBSYSTEM:
                return await self._attach()
            process = await self._start()
        except SandboxGone:
            self.write_stderr(b"openshell: the sandbox has ended\r\n")
            return _UNKNOWN
        return await self._carry(process)

    # -- programs

    async def _start(self) -> Process:
        if self.asked.subsystem == SFTP_SUBSYSTEM:
            return await self._context.host.serve_files(WORKSPACE, WORKSPACE)
        command = self.asked.command
        if command is not None:
            return await self._first([[shell, "-lc", command] for shell in _SHELLS])
        interactive = ["-i"] if self.asked.terminal else []
        return await self._first([[shell, *interactive] for shell in _SHELLS])

    async def _first(self, candidates: list[list[str]]) -> Process:
        """The first that this root file system has."""
        terminal = self.asked.terminal
        locale = {k: v for k, v in self.asked.environment.items() if k.startswith(_LOCALE)}
        environment = self._context.environment(
            ProgramRole.EXEC, terminal.name if terminal else None, locale
        )
        size = (terminal.cols, terminal.rows) if terminal else None
        for argv in candidates:
            process = await self._context.host.spawn(argv, environment, WORKSPACE, size)
            if process.pid:
                return process
            process.close()
        return process

    async def _carry(self, process: Process) -> int:
        if not process.pid:
            record = await process.wait()
            self.write_stderr(f"openshell: {record.message}\r\n".encode())
            return record.exit_code or _NOT_FOUND
        execution = Execution(
            process,
            self._tasks,
            "ssh session",
            terminal=self.asked.terminal is not None,
            waits_for_reader=True,
            limit=_OUTPUT_LIMIT,
        )
        self.serve(execution)

        async def take(data: bytes | None) -> bool:
            if data is None:
                await execution.end_input()
                return False
            await execution.write(data)
            return True

        feeding = self._tasks.start(self.receive(take), "ssh input")
        try:
            return (await self.send(execution.log.reader(), execution.log.release)).code
        finally:
            feeding.cancel()
            if execution.log.exit is None:
                await _hang_up(process)

    # -- the main process

    async def _attach(self) -> int:
        if self._main is None:
            self.write_stderr(_NO_MAIN)
            return _UNKNOWN
        wants_input = self.asked.environment.get(READ_ONLY) != "1"
        terminal = self.asked.terminal
        execution, attachment = await self._main.attach(
            openshell_ext_pb2.AttachTarget(
                stdin=wants_input,
                tty=terminal is not None,
                cols=terminal.cols if terminal else 0,
                rows=terminal.rows if terminal else 0,
            )
        )
        self.serve(execution)
        detached = asyncio.Event()
        try:
            if wants_input and not attachment.owns_input:
                self.write_stderr(_OTHER_OWNS_INPUT)
            keys = _Keys(execution, detached, owns_input=attachment.owns_input)
            output = self._tasks.start(self.send(attachment.reader, None), "ssh main output")
            feeding = self._tasks.start(self.receive(keys.take), "ssh main input")
            leaving = self._tasks.start(detached.wait(), "ssh main detach")
            try:
                await asyncio.wait({output, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not output.done():
                    return 0
                self._main.delivered()
                code = output.result().code
                return code if code >= 0 else _UNKNOWN
            finally:
                for task in (output, feeding, leaving):
                    task.cancel()
        finally:
            attachment.release()


class _Keys:
    """Input for the main process, watched for the keys that detach."""

    def __init__(self, execution: Execution, detached: asyncio.Event, *, owns_input: bool) -> None:
        self._execution = execution
        self._detached = detached
        self._owns_input = owns_input
        self._first_seen = False

    async def take(self, data: bytes | None) -> bool:
        if data is None:
            # The input of the main process outlives its clients, except that of a pipe.
            if self._owns_input and not self._execution.terminal:
                await self._execution.end_input()
            return False
        passed = self._without_keys(data)
        if passed and self._owns_input:
            try:
                if self._execution.terminal:
                    self._execution.write_now(passed)
                else:
                    await self._execution.write(passed)
            except InputRefused:
                self._detached.set()
        return not self._detached.is_set()

    def _without_keys(self, data: bytes) -> bytes:
        """What is for the process; the rest is dropped once the two keys were pressed."""
        if not self._execution.terminal:
            return data
        passed = bytearray()
        for byte in data:
            if self._first_seen:
                if byte == _DETACH_SECOND:
                    self._detached.set()
                    break
                passed.append(_DETACH_FIRST)
            self._first_seen = byte == _DETACH_FIRST
            if not self._first_seen:
                passed.append(byte)
        return bytes(passed)


async def _hang_up(process: Process) -> None:
    """As a line that was cut: the program's own group is told, what left that group lives on."""
    with contextlib.suppress(SandboxGone):
        await process.signal(signal.SIGHUP, group=True)
        await process.signal(signal.SIGCONT, group=True)
    process.close()
