"""Starting and steering programs inside a sandbox, for asyncio.

`ProcessHost` is the supervisor's client of process 1: one request, one answer, exits as they
happen. A `Process` has asynchronous standard streams (`streams`) or a terminal. Restriction,
environment and sessions are other modules' affairs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openshell.supervisor.isolation import wire
from openshell.supervisor.isolation.launch import IsolatedSandbox
from openshell.supervisor.isolation.processes import PROGRAM_MARK, host_pid, kill_program
from openshell.supervisor.streams import ByteReader, ByteWriter

__all__ = ["ExitRecord", "Process", "ProcessHost", "SandboxGone"]

# Longest wait for an answer of process 1: it needs a millisecond, and a frozen one has to thaw.
_ANSWER_TIMEOUT_S = 30.0
# The socket to process 1 is full only when that is stopped or starts hundreds of programs at once;
# its readiness cannot be waited for, since the loop already watches it for reading.
_FULL_PAUSE_S = 0.002


class SandboxGone(Exception):
    """Process 1 has ended: nothing runs inside any more and nothing can be started."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a program ended; with an error code when it never ran."""

    exit_code: int
    signal: int = 0
    error_code: str = ""
    message: str = ""


class Process:
    """One program inside; made by `ProcessHost.spawn`."""

    def __init__(
        self,
        host: ProcessHost,
        number: int,
        pid: int,
        stdin: ByteWriter | None,
        stdout: ByteReader | None,
        stderr: ByteReader | None,
    ) -> None:
        self.pid = pid
        # On a terminal stdin and stdout are its master and stderr is None.
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._host = host
        # Of its request; names it in the environment of all that it starts.
        self._number = number
        self._exit: asyncio.Future[ExitRecord] = asyncio.get_running_loop().create_future()

    async def wait(self) -> ExitRecord:
        """Wait for the end; the record also says so when the whole sandbox went."""
        return await asyncio.shield(self._exit)

    def host_pid(self) -> int | None:
        """The pid outside, while it runs."""
        return self._host.host_pid(self.pid) if not self._exit.done() else None

    async def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the program, or to its first process group; lost if it has ended."""
        if not self._exit.done():
            await self._host.send(wire.Signal(self.pid, number, group))

    async def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal its size; nothing happens without one."""
        if self.stdin is not None and self.stderr is None:
            self.stdin.resize(columns, rows)

    async def kill_tree(self) -> bool:
        """Kill the program, its offspring and its daemons; False if some kept coming back."""
        leader = self.host_pid()
        if leader is None:
            return True
        return kill_program(self._host.init_pid, leader, self._number)

    def close(self) -> None:
        """Give the streams back: pipes close, a terminal hangs up; the program may go on."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    def _finish(self, record: ExitRecord) -> None:
        if not self._exit.done():
            self._exit.set_result(record)


class ProcessHost:
    """Client of one process 1; made in a running loop, closed before the sandbox."""

    def __init__(self, sandbox: IsolatedSandbox) -> None:
        self.init_pid = sandbox.init_pid
        self._control = sandbox.control
        self._control.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._answers: dict[int, asyncio.Future[tuple[wire.Reply, list[int]]]] = {}
        self._programs: dict[int, Process] = {}
        # Ends of programs whose starter has not yet been resumed with their pid.
        self._early_exits: dict[int, ExitRecord] = {}
        self._abandoned: set[int] = set()
        self._killing: set[asyncio.Task[None]] = set()
        self._gone = False
        self._sending = asyncio.Lock()
        self.gone = asyncio.Event()
        self._loop.add_reader(self._control, self._receive)

    def host_pid(self, pid: int) -> int | None:
        return host_pid(self.init_pid, pid)

    async def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        tty: tuple[int, int] | None = None,
    ) -> Process:
        """Start a program; one that cannot be started comes back ended, with the reason."""
        if not argv:
            raise ValueError("argv is empty")
        number = self._take_number()
        marked = {**env, PROGRAM_MARK: str(number)}
        request = wire.Spawn(number, list(argv), marked, cwd, tty)
        return await self._start(number, request, pipes=tty is None)

    async def serve_files(self, cwd: str, home: str) -> Process:
        """Start an SFTP server; it needs no program of the image. Speaks on its streams."""
        number = self._take_number()
        return await self._start(number, wire.ServeFiles(number, cwd, home), pipes=True)

    async def _start(
        self, number: int, request: wire.Spawn | wire.ServeFiles, *, pipes: bool
    ) -> Process:
        ours: list[int] = []
        theirs: list[int] = []
        try:
            if pipes:
                for write_end_is_ours in (True, False, False):
                    reading, writing = os.pipe()
                    ours.append(writing if write_end_is_ours else reading)
                    theirs.append(reading if write_end_is_ours else writing)
            reply, descriptors = await self._ask(number, request, tuple(theirs))
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return self._adopt(number, reply, ours, descriptors)

    def _adopt(
        self, number: int, reply: wire.Reply, ours: list[int], descriptors: list[int]
    ) -> Process:
        if descriptors:
            master = descriptors[0]
            ours = [os.dup(master), master]
        stdin = ByteWriter(ours[0]) if ours else None
        stdout = ByteReader(ours[1]) if ours else None
        stderr = ByteReader(ours[2]) if len(ours) > 2 else None
        if isinstance(reply, wire.Refused):
            process = Process(self, number, 0, stdin, stdout, stderr)
            process._finish(
                ExitRecord(reply.exit_code, error_code=reply.code, message=reply.message)
            )
            return process
        if not isinstance(reply, wire.Spawned):
            raise TypeError("process 1 answered something else")
        process = Process(self, number, reply.pid, stdin, stdout, stderr)
        early = self._early_exits.pop(reply.pid, None)
        if early is not None:
            process._finish(early)
        elif self._gone:
            process._finish(_GONE)
        else:
            self._programs[reply.pid] = process
        return process

    async def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        """A socket in the sandbox's network, non-blocking: connect it to reach a port inside."""
        request = wire.OpenSocket(self._take_number(), family, kind)
        reply, descriptors = await self._ask(request.id, request, ())
        if isinstance(reply, wire.Refused):
            raise OSError(errno.EMFILE, reply.message)
        made = socket.socket(fileno=descriptors[0])
        made.setblocking(False)
        return made

    async def send(self, request: wire.Request, descriptors: tuple[int, ...] = ()) -> None:
        async with self._sending:
            while not self._gone:
                try:
                    wire.send(self._control, request, descriptors)
                    return
                except BlockingIOError:
                    await asyncio.sleep(_FULL_PAUSE_S)
                except OSError:
                    break
        raise SandboxGone

    async def close(self) -> None:
        """Stop listening to process 1; waiting programs end with the sandbox's record."""
        self._lost()

    def _take_number(self) -> int:
        self._next += 1
        return self._next

    async def _ask(
        self, number: int, request: wire.Request, descriptors: tuple[int, ...]
    ) -> tuple[wire.Reply, list[int]]:
        if self._gone:
            raise SandboxGone
        future: asyncio.Future[tuple[wire.Reply, list[int]]] = self._loop.create_future()
        self._answers[number] = future
        try:
            await self.send(request, descriptors)
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return await asyncio.shield(future)
        except (asyncio.CancelledError, TimeoutError):
            # The program may start all the same: nobody would own it, so it is ended.
            future.add_done_callback(self._abandon)
            raise
        finally:
            if future.done():
                self._answers.pop(number, None)

    def _abandon(self, future: asyncio.Future[tuple[wire.Reply, list[int]]]) -> None:
        """End a program whose starter has gone away before it heard of it."""
        if future.cancelled() or future.exception() is not None:
            return
        reply, descriptors = future.result()
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(reply, wire.Spawned) and self._early_exits.pop(reply.pid, None) is None:
            self._abandoned.add(reply.pid)
            killing = self._loop.create_task(
                self._kill_abandoned(reply.pid), name=f"kill abandoned {reply.pid}"
            )
            self._killing.add(killing)
            killing.add_done_callback(self._killing.discard)

    async def _kill_abandoned(self, pid: int) -> None:
        with contextlib.suppress(SandboxGone):
            await self.send(wire.Signal(pid, signal.SIGKILL))

    def _receive(self) -> None:
        """Take every message that is there; called by the loop."""
        while not self._gone:
            try:
                received = wire.receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._lost()
                return
            self._dispatch(*received)

    def _dispatch(self, message: wire.Reply | wire.Request, descriptors: list[int]) -> None:
        match message:
            case wire.Exited(pid, exit_code, number):
                record = ExitRecord(exit_code, number)
                process = self._programs.pop(pid, None)
                if process is not None:
                    process._finish(record)
                elif pid in self._abandoned:
                    self._abandoned.discard(pid)
                else:
                    self._early_exits[pid] = record
            case wire.Spawned() | wire.Refused() | wire.Opened():
                future = self._answers.pop(message.id, None)
                if future is not None and not future.done():
                    future.set_result((message, descriptors))
                else:
                    for descriptor in descriptors:
                        os.close(descriptor)
            case _:
                for descriptor in descriptors:
                    os.close(descriptor)
                self._lost()

    def _lost(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._loop.remove_reader(self._control)
        for future in self._answers.values():
            if not future.done():
                future.set_exception(SandboxGone())
        self._answers.clear()
        for process in self._programs.values():
            process._finish(_GONE)
        self._programs.clear()
        self.gone.set()


# As a program that was killed: the whole sandbox ended under it.
_GONE = ExitRecord(137, int(signal.SIGKILL), "SANDBOX_GONE", "the sandbox ended")
