"""Relays: the gateway asks, we open a stream back to it and carry a program's frames over it.

Each relay has a task of its own. Of a process from us come one `started`, output, one `exit`; from
the gateway input, sizes and signals. The end of the stream before the exit means that the requester
is gone: then a command ends, while the main process only loses an attachment. A connection to a port
inside or to the SSH server is bytes both ways (`tunnels`). A gateway that sends nonsense loses the
relay, never the sandbox.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import grpc.aio
from google.protobuf.message import DecodeError

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.supervisor.execs import ExecRefused, Execs
from openshell.supervisor.execution import Execution, InputRefused
from openshell.supervisor.gateway_client import END, GatewayClient
from openshell.supervisor.logs import Logs
from openshell.supervisor.mainproc import MainProcess
from openshell.supervisor.output import STDOUT, Exit, OutputReader
from openshell.supervisor.process import ProcessHost, SandboxGone
from openshell.supervisor.ssh.server import SshServer
from openshell.supervisor.tasks import Tasks
from openshell.supervisor.tunnels import TunnelRefused, carry, dial

__all__ = ["Relays"]

# Streams at one time in one sandbox; the gateway's own bound on waiting ones is 32.
_MAX_RELAYS = 512
# After our last frame, for the gateway to end its direction.
_CLOSE_SECONDS = 5.0

_READ_ONLY = b"openshell: another client owns the input of this process; attached read-only\r\n"
_INPUT_LOST = b"openshell: the process does not read its input; detached\r\n"


class _Answer(Protocol):
    """Where the outcome of opening goes."""

    def relay_result(self, channel_id: str, error: str = "") -> None: ...


class Relays:
    """Everything that is open."""

    def __init__(
        self,
        client: GatewayClient,
        host: ProcessHost,
        ssh: SshServer,
        execs: Execs,
        main: MainProcess,
        tasks: Tasks,
        logs: Logs,
        ready: Callable[[], Awaitable[object]],
        *,
        has_main: bool,
    ) -> None:
        self._client = client
        self._host = host
        self._ssh = ssh
        self._execs = execs
        self._main = main
        self._has_main = has_main
        self._tasks = tasks
        self._logs = logs
        # Nothing runs before a configuration is in force.
        self._ready = ready
        self._open: dict[str, asyncio.Task[Any]] = {}

    def open(self, relay: openshell_pb2.RelayOpen, answer: _Answer) -> None:
        """Take up a relay; the answer follows at once, the stream with it."""
        channel_id = relay.channel_id
        if channel_id in self._open:
            # Sent again to a session that took over: the stream is on its way.
            return
        kind = relay.WhichOneof("target") or "ssh"
        if len(self._open) >= _MAX_RELAYS:
            answer.relay_result(channel_id, f"{_MAX_RELAYS} relays are open in this sandbox")
            return
        if kind in {"tcp", "ssh"}:
            serving = self._tunnel(relay, answer)
        else:
            answer.relay_result(channel_id)
            serving = self._serve(relay)
        task = self._tasks.start(serving, f"relay {channel_id}")
        self._open[channel_id] = task
        task.add_done_callback(lambda _: self._open.pop(channel_id, None))

    def close(self, channel_id: str) -> None:
        """The gateway gave the channel up."""
        task = self._open.get(channel_id)
        if task is not None:
            task.cancel()

    async def _serve(self, relay: openshell_pb2.RelayOpen) -> None:
        call = self._client.relay_stream()
        stream = _Stream(call)
        try:
            await stream.begin(relay.channel_id)
            await self._ready()
            if relay.WhichOneof("target") == "attach":
                await self._attach(relay.attach, stream)
            else:
                await self._exec(relay.exec, stream)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "ended"
            self._logs.log("debug", "relay", f"relay {relay.channel_id} ended: {code}")
        finally:
            call.cancel()

    async def _tunnel(self, relay: openshell_pb2.RelayOpen, answer: _Answer) -> None:
        """Dial first: a port where nobody listens is an answer, not a stream that ends at once."""
        await self._ready()
        try:
            if relay.WhichOneof("target") == "tcp":
                inside = await dial(self._host, relay.tcp.host, relay.tcp.port)
            else:
                inside = await self._ssh.connect()
        except TunnelRefused as refused:
            answer.relay_result(relay.channel_id, str(refused))
            return
        answer.relay_result(relay.channel_id)
        call = self._client.relay_stream()
        try:
            await _Stream(call).begin(relay.channel_id)
            await carry(call, inside, self._tasks)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # Whoever asked has left; the program inside sees its connection end.
            return
        finally:
            inside.close()
            call.cancel()

    async def _exec(self, target: openshell_ext_pb2.ExecTarget, stream: "_Stream") -> None:
        try:
            execution = await self._execs.open(target)
        except (ExecRefused, SandboxGone) as error:
            text = str(error) or "the sandbox has ended"
            await stream.refuse(Exit(-1, error_code="EXEC_REFUSED", error_message=text))
            return
        done = False
        try:
            takes_input = target.has_stdin or target.tty
            output = stream.send_output(execution, execution.log.reader(), release=True)
            up = self._tasks.start(_until_closed(output), "exec frames")
            done = await _both(
                stream, up, stream.receive(_ExecInput(execution, takes_input)), self._tasks
            )
        finally:
            if done:
                self._execs.fetched(target.exec_id)
            else:
                await self._execs.abandoned(target.exec_id)

    async def _attach(self, target: openshell_ext_pb2.AttachTarget, stream: "_Stream") -> None:
        if not self._has_main:
            missing = "this sandbox has no main process; run commands with exec"
            await stream.refuse(Exit(-1, error_code="NO_MAIN_PROCESS", error_message=missing))
            return
        execution, attachment = await self._main.attach(target)
        try:
            if target.stdin and not attachment.owns_input:
                await stream.send(openshell_ext_pb2.ProcessFrame(stderr=_READ_ONLY))
            output = stream.send_output(execution, attachment.reader, release=False)
            up = self._tasks.start(_until_closed(output), "attach frames")
            down = stream.receive(_AttachInput(execution, attachment.owns_input, stream))
            if await _both(stream, up, down, self._tasks):
                self._main.delivered()
        finally:
            attachment.release()


async def _both(
    stream: "_Stream", up: "asyncio.Task[None]", down: Coroutine[Any, Any, None], tasks: Tasks
) -> bool:
    """Run both directions; True when everything was sent, the exit included."""
    receiver = tasks.start(_until_closed(down), "relay input")
    try:
        await asyncio.wait({up, receiver}, return_when=asyncio.FIRST_COMPLETED)
        if up.done():
            up.result()
            # The gateway ends its direction when it has passed the exit on.
            await asyncio.wait({receiver}, timeout=_CLOSE_SECONDS)
        else:
            receiver.result()
        return stream.exit_sent
    finally:
        for task in (up, receiver):
            task.cancel()
        await asyncio.gather(up, receiver, return_exceptions=True)


async def _until_closed(direction: Coroutine[Any, Any, None]) -> None:
    """Carry one direction; a client or gateway that leaves ends it and is no failure of ours."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await direction


