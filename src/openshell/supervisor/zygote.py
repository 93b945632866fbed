"""The zygote: imports everything a supervisor needs once, then forks one per sandbox.

Single-threaded for its whole life, without an event loop, a channel or a configuration: a fork of a
process with threads would copy locks nobody can release, and the clone of a sandbox's first process
needs a single-threaded caller. It knows sandboxes only as children to reap; it is found by its
socket and survives the gateway that started it.

It ends when it is told to, when its state directory is gone, and when it has had neither a child
nor a connection for a while. Supervisors do not notice.
"""

import argparse
import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from openshell.drivers.local import zygote_protocol as protocol
from openshell.drivers.local.paths import StatePaths
from openshell.drivers.local.state import boot_id, start_ticks
from openshell.supervisor.isolation.syscalls import prctl

__all__ = ["Zygote", "main"]

# Without children and connections; long enough for a gateway that restarts.
_IDLE_SECONDS = 60.0
# How often the state directory is looked at; a stat.
_CHECK_SECONDS = 5.0
_MAX_CONNECTIONS = 16
_PR_SET_CHILD_SUBREAPER = 36

# Runs in the child and never returns to the loop: state paths, sandbox id, boot id -> exit status.
Supervise = Callable[[StatePaths, str, str], int]


@dataclass(frozen=True, slots=True)
class _Child:
    sandbox_id: str
    pid: int
    start_ticks: int


class _Stop(Exception):
    """Leave the loop."""


