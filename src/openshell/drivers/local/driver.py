"""The local compute driver: the ComputeDriver interface over a state directory and a zygote.

It writes what a supervisor starts from, has the zygote fork it, watches it by pidfd and removes
what it leaves. How a sandbox is isolated is the supervisor's part; what a status means to a client
is the gateway's. Used by the gateway on its event loop; what takes long runs on a thread.

One lock per sandbox orders the calls for it. What is known survives in the state directory: a new
driver finds running supervisors by pid, start time and boot, and reports the dead ones.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass

import msgspec

from openshell.drivers.base import (
    Capabilities,
    Deleted,
    DriverError,
    DriverErrorCode,
    DriverEvent,
    DriverSandbox,
    PlatformEvent,
    SandboxStatus,
    SnapshotFacts,
)
from openshell.drivers.launch import SVID_FILE, WORKLOAD_SOCKET, Exposure, LaunchPlan
from openshell.drivers.local import directory, keeping, processes, request
from openshell.drivers.local.adoption import Verdict, judge
from openshell.drivers.local.exposing import Exposing
from openshell.drivers.local.known import KnownSandbox
from openshell.drivers.local.lock import StateLock
from openshell.drivers.local.observe import Backend
from openshell.drivers.local.paths import StateDirError, StatePaths, secure_directory
from openshell.drivers.local.probe import missing_prerequisite
from openshell.drivers.local.removal import RemovalError, remove_tree
from openshell.drivers.local.state import (
    FailureRecord,
    ProcessRecord,
    boot_id,
    open_process,
    read_record,
    write_bytes,
)
from openshell.drivers.local.watchers import Watchers
from openshell.drivers.local.zygote_client import ZYGOTE_MODULE, ZygoteClient
from openshell.drivers.local.zygote_protocol import Exited
from openshell.drivers.upstream_proxy import UpstreamProxy

__all__ = ["LocalDriver", "LocalDriverConfig"]

_VERSION = "1"
# As the contract's container drivers: time for the main process to end by itself.
_STOP_SECONDS = 10.0
# Above every range that login users, their subordinate ids and dynamic services are given.
_FIRST_HOST_ID = 0x7000_0000
_HOST_IDS = 1 << 24
# The zygote says the exit code right after the pidfd says the end.
_EXIT_CODE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class LocalDriverConfig:
    """Settings of `[openshell.drivers.local]`."""

    # Certificates for upstream TLS, added to the system's; a PEM file.
    upstream_ca_bundle: str = ""
    # What upstreams are dialled through.
    upstream_proxy: UpstreamProxy | None = None
    # A path, or a `unix:` or `tcp:` address of a SPIFFE agent; a path of a file with one JWT-SVID.
    spiffe_workload_api_socket: str = ""
    spiffe_jwt_svid_file: str = ""
    # Processes per sandbox; zero: the supervisor's default.
    pids_limit: int = 0
    # Addresses of the gateway, "host:port": no policy may reach them.
    gateway_addresses: tuple[str, ...] = ()


class LocalDriver:
    """Sandboxes on this machine. `state_dir` is the driver's own: `<state root>/local`."""

    def __init__(
        self,
        state_dir: str,
        endpoint: str,
        config: LocalDriverConfig | None = None,
        python: str = sys.executable,
        *,
        environment: Mapping[str, str] | None = None,
        zygote_module: str = ZYGOTE_MODULE,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._paths = StatePaths(os.path.abspath(state_dir))
        self._endpoint = endpoint
        self._config = config or LocalDriverConfig()
        self._environment = dict(os.environ if environment is None else environment)
        self._new_id = new_id
        self._clock_ms = clock_ms
        self._lock = StateLock(self._paths.lock)
        self._zygote = ZygoteClient(
            self._paths, python, self._zygote_saw_exit, self._environment, zygote_module
        )
        self._sandboxes: dict[str, KnownSandbox] = {}
        self._watchers = Watchers()
        self._exposing = Exposing(self._environment, self._paths.root, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._boot = ""

    # -- life of the driver

    async def open(self) -> None:
        """Lock the state directory, adopt what runs, clean up what is half gone."""
        try:
            for path in (self._paths.root, self._paths.sandboxes, self._paths.trash):
                secure_directory(path)
                if path == self._paths.root:
                    self._lock.acquire()
        except StateDirError as error:
            raise DriverError(DriverErrorCode.FAILED_PRECONDITION, str(error)) from error
        try:
            await self._take_up()
        except BaseException:
            self._lock.release()
            raise
        # Ready before the first create needs it; nobody waits for it here.
        self._spawn(self._warm(), "zygote")

    async def _take_up(self) -> None:
        """Find what is there."""
        self._boot = boot_id()
        names = sorted(os.listdir(self._paths.sandboxes))
        unclear = [name for name in names if self._adopt(name) is Verdict.UNCLEAR]
        if unclear:
            await self._adopt_from_zygote(unclear)
        await asyncio.to_thread(self._empty_trash)

    async def close(self) -> None:
        """Let go. Sandboxes live on; the zygote ends if it has none."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        running = any(known.backend is Backend.RUNNING for known in self._sandboxes.values())
        if not running:
            await self._zygote.shutdown()
        self._zygote.close()
        for known in self._sandboxes.values():
            known.forget_process()
        self._watchers.close()
        self._lock.release()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            "local", _VERSION, request.DEFAULT_IMAGE, gateway_manages_lifecycle=False
        )

    # -- calls

    async def validate_create(self, sandbox: DriverSandbox) -> None:
        """Check all that needs no side effect."""
        try:
            self._paths.sandbox(sandbox.id)
        except ValueError as error:
            raise DriverError(DriverErrorCode.INVALID_ARGUMENT, str(error)) from error
        request.check_request(sandbox)
        request.parse_config(sandbox.driver_config)
        request.parse_limits(sandbox.resources)
        problem = missing_prerequisite()
        if problem:
            raise DriverError(DriverErrorCode.FAILED_PRECONDITION, problem)

    async def create(self, sandbox: DriverSandbox) -> None:
        """Write the plan and have its supervisor forked."""
        await self.validate_create(sandbox)
        request.check_credentials(sandbox, self._endpoint)
        for known in self._sandboxes.values():
            plan = known.plan
            if plan.sandbox_id == sandbox.id or (plan.workspace, plan.name) == (
                sandbox.workspace,
                sandbox.name,
            ):
                raise DriverError(DriverErrorCode.ALREADY_EXISTS, "sandbox already exists")
        paths = self._paths.sandbox(sandbox.id)
        known = KnownSandbox(self._plan(sandbox), paths)
        self._sandboxes[sandbox.id] = known
        async with known.lock:
            try:
                config = request.parse_config(sandbox.driver_config)
                known.plan = msgspec.structs.replace(
                    known.plan, exposure=await self._exposing.decide(config)
                )
                self._event(known, "Scheduled", "state written", "requesting_sandbox")
                await self._write_new(known, sandbox)
                await self._launch(known)
                await asyncio.to_thread(directory.synchronise, paths)
            except BaseException as error:
                await asyncio.shield(self._undo_create(known))
                if isinstance(error, OSError):
                    raise _state_error(paths.root, error) from error
                raise
        self._event(known, "Started", "supervisor started", "starting_sandbox")

    async def start(
        self, sandbox_id: str, *, token: str | None = None, initial_config: bytes | None = None
    ) -> None:
        """Start a stopped sandbox, or one that did not end by itself, from its state."""
        known = self._find(sandbox_id)
        async with known.lock:
            if known.backend is Backend.RUNNING:
                return
            paths = known.paths
            if os.path.exists(paths.exited) and not known.stopped:
                raise DriverError(
                    DriverErrorCode.FAILED_PRECONDITION,
                    "the main process of this sandbox has ended and is not run again by itself: "
                    "stop the sandbox first, or create a new one",
                )
            try:
                await known.clean_leftovers(self._boot)
                exposure = await self._exposing.decide_again(known.plan.exposure)
                self._begin_again(known, exposure, token, initial_config)
                self._publish(known)
                await self._launch(known)
            except OSError as error:
                raise _state_error(paths.root, error) from error

    async def stop(self, sandbox_id: str) -> None:
        """End everything that runs and keep the state."""
        known = self._find(sandbox_id)
        async with known.lock:
            unwritten: OSError | None = None
            if not known.stopped:
                try:
                    # First, so that the end that follows is known to be wanted, whoever sees it.
                    write_bytes(known.paths.stopped, b"", durable=True)
                except OSError as error:
                    unwritten = error
                known.stopped = True
            # What is held could not end by itself.
            keeping.thaw(known)
            if known.pidfd >= 0:
                processes.send(known.pidfd, signal.SIGTERM)
                await processes.wait_ended((known.pidfd,), _STOP_SECONDS)
            await known.kill(self._boot)
            await known.clean_leftovers(self._boot)
            self._publish(known)
            if unwritten is not None:
                # It runs no more, whatever the disk says; that this was wanted is not on record.
                raise _state_error(known.paths.root, unwritten) from unwritten

    async def delete(self, sandbox_id: str) -> bool:
        """End everything and remove the state; False when there was nothing."""
        known = self._sandboxes.get(sandbox_id)
        if known is None:
            return False
        async with known.lock:
            if self._sandboxes.get(sandbox_id) is not known:
                return False
            known.deleting = True
            self._publish(known)
            try:
                await known.kill(self._boot)
                await known.clean_leftovers(self._boot)
                await self._remove_directory(known)
            except BaseException:
                known.deleting = False
                raise
            del self._sandboxes[sandbox_id]
        self._watchers.publish(Deleted(sandbox_id))
        return True

    async def get(self, sandbox_id: str) -> SandboxStatus:
        return self._find(sandbox_id).status()

    async def list(self) -> tuple[SandboxStatus, ...]:
        return tuple(known.status() for known in self._sandboxes.values())

    async def watch(self) -> AsyncIterator[DriverEvent]:
        """Every known sandbox, then what changes."""
        with self._watchers.subscribe() as events:
            for status in await self.list():
                yield status
            async for event in events:
                yield event

    def exposure(self, sandbox_id: str) -> Exposure:
        """What of the caller's files a sandbox sees, and what was not exposed."""
        return self._find(sandbox_id).plan.exposure

    # -- pausing and keeping workspaces

    async def pause(self, sandbox_id: str) -> None:
        """Hold every process."""
        known = self._find(sandbox_id)
        async with known.lock:
            if known.backend is not Backend.RUNNING:
                raise DriverError(
                    DriverErrorCode.FAILED_PRECONDITION, "nothing runs that could be paused"
                )
            if not await keeping.freeze(known):
                raise DriverError(
                    DriverErrorCode.FAILED_PRECONDITION,
                    "this host cannot pause a sandbox: that needs a control group of the unified "
                    "hierarchy, which root or a delegation by systemd gives; stop it instead",
                )

    async def resume(self, sandbox_id: str) -> None:
        """Let every process go on."""
        known = self._find(sandbox_id)
        async with known.lock:
            keeping.thaw(known)

    async def take_snapshot(self, sandbox_id: str, snapshot_id: str) -> SnapshotFacts:
        """Copy the workspace."""
        known = self._find(sandbox_id)
        async with known.lock:
            return await keeping.take(
                known,
                snapshot_id,
                self._in_trash(snapshot_id),
                running=known.backend is Backend.RUNNING,
            )

    async def delete_snapshot(self, sandbox_id: str, snapshot_id: str) -> bool:
        known = self._find(sandbox_id)
        async with known.lock:
            return await keeping.drop(known, snapshot_id, self._in_trash(snapshot_id))

    async def snapshots(self, sandbox_id: str) -> tuple[str, ...]:
        """Ids of what is there."""
        with contextlib.suppress(FileNotFoundError):
            return tuple(os.listdir(self._find(sandbox_id).paths.snapshots))
        return ()

    async def restore(self, sandbox_id: str, snapshot_id: str) -> None:
        """Put a snapshot back."""
        known = self._find(sandbox_id)
        async with known.lock:
            if known.backend is Backend.RUNNING:
                raise DriverError(
                    DriverErrorCode.FAILED_PRECONDITION, "the sandbox runs: stop it first"
                )
            await keeping.put_back(known, snapshot_id, self._in_trash(snapshot_id))

    def _in_trash(self, name: str) -> str:
        return f"{self._paths.trash}/{name}.{self._new_id()}"

    async def _write_new(self, known: KnownSandbox, sandbox: DriverSandbox) -> None:
        """The directory of a new sandbox, its workspace empty or a copy."""
        chosen = sandbox.workspace_from
        if chosen is None:
            directory.write_new(known.paths, known.plan, sandbox)
            return
        source = self._find(chosen.sandbox_id)
        async with source.lock:
            workspace = source.paths.workspace
            if chosen.snapshot_id:
                workspace = source.paths.snapshot(chosen.snapshot_id)
                if not os.path.isdir(workspace):
                    raise DriverError(DriverErrorCode.NOT_FOUND, "snapshot not found")
            live = not chosen.snapshot_id and source.backend is Backend.RUNNING
            held = live and not keeping.is_frozen(source) and await keeping.freeze(source)
            try:
                os.mkdir(known.paths.root, 0o700)
                await keeping.copy_workspace(workspace, known.paths.workspace, known.plan.host_id)
            finally:
                if held:
                    keeping.thaw(source)
        directory.write_files(known.paths, known.plan, sandbox)

    # -- starting

    def _plan(self, sandbox: DriverSandbox) -> LaunchPlan:
        limits = request.parse_limits(sandbox.resources)
        return LaunchPlan(
            sandbox_id=sandbox.id,
            name=sandbox.name,
            workspace=sandbox.workspace,
            instance_id=self._new_id(),
            endpoint=sandbox.endpoint or self._endpoint,
            command=tuple(sandbox.command),
            tty=sandbox.tty,
            environment=dict(sandbox.environment),
            host_id=self._host_id(sandbox.id),
            pids_limit=self._config.pids_limit,
            memory_limit_bytes=limits.memory_bytes,
            cpu_limit_millis=limits.cpu_millis,
            upstream_ca_bundle=self._config.upstream_ca_bundle,
            upstream_proxy=self._config.upstream_proxy,
            svid_source=self._svid_source(),
            log_level=sandbox.log_level,
            gateway_addresses=self._config.gateway_addresses,
        )

    def _svid_source(self) -> dict[str, str]:
        """The configuration's word, else the one of the gateway's environment."""
        configured = {
            WORKLOAD_SOCKET: self._config.spiffe_workload_api_socket,
            SVID_FILE: self._config.spiffe_jwt_svid_file,
        }
        if not any(configured.values()):
            configured = {name: self._environment.get(name, "") for name in configured}
        return {name: value for name, value in configured.items() if value}

    def _host_id(self, sandbox_id: str) -> int:
        """As root each sandbox gets a host id of its own; an ordinary user has only his."""
        if os.geteuid() != 0:
            return 0
        taken = {known.plan.host_id for known in self._sandboxes.values()}
        number = zlib.crc32(sandbox_id.encode()) % _HOST_IDS
        while (host_id := _FIRST_HOST_ID + number) in taken:
            number = (number + 1) % _HOST_IDS
        return host_id

    def _begin_again(
        self,
        known: KnownSandbox,
        exposure: Exposure,
        token: str | None,
        initial_config: bytes | None,
    ) -> None:
        known.plan = msgspec.structs.replace(
            known.plan, instance_id=self._new_id(), exposure=exposure
        )
        directory.renew(known.paths, known.plan, token, initial_config)
        known.stopped = False
        known.failure = None
        known.exit_code = None
        known.backend = Backend.PREPARING

    async def _launch(self, known: KnownSandbox) -> None:
        known.exit_known = asyncio.Event()
        try:
            pid, _, pidfd = await self._zygote.launch(known.plan.sandbox_id)
        except DriverError:
            known.backend = Backend.GONE
            raise
        self._watch_process(known, pid, pidfd)
        self._publish(known)

    async def _undo_create(self, known: KnownSandbox) -> None:
        """A create that failed leaves nothing."""
        await known.kill(self._boot)
        with contextlib.suppress(DriverError, OSError):
            await known.clean_leftovers(self._boot)
            await self._remove_directory(known)
        self._sandboxes.pop(known.plan.sandbox_id, None)
        self._watchers.publish(Deleted(known.plan.sandbox_id))

    # -- watching

    def _watch_process(self, known: KnownSandbox, pid: int, pidfd: int) -> None:
        known.pid, known.pidfd = pid, pidfd
        known.backend = Backend.RUNNING
        asyncio.get_running_loop().add_reader(pidfd, self._process_ended, known, pidfd)

    def _process_ended(self, known: KnownSandbox, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        self._spawn(self._record_end(known, pidfd), f"end of {known.plan.sandbox_id}")

    async def _record_end(self, known: KnownSandbox, pidfd: int) -> None:
        """Learn how it ended and say so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_CODE_SECONDS):
                await known.exit_known.wait()
        if known.pidfd == pidfd:
            known.forget_process()
        known.backend = Backend.GONE
        if not known.deleting:
            known.failure = read_record(known.paths.failure, FailureRecord)
            if not known.stopped and known.failure is None:
                with contextlib.suppress(OSError):
                    write_bytes(known.paths.exited, b"")
            self._publish(known)
            if not known.stopped:
                message = known.status().conditions[0].message
                self._event(known, known.status().conditions[0].reason, message, "", "Warning")
                await self._sweep(known)

    def _zygote_saw_exit(self, exited: Exited) -> None:
        known = self._sandboxes.get(exited.sandbox_id)
        if known is not None and known.pid == exited.pid:
            known.exit_code = exited.code
            known.exit_known.set()

    # -- ending

    async def _remove_directory(self, known: KnownSandbox) -> None:
        trash = f"{self._paths.trash}/{known.plan.sandbox_id}.{self._new_id()}"
        try:
            await directory.remove(known.paths, trash)
        except OSError as error:
            raise _state_error(known.paths.root, error) from error
        except RemovalError as error:
            raise DriverError(DriverErrorCode.INTERNAL, str(error)) from error

    # -- adoption

    def _adopt(self, name: str) -> Verdict:
        """Take up one directory."""
        try:
            paths = self._paths.sandbox(name)
        except ValueError:
            # Not ours: we make no such names.
            return Verdict.UNREADABLE
        found = judge(name, paths, self._boot)
        if found.verdict is Verdict.UNFINISHED:
            with contextlib.suppress(OSError):
                os.rename(paths.root, f"{self._paths.trash}/{name}.{self._new_id()}")
        if found.plan is None:
            return found.verdict
        known = KnownSandbox(found.plan, paths, backend=Backend.GONE, stopped=found.stopped)
        known.failure = found.failure
        self._sandboxes[name] = known
        if found.verdict is Verdict.RUNNING:
            self._watch_process(known, found.pid, found.pidfd)
        elif found.verdict is Verdict.GONE:
            self._spawn(self._sweep(known), f"sweep of {name}")
        return found.verdict

    async def _sweep(self, known: KnownSandbox) -> None:
        """Remove what a supervisor left that ended by itself."""
        async with known.lock:
            # Started again in the meantime: there is nothing left of that end.
            if known.backend is Backend.GONE:
                with contextlib.suppress(DriverError):
                    await known.clean_leftovers(self._boot)

    async def _adopt_from_zygote(self, names: Collection[str]) -> None:
        """Supervisors that were forked, but did not come to write who they are."""
        for running in await self._zygote.running():
            known = self._sandboxes.get(running.sandbox_id)
            if running.sandbox_id not in names or known is None:
                continue
            record = ProcessRecord(running.pid, running.start_ticks, self._boot)
            pidfd = open_process(record, self._boot)
            if pidfd is not None:
                self._watch_process(known, running.pid, pidfd)

    def _empty_trash(self) -> None:
        for name in os.listdir(self._paths.trash):
            # What cannot be removed now is tried at the next start.
            with contextlib.suppress(RemovalError):
                remove_tree(f"{self._paths.trash}/{name}")

    # -- small parts

    async def _warm(self) -> None:
        # The first create meets the same error and reports it.
        with contextlib.suppress(DriverError):
            await self._zygote.connect()

    def _find(self, sandbox_id: str) -> KnownSandbox:
        known = self._sandboxes.get(sandbox_id)
        if known is None:
            raise DriverError(DriverErrorCode.NOT_FOUND, "sandbox not found")
        return known

    def _publish(self, known: KnownSandbox) -> None:
        self._watchers.publish(known.status())

    def _event(
        self, known: KnownSandbox, reason: str, message: str, step: str, kind: str = "Normal"
    ) -> None:
        metadata = {"openshell.progress.active_step": step} if step else {}
        self._watchers.publish(
            PlatformEvent(
                known.plan.sandbox_id, self._clock_ms(), "local", kind, reason, message, metadata
            )
        )

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _state_error(path: str, error: OSError) -> DriverError:
    return DriverError(
        DriverErrorCode.INTERNAL,
        f"cannot write the state of the sandbox in {path}: {error.strerror}; nothing was kept",
    )