class _Input(Protocol):
    """Who takes the frames of the gateway."""

    async def take(self, frame: openshell_ext_pb2.ProcessFrame) -> None: ...


class _ExecInput:
    def __init__(self, execution: Execution, takes_input: bool) -> None:
        self._execution = execution
        self._takes_input = takes_input

    async def take(self, frame: openshell_ext_pb2.ProcessFrame) -> None:
        match frame.WhichOneof("frame"):
            case "stdin":
                if not self._takes_input:
                    raise InputRefused("this command was started without input")
                await self._execution.write(frame.stdin)
            case "stdin_eof":
                await self._execution.end_input()
            case "resize":
                await self._execution.resize(frame.resize.cols, frame.resize.rows)
            case "signal":
                await self._execution.signal(frame.signal)
            case kind:
                raise InputRefused(f"a frame of kind {kind} is not for a process")


class _AttachInput:
    def __init__(self, execution: Execution, owns_input: bool, stream: "_Stream") -> None:
        self._execution = execution
        self._owns_input = owns_input
        self._stream = stream

    async def take(self, frame: openshell_ext_pb2.ProcessFrame) -> None:
        if not self._owns_input:
            return
        match frame.WhichOneof("frame"):
            case "stdin" if not self._execution.terminal:
                await self._execution.write(frame.stdin)
            case "stdin":
                try:
                    self._execution.write_now(frame.stdin)
                except InputRefused:
                    await self._stream.send(openshell_ext_pb2.ProcessFrame(stderr=_INPUT_LOST))
                    raise
            case "resize":
                await self._execution.resize(frame.resize.cols, frame.resize.rows)
            case "signal":
                await self._execution.signal(frame.signal)
            case "stdin_eof":
                self._owns_input = False
                # A pipe that has ended has ended for its reader; a terminal stays for the next one.
                if not self._execution.terminal:
                    await self._execution.end_input()
            case kind:
                raise InputRefused(f"a frame of kind {kind} is not for a process")


