"""Bodies in both directions: streaming, interim responses, pipelining, and how broken ones end."""

import asyncio
import socket
import struct

import pytest

from integration.egress.harness import OK, A, B, Proxy, Upstream, parse, problem, rest, rest_policy
from openshell.egress.limits import Limits


def head(port, method="GET", path="/", extra="", *, absolute=True):
    target = f"http://{A}:{port}{path}" if absolute else path
    return f"{method} {target} HTTP/1.1\r\nHost: {A}:{port}\r\n{extra}\r\n".encode()


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = "Transfer-Encoding: chunked\r\n"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_response_streams_before_it_has_ended():
    go_on = asyncio.Event()

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED_HEAD + chunk(b"first"))
        await go_on.wait()
        writer.write(chunk(b"last") + b"0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with Upstream(script=script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        await client.send(head(up.port))
        assert await client.head()
        assert await client.reader.readexactly(len(chunk(b"first"))) == chunk(b"first")
        go_on.set()
        assert await client.reader.readexactly(14) == chunk(b"last") + b"0\r\n\r\n"


async def test_a_request_streams_before_it_has_ended():
    first = asyncio.Event()

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(chunk(b"first"))) == chunk(b"first")
        first.set()
        assert await reader.readexactly(14) == chunk(b"last") + b"0\r\n\r\n"
        writer.write(OK)
        await writer.drain()

    async with Upstream(script=script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        await client.send(head(up.port, "POST", extra=CHUNKED) + chunk(b"first"))
        async with asyncio.timeout(5):
            await first.wait()
        await client.send(chunk(b"last") + b"0\r\n\r\n")
        assert await client.response() == (200, b"ok")


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
async def test_large_bodies_both_ways(secure):
    size = 3_000_000

    def answer(request):
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body

    async with (
        Upstream(answer, tls_name=A if secure else None) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        client = await (proxy.tls(A, up.port) if secure else proxy.connect())
        data = bytes(range(256)) * (size // 256)
        sent = head(up.port, "POST", extra=f"Content-Length: {len(data)}\r\n", absolute=not secure)
        for _ in range(2):
            sending = asyncio.create_task(client.send(sent + data))
            assert await client.response() == (200, data)
            await sending


async def test_expect_continue_reaches_both_ends():
    async def script(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue" in request
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK)
        await writer.drain()

    async with Upstream(script=script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        extra = "Expect: 100-continue\r\nContent-Length: 4\r\n"
        await client.send(head(up.port, "POST", extra=extra))
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"body")
        assert (await client.head()).startswith(b"HTTP/1.1 103 ")
        assert await client.response() == (200, b"ok")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(("count", "status"), [(32, 200), (33, 502)], ids=["enough", "too many"])
async def test_interim_responses_are_counted(count, status, version):
    async with (
        Upstream(b"HTTP/1.1 103 Early Hints\r\n\r\n" * count + OK) as up,
        Proxy(rest_policy(rest(A, up.port))) as proxy,
    ):
        sent = head(up.port, extra="Connection: close\r\n").replace(
            b"HTTP/1.1", b"HTTP/" + version.encode()
        )
        answer = await proxy.say(sent)
        assert answer.count(b"HTTP/1.1 103 ") == (min(count, 32) if version == "1.1" else 0)
        assert parse(answer[answer.rindex(b"HTTP/1.1 ") :])[0] == status


async def test_interim_responses_to_a_client_that_does_not_read_are_not_hoarded():
    sent = 0

    async def flood(reader, writer):
        nonlocal sent
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 15_000 + b"\r\n\r\n"
        while True:
            writer.write(interim)
            await writer.drain()
            sent += len(interim)

    async with Upstream(script=flood) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        await client.send(head(up.port))
        await client.head()
        client.writer.transport.pause_reading()
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        client.close()
    # What fits into the kernel's buffers was taken from the upstream, and no more.
    assert sent < 20_000_000


async def test_expect_continue_of_a_refused_request_gets_the_refusal():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port, access="read-only"))) as proxy:
        extra = "Expect: 100-continue\r\nContent-Length: 4\r\n"
        status, _ = problem(await proxy.say(head(up.port, "POST", extra=extra)))
    assert status == 403
    assert up.requests == []