class Zygote:
    """The loop: one listening socket, a few connections, children."""

    def __init__(
        self,
        paths: StatePaths,
        supervise: Supervise,
        fingerprint: str,
        *,
        lock: int,
        idle_seconds: float,
    ) -> None:
        self._paths = paths
        self._lock = lock
        self._supervise = supervise
        self._fingerprint = fingerprint
        self._idle_seconds = idle_seconds
        self._boot_id = boot_id()
        self._children: dict[int, _Child] = {}
        self._connections: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._listener = _listen(paths.zygote_socket)
        self._inode = os.stat(paths.zygote_socket).st_ino
        # Wakes the loop when a child ends; the handler itself does nothing.
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until there is a reason to end."""
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        ready()
        idle_since = time.monotonic()
        try:
            while True:
                for fd, _ in self._poll.poll(min(_CHECK_SECONDS, self._idle_seconds) * 1000):
                    self._handle(fd)
                self._reap()
                if self._children or self._connections:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since >= self._idle_seconds:
                    return
                if not self._is_reachable():
                    return
        except _Stop:
            return
        finally:
            if self._is_reachable():
                with contextlib.suppress(OSError):
                    os.unlink(self._paths.zygote_socket)

    def _is_reachable(self) -> bool:
        """False when the socket's name is gone, with the state directory or by itself."""
        try:
            return os.stat(self._paths.zygote_socket).st_ino == self._inode
        except OSError:
            return False

    def _handle(self, fd: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd == self._wake_read:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 4096)
        elif fd in self._connections:
            self._serve(self._connections[fd])

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        uid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[
            1
        ]
        if uid != os.getuid() or len(self._connections) >= _MAX_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        self._connections[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)

    def _drop(self, connection: socket.socket) -> None:
        self._poll.unregister(connection)
        del self._connections[connection.fileno()]
        connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(protocol.MAX_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        try:
            request = protocol.decode_request(data)
        except msgspec.DecodeError:
            self._reply(connection, protocol.Failed("this zygote does not know that request"))
            return
        match request:
            case protocol.Ping():
                self._reply(connection, protocol.Pong(os.getpid(), self._fingerprint))
            case protocol.Launch(sandbox_id=sandbox_id):
                self._launch(connection, sandbox_id)
            case protocol.ListSupervisors():
                running = tuple(
                    protocol.Running(child.sandbox_id, child.pid, child.start_ticks)
                    for child in self._children.values()
                )
                self._reply(connection, protocol.Supervisors(running))
            case protocol.Shutdown():
                raise _Stop

    def _reply(self, connection: socket.socket, reply: protocol.Reply, fd: int = -1) -> None:
        data = protocol.encode(reply)
        try:
            if fd >= 0:
                socket.send_fds(connection, [data], [fd])
            else:
                connection.send(data)
        except OSError:
            # A gateway that does not read loses its connection and asks for the list again.
            self._drop(connection)

    def _launch(self, connection: socket.socket, sandbox_id: str) -> None:
        try:
            root = self._paths.sandbox(sandbox_id).root
        except ValueError as error:
            self._reply(connection, protocol.Failed(str(error)))
            return
        if not os.path.isdir(root):
            self._reply(connection, protocol.Failed("that sandbox has no directory"))
            return
        try:
            pid = os.fork()
        except OSError as error:
            self._reply(connection, protocol.Failed(f"cannot start a supervisor: {error.strerror}"))
            return
        if pid == 0:
            self._become_supervisor(sandbox_id)
        try:
            # Before anything could reap it: the pidfd is this very child.
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            self._reply(connection, protocol.Failed(f"cannot watch it: {error.strerror}"))
            return
        ticks = start_ticks(pid)
        child = _Child(sandbox_id, pid, -1 if ticks is None else ticks)
        self._children[pid] = child
        self._reply(connection, protocol.Launched(pid, child.start_ticks), pidfd)
        os.close(pidfd)

    def _become_supervisor(self, sandbox_id: str) -> None:
        """In the child: leave everything of the zygote behind and never come back."""
        status = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _redirect_output(self._paths.sandbox(sandbox_id).log)
            for connection in self._connections.values():
                connection.close()
            self._listener.close()
            for fd in (self._wake_read, self._wake_write, self._lock):
                os.close(fd)
            status = self._supervise(self._paths, sandbox_id, self._boot_id)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            # Its own output is the only place left to say it; types and places, never values.
            _say_failure(error)
        finally:
            os._exit(status & 0xFF)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            exited = protocol.Exited(
                child.sandbox_id, pid, child.start_ticks, code if code >= 0 else 128 - code
            )
            for connection in tuple(self._connections.values()):
                self._reply(connection, exited)


def _ignore(_number: int, _frame: object) -> None:
    """A handler must exist for the wake-up descriptor to be written."""


def _listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The mask, not a later chmod: nobody else may connect even for a moment.
    previous = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(previous)
    listener.listen(_MAX_CONNECTIONS)
    listener.setblocking(False)
    return listener


def _redirect_output(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _say_failure(error: BaseException) -> None:
    frame = error.__traceback__
    where = ""
    while frame is not None:
        where = f"{os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}"
        frame = frame.tb_next
    with contextlib.suppress(OSError):
        os.write(2, f"supervisor ended by {type(error).__name__} at {where}\n".encode())


def _lock(path: str) -> int:
    """One zygote per state directory; -1 when there is one already."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + 2.0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            # One that was told to end may still hold it for a moment.
            if time.monotonic() >= deadline:
                os.close(fd)
                return -1
            time.sleep(0.02)


def _load() -> Supervise:
    """Import everything a supervisor will need, so that every fork has it."""
    from openshell.supervisor.main import prepare  # noqa: PLC0415 - the point of it

    return prepare()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m openshell.supervisor.zygote`."""
    parser = argparse.ArgumentParser(prog="openshell-zygote")
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--ready-fd", type=int, default=-1)
    parser.add_argument("--idle-seconds", type=float, default=_IDLE_SECONDS)
    arguments = parser.parse_args(argv)
    paths = StatePaths(os.path.abspath(arguments.state_dir))
    fingerprint = protocol.build_fingerprint(sys.executable)
    lock = _lock(paths.zygote_lock)
    if lock < 0:
        sys.stderr.write(f"another zygote serves {paths.root}\n")
        return 1
    # The first process of a sandbox whose supervisor was killed comes to us and is reaped; in a
    # container the machine's own process 1 often reaps nobody, and a zombie keeps its namespaces.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Ctrl-C at the gateway's terminal is not for us, even where the session is the same.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    zygote = Zygote(paths, _load(), fingerprint, lock=lock, idle_seconds=arguments.idle_seconds)
    gc.collect()
    gc.freeze()

    def ready() -> None:
        if arguments.ready_fd >= 0:
            os.write(arguments.ready_fd, b"1")
            os.close(arguments.ready_fd)

    zygote.run(ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
