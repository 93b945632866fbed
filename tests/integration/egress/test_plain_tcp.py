"""Endpoints with `protocol: tcp`: bytes of any kind, where host, port and program are allowed.

By capture and by CONNECT. One rule short, nothing reaches the server, the client sees a reset (a 403
where it asked the proxy), and one event says why.
"""

import asyncio
import ssl
import struct

import pytest

from integration.egress.captured import LIMITS, SYNTHETIC, SYNTHETIC_V6, Captured, say
from integration.egress.harness import (
    PLACEHOLDER,
    SECRET,
    A,
    B,
    Proxy,
    Upstream,
    authority,
    bound,
    plain,
    problem,
    rest,
    rest_policy,
)
from integration.egress.test_corporate_proxy import Middleman
from openshell.egress.ca import client_context
from openshell.egress.dns import RType
from openshell.egress.dns_server import MAX_NAMES, PIN_SECONDS
from openshell.egress.limits import Limits
from openshell.egress.proxy import Listeners
from unit.egress.test_tls_hello import hello as hello_of
from unit.egress.test_tls_hello import record, sni

BANNER = b"SSH-2.0-test\r\n"
# Long enough that whoever waits for a client to speak first fails the test.
PATIENT = Limits(captured_silent_seconds=60, silent_seconds=60, refusal_peek_seconds=60)


def tcp(host, port, **extra):
    return {"host": host, "port": port, "protocol": "tcp", **extra}


def by_name(policy, port, **extra):
    return Captured(policy, (SYNTHETIC, port), {SYNTHETIC: A}, **{"limits": PATIENT, **extra})


async def greet(reader, writer):
    """A server that speaks first and then echoes."""
    writer.write(BANNER)
    while data := await reader.read(65536):
        writer.write(data.upper())


async def through(proxy, how, port):
    return await (proxy.connect_directly() if how == "captured" else proxy.tunnel(A, port))


BOTH = pytest.mark.parametrize("how", ["captured", "tunnel"])


async def test_a_server_speaks_first():
    async with (
        Upstream(script=greet) as up,
        by_name(rest_policy(tcp(A, up.port)), up.port) as proxy,
    ):
        client = await proxy.connect_directly()
        async with asyncio.timeout(5):
            assert await client.reader.readexactly(len(BANNER)) == BANNER
            await client.send(b"hello\0")
            assert await client.reader.readexactly(6) == b"HELLO\0"
        client.close()
    assert len(proxy.events) == 1
    event = proxy.events[0]
    assert (event.detail, event.policy) == ("transparent_tcp_allowed", "test")
    assert proxy.lines[0].startswith(
        f"NET:OPEN [INFO] ALLOWED /usr/bin/curl(4242) -> {A}:{up.port} [policy:test engine:opa]"
    )


async def test_a_server_speaks_first_in_a_tunnel():
    async with (
        Upstream(script=greet) as up,
        Proxy(rest_policy(tcp(A, up.port)), limits=PATIENT) as proxy,
    ):
        client = await proxy.tunnel(A, up.port)
        async with asyncio.timeout(5):
            assert await client.reader.readexactly(len(BANNER)) == BANNER
        client.close()
    assert len(proxy.events) == 1


@BOTH
async def test_tls_is_not_opened(how):
    # Not even with a name that was not looked up: nobody looks.
    async with Upstream(tls_name=B) as up:
        policy = rest_policy(tcp(A, up.port))
        async with by_name(policy, up.port) as proxy:
            client = await through(proxy, how, up.port)
            await client.start_tls(client_context(authority("upstream").certificate_pem), B)
            await client.send(f"GET / HTTP/1.1\r\nHost: {B}\r\n\r\n".encode())
            assert (await client.response())[0] == 200
            client = await through(proxy, how, up.port)
            with pytest.raises(ssl.SSLCertVerificationError):
                await client.start_tls(proxy.client_tls(), B)
    assert proxy.denials == []


