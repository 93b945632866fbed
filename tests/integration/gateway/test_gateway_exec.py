"""Exec, attach and watch, with the supervisor's part played by the test."""

import asyncio

import grpc
import pytest

from integration.gateway.harness import code_of, stream_of
from openshell._proto import openshell_ext_pb2 as ext
from openshell._proto import openshell_pb2 as pb
from openshell.gateway.events import LOGS
from openshell.gateway.services import exec as exec_module
from openshell.gateway.store import LogLine

Code = grpc.StatusCode


def run(sandbox, *command, **more):
    return pb.ExecSandboxRequest(
        sandbox_id=sandbox.metadata.id, command=command or ["true"], **more
    )


def shape(events):
    """(stream, data or code) of each event."""
    shown = []
    for event in events:
        kind = event.WhichOneof("payload")
        shown.append((kind, event.exit.exit_code if kind == "exit" else getattr(event, kind).data))
    return shown


async def echo(opening, relay):
    """Output of every kind, the input back, exit 3."""
    target = opening.exec
    await relay.send(started=ext.Started(pid=2))
    await relay.send(stdout=" ".join(target.argv).encode())
    await relay.send(stderr=f"{target.workdir} {dict(target.environment)}".encode())
    if target.has_stdin:
        data = b""
        while (frame := await relay.next()) is not None and not frame.stdin_eof:
            data += frame.stdin
        await relay.send(stdout=b"%d" % len(data))
    await relay.exit(3)


async def test_streams_and_exit(gw):
    sandbox, supervisor = await gw.ready()
    supervisor.serve(echo)
    request = run(sandbox, "a b", "c", workdir="/w", environment={"K": "v"})
    events, code = await stream_of(gw.api.ExecSandbox(request))
    assert shape(events) == [
        ("stdout", b"a b c"),
        ("stderr", b"/w {'K': 'v'}"),
        ("exit", 3),
    ]
    assert code is Code.OK


async def test_input_goes_in_pieces_and_ends(gw):
    sandbox, supervisor = await gw.ready()
    supervisor.serve(echo)
    events, _ = await stream_of(gw.api.ExecSandbox(run(sandbox, stdin=b"x" * 200_000)))
    assert ("stdout", b"200000") in shape(events)


async def test_many_at_once(gw):
    sandbox, supervisor = await gw.ready()
    supervisor.serve(echo)
    calls = [stream_of(gw.api.ExecSandbox(run(sandbox, str(i)))) for i in range(40)]
    for i, (events, code) in enumerate(await asyncio.gather(*calls)):
        assert (shape(events)[0], code) == (("stdout", b"%d" % i), Code.OK)


async def test_refused_before_anything_runs(gw):
    sandbox, _ = await gw.ready()
    unready = await gw.create("two")
    cases = {
        Code.INVALID_ARGUMENT: run(sandbox, "a\0"),
        Code.NOT_FOUND: pb.ExecSandboxRequest(sandbox_id="none", command=["true"]),
        Code.FAILED_PRECONDITION: run(unready),
    }
    for code, request in cases.items():
        assert (await stream_of(gw.api.ExecSandbox(request)))[1] is code


@pytest.mark.parametrize(
    ("record", "events", "code"),
    [
        (ext.ExitRecord(code=137, signal=9), [("exit", 137)], Code.OK),
        (ext.ExitRecord(code=0, timed_out=True), [("exit", 124)], Code.OK),
        (
            ext.ExitRecord(code=127, error_code="not_found", error_message="nosuch: not found"),
            [("stderr", b"nosuch: not found\n"), ("exit", 127)],
            Code.OK,
        ),
        (ext.ExitRecord(error_code="lost", error_message="?"), [], Code.UNAVAILABLE),
    ],
    ids=["signal", "timeout", "never ran", "end unknown"],
)
async def test_how_it_can_end(gw, record, events, code):
    sandbox, supervisor = await gw.ready()

    async def end(_opening, relay):
        await relay.send(exit=record)

    supervisor.serve(end)
    got, status = await stream_of(gw.api.ExecSandbox(run(sandbox)))
    assert (shape(got), status) == (events, code)


