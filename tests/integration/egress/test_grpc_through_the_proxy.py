"""gRPC through the proxy, with gRPC's own client and server: a method is a path, and policy names paths."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from integration.egress.harness import NOW, A, Proxy, authority, rest, rest_policy

SERVICE = "/shop.Cart"


class Cart(grpc.GenericRpcHandler):
    """A service without generated code: messages are bytes."""

    def __init__(self):
        self.called = []

    def service(self, details):
        self.called.append(details.method)
        match details.method.rpartition("/")[2]:
            case "Add":
                return grpc.unary_unary_rpc_method_handler(self._add)
            case "Fail":
                return grpc.unary_unary_rpc_method_handler(self._fail)
            case "Watch":
                return grpc.unary_stream_rpc_method_handler(self._watch)
            case "Upload":
                return grpc.stream_unary_rpc_method_handler(self._upload)
            case "Chat":
                return grpc.stream_stream_rpc_method_handler(self._chat)
        return None

    async def _add(self, request, context):
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"), ("x-bin", b"\x00\xff")))
        return request.upper()

    async def _fail(self, _, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100% süß")

    async def _watch(self, request, _):
        for number in range(int(request)):
            yield b"%d" % number

    async def _upload(self, requests, _):
        return b"%d" % sum([len(part) async for part in requests])

    async def _chat(self, requests, _):
        async for part in requests:
            yield part[::-1]


@asynccontextmanager
async def cart():
    server, handler = grpc.aio.server(), Cart()
    ca = authority("upstream")
    leaf = ca._sign_leaf(A, NOW) + ca.certificate_pem
    server.add_generic_rpc_handlers((handler,))
    credentials = grpc.ssl_server_credentials([(ca._leaf_key_pem, leaf)])
    handler.port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield handler
    finally:
        await server.stop(0)


@asynccontextmanager
async def dial(proxy, port):
    credentials = grpc.ssl_channel_credentials(authority("sandbox").certificate_pem)
    options = (("grpc.http_proxy", f"http://127.0.0.1:{proxy.port}"), ("grpc.enable_retries", 0))
    async with grpc.aio.secure_channel(f"{A}:{port}", credentials, options) as channel:
        yield channel


def methods(port, *names):
    """Write a policy that allows these methods and nothing else."""
    rules = [{"allow": {"method": "POST", "path": f"{SERVICE}/{name}"}} for name in names]
    endpoint = rest(A, port, rules=rules)
    del endpoint["access"]
    return rest_policy(endpoint)


async def test_all_kinds_of_calls_work():
    async with (
        cart() as up,
        Proxy(methods(up.port, "Add", "Watch", "Upload", "Chat", "Fail")) as proxy,
        dial(proxy, up.port) as channel,
    ):
        add = channel.unary_unary(f"{SERVICE}/Add")
        call = add(b"apple", metadata=(("x-mine", "3"),), timeout=10)
        assert await call == b"APPLE"
        assert dict(await call.initial_metadata())["x-first"] == "1"
        assert dict(await call.trailing_metadata()) == {"x-last": "2", "x-bin": b"\x00\xff"}
        watch = channel.unary_stream(f"{SERVICE}/Watch")
        assert [part async for part in watch(b"200", timeout=10)] == [b"%d" % n for n in range(200)]
        upload = channel.stream_unary(f"{SERVICE}/Upload")
        assert await upload(iter([b"x" * 1_000_000] * 3), timeout=20) == b"3000000"
        chat = channel.stream_stream(f"{SERVICE}/Chat")(timeout=10)
        for word in (b"one", b"two", b"x" * 300_000):
            await chat.write(word)
            assert await chat.read() == word[::-1]
        await chat.done_writing()
        assert await chat.read() == grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(f"{SERVICE}/Fail")(b"", timeout=10)
        assert failed.value.code() == grpc.StatusCode.NOT_FOUND
        assert failed.value.details() == "no such thing: 100% süß"
        answers = await asyncio.gather(*(add(b"%d" % n, timeout=10) for n in range(150)))
        assert answers == [b"%d" % n for n in range(150)]
    assert proxy.denials == []


async def test_one_method_short_it_fails_closed_and_the_caller_reads_why():
    async with (
        cart() as up,
        Proxy(methods(up.port, "Add")) as proxy,
        dial(proxy, up.port) as channel,
    ):
        assert await channel.unary_unary(f"{SERVICE}/Add")(b"a", timeout=10) == b"A"
        for call in (
            channel.unary_unary(f"{SERVICE}/Remove")(b"a", timeout=10),
            channel.stream_unary(f"{SERVICE}/Upload")(iter([b"x" * 100_000] * 5), timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            # The library shows a message that it could not send any more in place of the answer.
            if "SendMessage" not in failed.value.debug_error_string():
                assert failed.value.code() == grpc.StatusCode.PERMISSION_DENIED
                assert "not permitted by policy" in failed.value.details()
        assert await channel.unary_unary(f"{SERVICE}/Add")(b"b", timeout=10) == b"B"
    assert up.called == [f"{SERVICE}/Add"] * 2
    assert [line.partition(" [")[0] for line in proxy.lines if "DENIED" in line] == [
        "HTTP:POST"
    ] * 2


async def test_a_running_call_ends_when_its_method_is_taken_away():
    async with (
        cart() as up,
        Proxy(methods(up.port, "Add", "Chat")) as proxy,
        dial(proxy, up.port) as channel,
    ):
        chat = channel.stream_stream(f"{SERVICE}/Chat")(timeout=10)
        await chat.write(b"ab")
        assert await chat.read() == b"ba"
        proxy.reload(methods(up.port, "Add"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await chat.read()
        assert failed.value.code() == grpc.StatusCode.CANCELLED
        assert await channel.unary_unary(f"{SERVICE}/Add")(b"a", timeout=10) == b"A"
