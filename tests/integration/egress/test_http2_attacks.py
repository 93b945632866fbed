"""What a peer may not do to the proxy with HTTP/2: floods, bombs, and streams that stand still.

Every attack is measured against a probe that passes on the same kind of connection.
"""

import asyncio
import contextlib
import random
import struct

import pytest
from h2.exceptions import NoSuchStreamError, ProtocolError, StreamClosedError
from hpack import Encoder

from integration.egress.h2_peers import H2Client, H2Server, answer_ok, frame
from integration.egress.harness import A, Proxy, rest, rest_policy
from openshell.egress.http2.shares import FIRST_WINDOW, LARGEST_WINDOW, Shares
from openshell.egress.limits import Limits

# What a client meets whose stream has ended meanwhile.
_GONE = {StreamClosedError, NoSuchStreamError, ProtocolError, TimeoutError}
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
PROTOCOL, FRAME_SIZE, CANCEL, CALM = 1, 6, 8, 11


def _block(client, stream, *, end=True):
    fields = Encoder().encode(client.fields())
    return frame(HEADERS, fields, flags=END_HEADERS | (END_STREAM if end else 0), stream=stream)


def rapid_reset(client):
    return b"".join(
        _block(client, n) + frame(RST, struct.pack(">I", CANCEL), stream=n)
        for n in range(101, 901, 2)
    )


def continuations(client):
    return frame(HEADERS, b"\x82", stream=101) + frame(CONTINUATION, b"\x82", stream=101) * 40


def endless_list(client):
    piece = b"\x00\x01x\x7f\x81\x7e" + b"v" * 255
    first = frame(HEADERS, piece * 60, stream=101)
    return first + frame(CONTINUATION, piece * 60, stream=101) * 10


def bomb(client):
    """One large value put into the table, then named thousands of times (CVE-2016-6581)."""
    name = b"\x40\x01x\x7f\x81\x1e" + b"v" * 3998
    return frame(HEADERS, name + b"\xbe" * 8000, flags=END_HEADERS | END_STREAM, stream=101)


ATTACKS = {
    "http2_rapid_reset": (rapid_reset, CALM),
    "http2_ping_flood": (lambda _: frame(PING, b"12345678") * 500, CALM),
    "http2_settings_flood": (lambda _: frame(SETTINGS) * 100, CALM),
    "http2_empty_frame_flood": (
        lambda client: _block(client, 101, end=False) + frame(DATA, stream=101) * 500,
        CALM,
    ),
    "http2_idle_frame_flood": (
        lambda _: frame(PRIORITY, b"\0\0\0\0\x10", stream=3) * 60_000,
        CALM,
    ),
    "http2_header_block_too_large": (continuations, CALM),
    "http2_header_block_too_large (bytes)": (endless_list, CALM),
    "http2_header_list_too_large": (bomb, CALM),
    "http2_frame_too_large": (lambda _: b"\x01\x00\x01\x00\x00\x00\x00\x00\x01", FRAME_SIZE),
    "http2_protocol_error": (lambda _: frame(DATA, b"x", stream=0), PROTOCOL),
    "http2_protocol_error (window)": (lambda _: frame(UPDATE, b"\x7f\xff\xff\xff"), 3),
}


@pytest.mark.parametrize(("attack", "code"), ATTACKS.values(), ids=ATTACKS.keys())
async def test_a_client_that_attacks_is_told_to_stop_and_disconnected(attack, code, request):
    name = request.node.callspec.id.partition(" ")[0]
    async with H2Server(A) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get("/probe")).status == 200
        await client.raw(attack(client))
        await client.wait_end()
        assert client.goaway == code
        client.close()
        async with asyncio.timeout(5):
            while proxy.proxy.connections:
                await asyncio.sleep(0.01)
        other = await H2Client.open(proxy, A, up.port)
        assert (await other.get("/probe")).status == 200
        other.close()
    assert f"the connection was ended: {name}" in "\n".join(proxy.lines)
    assert len([event for event in proxy.denials if name in str(event)]) == 1


async def test_an_upstream_that_floods_loses_its_connection():
    async def script(stream):
        if stream.headers[":path"] == "/flood":
            await stream.raw(frame(PING, b"12345678") * 500)
        else:
            await answer_ok(stream)

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get("/flood", "POST")).status == 502
        assert (await client.get("/")).status == 200
        client.close()
    assert up.connections == 2


