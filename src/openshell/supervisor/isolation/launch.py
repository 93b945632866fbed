"""The supervisor's side of starting a sandbox: clone process 1, guide it, take over what it made.

`prepare` builds once, in the zygote, what all sandboxes share. `begin` is synchronous and must run
before the supervisor has a thread, an event loop, a channel or a secret: process 1 is a copy of
its memory. While process 1 builds its world the supervisor may go on with other things; `finish`
takes over what was made. Afterwards the supervisor talks to process 1 through
`process.ProcessHost`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from openshell.supervisor.isolation import init, landlock, mounts, network, nftables, rootfs, wire
from openshell.supervisor.isolation import seccomp as seccomp_module
from openshell.supervisor.isolation.cgroups import Cgroups, plan_cgroups
from openshell.supervisor.isolation.errors import IsolationError, explain_namespaces
from openshell.supervisor.isolation.model import (
    INNER_GID,
    INNER_UID,
    TRUST_FILES,
    Layer,
    LayerStatus,
    Phase,
    SandboxSpec,
)
from openshell.supervisor.isolation.netlink import request
from openshell.supervisor.isolation.syscalls import (
    CLONE_NAMESPACES,
    SyscallError,
    clone_process,
)

__all__ = [
    "SETUP_TIMEOUT_S",
    "IsolatedSandbox",
    "Prepared",
    "StartingSandbox",
    "begin",
    "prepare",
    "start",
]

_CLONE_NEWUSER = 0x1000_0000
# The whole set-up takes ten milliseconds; a machine a thousand times slower is not working.
SETUP_TIMEOUT_S = 10.0
# Killing process 1 ends everything inside; the kernel needs a few milliseconds for it.
_KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What every sandbox of this host shares."""

    host: rootfs.HostView
    network: network.NetworkPlan
    program: seccomp_module.Program
    supervisor_program: seccomp_module.Program


def prepare() -> Prepared:
    """Read the host's view and build messages and filters; touches no state."""
    return Prepared(
        host=rootfs.HostView.read(),
        network=network.plan_network(),
        program=seccomp_module.child_program(),
        supervisor_program=seccomp_module.supervisor_program(),
    )


@dataclass(slots=True)
class IsolatedSandbox:
    """A running, shut-in process 1 and the supervisor's ends of everything it made.

    `listeners` holds proxy, capture_v4, capture_v6, dns_udp_v4, dns_udp_v6, dns_tcp_v4 and
    dns_tcp_v6 as far as they exist (without nftables there is no capture).
    """

    init_pid: int
    pidfd: int
    control: socket.socket
    listeners: dict[str, socket.socket]
    sock_diag: socket.socket
    nfnetlink: socket.socket | None
    nflog: socket.socket | None
    layers: tuple[Layer, ...]
    phases: tuple[Phase, ...]
    cgroups: Cgroups
    _trust: dict[str, int] = field(repr=False)
    _closed: bool = False

    def publish_trust(self, files: dict[str, bytes]) -> None:
        """Write the CA files of /etc/openshell-tls, once; from then on nobody can.

        Before the first program starts: what is written piece by piece is then never seen so.
        """
        writers, self._trust = self._trust, {}
        try:
            for name, content in files.items():
                written = 0
                while written < len(content):
                    written += os.pwrite(writers[name], content[written:], written)
        finally:
            for writer in writers.values():
                os.close(writer)

    def refused_packets(self) -> dict[str, int]:
        """Read the counters of refused UDP, ICMP and other packets; empty without nftables."""
        if self.nfnetlink is None:
            return {}
        return nftables.counters_of(request(self.nfnetlink, nftables.counters_request()))

    def freeze(self) -> bool:
        return self.cgroups.freeze(frozen=True)

    def thaw(self) -> bool:
        return self.cgroups.freeze(frozen=False)

    def kill(self, timeout_s: float = _KILL_TIMEOUT_S) -> bool:
        """Kill everything inside and wait for it; False if it did not end in time."""
        self.cgroups.kill()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        # A frozen group dies only after it thaws.
        self.cgroups.freeze(frozen=False)
        if not select.select([self.pidfd], [], [], timeout_s)[0]:
            return False
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        return True

    def close(self) -> None:
        """Kill what still runs, then give every descriptor and cgroup back."""
        if self._closed:
            return
        self._closed = True
        self.kill()
        optional = (self.nfnetlink, self.nflog)
        for made in (self.control, self.sock_diag, *self.listeners.values(), *optional):
            if made is not None:
                made.close()
        for descriptor in (self.pidfd, *self._trust.values()):
            os.close(descriptor)
        self.cgroups.remove()