async def test_an_end_without_exit_is_never_made_up(gw):
    sandbox, supervisor = await gw.ready()

    async def leave(_opening, relay):
        await relay.send(stdout=b"half")
        await relay.call.done_writing()

    supervisor.serve(leave)
    events, code = await stream_of(gw.api.ExecSandbox(run(sandbox)))
    assert (shape(events), code) == ([("stdout", b"half")], Code.UNAVAILABLE)


async def test_a_killed_supervisor_ends_the_command_with_a_sentence(gw):
    sandbox, supervisor = await gw.ready()

    async def die(_opening, relay):
        await relay.send(stdout=b"half")
        await asyncio.sleep(0.02)
        relay.call.cancel()

    supervisor.serve(die)
    events, code = await stream_of(gw.api.ExecSandbox(run(sandbox)))
    assert (shape(events), code) == ([("stdout", b"half")], Code.UNAVAILABLE)


async def test_a_client_that_leaves_ends_the_relay(gw):
    sandbox, supervisor = await gw.ready()
    gone = asyncio.get_running_loop().create_future()

    async def wait(_opening, relay):
        await relay.send(stdout=b"on")
        assert await relay.next() is None
        gone.set_result(await relay.call.code())

    supervisor.serve(wait)
    call = gw.api.ExecSandbox(run(sandbox))
    assert (await call.read()).stdout.data == b"on"
    call.cancel()
    async with asyncio.timeout(5):
        assert await gone is not Code.OK


async def test_a_supervisor_that_forgets_the_timeout_is_not_waited_for(gw, monkeypatch):
    monkeypatch.setattr(exec_module, "TIMEOUT_GRACE_SECONDS", -0.9)
    sandbox, supervisor = await gw.ready()
    gone = asyncio.get_running_loop().create_future()

    async def hang(opening, relay):
        assert opening.exec.timeout_seconds == 1
        assert await relay.next() is None
        gone.set_result(True)

    supervisor.serve(hang)
    events, code = await stream_of(gw.api.ExecSandbox(run(sandbox, timeout_seconds=1)))
    assert (shape(events), code) == ([("exit", 124)], Code.OK)
    async with asyncio.timeout(5):
        assert await gone


async def test_interactive(gw):
    sandbox, supervisor = await gw.ready()
    seen = []

    async def terminal(opening, relay):
        assert (opening.exec.tty, opening.exec.cols, opening.exec.rows) == (True, 80, 24)
        while (frame := await relay.next()) is not None:
            kind = frame.WhichOneof("frame")
            seen.append((kind, frame.stdin if kind == "stdin" else None))
            if kind == "stdin":
                await relay.send(stdout=frame.stdin.upper())
            if kind == "stdin_eof":
                await relay.exit(0)

    supervisor.serve(terminal)
    call = gw.api.ExecSandboxInteractive()
    await call.write(pb.ExecSandboxInput(start=run(sandbox, "sh", tty=True)))
    await call.write(pb.ExecSandboxInput(stdin=b"abc"))
    assert (await call.read()).stdout.data == b"ABC"
    await call.write(pb.ExecSandboxInput(start=run(sandbox, "ignored")))
    await call.write(pb.ExecSandboxInput(resize=pb.ExecSandboxWindowResize(cols=1, rows=2)))
    await call.done_writing()
    assert (await call.read()).exit.exit_code == 0
    assert [kind for kind, _ in seen] == ["stdin", "resize", "stdin_eof"]


async def test_interactive_begins_with_start(gw):
    call = gw.api.ExecSandboxInteractive()
    await call.write(pb.ExecSandboxInput(stdin=b"x"))
    assert await code_of(call.read()) is Code.INVALID_ARGUMENT


async def attach(gw, name="one"):
    call = gw.ext.Attach()
    await call.write(ext.AttachRequest(start=ext.AttachStart(name=name, stdin=True)))
    return call