async def test_it_needs_no_certificate_authority():
    async with (
        Upstream(script=greet) as up,
        by_name(rest_policy(tcp(A, up.port)), up.port, ca=False) as proxy,
    ):
        client = await proxy.connect_directly()
        assert await client.reader.readexactly(len(BANNER)) == BANNER
        client.close()


def short(port):
    return {
        "another program": (rest_policy(tcp(A, port), binary="/usr/bin/other"), "transparent-tcp"),
        "another port": (rest_policy(tcp(A, port % 65000 + 1)), "bypass"),
        "another host": (rest_policy(tcp(B, port)), "bypass"),
        "no protocol": (rest_policy(plain(A, port)), "bypass"),
        "tls skip alone": (rest_policy(plain(A, port, tls="skip")), "bypass"),
        "rest": (rest_policy(rest(A, port)), "bypass"),
        # The validator refuses both together; the proxy takes the stricter one.
        "rest beside it": (rest_policy(rest(A, port), tcp(A, port)), "bypass"),
    }


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x08\x04\xd2\x16\x2f", b"SSH-2.0-x\r\n"])
@pytest.mark.parametrize("case", short(1))
async def test_one_rule_short_is_a_reset(case, data):
    async with Upstream(script=greet) as up:
        policy, stage = short(up.port)[case]
        # The program that is allowed nothing is told at once, the rest after it was given time to speak.
        limits = PATIENT if stage == "transparent-tcp" else LIMITS
        async with by_name(policy, up.port, limits=limits) as proxy:
            assert await say(proxy, data) == (b"", True)
            assert up.connections == 0
            assert len(proxy.events) == len(proxy.denials) == 1
            assert proxy.denials[0].refusal.stage == stage
            proxy.reload(rest_policy(tcp(A, up.port)))
            client = await proxy.connect_directly()
            assert await client.reader.readexactly(len(BANNER)) == BANNER
            client.close()


async def test_one_rule_short_in_a_tunnel_is_a_403():
    async with Upstream(script=greet) as up:
        policy = rest_policy(tcp(A, up.port), binary="/usr/bin/other")
        async with Proxy(policy) as proxy:
            answer = await proxy.say(f"CONNECT {A}:{up.port} HTTP/1.1\r\n\r\n".encode())
    assert problem(answer)[0] == 403
    assert up.connections == 0


FORBIDDEN = {
    "metadata service": ("169.254.169.254", {}),
    "loopback": ("127.0.0.1", {}),
    "loopback, listed": ("127.0.0.1", {"allowed_ips": ["127.0.0.0/8"]}),
    "outside of the list": ("203.0.113.9", {"allowed_ips": ["10.0.0.0/8"]}),
    "one of sixteen": (
        (*(f"93.184.216.{n}" for n in range(15)), "::ffff:169.254.0.1"),
        {},
    ),
    "nothing": ((), {}),
}