class _Launch:
    """One start: its phases, and what has to be undone if it fails."""

    def __init__(self, spec: SandboxSpec, prepared: Prepared) -> None:
        self.spec = spec
        self.prepared = prepared
        self.privileged = os.geteuid() == 0
        self.phases: list[Phase] = []
        self.pid = 0
        self.pidfd = -1
        self.cgroups = Cgroups()
        self.operations: tuple[rootfs.Operation, ...] = ()

    @contextlib.contextmanager
    def phase(self, name: str, hint: str = "") -> Iterator[None]:
        started = time.monotonic_ns()
        try:
            yield
        except OSError as error:
            text = f"{error.strerror or error}"
            if isinstance(error, SyscallError):
                text = str(error).partition("] ")[2] or text
            elif error.filename:
                text = f"{error.filename}: {text}"
            message = f"{text}; {hint}" if hint else text
            raise IsolationError(name, error.errno or 0, message) from error
        self.phases.append(Phase(name, started, time.monotonic_ns()))

    def check(self) -> None:
        if len(os.listdir("/proc/self/task")) != 1:
            raise IsolationError("namespaces", errno.EINVAL, "start() must precede every thread")
        own = (os.geteuid(), os.getegid())
        if not self.privileged and (self.spec.host_uid, self.spec.host_gid) != own:
            raise IsolationError(
                "identity",
                errno.EPERM,
                "an ordinary user's sandbox runs as that user; another identity needs root",
            )

    def plan(self) -> init.InitPlan:
        spec = self.spec
        # Not followed: the workspace is bound as it is, and a link there is somebody's trick.
        if not stat.S_ISDIR(os.lstat(spec.workspace_dir).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", spec.workspace_dir)
        kinds = {e.real: os.path.isdir(e.real) for e in spec.exposed}
        self.operations = rootfs.plan_rootfs(self.prepared.host, spec, kinds)
        return init.InitPlan(
            spec=spec,
            network=self.prepared.network,
            operations=self.operations,
            rules=landlock.plan_landlock(spec),
            program=self.prepared.program,
            memory_in_cgroup=self.cgroups.limits_memory,
            clear_groups=self.privileged,
        )

    def write_maps(self) -> None:
        """Map the one identity; setgroups is denied first, or the kernel refuses the group map."""
        spec = self.spec
        lines = [
            ("uid_map", f"{INNER_UID} {spec.host_uid} 1"),
            ("gid_map", f"{INNER_GID} {spec.host_gid} 1"),
        ]
        if not self.privileged:
            lines.insert(0, ("setgroups", "deny"))
        for name, line in lines:
            _write_proc(self.pid, name, line)

    def make_sources(self) -> tuple[list[str], list[int]]:
        """As root, clone the trees out here: the mapped identity may not reach them."""
        if not self.privileged:
            return [], []
        paths: list[str] = []
        trees: list[int] = []
        try:
            for source in rootfs.sources_of(self.operations):
                with contextlib.ExitStack() as stack:
                    mapping = None
                    if not source.read_only:
                        mapping = stack.enter_context(self._identity_map(source.source))
                    tree = mounts.clone_tree(
                        source.source,
                        read_only=source.read_only,
                        follow=False,
                        user_namespace=mapping,
                    )
                paths.append(source.path)
                trees.append(tree)
        except BaseException:
            for tree in trees:
                os.close(tree)
            raise
        return paths, trees

    @contextlib.contextmanager
    def _identity_map(self, path: str) -> Iterator[int | None]:
        """A user namespace whose map shows the owner of `path` as the sandbox's identity."""
        found = os.stat(path)
        spec = self.spec
        if (found.st_uid, found.st_gid) == (spec.host_uid, spec.host_gid):
            yield None
            return
        pid, pidfd = clone_process(_CLONE_NEWUSER)
        if pid == 0:
            # Only its namespace is wanted; it ends by the signal below or with its parent.
            signal.pause()
            os._exit(0)
        try:
            _write_proc(pid, "uid_map", f"{found.st_uid} {spec.host_uid} 1")
            _write_proc(pid, "gid_map", f"{found.st_gid} {spec.host_gid} 1")
            namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED)
            os.close(pidfd)
        try:
            yield namespace
        finally:
            os.close(namespace)

    def undo(self) -> None:
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            os.close(self.pidfd)
        self.cgroups.remove()


def _write_proc(pid: int, name: str, line: str) -> None:
    """Write a map file unbuffered: a buffer would lose the errno."""
    opened = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(opened, line.encode())
    finally:
        os.close(opened)


