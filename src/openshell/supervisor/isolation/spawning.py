"""The second life of process 1: start programs, pass signals, reap, report exits.

Single-threaded, one poll loop over the control socket and a signalfd. Programs are started by
posix_spawn, so they inherit every restriction of process 1; each leads a session of its own, on a
terminal made inside (devpts) or on descriptors of the supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import termios

from openshell.supervisor.isolation import privileges, syscalls, wire
from openshell.supervisor.sftp.serve import serve

__all__ = ["DEFAULT_PATH", "Spawner", "find_program"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNLOCK_SLAVE, _SLAVE_NUMBER = 0x4004_5431, 0x8004_5430
# As shells do: 127 not found, 126 found but not to be started.
_NOT_FOUND, _NOT_STARTED = 127, 126
# Python ignores these, and process 1 SIGINT; programs begin with the defaults.
_RESTORED = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
_SIGNALFD_RECORD = 128
_LAST_DESCRIPTOR = 0xFFFF_FFFF
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


class _Unstartable(Exception):
    """The program cannot be started; says so with a code and an exit code."""

    def __init__(self, code: str, exit_code: int, message: str) -> None:
        super().__init__(code)
        self.code = code
        self.exit_code = exit_code
        self.message = message


def find_program(name: str, path: str) -> str:
    """Resolve a program as execvp does, with the search path of its own environment."""
    if "/" in name:
        return name
    found = False
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            found = True
    if found:
        raise _Unstartable("COMMAND_NOT_EXECUTABLE", _NOT_STARTED, f"{name}: not executable")
    raise _Unstartable("COMMAND_NOT_FOUND", _NOT_FOUND, f"{name}: command not found")


def _translate(name: str, error: OSError) -> _Unstartable:
    reason = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return _Unstartable("COMMAND_NOT_FOUND", _NOT_FOUND, f"{name}: {reason}")
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return _Unstartable("RESOURCE_LIMIT", _NOT_STARTED, f"{name}: {reason}")
    if error.errno == errno.E2BIG:
        return _Unstartable("ARGUMENTS_TOO_LARGE", _NOT_STARTED, f"{name}: {reason}")
    return _Unstartable("COMMAND_NOT_EXECUTABLE", _NOT_STARTED, f"{name}: {reason}")


def _make_terminal(columns: int, rows: int) -> tuple[int, str]:
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _UNLOCK_SLAVE, struct.pack("=i", 0))
    number = struct.unpack("=i", fcntl.ioctl(master, _SLAVE_NUMBER, bytes(4)))[0]
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("=4H", rows, columns, 0, 0))
    return master, f"/dev/pts/{number}"


def _file_server(request: wire.ServeFiles, descriptors: list[int]) -> int:
    """In the copy: keep nothing of process 1 but its restrictions, then serve."""
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    # The way to the supervisor is among them.
    syscalls.close_range(len(descriptors), _LAST_DESCRIPTOR)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    privileges.take_name("openshell-sftp")
    os.chdir(request.cwd)
    return serve(0, 1, request.home)


class Spawner:
    """Serves one supervisor until its end of the socket closes."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        # Started here and not reaped yet: the only pids that a signal may be sent to.
        self._programs: set[int] = set()

    def serve(self) -> None:
        children = syscalls.signal_descriptor((signal.SIGCHLD,))
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(children, select.POLLIN)
        while True:
            ready = {number for number, _ in poll.poll()}
            if self._control.fileno() in ready and not self._take_request():
                return
            if children in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(children, _SIGNALFD_RECORD)
                self._reap()

    def _take_request(self) -> bool:
        received = wire.receive(self._control)
        if received is None:
            return False
        message, descriptors = received
        try:
            match message:
                case wire.Spawn():
                    self._spawn(message, descriptors)
                case wire.ServeFiles():
                    self._serve_files(message, descriptors)
                case wire.Signal(pid, number, group):
                    self._signal(pid, number, group=group)
                case wire.OpenSocket():
                    self._open_socket(message)
                case _:
                    return False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _spawn(self, request: wire.Spawn, descriptors: list[int]) -> None:
        terminal = -1
        try:
            try:
                os.chdir(request.cwd)
            except OSError as error:
                text = f"{request.cwd}: {os.strerror(error.errno or 0)}"
                raise _Unstartable("WORKDIR_UNAVAILABLE", _NOT_STARTED, text) from None
            program = find_program(request.argv[0], request.env.get("PATH", DEFAULT_PATH))
            actions: list[tuple[int, ...] | tuple[int, int, str, int, int]]
            if request.terminal is not None:
                terminal, slave = _make_terminal(*request.terminal)
                # The leader of a new session gets the first terminal it opens as its own.
                actions = [
                    (os.POSIX_SPAWN_OPEN, 0, slave, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    (os.POSIX_SPAWN_DUP2, 0, 2),
                ]
            else:
                actions = [
                    (os.POSIX_SPAWN_DUP2, descriptor, number)
                    for number, descriptor in enumerate(descriptors)
                ]
            pid = os.posix_spawn(
                program,
                request.argv,
                request.env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_RESTORED,
            )
            self._programs.add(pid)
            # The supervisor alone holds the master, so that its closing hangs the terminal up.
            master = (terminal,) if terminal >= 0 else ()
            wire.send(self._control, wire.Spawned(request.id, pid), master)
        except (_Unstartable, OSError, ValueError) as error:
            self._refuse(request, error)
        finally:
            if terminal >= 0:
                os.close(terminal)
            os.chdir("/")

    def _serve_files(self, request: wire.ServeFiles, descriptors: list[int]) -> None:
        """A copy of this process, restricted as it is, that speaks SFTP and nothing else."""
        try:
            pid = os.fork()
        except OSError as error:
            text = os.strerror(error.errno or 0)
            refused = wire.Refused(request.id, "RESOURCE_LIMIT", _NOT_STARTED, text)
            wire.send(self._control, refused)
            return
        if pid == 0:
            try:
                os._exit(_file_server(request, descriptors))
            finally:
                os._exit(_NOT_STARTED)
        self._programs.add(pid)
        wire.send(self._control, wire.Spawned(request.id, pid))

    def _refuse(self, request: wire.Spawn, error: Exception) -> None:
        if isinstance(error, OSError):
            error = _translate(request.argv[0], error)
        elif not isinstance(error, _Unstartable):
            error = _Unstartable("INVALID_ARGUMENT", _NOT_STARTED, "a NUL in the arguments")
        refused = wire.Refused(request.id, error.code, error.exit_code, error.message)
        wire.send(self._control, refused)

    def _signal(self, pid: int, number: int, *, group: bool) -> None:
        # A pid in the table is not reaped yet, so it cannot belong to another process.
        if pid in self._programs:
            with contextlib.suppress(OSError):
                if group:
                    os.killpg(pid, number)
                else:
                    os.kill(pid, number)

    def _open_socket(self, request: wire.OpenSocket) -> None:
        if request.family not in _FAMILIES or request.kind not in _KINDS:
            message = "only IPv4 and IPv6 streams and datagrams"
            refused = wire.Refused(request.id, "INVALID_ARGUMENT", _NOT_STARTED, message)
            wire.send(self._control, refused)
            return
        try:
            with socket.socket(request.family, request.kind | socket.SOCK_NONBLOCK) as made:
                wire.send(self._control, wire.Opened(request.id), (made.fileno(),))
        except OSError as error:
            text = os.strerror(error.errno or 0)
            refused = wire.Refused(request.id, "RESOURCE_LIMIT", _NOT_STARTED, text)
            wire.send(self._control, refused)

    def _reap(self) -> None:
        """Collect every dead child; orphans that came to us leave no record."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._programs:
                continue
            self._programs.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            exited = wire.Exited(pid, code if code >= 0 else 128 - code, max(0, -code))
            wire.send(self._control, exited)
