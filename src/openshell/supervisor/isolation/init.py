"""Process 1 of a sandbox: builds its world, shuts itself in, then starts programs on request.

Entered by a raw clone of the single-threaded supervisor before any secret exists; makes system
calls only (no threads, no event loop, no TLS) and never returns. Each step of the set-up has a
name; the first that fails is reported and ends the process, and with it the namespaces. After the
last step it holds no capability, lives under the same Landlock domain and system call filter as
the programs it starts, and cannot be read or traced by them (dumpable 0). When the supervisor's
end of the socket closes it exits, and the kernel kills everything inside.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from openshell.supervisor.isolation import (
    landlock,
    limits,
    mounts,
    network,
    privileges,
    rootbuild,
    rootfs,
    seccomp,
    spawning,
    syscalls,
    wire,
)
from openshell.supervisor.isolation.model import Layer, LayerStatus, SandboxSpec

__all__ = ["InitPlan", "run"]

# A directory that every host has and every identity may enter; the new root is built on it.
_BUILD_ROOT = "/tmp"
_LAST_DESCRIPTOR = 0xFFFF_FFFF

# Signals for which a supervisor or zygote may have a handler.
_HANDLED = (
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCHLD,
    signal.SIGWINCH,
)

_PROC_NULLED = ("kcore", "keys", "timer_list", "sysrq-trigger", "latency_stats", "sched_debug")
_PROC_HIDDEN = ("acpi", "scsi")
_PROC_READ_ONLY = ("sys", "irq", "bus", "fs")


@dataclass(frozen=True, slots=True)
class InitPlan:
    """All that process 1 needs to know; reaches it as memory, never as a message."""

    spec: SandboxSpec
    network: network.NetworkPlan
    operations: tuple[rootfs.Operation, ...]
    rules: landlock.RuleSet
    program: seccomp.Program
    memory_in_cgroup: bool
    clear_groups: bool


class _Setup:
    """The steps in their order, with the times and layers they leave behind."""

    def __init__(self, plan: InitPlan, control: socket.socket) -> None:
        self.plan = plan
        self.control = control
        self.step = "start"
        self.phases: list[wire.PhaseRecord] = []
        self.layers: list[Layer] = []
        self.sockets: dict[str, socket.socket] = {}
        self.trust: list[int] = []

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.step = name
        started = time.monotonic_ns()
        yield
        self.phases.append(wire.PhaseRecord(name, started, time.monotonic_ns()))

    def run(self) -> None:
        with self._phase("detach"):
            self._detach()
        with self._phase("maps"):
            self._expect(wire.Go)
        with self._phase("identity"):
            self._identity()
        with self._phase("network"):
            self.sockets, layers = network.set_up_network(self.plan.network)
            self.layers += layers
        with self._phase("sources"):
            mounts.make_private()
            sources = self._sources()
        with self._phase("rootfs"):
            built = rootbuild.build_rootfs(_BUILD_ROOT, self.plan.operations, sources)
            self.trust = built.trust
            self.layers += built.layers
        with self._phase("kernel_files"):
            self._kernel_files()
        with self._phase("pivot"):
            mounts.enter_root(_BUILD_ROOT)
            mounts.set_read_only("/")
            self.layers.append(Layer("filesystem", LayerStatus.ENFORCED, "private root"))
        with self._phase("privileges"):
            self._privileges()
        with self._phase("landlock"):
            self.layers.append(landlock.restrict(self.plan.rules))
        with self._phase("seccomp"):
            seccomp.install(self.plan.program)
            self.layers.append(Layer("seccomp", LayerStatus.ENFORCED))

    def _detach(self) -> None:
        """Drop what the clone brought along: descriptors, handlers, the collector's habits."""
        gc.disable()
        control = self.control.fileno()
        syscalls.close_range(3, control - 1)
        syscalls.close_range(control + 1, _LAST_DESCRIPTOR)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number in (0, 1, 2):
            os.dup2(null, number)
        if null > 2:
            os.close(null)
        privileges.take_name("openshell-init")
        signal.set_wakeup_fd(-1)
        # Process 1 is safe from every signal without a handler; SIGINT had Python's.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGCHLD})
        os.setsid()
        # Before the first message is awaited: its end of file then proves a dead supervisor that
        # died earlier than this.
        privileges.die_with_parent()

    def _expect(self, kind: type[wire.Go | wire.Sources]) -> tuple[wire.Request, list[int]]:
        received = wire.receive(self.control)
        if received is None:
            os._exit(0)
        message, descriptors = received
        if not isinstance(message, kind):
            raise TypeError(f"expected {kind.__name__}")
        return message, descriptors

    def _identity(self) -> None:
        privileges.become_sandbox_user(clear_groups=self.plan.clear_groups)
        os.umask(0o022)
        socket.sethostname(self.plan.spec.hostname)
        self.layers.append(Layer("namespaces", LayerStatus.ENFORCED, "seven, one mapped id"))

    def _sources(self) -> dict[str, int]:
        """Take the trees made outside, make the others here, before /tmp is covered."""
        message, descriptors = self._expect(wire.Sources)
        assert isinstance(message, wire.Sources)
        trees = dict(zip(message.paths, descriptors, strict=True))
        for source in rootfs.sources_of(self.plan.operations):
            if source.path not in trees:
                trees[source.path] = mounts.clone_tree(
                    source.source, read_only=source.read_only, follow=False
                )
        return trees

    def _kernel_files(self) -> None:
        proc = f"{_BUILD_ROOT}/proc"
        mounts.file_system("proc", proc)
        # Backs up the filter: nobody inside makes another user namespace.
        with open(f"{proc}/sys/user/max_user_namespaces", "wb", buffering=0) as limit:
            limit.write(b"0")
        for name in _PROC_NULLED:
            if os.path.exists(f"{proc}/{name}"):
                mounts.bind("/dev/null", f"{proc}/{name}", read_only=True)
        for name in _PROC_HIDDEN:
            if os.path.isdir(f"{proc}/{name}"):
                mounts.tmpfs(f"{proc}/{name}", size=4096, mode=0o555, read_only=True)
        for name in _PROC_READ_ONLY:
            if os.path.isdir(f"{proc}/{name}"):
                mounts.bind(f"{proc}/{name}", f"{proc}/{name}", read_only=True)
        try:
            mounts.file_system("sysfs", f"{_BUILD_ROOT}/sys", read_only=True)
            if os.path.isdir(f"{_BUILD_ROOT}/sys/firmware"):
                mounts.tmpfs(f"{_BUILD_ROOT}/sys/firmware", size=4096, mode=0o555, read_only=True)
        except OSError as error:
            detail = f"/sys is left out: {error.strerror}"
            self.layers.append(Layer("sysfs", LayerStatus.PARTLY, detail))

    def _privileges(self) -> None:
        plan = self.plan
        self.layers += limits.apply_limits(plan.spec.limits, memory_in_cgroup=plan.memory_in_cgroup)
        privileges.drop_capabilities()
        privileges.set_dumpable(dumpable=False)
        privileges.forbid_new_privileges()
        self.layers.append(
            Layer("privileges", LayerStatus.ENFORCED, "no capabilities, no_new_privs")
        )

    def report(self) -> None:
        """Tell the supervisor that all holds and hand it the descriptors."""
        names = [name for name in network.SOCKET_NAMES if name in self.sockets]
        descriptors = (*self.trust, *(self.sockets[name].fileno() for name in names))
        layers = [(layer.name, str(layer.status), layer.detail) for layer in self.layers]
        wire.send(self.control, wire.Ready(self.phases, layers, names), descriptors)
        for made in self.sockets.values():
            made.close()
        for writer in self.trust:
            os.close(writer)


def _explain(step: str, error: OSError) -> str:
    where = f"{error.strerror or error}"
    if error.filename:
        where = f"{where}: {error.filename}"
    named = getattr(error, "call", None) or getattr(error, "label", None)
    text = f"{named}: {where}" if named else where
    if step == "kernel_files":
        text += (
            "; where the host's own /proc is masked (inside a container) run that container with "
            "an unmasked /proc"
        )
    return text


def run(plan: InitPlan, control: socket.socket) -> None:
    """Be process 1. Never returns."""
    setup = _Setup(plan, control)
    try:
        setup.run()
        setup.report()
    except OSError as error:
        failed = wire.Failed(setup.step, error.errno or 0, _explain(setup.step, error))
        with contextlib.suppress(OSError):
            wire.send(control, failed)
        os._exit(1)
    except BaseException as error:  # the class alone: a text could quote anything
        with contextlib.suppress(OSError):
            wire.send(control, wire.Failed(setup.step, 0, type(error).__name__))
        os._exit(1)
    try:
        spawning.Spawner(control).serve()
    finally:
        os._exit(1)
