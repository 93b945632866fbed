"""The gateway's end of the zygote: find it or start it, ask it to launch, hear of exits.

The zygote is another program, started detached by module name; it outlives this gateway and is
found again by its socket. One that holds other code than ours in memory is asked to end first:
the supervisors it forked do not need it.
"""

import array
import asyncio
import contextlib
import errno
import os
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from openshell.drivers.base import DriverError, DriverErrorCode
from openshell.drivers.local import zygote_protocol as protocol
from openshell.drivers.local.paths import StatePaths

__all__ = ["ZYGOTE_MODULE", "ZygoteClient"]

ZYGOTE_MODULE = "openshell.supervisor.zygote"

# Imports take 0.3 s on an idle machine; under load twenty times that.
_START_TIMEOUT = 20.0
# A reply takes a fork; a zygote that needs longer is stuck.
_REPLY_TIMEOUT = 10.0
_MAX_FDS = 1

# What a zygote inherits: how to find programs, talk and keep time. Nothing else of the gateway's
# environment, which may hold credentials, gets into a supervisor.
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")


class _NotSentError(DriverError):
    """The request did not reach a zygote."""

    def __init__(self) -> None:
        super().__init__(DriverErrorCode.INTERNAL, "the zygote ended; try again")


class ZygoteClient:
    """One connection to the zygote of a state directory; renewed when the zygote is gone."""

    def __init__(
        self,
        paths: StatePaths,
        python: str,
        on_exit: Callable[[protocol.Exited], None],
        environment: Mapping[str, str],
        module: str = ZYGOTE_MODULE,
    ) -> None:
        self._paths = paths
        self._python = python
        self._on_exit = on_exit
        self._environment = environment
        self._module = module
        self._socket: socket.socket | None = None
        self._waiting: deque[asyncio.Future[tuple[protocol.Reply, list[int]]]] = deque()
        self._lock = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    async def connect(self) -> None:
        """Reach a zygote of our own code, starting one if need be."""
        async with self._lock:
            await self._ensure()

    async def launch(self, sandbox_id: str) -> tuple[int, int, int]:
        """Fork a supervisor; answers its pid, its start time and a pidfd that is the caller's."""
        reply, fds = await self._ask(protocol.Launch(sandbox_id))
        if isinstance(reply, protocol.Launched) and len(fds) == 1:
            return reply.pid, reply.start_ticks, fds[0]
        for fd in fds:
            os.close(fd)
        raise DriverError(DriverErrorCode.INTERNAL, _sentence(reply))

    async def running(self) -> tuple[protocol.Running, ...]:
        """The supervisors that this zygote forked and that live."""
        reply, _ = await self._ask(protocol.ListSupervisors())
        return reply.running if isinstance(reply, protocol.Supervisors) else ()

    async def shutdown(self) -> None:
        """End the zygote; its supervisors live on."""
        with contextlib.suppress(DriverError):
            await self._send(protocol.Shutdown())
        self.close()

    def close(self) -> None:
        """Let go of the connection; the zygote lives on."""
        connection, self._socket = self._socket, None
        if connection is not None:
            asyncio.get_running_loop().remove_reader(connection.fileno())
            connection.close()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(_gone())
        if self._process is not None:
            # Only reaps: a zygote that ended while we lived would stay a zombie.
            self._process.poll()

    async def _ask(self, request: protocol.Request) -> tuple[protocol.Reply, list[int]]:
        """One request; a zygote that is gone is started again, once."""
        async with self._lock:
            await self._ensure()
            try:
                return await self._send(request)
            except _NotSentError:
                # It ended since it was last heard of. What was sent and not answered may have
                # been done, so that is not done twice.
                await self._ensure()
                return await self._send(request)

    async def _send(self, request: protocol.Request) -> tuple[protocol.Reply, list[int]]:
        connection = self._socket
        if connection is None:
            raise _NotSentError
        future: asyncio.Future[tuple[protocol.Reply, list[int]]] = (
            asyncio.get_running_loop().create_future()
        )
        try:
            connection.send(protocol.encode(request))
        except OSError as error:
            self.close()
            raise _NotSentError from error
        self._waiting.append(future)
        try:
            async with asyncio.timeout(_REPLY_TIMEOUT):
                return await future
        except TimeoutError as error:
            # Later replies would be taken for this one.
            self.close()
            raise DriverError(
                DriverErrorCode.INTERNAL,
                f"the zygote of {self._paths.root} does not answer; see {self._paths.zygote_log}",
            ) from error

    async def _ensure(self) -> None:
        if self._socket is not None:
            return
        fingerprint = await asyncio.to_thread(protocol.build_fingerprint, self._python)
        if await self._try_connect() and await self._is_ours(fingerprint):
            return
        await self._start()
        if not await self._try_connect() or not await self._is_ours(fingerprint):
            raise DriverError(
                DriverErrorCode.INTERNAL,
                f"the zygote that was started is not reachable; see {self._paths.zygote_log}",
            )

    async def _try_connect(self) -> bool:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            connection.connect(self._paths.zygote_socket)
            uid = struct.unpack(
                "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )[1]
        except OSError:
            connection.close()
            return False
        if uid != os.getuid():
            connection.close()
            raise DriverError(
                DriverErrorCode.FAILED_PRECONDITION,
                f"the zygote at {self._paths.zygote_socket} belongs to uid {uid}: remove it",
            )
        self._socket = connection
        asyncio.get_running_loop().add_reader(connection.fileno(), self._readable, connection)
        return True

    async def _is_ours(self, fingerprint: str) -> bool:
        try:
            reply, _ = await self._send(protocol.Ping())
        except DriverError:
            return False
        if isinstance(reply, protocol.Pong) and reply.fingerprint == fingerprint:
            return True
        await self.shutdown()
        return False

    async def _start(self) -> None:
        """Start a zygote and wait until it serves."""
        read_fd, write_fd = os.pipe()
        try:
            log = os.open(
                self._paths.zygote_log,
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
            try:
                self._process = subprocess.Popen(  # noqa: ASYNC220 - returns after the fork
                    [
                        self._python,
                        "-m",
                        self._module,
                        "--state-dir",
                        self._paths.root,
                        "--ready-fd",
                        str(write_fd),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=_environment(self._environment),
                    pass_fds=(write_fd,),
                    start_new_session=True,
                )
            finally:
                os.close(log)
                os.close(write_fd)
            await self._wait_ready(read_fd)
        except OSError as error:
            raise DriverError(
                DriverErrorCode.INTERNAL, f"cannot start the zygote: {error.strerror}"
            ) from error
        finally:
            os.close(read_fd)

    async def _wait_ready(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(fd, readable.set)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await readable.wait()
            ready = os.read(fd, 1) == b"1"
        except TimeoutError:
            ready = False
        finally:
            loop.remove_reader(fd)
        if not ready:
            raise DriverError(
                DriverErrorCode.INTERNAL,
                f"the zygote did not start; the reason is in {self._paths.zygote_log}",
            )

    def _readable(self, connection: socket.socket) -> None:
        while self._socket is connection:
            try:
                data, ancillary, _, _ = connection.recvmsg(
                    protocol.MAX_DATAGRAM,
                    socket.CMSG_SPACE(_MAX_FDS * 4),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EINTR:
                    self.close()
                continue
            if not data:
                self.close()
                return
            self._received(data, _descriptors(ancillary))

    def _received(self, data: bytes, fds: list[int]) -> None:
        try:
            reply = protocol.decode_reply(data)
        except msgspec.DecodeError:
            for fd in fds:
                os.close(fd)
            self.close()
            return
        if isinstance(reply, protocol.Exited):
            self._on_exit(reply)
            return
        future = self._waiting.popleft() if self._waiting else None
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
            return
        future.set_result((reply, fds))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    environment = {name: given[name] for name in _KEPT_ENVIRONMENT if name in given}
    # Fork handlers of the library would run in every supervisor; no channel exists before a fork.
    environment["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    return environment


def _sentence(reply: protocol.Reply) -> str:
    if isinstance(reply, protocol.Failed):
        return reply.message
    return "the zygote answered something else than what it was asked"


def _gone() -> DriverError:
    return DriverError(
        DriverErrorCode.INTERNAL,
        "the zygote ended before it answered; look at the sandbox before you try again",
    )
