"""The resolver stub: messages, the table of synthetic addresses, and a server on real sockets."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from contextlib import suppress

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from fuzz.fuzz_dns import fuzz_dns_query
from openshell.egress import dns_server
from openshell.egress.dns import QueryRejected, RCode, parse_query
from openshell.egress.dns_server import (
    BURST,
    PIN_SECONDS,
    SYNTHETIC_V4,
    SYNTHETIC_V6,
    DnsRefusal,
    DnsServer,
    SyntheticTable,
    Unmapped,
)

A, AAAA, TXT = 1, 28, 16
OPT = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 4) + b"abcd"


def name(host: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in host.split(".")) + b"\0"


def message(
    host: str | bytes,
    rtype: int = A,
    *,
    flags: int = 0x0100,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
    rclass: int = 1,
    tail: bytes = b"",
) -> bytes:
    wire = host if isinstance(host, bytes) else name(host)
    return (
        struct.pack("!6H", 0x1234, flags, *counts) + wire + struct.pack("!2H", rtype, rclass) + tail
    )


def decode(answer: bytes | None) -> tuple[int, list[str]]:
    """Code and addresses of an answer, as a resolver would read them."""
    assert answer is not None
    identifier, flags, questions, answers, _, _ = struct.unpack_from("!6H", answer)
    assert identifier == 0x1234
    assert flags & 0x8000
    position = 12
    if questions:
        position = answer.index(b"\0", 12) + 5
    found = []
    for _ in range(answers):
        pointer, _, rclass, ttl, size = struct.unpack_from("!HHHIH", answer, position)
        assert (pointer, rclass) == (0xC00C, 1)
        assert 0 < ttl <= 30
        position += 12
        found.append(str(ipaddress.ip_address(answer[position : position + size])))
        position += size
    assert position == len(answer)
    return flags & 15, found


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stub:
    def __init__(self, *allowed: str, limit: int = 10) -> None:
        self.clock = Clock()
        self.table = SyntheticTable(self.clock, limit=limit)
        self.refusals: list[DnsRefusal] = []
        self.server = DnsServer(
            self.table,
            could_resolve=lambda host: host in allowed,
            on_refused=self.refusals.append,
            clock=self.clock,
            own_hostname="box",
        )

    def ask(self, host: str, rtype: int = A) -> tuple[int, list[str]]:
        return decode(self.server.answer(message(host, rtype)))


def test_a_query_is_read() -> None:
    query = parse_query(message("API.Example.com", AAAA, counts=(1, 0, 0, 1), tail=OPT))
    assert (query.host, query.rtype, query.identifier) == ("api.example.com", AAAA, 0x1234)
    assert query.question == name("API.Example.com") + b"\0\x1c\0\x01"


REFUSED = {
    "short": (b"\x12\x34", RCode.FORMERR),
    "an_answer": (message("a", flags=0x8100), RCode.FORMERR),
    "other_opcode": (message("a", flags=0x2800), RCode.NOTIMP),
    "no_question": (message("a", counts=(0, 0, 0, 0)), RCode.FORMERR),
    "two_questions": (message("a", counts=(2, 0, 0, 0)), RCode.FORMERR),
    "records_along": (message("a", counts=(1, 1, 0, 0)), RCode.FORMERR),
    "chaos_class": (message("a", rclass=3), RCode.NOTIMP),
    "root": (message(b"\0"), RCode.REFUSED),
    "pointer": (message(b"\xc0\x0c"), RCode.FORMERR),
    "endless_name": (struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\x01a", RCode.FORMERR),
    "label_cut": (struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\x09abc", RCode.FORMERR),
    "no_type": (struct.pack("!6H", 1, 0, 1, 0, 0, 0) + name("a"), RCode.FORMERR),
    "dot_in_label": (message(b"\x03a.b\0"), RCode.REFUSED),
    "nul_in_label": (message(b"\x03a\0b\0"), RCode.REFUSED),
    "hyphen_first": (message("-a.com"), RCode.REFUSED),
    "too_long": (message(".".join(["a" * 60] * 5)), RCode.REFUSED),
    "tail": (message("a", tail=b"x"), RCode.FORMERR),
    "other_additional": (
        message("a", counts=(1, 0, 0, 1), tail=OPT.replace(b"\0\x29", b"\0\x10")),
        RCode.FORMERR,
    ),
    "option_short": (message("a", counts=(1, 0, 0, 1), tail=OPT[:5]), RCode.FORMERR),
    "option_named": (message("a", counts=(1, 0, 0, 1), tail=b"\x01" + OPT[1:]), RCode.FORMERR),
    "option_cut": (message("a", counts=(1, 0, 0, 1), tail=OPT[:-1]), RCode.FORMERR),
    "large": (
        message(
            "a", counts=(1, 0, 0, 1), tail=b"\0" + struct.pack("!HHIH", 41, 9, 0, 600) + bytes(600)
        ),
        RCode.FORMERR,
    ),
}


@pytest.mark.parametrize(("data", "rcode"), REFUSED.values(), ids=REFUSED.keys())
def test_queries_refused(data: bytes, rcode: RCode) -> None:
    with pytest.raises(QueryRejected) as caught:
        parse_query(data)
    assert caught.value.rcode is rcode


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    fuzz_dns_query(data)
    fuzz_dns_query(struct.pack("!6H", 1, 0, 1, 0, 0, 0) + data)


def test_allowed_names_get_synthetic_addresses_that_lead_back() -> None:
    stub = Stub("api.example")
    code, v4 = stub.ask("API.example")
    assert (code, len(v4)) == (0, 1)
    assert ipaddress.ip_address(v4[0]) in SYNTHETIC_V4
    _, v6 = stub.ask("api.example", AAAA)
    assert ipaddress.ip_address(v6[0]) in SYNTHETIC_V6
    assert stub.table.host_for(v4[0]) == stub.table.host_for(v6[0]) == "api.example"
    assert stub.table.host_for(f"::ffff:{v4[0]}") == "api.example"
    assert stub.ask("api.example") == (0, v4)
    assert stub.refusals == []


def test_other_types_have_no_records() -> None:
    assert Stub("api.example").ask("api.example", TXT) == (RCode.NOERROR, [])


def test_names_outside_the_policy_do_not_exist_and_are_reported() -> None:
    stub = Stub("api.example")
    for rtype in (A, AAAA, TXT):
        assert stub.ask("c2VjcmV0.evil.example", rtype) == (RCode.NXDOMAIN, [])
    assert stub.refusals[0] == DnsRefusal("c2vjcmv0.evil.example", A, "host_not_allowed")
    assert (stub.server.queries, stub.server.refused, len(stub.table)) == (3, 3, 0)


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "box"])
def test_the_sandbox_itself_is_loopback(host: str) -> None:
    stub = Stub()
    assert stub.ask(host) == (0, ["127.0.0.1"])
    assert stub.ask(host, AAAA) == (0, ["::1"])
    assert stub.ask(host, TXT) == (0, [])


@pytest.mark.parametrize(
    "address",
    [
        "198.18.0.0",
        "198.18.0.9",
        "198.19.255.255",
        "8.8.8.8",
        "fd6f:7065:6e73:6865::9",
        "::1",
        "",
        "x",
    ],
)
def test_addresses_never_handed_out_have_no_host(address: str) -> None:
    stub = Stub("a")
    stub.ask("a")
    assert stub.table.host_for(address) is None


UNMAPPED = {
    "handed out": ("198.18.0.1", None),
    "its IPv6": ("fd6f:7065:6e73:6865::1", None),
    "mapped into IPv6": ("::ffff:198.18.0.1", None),
    "forgotten": ("198.18.0.2", Unmapped.FORGOTTEN),
    "forgotten, IPv6": ("fd6f:7065:6e73:6865::2", Unmapped.FORGOTTEN),
    "not yet": ("198.18.0.4", Unmapped.NEVER),
    "the network": ("198.18.0.0", Unmapped.NEVER),
    "broadcast": ("198.19.255.255", Unmapped.NEVER),
    "far up in IPv6": ("fd6f:7065:6e73:6865:ffff::", Unmapped.NEVER),
    "just below": ("198.17.255.255", None),
    "just above": ("198.20.0.0", None),
    "public": ("93.184.216.34", None),
    "no address": ("x", None),
}


@pytest.mark.parametrize(("address", "why"), UNMAPPED.values(), ids=UNMAPPED.keys())
def test_an_address_of_ours_without_a_name_is_known_as_such(
    address: str, why: Unmapped | None
) -> None:
    stub = Stub("a", "b", "c", limit=2)
    stub.ask("a")
    stub.ask("b")
    stub.clock.now += PIN_SECONDS + 1
    stub.ask("a")
    stub.ask("c")
    assert stub.table.unmapped(address) is why


def test_the_table_is_bounded_and_entries_stay_pinned() -> None:
    stub = Stub("a", "b", "c", limit=2)
    first = stub.ask("a")[1][0]
    stub.ask("b")
    assert stub.ask("c")[0] == RCode.REFUSED
    stub.clock.now += PIN_SECONDS - 1
    assert stub.table.host_for(first) == "a"
    stub.clock.now += 2
    code, third = stub.ask("c")
    assert code == 0
    assert third != [first]
    assert stub.table.host_for(first) == "a"
    assert len(stub.table) == 2


def test_a_flood_is_refused_and_recovers() -> None:
    stub = Stub("a")
    codes = [stub.ask("a")[0] for _ in range(int(BURST) + 5)]
    assert codes[0] == 0
    assert codes[-5:] == [RCode.REFUSED] * 5
    assert stub.refusals[-1].reason == "rate_limited"
    stub.clock.now += 1
    assert stub.ask("a")[0] == 0


def test_answers_are_never_answered() -> None:
    stub = Stub("a")
    assert stub.server.answer(message("a", flags=0x8180)) is None


async def test_server_on_real_sockets() -> None:
    stub = Stub("api.example")
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    tcp = socket.create_server(("127.0.0.1", 0))
    udp_port, tcp_address = udp.getsockname(), tcp.getsockname()
    await stub.server.start((udp,), (tcp,))
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        for host, code in (("api.example", RCode.NOERROR), ("evil.example", RCode.NXDOMAIN)):
            client.sendto(message(host), udp_port)
            assert decode(await asyncio.wait_for(loop.sock_recv(client, 512), 5))[0] == code
    reader, writer = await asyncio.open_connection(*tcp_address)
    for _ in range(2):
        query = message("api.example", AAAA)
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        assert stub.table.host_for(decode(await reader.readexactly(size))[1][0]) == "api.example"
    writer.write(b"\xff\xff")
    assert await reader.read() == b""
    writer.close()
    await stub.server.close()


async def test_clients_that_never_read_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server, "TCP_IDLE_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    stub = Stub("api.example")
    tcp = socket.create_server(("127.0.0.1", 0))
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await stub.server.start((), (tcp,))
    query = message("api.example")
    query = len(query).to_bytes(2, "big") + query
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, tcp.getsockname())
        await loop.sock_sendall(client, query)
        assert await loop.sock_recv(client, 1)
        async with asyncio.timeout(10):
            # Not merely closed: the connection is gone although the answers were never taken.
            with pytest.raises(ConnectionError):
                await loop.sock_sendall(client, query * 400_000)
            while stub.server._clients:
                await asyncio.sleep(0.01)
            await stub.server.close()


async def test_closing_does_not_wait_for_clients() -> None:
    stub = Stub("api.example")
    tcp = socket.create_server(("127.0.0.1", 0))
    address = tcp.getsockname()
    await stub.server.start((), (tcp,))
    reader, writer = await asyncio.open_connection(*address)
    query = message("api.example")
    writer.write(len(query).to_bytes(2, "big") + query)
    assert await reader.read(1)
    async with asyncio.timeout(5):
        await stub.server.close()
        with suppress(ConnectionError):
            while await reader.read(100):
                pass
    writer.close()


def test_an_evicted_address_leads_nowhere_and_is_not_soon_another_host() -> None:
    stub = Stub(*(f"h{i}" for i in range(50)), limit=2)
    first = stub.ask("h0")[1][0]
    assert stub.table.host_for(first) == "h0"
    for i in range(1, 50):
        stub.clock.now += PIN_SECONDS + 1
        assert stub.ask(f"h{i}")[1] != [first]
    assert stub.table.host_for(first) is None
    assert stub.ask("h0")[1] != [first]


def test_server_on_the_loop_of_production(monkeypatch: pytest.MonkeyPatch) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_server_on_real_sockets())
        runner.run(test_closing_does_not_wait_for_clients())
        runner.run(test_clients_that_never_read_are_cut_off(monkeypatch))