@pytest.mark.parametrize(("addresses", "extra"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
async def test_destination_rules_come_before_dialling(addresses, extra):
    host = "db.example"
    async with Upstream(script=greet) as up:
        policy = rest_policy(tcp(host, up.port, **extra))
        proxy = Captured(policy, (SYNTHETIC, up.port), {SYNTHETIC: host}, limits=PATIENT)
        known = (addresses,) if isinstance(addresses, str) else addresses
        async with proxy:
            proxy.names.known[host] = known
            # The client says nothing: whoever waited for it would be noticed.
            assert await say(proxy, b"") == (b"", True)
    assert up.connections == 0
    assert [event.refusal.stage for event in proxy.denials] == ["ssrf"]


async def test_a_server_that_is_down_is_a_reset():
    async with Upstream() as up:
        port = up.port
    async with by_name(rest_policy(tcp(A, port)), port) as proxy:
        assert await say(proxy, b"") == (b"", True)
    assert [line.split(" ")[0] for line in proxy.lines] == ["NET:FAIL"]


async def test_ipv6_clients():
    async with Upstream(script=greet) as up:
        policy = rest_policy(tcp(A, up.port))
        for seen in (SYNTHETIC_V6, f"::ffff:{SYNTHETIC}"):
            proxy = Captured(policy, (seen, up.port), {SYNTHETIC_V6: A}, limits=PATIENT)
            async with proxy:
                client = await proxy.connect_directly()
                assert await client.reader.readexactly(len(BANNER)) == BANNER
                client.close()


UNMAPPED = {
    "never handed out": ("198.18.7.7", "transparent_tcp_mapping_missing"),
    "IPv6": ("fd6f:7065:6e73:6865::777", "transparent_tcp_mapping_missing"),
    "mapped into IPv6": ("::ffff:198.18.7.7", "transparent_tcp_mapping_missing"),
    "the network itself": ("198.18.0.0", "transparent_tcp_mapping_missing"),
    "forgotten": (SYNTHETIC, "transparent_tcp_mapping_expired"),
}


@pytest.mark.parametrize(("address", "code"), UNMAPPED.values(), ids=UNMAPPED.keys())
async def test_an_address_that_stands_for_no_name_leads_nowhere(address, code):
    # Even where the ranges are allowed as addresses: another sandbox's mean nothing here.
    policy = rest_policy(
        {"port": 5432, "allowed_ips": ["198.18.0.0/15", "fd00::/8"]},
        tcp(A, 5432),
        plain(address, 5432),
    )
    proxy = Captured(policy, (address, 5432), {SYNTHETIC: A})
    async with proxy:
        for number in range(MAX_NAMES - 1):
            proxy.table.address_for(f"h{number}", RType.A)
        later = proxy.table._clock() + PIN_SECONDS + 1
        proxy.table._clock = lambda: later
        # Room for one more is made by forgetting the oldest, which is A.
        proxy.table.address_for("another", RType.A)
        assert proxy.table.host_for(SYNTHETIC) is None
        assert await say(proxy, b"\0binary") == (b"", True)
        answer, _ = await say(proxy, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert problem(answer)[0] == 403
    assert "look the name up" in problem(answer)[1]["detail"]
    assert [(e.refusal.code, e.refusal.stage) for e in proxy.denials] == [
        (code, "transparent-tcp")
    ] * 2


@pytest.mark.parametrize("host", ["*.168.7.9", "**.7.9"])
async def test_a_plain_endpoint_is_never_found_by_address(host):
    policy = rest_policy(tcp(host, 5432), tcp("x.168.7.9", 5432))
    async with Captured(policy, ("192.168.7.9", 5432), {}) as proxy:
        assert await say(proxy, b"\0binary") == (b"", True)
    assert proxy.denials[0].refusal.code == "endpoint_not_allowed"


async def test_each_direction_ends_by_itself():
    async def sum_up(reader, writer):
        data = await reader.read()
        writer.write(b"%d bytes" % len(data))
        await writer.drain()

    async def talk_on(reader, writer):
        writer.write(b"all I have to say")
        writer.write_eof()
        assert await reader.read() == b"late answer"
        heard.set()

    heard = asyncio.Event()
    for how, script, sent, wanted in (
        ("captured", sum_up, b"x" * 3_000_000, b"3000000 bytes"),
        ("tunnel", talk_on, b"late answer", b"all I have to say"),
        ("captured", talk_on, b"late answer", b"all I have to say"),
    ):
        heard.clear()
        async with (
            Upstream(script=script) as up,
            by_name(rest_policy(tcp(A, up.port)), up.port) as proxy,
        ):
            client = await through(proxy, how, up.port)
            if script is talk_on:
                assert await client.rest() == wanted
            await client.send(sent)
            client.writer.write_eof()
            if script is talk_on:
                async with asyncio.timeout(5):
                    await heard.wait()
            else:
                assert await client.rest() == wanted
            client.close()


def reset(writer):
    raw = writer.get_extra_info("socket")
    raw.setsockopt(1, 13, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_a_reset_of_the_server_is_a_reset():
    async def cut(reader, writer):
        writer.write(b"half of the ans")
        await reader.read(1)
        reset(writer)

    async with (
        Upstream(script=cut) as up,
        by_name(rest_policy(tcp(A, up.port)), up.port) as proxy,
    ):
        for how in ("captured", "tunnel"):
            client = await through(proxy, how, up.port)
            assert await client.reader.readexactly(15) == b"half of the ans"
            await client.send(b"x")
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)


async def test_a_reset_of_the_client_reaches_the_server():
    seen = asyncio.get_running_loop().create_future()

    async def wait(reader, writer):
        writer.write(BANNER)
        try:
            await reader.read(1)
            seen.set_result("an end")
        except ConnectionResetError:
            seen.set_result("a reset")

    async with (
        Upstream(script=wait) as up,
        by_name(rest_policy(tcp(A, up.port)), up.port) as proxy,
    ):
        client = await proxy.connect_directly()
        assert await client.reader.readexactly(len(BANNER)) == BANNER
        reset(client.writer)
        async with asyncio.timeout(5):
            assert await seen == "a reset"


async def test_silence_is_no_reason_to_end():
    quick = Limits(
        captured_silent_seconds=0.1, silent_seconds=0.1, idle_seconds=0.1, body_idle_seconds=0.1,
        stalled_reader_seconds=0.1, half_closed_seconds=0.1, head_seconds=0.1, handshake_seconds=0.1,
    )  # fmt: skip
    async with (
        Upstream(script=greet) as up,
        by_name(rest_policy(tcp(A, up.port)), up.port, limits=quick) as proxy,
    ):
        client = await proxy.connect_directly()
        assert await client.reader.readexactly(len(BANNER)) == BANNER
        # Two sweeps.
        await asyncio.sleep(1.2)
        await client.send(b"x")
        assert await client.reader.readexactly(1) == b"X"
        client.close()


def changes(port):
    """The new policy, and whether a captured connection and a tunnel may stay."""
    return {
        "something else": (rest_policy(tcp(A, port), plain(B, 443)), True, True),
        "its list of addresses": (
            rest_policy(tcp(A, port, allowed_ips=["10.0.0.0/8"])),
            True,
            True,
        ),
        "nothing allowed": (rest_policy(), False, False),
        "another program": (rest_policy(tcp(A, port), binary="/usr/bin/other"), False, False),
        "inspected": (rest_policy(rest(A, port)), False, False),
        "no protocol": (rest_policy(plain(A, port)), False, False),
        # What came by capture was never seen to be TLS.
        "tls skip": (rest_policy(plain(A, port, tls="skip")), False, True),
    }


@BOTH
@pytest.mark.parametrize("case", changes(1))
async def test_a_new_policy_ends_only_what_it_does_not_allow(case, how):
    async with Upstream(script=greet) as up:
        policy, *stays = changes(up.port)[case]
        may_stay = stays[how == "tunnel"]
        async with by_name(rest_policy(tcp(A, up.port)), up.port) as proxy:
            client = await through(proxy, how, up.port)
            assert await client.reader.readexactly(len(BANNER)) == BANNER
            proxy.reload(policy)
            if may_stay:
                await client.send(b"x")
                assert await client.reader.readexactly(1) == b"X"
                client.close()
            else:
                with pytest.raises(ConnectionResetError):
                    await client.reader.read(1)
    closed = [event.refusal.code for event in proxy.denials]
    assert closed == ([] if may_stay else ["closed_by_reload"])


async def test_a_reload_while_the_server_is_dialled_sends_nothing():
    for case in ("nothing allowed", "inspected", "no protocol"):
        await reload_while_dialled(tcp, case, b"secret")
    hello = record(hello_of(sni(A.encode())))
    await reload_while_dialled(lambda *at: plain(*at, tls="skip"), "nothing allowed", hello)


async def reload_while_dialled(endpoint, case, data):
    got = []

    async def listen(reader, writer):
        got.append(await reader.read())

    async with (
        Upstream(script=listen) as up,
        by_name(rest_policy(endpoint(A, up.port)), up.port) as proxy,
    ):
        dial = proxy.proxy._upstreams.dial

        async def slow(plan, **how):
            stream = await dial(plan, **how)
            proxy.reload(changes(up.port)[case][0])
            return stream

        proxy.proxy._upstreams.dial = slow
        answer, _ = await say(proxy, data)
    assert answer == b""
    assert b"".join(got) == b""
    assert [event.refusal.code for event in proxy.denials] == ["closed_by_reload"]
    assert not [event for event in proxy.events if event.detail == "transparent_tcp_allowed"]


async def test_a_client_that_leaves_while_the_server_is_dialled_leaves_nothing_behind():
    gone = asyncio.get_running_loop().create_future()

    async def wait(reader, writer):
        try:
            gone.set_result(await reader.read())
        except ConnectionError:
            gone.set_result(b"")

    async with (
        Upstream(script=wait) as up,
        by_name(rest_policy(tcp(A, up.port)), up.port) as proxy,
    ):
        dial = proxy.proxy._upstreams.dial

        async def slow(plan, **how):
            stream = await dial(plan, **how)
            reset(client.writer)
            await asyncio.sleep(0.1)
            return stream

        proxy.proxy._upstreams.dial = slow
        client = await proxy.connect_directly()
        async with asyncio.timeout(5):
            assert await gone == b""


async def test_no_credential_is_put_in():
    async with Upstream() as up:
        policy = rest_policy(tcp(A, up.port))
        proxy = by_name(policy, up.port, environment={"TOKEN": SECRET}, bindings=bound(A, up.port))
        request = f"GET / HTTP/1.1\r\nHost: {A}:{up.port}\r\nX-Key: {PLACEHOLDER}\r\n\r\n".encode()
        async with proxy:
            # The control: the same request where it is inspected.
            proxy.reload(rest_policy(rest(A, up.port)))
            client = await proxy.tunnel(A, up.port)
            assert (await client.request(request))[0] == 200
            assert up.requests.pop().header(b"x-key") == SECRET.encode()
            proxy.reload(policy)
            for how in ("captured", "tunnel"):
                client = await through(proxy, how, up.port)
                assert (await client.request(request))[0] == 200
                # As the agent wrote it: a placeholder is worth nothing.
                assert up.requests.pop().header(b"x-key") == PLACEHOLDER.encode()
            absolute = request.replace(b"GET /", f"GET http://{A}:{up.port}/".encode())
            status, _ = problem(await proxy.say(absolute))
    assert status in (403, 500)
    assert up.requests == []


async def test_through_a_corporate_proxy():
    host, out = "db.example", "203.0.113.9"
    async with Upstream(script=greet) as up, Middleman(up.port) as middle:
        policy = rest_policy(tcp(host, 5432, allowed_ips=[f"{out}/32"]))
        proxy = Captured(policy, (SYNTHETIC, 5432), {SYNTHETIC: host}, limits=PATIENT)
        proxy.corporate = middle.settings()
        async with proxy:
            proxy.names.known[host] = (out,)
            client = await proxy.connect_directly()
            assert await client.reader.readexactly(len(BANNER)) == BANNER
            client.close()
    assert middle.asked == [f"{out}:5432"]


async def test_a_kernel_without_capture_is_told_of():
    policy = rest_policy(tcp(A, 5432))
    async with Proxy(rest_policy(plain(A, 5432))) as proxy:
        proxy.reload(policy)
        assert proxy.lines == []
        proxy.proxy._listeners = Listeners(proxy=proxy.proxy._listeners.proxy)
        proxy.reload(policy)
    (line,) = proxy.lines
    assert line.startswith("NET:LISTEN [MED] [msg:protocol: tcp works through CONNECT only: ")