async def test_more_streams_than_announced_end_the_connection():
    async def script(stream):
        await stream.whole()
        await asyncio.sleep(60)

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        await client.wait(lambda: client.conn.remote_settings.max_concurrent_streams == 100)
        await client.flush()
        for _ in range(100):
            await client.open_stream(client.fields())
        await client.raw(_block(client, 301))
        await client.wait_end()
        client.close()
    assert client.goaway == PROTOCOL


async def test_streams_of_a_sandbox_are_counted_together():
    async def script(stream):
        await stream.head()
        await stream.whole()
        await stream.send(b"", end=True)

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        object.__setattr__(proxy.proxy._services, "shares", Shares(streams=3))
        one, two = [await H2Client.open(proxy, A, up.port) for _ in range(2)]
        held = [await one.open_stream(one.fields("/", "POST"), end=False) for _ in range(3)]
        for stream in held:
            await one.answer(stream, until=lambda a: a.status)
        assert (await two.get()).reset == 7
        await one.send(held[0], b"", end=True)
        await one.answer(held[0])
        assert (await two.get()).status == 200
        one.close()
        two.close()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_ends_how_it_likes_nothing_is_left(seed):
    chance = random.Random(seed)

    async def script(stream):
        await asyncio.sleep(chance.random() / 50)
        if chance.random() < 0.2:
            stream.conn.reset_stream(stream.id, chance.choice((CANCEL, 7)))
            await stream.flush()
            return
        await stream.head()
        if chance.random() < 0.6:
            await stream.whole()
        await stream.send(b"x" * chance.choice((0, 10, 200_000)), end=True)

    async def use(client):
        stream = await client.open_stream(client.fields("/", "POST"), end=False)
        await client.send(stream, b"y" * chance.choice((0, 5_000)), end=chance.random() < 0.7)
        await asyncio.sleep(chance.random() / 30)
        if chance.random() < 0.4 and client.answers[stream].reset is None:
            with contextlib.suppress(ProtocolError):
                client.conn.reset_stream(stream, CANCEL)
                await client.flush()

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        shares = proxy.proxy._services.shares
        for _ in range(3):
            client = await H2Client.open(proxy, A, up.port)
            results = await asyncio.gather(
                *(use(client) for _ in range(40)), return_exceptions=True
            )
            assert {type(result) for result in results} <= {type(None), *_GONE}
            if chance.random() < 0.5:
                for writer in up.writers:
                    writer.transport.abort()
            await asyncio.sleep(0.05)
            client.close()
        async with asyncio.timeout(5):
            while proxy.proxy.connections:
                await asyncio.sleep(0.01)
        fresh = Shares()
        assert (shares._streams, shares._stock) == (fresh._streams, fresh._stock)
        await asyncio.sleep(0.05)
        left = [task for task in asyncio.all_tasks() if task.get_name().startswith("http2")]
        assert left == []
    assert "internal error" not in "\n".join(proxy.lines)


# Flow control.


async def test_a_stream_that_nobody_reads_holds_its_window_and_no_other_stream():
    sent = {}

    async def script(stream):
        path = stream.headers[":path"]
        await stream.head()
        if path == "/":
            await stream.send(b"ok", end=True)
            return
        for _ in range(400):
            await stream.send(b"x" * 16_384)
            sent[path] = sent.get(path, 0) + 16_384
        await stream.send(b"", end=True)

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        client.conn.increment_flow_control_window(100_000_000)
        client.reads = False
        slow = [await client.open_stream(client.fields(f"/slow{n}")) for n in range(10)]
        for stream in slow:
            await client.answer(stream, until=lambda a: len(a.body) >= FIRST_WINDOW)
        await asyncio.sleep(0.2)
        assert (await client.get("/")).body == b"ok"
        # What the client's window took, and a window of ours, grown once because it took it fast.
        assert max(sent.values()) <= 3 * FIRST_WINDOW
        client.reads = True
        for stream in slow:
            client.conn.increment_flow_control_window(10_000_000, stream)
        await client.flush()
        for stream in slow:
            assert len((await client.answer(stream)).body) == 400 * 16_384
        client.close()


async def test_an_upload_waits_for_its_upstream_and_no_other_stream_does():
    gate = asyncio.Event()

    async def script(stream):
        if stream.headers[":path"] == "/":
            await answer_ok(stream)
            return
        stream.reads = False
        await gate.wait()
        stream.reads = True
        stream.conn.acknowledge_received_data(len(stream.body), stream.id)
        await stream.flush()
        await stream.whole()
        await answer_ok(stream)

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await H2Client.open(proxy, A, up.port)
        stream = await client.open_stream(client.fields("/slow", "POST"), end=False)
        upload = asyncio.create_task(client.send(stream, b"x" * 2_000_000, end=True))
        await asyncio.sleep(0.3)
        assert not upload.done()
        assert client.conn.local_flow_control_window(stream) == 0
        assert (await client.get("/")).status == 200
        gate.set()
        await upload
        assert (await client.answer(stream)).status == 200
        client.close()
    assert len(up.streams[0].body) == 2_000_000


