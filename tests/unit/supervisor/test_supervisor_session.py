"""The session as a transcript: what the gateway says, what the supervisor does."""

import asyncio

import grpc
import grpc.aio
import pytest

from openshell._proto import openshell_ext_pb2, openshell_pb2
from openshell.supervisor.gateway_client import END
from openshell.supervisor.session import EXTENSIONS, Session


class Call:
    """One stream, read from a script."""

    def __init__(self, *messages):
        self.incoming = asyncio.Queue()
        for message in messages:
            self.incoming.put_nowait(message)
        self.sent = asyncio.Queue()

    async def write(self, message):
        await self.sent.put(message)

    async def read(self):
        message = await self.incoming.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def code(self):
        return grpc.StatusCode.OK

    def cancel(self):
        pass


class Client:
    def __init__(self, *calls):
        self.calls = list(calls)
        self.opened = 0

    def connect_supervisor(self):
        self.opened += 1
        return self.calls.pop(0) if self.calls else Call()


class Handler:
    def __init__(self):
        self.seen = []

    def session_accepted(self, session_id):
        self.seen.append(("accepted", session_id))

    def session_lost(self, reason):
        self.seen.append(("lost", reason))

    def relay_opened(self, relay):
        self.seen.append(("relay", relay.channel_id))

    def relay_closed(self, channel_id):
        self.seen.append(("closed", channel_id))

    def config_changed(self, reason):
        self.seen.append(("config", reason))


def message(**payload):
    return openshell_pb2.GatewayMessage(**payload)


def accepted(session_id="s", extensions=EXTENSIONS, seconds=5):
    return message(
        session_accepted=openshell_pb2.SessionAccepted(
            session_id=session_id, heartbeat_interval_secs=seconds, extensions=extensions
        )
    )


class Play:
    """Runs a session until its scripts are used up."""

    def __init__(self, *calls):
        self.client = Client(*calls)
        self.handler = Handler()
        self.waits = []
        self.session = Session(self.client, "box", "run", self.handler, sleep=self._sleep)

    async def _sleep(self, delay):
        self.waits.append(delay)
        if not self.client.calls:
            await asyncio.get_running_loop().create_future()

    async def run(self):
        task = asyncio.create_task(self.session.run())
        for _ in range(60):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self


def unavailable():
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone"
    )


async def test_hello_then_everything_goes_to_the_handler():
    call = Call(
        accepted(),
        message(heartbeat=openshell_pb2.GatewayHeartbeat()),
        message(relay_open=openshell_pb2.RelayOpen(channel_id="c")),
        message(config_changed=openshell_ext_pb2.ConfigChanged(reason="policy")),
        message(relay_close=openshell_pb2.RelayClose(channel_id="c")),
        END,
    )
    play = await Play(call).run()
    hello = call.sent.get_nowait().hello
    assert (hello.sandbox_id, hello.instance_id) == ("box", "run")
    assert tuple(hello.extensions) == EXTENSIONS
    assert play.handler.seen == [
        ("accepted", "s"),
        ("relay", "c"),
        ("config", "policy"),
        ("closed", "c"),
        ("lost", "the gateway ended the session"),
    ]


@pytest.mark.parametrize(
    "first",
    [
        END,
        message(session_rejected=openshell_pb2.SessionRejected(reason="no")),
        message(heartbeat=openshell_pb2.GatewayHeartbeat()),
        unavailable(),
    ],
    ids=["ended", "rejected", "something-else", "away"],
)
async def test_without_an_acceptance_there_is_no_session(first):
    play = await Play(Call(first)).run()
    assert play.handler.seen == []
    assert play.waits == [0.05]


async def test_it_comes_back_later_and_later_and_soon_after_a_success():
    failing = [Call(unavailable()) for _ in range(3)]
    play = await Play(*failing, Call(accepted(), END), Call(unavailable())).run()
    assert play.waits == [0.05, 0.1, 0.2, 0.05, 0.1]


async def test_what_the_peer_does_not_understand_is_not_sent():
    call = Call(accepted(extensions=()))
    play = Play(call)
    play.session.report(openshell_ext_pb2.SandboxReport())
    await play.run()
    assert call.sent.get_nowait().HasField("hello")
    assert call.sent.empty()


async def test_the_last_picture_is_told_to_every_new_session():
    first, second = Call(accepted(), END), Call(accepted())
    play = Play(first, second)
    play.session.report(openshell_ext_pb2.SandboxReport(phases=[{"name": "ready"}]))
    await play.run()
    second.sent.get_nowait()
    assert second.sent.get_nowait().report.phases[0].name == "ready"


async def test_results_of_relays_are_sent():
    call = Call(accepted())
    play = Play(call)
    task = asyncio.create_task(play.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    play.session.relay_result("c", "why")
    await task
    call.sent.get_nowait()
    result = call.sent.get_nowait().relay_open_result
    assert (result.channel_id, result.success, result.error) == ("c", False, "why")