async def test_a_refusal_is_readable_while_the_body_is_still_coming():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port, access="read-only"))) as proxy:
        data = head(up.port, "POST", extra="Content-Length: 500000\r\n") + b"x" * 500_000
        assert problem(await proxy.say(data))[0] == 403


async def test_pipelined_requests_are_answered_in_order_one_at_a_time():
    running = 0
    most = 0

    async def script(reader, writer):
        nonlocal running, most
        while line := await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            body = line.split(b" ")[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            running -= 1

    async with Upstream(script=script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        await client.send(b"".join(head(up.port, path=f"/{n}") for n in range(4)))
        assert [(await client.response())[1] for _ in range(4)] == [b"/0", b"/1", b"/2", b"/3"]
    assert most == 1


async def test_a_pipelined_request_behind_a_body_is_judged_by_itself():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port, access="read-write"))) as proxy:
        client = await proxy.tunnel(A, up.port)
        first = head(up.port, "POST", extra="Content-Length: 4\r\n", absolute=False) + b"body"
        second = head(up.port, "DELETE", absolute=False)
        await client.send(first + second)
        assert await client.response() == (200, b"ok")
        assert problem(await client.rest())[0] == 403
    assert [request.body for request in up.requests] == [b"body"]


async def test_a_client_that_half_closes_gets_its_answer():
    async def slow(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.write(OK)
        await writer.drain()

    async with Upstream(script=slow) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        await client.send(head(up.port))
        client.writer.write_eof()
        assert await client.response() == (200, b"ok")
        assert await client.rest() == b""


async def test_a_client_that_vanishes_takes_its_upstream_along():
    gone = asyncio.Event()

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        gone.set()

    async with Upstream(script=script) as up:
        limits = Limits(half_closed_seconds=0.1)
        async with Proxy(rest_policy(rest(A, up.port)), limits=limits) as proxy:
            client = await proxy.connect()
            await client.send(head(up.port))
            await asyncio.sleep(0.05)
            client.close()
            async with asyncio.timeout(5):
                await gone.wait()


BROKEN_BODIES = {
    "chunk size": b"zz\r\nabc\r\n0\r\n\r\n",
    "chunk end": b"3\r\nabcXX0\r\n\r\n",
    "bare LF": b"3\nabc\r\n0\r\n\r\n",
    "negative size": b"-3\r\nabc\r\n",
    "trailer that frames": b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("late", [False, True], ids=["with the head", "behind it"])
@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
async def test_broken_chunks_end_the_request(body, late):
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        good = head(up.port, "POST", extra=CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n"
        client = await proxy.connect()
        assert (await client.request(good))[0] == 200
        first, rest_of_it = head(up.port, "POST", extra=CHUNKED), body
        if late:
            await client.send(first + b"1\r\na\r\n")
            await asyncio.sleep(0.05)
            answer = await client.say(rest_of_it)
        else:
            answer = await client.say(first + rest_of_it)
    assert parse(answer)[0] == 400
    assert [request.body for request in up.requests] == [b"abc"]
    assert "HTTP:POST [MED] DENIED" in proxy.lines[-1]


async def test_a_body_cut_short_is_no_whole_request():
    async with Upstream() as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        await client.send(head(up.port, "POST", extra="Content-Length: 10\r\n") + b"12345")
        client.writer.write_eof()
        assert parse(await client.rest())[0] == 400
    assert up.requests == []


BAD_RESPONSES = {
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "folded": b"HTTP/1.1 200 OK\r\nX: 1\r\n y\r\nContent-Length: 0\r\n\r\n",
    "huge head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20000 + b"\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nX: ",
}


@pytest.mark.parametrize("answer", BAD_RESPONSES.values(), ids=BAD_RESPONSES.keys())
async def test_a_bad_response_is_a_502(answer):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with Upstream(script=script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        status, body = problem(await proxy.say(head(up.port)))
    assert (status, body["error"]) == (502, "upstream_invalid_response")


CUT_RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
    "chunks": CHUNKED_HEAD + b"5\r\n12345\r\n",
    "bad chunk": CHUNKED_HEAD + b"5\r\n12345\r\nzz\r\n",
}


@pytest.mark.parametrize("answer", CUT_RESPONSES.values(), ids=CUT_RESPONSES.keys())
async def test_a_response_cut_short_never_looks_complete(answer):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer[:60])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(answer[60:])
        await writer.drain()

    async with Upstream(script=script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        data = await proxy.say(head(up.port))
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert not data.endswith(b"0\r\n\r\n")
    assert b"1234567890" not in data


async def test_an_unframed_response_that_is_cut_ends_with_a_reset():
    """By a reload and by its upstream; a clean end would make it whole."""

    async def stall(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        await reader.read(1)
        reset = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()

    async with Upstream(script=stall) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        for cut in (lambda: proxy.reload(rest_policy(rest(B, 1))), None):
            client = await proxy.connect()
            fields = "Content-Length: 1\r\n" if cut is None else ""
            await client.send(head(up.port, "POST", extra=fields))
            await client.head()
            assert await client.reader.readexactly(4) == b"half"
            if cut is None:
                await client.send(b"x")
            else:
                cut()
            async with asyncio.timeout(5):
                with pytest.raises(ConnectionResetError):
                    await client.reader.read()
            proxy.reload(rest_policy(rest(A, up.port)))


async def test_a_response_without_framing_runs_to_the_end():
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b" it")
        await writer.drain()

    async with Upstream(script=script) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        status, headers, body = parse(await proxy.say(head(up.port)))
    assert (status, headers["connection"], body) == (200, "close", b"all of it")


NO_BODIES = {
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n"),
}


@pytest.mark.parametrize(("method", "answer"), NO_BODIES.values(), ids=NO_BODIES.keys())
async def test_responses_without_a_body_keep_the_connection(method, answer):
    async with Upstream(answer) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        for _ in range(2):
            await client.send(head(up.port, method))
            assert await client.head() == answer
    assert up.connections == 1


async def test_an_upstream_that_closed_in_between_is_dialled_again():
    async def once(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()

    async with Upstream(script=once) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.tunnel(A, up.port)
        for _ in range(5):
            assert await client.request(head(up.port, absolute=False)) == (200, b"ok")
    assert up.connections == 5


async def test_a_slow_reader_does_not_make_the_proxy_hoard():
    sent = 0

    async def flood(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED_HEAD)
        while sent < 200_000_000:
            writer.write(chunk(b"x" * 65536))
            await writer.drain()
            sent += 65536

    async with Upstream(script=flood) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        await client.send(head(up.port))
        await client.head()
        client.writer.transport.pause_reading()
        await asyncio.sleep(0.5)
        assert sent < 40_000_000
        client.close()


async def test_an_idle_unframed_response_ends_with_a_reset_not_an_end():
    async def stall(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        await writer.drain()
        await reader.read()

    limits = Limits(close_framed_idle_seconds=0.1)
    async with (
        Upstream(script=stall) as up,
        Proxy(rest_policy(rest(A, up.port)), limits=limits) as proxy,
    ):
        client = await proxy.connect()
        await client.send(head(up.port))
        await client.head()
        async with asyncio.timeout(5):
            assert await client.reader.readexactly(4) == b"half"
            with pytest.raises(ConnectionResetError):
                await client.reader.read()


async def test_an_upstream_that_hangs_up_in_the_middle_of_an_upload_is_a_502():
    async def rude(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with Upstream(script=rude) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        extra = "Content-Length: 1000\r\n"
        await client.send(head(up.port, "POST", extra=extra) + b"only a part")
        assert problem(await client.rest())[0] == 502


async def test_a_client_answered_early_cannot_go_on_with_the_rest_of_its_body():
    async def hasty(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)
            await writer.drain()

    async with Upstream(script=hasty) as up, Proxy(rest_policy(rest(A, up.port))) as proxy:
        client = await proxy.connect()
        await client.send(head(up.port, "POST", extra="Content-Length: 100\r\n"))
        assert await client.response() == (200, b"ok")
        # What looks like a request is the body of the first one.
        assert await client.say(head(up.port, path="/smuggled")) == b""
    assert up.connections == 1