def _await_ready(control: socket.socket, timeout_s: float) -> tuple[wire.Ready, list[int]]:
    """Wait for the outcome of the set-up; a failure or a death becomes an IsolationError."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    if not poll.poll(timeout_s * 1000):
        raise IsolationError("init", errno.ETIMEDOUT, "process 1 did not finish its set-up")
    received = wire.receive(control)
    if received is None:
        raise IsolationError("init", errno.ECONNRESET, "process 1 ended during its set-up")
    message, descriptors = received
    if isinstance(message, wire.Failed):
        raise IsolationError(message.step, message.errno, message.message)
    if not isinstance(message, wire.Ready):
        raise IsolationError("init", errno.EPROTO, "process 1 sent something else than a report")
    return message, descriptors


class StartingSandbox:
    """A sandbox whose process 1 is building its world and shutting itself in."""

    def __init__(self, launch: _Launch, control: socket.socket) -> None:
        self._launch = launch
        self._control = control
        self._finished: IsolatedSandbox | None = None

    @property
    def init_pid(self) -> int:
        return self._launch.pid

    @property
    def cgroups(self) -> Cgroups:
        return self._launch.cgroups

    def fileno(self) -> int:
        """Readable as soon as `finish` will not wait."""
        return self._control.fileno()

    def finish(self, timeout_s: float = SETUP_TIMEOUT_S) -> IsolatedSandbox:
        """Wait for process 1 to be restricted; raises IsolationError with the step that failed."""
        with self._launch.phase("init"):
            report, descriptors = _await_ready(self._control, timeout_s)
        sandbox = _assemble(self._launch, self._control, report, descriptors)
        self._finished = sandbox
        return sandbox

    def close(self) -> None:
        """Give everything back, whatever became of it; a finished sandbox is closed too."""
        if self._finished is not None:
            self._finished.close()
            return
        self._control.close()
        self._launch.undo()


def begin(spec: SandboxSpec, prepared: Prepared) -> StartingSandbox:
    """Clone process 1 and give it all it needs; what it does then takes nothing of ours."""
    launch = _Launch(spec, prepared)
    launch.check()
    with launch.phase("cgroups"):
        launch.cgroups = plan_cgroups(spec.id, spec.limits)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    starting = StartingSandbox(launch, ours)
    try:
        with launch.phase("plan"):
            plan = launch.plan()
        with launch.phase("clone"):
            _clone(launch, plan, theirs)
        theirs.close()
        with launch.phase("identity_maps", "map one free host id (200000 and up) to the sandbox"):
            launch.write_maps()
            wire.send(ours, wire.Go())
        with launch.phase("trees", "the workspace's file system must allow id-mapped mounts"):
            paths, trees = launch.make_sources()
            wire.send(ours, wire.Sources(paths), tuple(trees))
            for tree in trees:
                os.close(tree)
        with launch.phase("cgroup_join"):
            launch.cgroups.join(launch.pid)
    except BaseException:
        theirs.close()
        starting.close()
        raise
    return starting


def start(spec: SandboxSpec, prepared: Prepared) -> IsolatedSandbox:
    """Start one sandbox up to a restricted process 1 that waits for its first program."""
    starting = begin(spec, prepared)
    try:
        return starting.finish()
    except BaseException:
        starting.close()
        raise


def _clone(launch: _Launch, plan: init.InitPlan, theirs: socket.socket) -> None:
    try:
        try:
            born_in = launch.cgroups.descriptor
            launch.pid, launch.pidfd = clone_process(CLONE_NAMESPACES, born_in)
        except SyscallError:
            if launch.cgroups.descriptor is None:
                raise
            # Kernels before 5.7, or a filter without clone3: it joins the group afterwards.
            launch.cgroups.join_later()
            launch.pid, launch.pidfd = clone_process(CLONE_NAMESPACES)
    except SyscallError as error:
        code = error.errno or 0
        raise IsolationError("namespaces", code, explain_namespaces(code)) from error
    if launch.pid == 0:
        try:
            init.run(plan, theirs)
        finally:
            os._exit(1)


def _assemble(
    launch: _Launch,
    control: socket.socket,
    report: wire.Ready,
    descriptors: list[int],
) -> IsolatedSandbox:
    trust = dict(zip(TRUST_FILES, descriptors, strict=False))
    rest = descriptors[len(TRUST_FILES) :]
    made = {
        name: socket.socket(fileno=number)
        for name, number in zip(report.sockets, rest, strict=True)
    }
    inner = [Phase(f"init.{p.name}", p.started_ns, p.ended_ns) for p in report.phases]
    layers = [Layer(name, LayerStatus(status), text) for name, status, text in report.layers]
    names = {"sock_diag", "nfnetlink", "nflog"}
    return IsolatedSandbox(
        init_pid=launch.pid,
        pidfd=launch.pidfd,
        control=control,
        listeners={name: sock for name, sock in made.items() if name not in names},
        sock_diag=made["sock_diag"],
        nfnetlink=made.get("nfnetlink"),
        nflog=made.get("nflog"),
        layers=(*layers, *launch.cgroups.layers),
        phases=tuple(sorted((*launch.phases, *inner), key=lambda p: p.started_ns)),
        cgroups=launch.cgroups,
        _trust=trust,
    )