class _Stream:
    """One RelayStream call: frames out in order, frames in to whoever takes them."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._sending = asyncio.Lock()
        self.exit_sent = False

    async def begin(self, channel_id: str) -> None:
        init = openshell_pb2.RelayInit(channel_id=channel_id)
        await self._call.write(openshell_pb2.RelayFrame(init=init))

    async def send(self, frame: openshell_ext_pb2.ProcessFrame) -> None:
        async with self._sending:
            await self._call.write(openshell_pb2.RelayFrame(data=frame.SerializeToString()))

    async def send_output(
        self, execution: Execution, reader: OutputReader, *, release: bool
    ) -> None:
        """Everything from `started` to the exit, then the end of our direction."""
        if execution.pid:
            started = openshell_ext_pb2.Started(pid=execution.pid)
            await self.send(openshell_ext_pb2.ProcessFrame(started=started))
        log = execution.log
        while not isinstance(item := await reader.next(), Exit):
            stream, data = item
            if stream == STDOUT:
                await self.send(openshell_ext_pb2.ProcessFrame(stdout=data))
            else:
                await self.send(openshell_ext_pb2.ProcessFrame(stderr=data))
            if release:
                log.release(reader.position)
        await self.send_exit(item, log.dropped_bytes)
        await self.finish()

    async def send_exit(self, exit_: Exit, truncated: int) -> None:
        record = openshell_ext_pb2.ExitRecord(
            code=exit_.code,
            signal=exit_.signal,
            error_code=exit_.error_code,
            error_message=exit_.error_message,
            timed_out=exit_.timed_out,
            truncated_bytes=truncated,
        )
        await self.send(openshell_ext_pb2.ProcessFrame(exit=record))
        self.exit_sent = True

    async def refuse(self, exit_: Exit) -> None:
        """Answer with an exit alone and wait for it to be taken: ending the call would drop it."""
        await self.send_exit(exit_, 0)
        await self.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while await self._call.read() is not END:
                    pass

    async def finish(self) -> None:
        async with self._sending:
            await self._call.done_writing()

    async def receive(self, to: _Input) -> None:
        """Pass frames on until the gateway ends its direction or breaks the rules."""
        while (message := await self._call.read()) is not END:
            if message.WhichOneof("payload") != "data":
                return
            if not message.data:
                continue
            try:
                frame = openshell_ext_pb2.ProcessFrame.FromString(message.data)
            except DecodeError:
                return
            with contextlib.suppress(SandboxGone):
                try:
                    await to.take(frame)
                except InputRefused:
                    return