async def test_windows_grow_for_a_fast_reader_out_of_a_common_stock():
    async def script(stream):
        await stream.head()
        await stream.send(b"x" * 8_000_000, end=True)

    async with H2Server(A, script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        shares = Shares(stock=LARGEST_WINDOW)
        object.__setattr__(proxy.proxy._services, "shares", shares)
        client = await H2Client.open(proxy, A, up.port)
        client.conn.increment_flow_control_window(10_000_000)
        assert len((await client.get()).body) == 8_000_000
        assert up.streams[0].conn.local_flow_control_window
        assert shares._stock == LARGEST_WINDOW
        client.close()


# Time.

_QUICK = {
    "head_seconds": 0.2,
    "body_idle_seconds": 0.2,
    "stalled_reader_seconds": 0.2,
    "idle_seconds": 0.2,
}


def _quick(up, *names):
    return Proxy(
        rest_policy(rest(A, up.port)), limits=Limits(**{name: _QUICK[name] for name in names})
    )


async def test_a_silent_connection_is_closed_with_a_goaway():
    async with H2Server(A) as up, _quick(up, "idle_seconds") as proxy:
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get()).status == 200
        await client.wait_end()
        client.close()
    assert client.goaway == 0


async def test_a_header_list_that_does_not_end_is_cut_off():
    async with H2Server(A) as up, _quick(up, "head_seconds") as proxy:
        client = await H2Client.open(proxy, A, up.port)
        assert (await client.get()).status == 200
        await client.raw(frame(HEADERS, b"\x82", stream=3))
        await client.wait_end()
        client.close()


async def test_data_may_come_slowly_as_long_as_it_comes():
    async def script(stream):
        await stream.whole()
        await answer_ok(stream)

    async with H2Server(A, script) as up, _quick(up, "head_seconds") as proxy:
        client = await H2Client.open(proxy, A, up.port)
        # Settings are settled after that: nothing else is sent in the middle of our frames.
        assert (await client.get()).status == 200
        stream = await client.open_stream(client.fields("/", "POST"), end=False)
        sent = frame(DATA, b"x" * 4096, stream=stream) * 3
        for start in range(0, len(sent), 500):
            await client.raw(sent[start : start + 500])
            await asyncio.sleep(0.1)
        await client.raw(frame(DATA, flags=END_STREAM, stream=stream))
        assert (await client.answer(stream)).status == 200
        client.close()
    assert len(up.streams[1].body) == 3 * 4096


async def test_a_reader_that_opens_no_window_loses_its_stream_and_no_other():
    async def script(stream):
        await stream.head()
        await stream.send(b"x" * 300_000, end=True)

    async with H2Server(A, script) as up, _quick(up, "stalled_reader_seconds") as proxy:
        client = await H2Client.open(proxy, A, up.port)
        client.reads = False
        slow = await client.open_stream(client.fields())
        answer = await client.answer(slow)
        assert (len(answer.body), answer.reset) == (FIRST_WINDOW, CANCEL)
        client.conn.increment_flow_control_window(1_000_000)
        client.reads = True
        assert len((await client.get()).body) == 300_000
        client.close()
    assert up.streams[0].reset == CANCEL


async def test_a_body_that_stops_is_cut_off_but_a_conversation_may_be_silent():
    async def script(stream):
        if stream.headers[":path"] == "/talk":
            await stream.head()
        body = await stream.whole()
        if stream.headers[":path"] == "/talk":
            await stream.send(body, end=True)

    async with H2Server(A, script) as up, _quick(up, "body_idle_seconds") as proxy:
        client = await H2Client.open(proxy, A, up.port)
        talk = await client.open_stream(client.fields("/talk", "POST"), end=False)
        await client.answer(talk, until=lambda a: a.status)
        stopped = await client.open_stream(client.fields("/stop", "POST"), end=False)
        await client.send(stopped, b"some")
        assert (await client.answer(stopped)).reset == CANCEL
        await client.send(talk, b"still here", end=True)
        assert (await client.answer(talk)).body == b"still here"
        client.close()
    assert up.streams[1].reset == CANCEL