async def test_attach_from_creation_to_exit(gw):
    sandbox = await gw.create()
    call = await attach(gw)
    first = await call.read()
    assert first.phase.sandbox_phase == "SANDBOX_PHASE_PROVISIONING"

    async def main(opening, relay):
        assert opening.attach.stdin
        await relay.send(stdout=b"kept")
        frame = await relay.next()
        await relay.send(stdout=frame.stdin)
        await relay.exit(7)

    supervisor = await gw.connect(sandbox.metadata.id)
    supervisor.serve(main)
    await supervisor.report_ready()
    await call.write(ext.AttachRequest(frame=ext.ProcessFrame(stdin=b"typed")))
    frames = []
    while (event := await call.read()) is not grpc.aio.EOF:
        if event.WhichOneof("event") == "frame":
            frames.append(event.frame)
    assert [f.stdout for f in frames[:-1]] == [b"kept", b"typed"]
    assert frames[-1].exit.code == 7
    assert await call.code() is Code.OK


async def test_attach_to_what_failed_says_why(gw):
    sandbox = await gw.create()
    supervisor = await gw.connect(sandbox.metadata.id)
    failed = ext.CreationPhase(
        name="rootfs", started_at_ms=1, ended_at_ms=2, error_code="x", error_message="do this"
    )
    await supervisor.send(report=ext.SandboxReport(phases=[failed]))
    await gw.wait_phase("one", pb.SANDBOX_PHASE_ERROR)
    call = await attach(gw)
    events, _ = await stream_of(call)
    assert events[-1].frame.exit.error_message == "do this"
    assert events[-1].frame.exit.code == 1


async def test_attach_after_the_end_without_a_supervisor(gw):
    sandbox, supervisor = await gw.ready()
    await supervisor.stub.ReportMainProcessExit(
        pb.ReportMainProcessExitRequest(
            sandbox_id=sandbox.metadata.id, instance_id="i1", exit_code=4
        ),
        metadata=supervisor.metadata,
    )
    supervisor.call.cancel()
    async with asyncio.timeout(5):
        while gw.gateway.sessions.get(sandbox.metadata.id):
            await asyncio.sleep(0.01)
    events, _ = await stream_of(await attach(gw))
    assert events[-1].frame.exit.code == 4


async def test_attach_to_nothing(gw):
    assert (await stream_of(await attach(gw, "none")))[1] is Code.NOT_FOUND


# Watch


async def test_watch_shows_the_present_and_ends_with_the_sandbox(gw):
    sandbox = await gw.create()
    request = pb.WatchSandboxRequest(id=sandbox.metadata.id, follow_status=True)
    watch = gw.api.WatchSandbox(request)
    assert (await watch.read()).sandbox.metadata.name == "one"
    await gw.api.DeleteSandbox(pb.DeleteSandboxRequest(name="one"))
    async with asyncio.timeout(5):
        _, code = await stream_of(watch)
    assert code is Code.OK


async def test_watch_can_stop_at_ready(gw):
    sandbox = await gw.create()
    request = pb.WatchSandboxRequest(
        id=sandbox.metadata.id, follow_status=True, stop_on_terminal=True
    )
    watch = asyncio.ensure_future(stream_of(gw.api.WatchSandbox(request)))
    supervisor = await gw.connect(sandbox.metadata.id)
    await supervisor.report_ready()
    async with asyncio.timeout(5):
        events, code = await watch
    assert (events[-1].sandbox.status.phase, code) == (pb.SANDBOX_PHASE_READY, Code.OK)


async def test_watch_replays_and_follows_the_log(gw):
    sandbox = await gw.create()
    sandbox_id = sandbox.metadata.id
    store = gw.gateway._store

    async def log(message, level="INFO"):
        line = LogLine(sandbox_id, 1, "sandbox", level, "t", message)
        await store.write(lambda tx: tx.append_logs([line]))
        gw.gateway.bus.publish(LOGS, sandbox_id)

    await log("before")
    request = pb.WatchSandboxRequest(id=sandbox_id, follow_logs=True, log_min_level="INFO")
    watch = gw.api.WatchSandbox(request)
    assert (await watch.read()).WhichOneof("payload") == "sandbox"
    assert (await watch.read()).log.message == "before"
    await log("not this", "DEBUG")
    await log("after")
    assert (await watch.read()).log.message == "after"
    watch.cancel()


async def test_watch_of_nothing(gw):
    for sandbox_id, code in (("", Code.INVALID_ARGUMENT), ("none", Code.NOT_FOUND)):
        watch = gw.api.WatchSandbox(pb.WatchSandboxRequest(id=sandbox_id))
        assert (await stream_of(watch))[1] is code
