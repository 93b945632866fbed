"""The resolver of a sandbox: synthetic addresses for names the policy could allow, and nothing for others.

It forwards nothing, ever: no query leaves the machine, so names cannot carry data out. An address it hands
out means only "the connection that comes to this address wants that host"; the capture adapter asks
`SyntheticTable.host_for` and the policy decides then. Sockets are made inside the sandbox's namespace by the
isolation and given to `DnsServer`, which answers on its own event loop with bounded work.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from openshell.egress.dns import (
    QUERY_LIMIT,
    Query,
    QueryRejected,
    RCode,
    RType,
    parse_query,
    render_answer,
    render_error,
)

__all__ = ["DnsRefusal", "DnsServer", "SyntheticTable", "Unmapped"]

# A benchmarking range (RFC 2544), routed nowhere; and a ULA prefix of our own.
SYNTHETIC_V4 = ipaddress.IPv4Network("198.18.0.0/15")
SYNTHETIC_V6 = ipaddress.IPv6Network("fd6f:7065:6e73:6865::/64")
# Names kept per sandbox; the ones asked or used longest ago go first.
MAX_NAMES = 1024
# An address may be dialled this long after the name was last asked, whatever the agent's resolver caches.
PIN_SECONDS = 600.0
# Short, because eligibility follows the policy.
TTL_SECONDS = 30
# A busy package manager asks a few hundred names a minute. What exceeds this gets REFUSED.
QUERIES_PER_SECOND = 200.0
BURST = 400.0
# TCP exists for resolvers that insist on it; these bounds are far above what one does.
MAX_TCP_CLIENTS = 32
TCP_IDLE_SECONDS = 10.0
# Datagrams answered in one turn of the loop, so that a flood cannot starve the proxy.
DATAGRAMS_PER_TURN = 64

_Control: TypeAlias = tuple[int, int, bytes]
_IP_PKTINFO = 8
# Room for one address of either family with its interface.
_CONTROL_SPACE = socket.CMSG_SPACE(20)

_LOOPBACK = {RType.A: "127.0.0.1", RType.AAAA: "::1"}


@dataclass(frozen=True, slots=True)
class DnsRefusal:
    """One query that got no address. `host` is None when the message could not be read."""

    host: str | None
    rtype: int | None
    reason: str


class Unmapped(Enum):
    """Why an address of our ranges stands for no name."""

    NEVER = "never handed out"
    FORGOTTEN = "handed out once and forgotten since"


@dataclass(slots=True)
class _Entry:
    number: int
    last_used: float


class SyntheticTable:
    """Host <-> synthetic address, both ways, bounded, least recently used first out.

    The number of an entry is its place in both address ranges. Numbers run upwards through the whole range
    before one is used again, so an address an agent has cached does not soon become another host.
    """

    __slots__ = ("_by_number", "_clock", "_entries", "_limit", "_next")

    def __init__(self, clock: Callable[[], float], *, limit: int = MAX_NAMES) -> None:
        self._clock = clock
        self._limit = limit
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._by_number: dict[int, str] = {}
        self._next = 0

    def address_for(self, host: str, rtype: RType) -> str | None:
        """The host's address, made now if need be; None while every entry is still pinned."""
        now = self._clock()
        entry = self._entries.get(host)
        if entry is None:
            if not self._make_room(now):
                return None
            entry = _Entry(self._free_number(), now)
            self._entries[host] = entry
            self._by_number[entry.number] = host
        entry.last_used = now
        self._entries.move_to_end(host)
        base = SYNTHETIC_V4 if rtype is RType.A else SYNTHETIC_V6
        return str(base[entry.number + 1])

    def host_for(self, address: str) -> str | None:
        """The host an address was handed out for; a use keeps it pinned."""
        number = _number_of(address)
        host = None if number is None else self._by_number.get(number)
        if host is not None:
            self._entries[host].last_used = self._clock()
            self._entries.move_to_end(host)
        return host

    def unmapped(self, address: str) -> Unmapped | None:
        """Say why an address stands for no name; None when it is no address of ours, or does."""
        number = _number_of(address)
        if number is None or number in self._by_number:
            return None
        return Unmapped.FORGOTTEN if 0 <= number < self._next else Unmapped.NEVER

    def __len__(self) -> int:
        return len(self._entries)

    def _make_room(self, now: float) -> bool:
        if len(self._entries) < self._limit:
            return True
        host, oldest = next(iter(self._entries.items()))
        if now - oldest.last_used < PIN_SECONDS:
            return False
        del self._entries[host]
        del self._by_number[oldest.number]
        return True

    def _free_number(self) -> int:
        # First and last address of the range stay unused, some stacks take them for broadcast.
        size = SYNTHETIC_V4.num_addresses - 2
        while self._next % size in self._by_number:
            self._next += 1
        number = self._next % size
        self._next += 1
        return number


def _from_where_it_was_asked(control: list[_Control]) -> list[_Control]:
    """What makes an answer come from the address that was asked: others are not accepted.

    Programs with a name server of their own ask that one, and all of them are us (ip(7), ipv6(7)).
    """
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            # Received: interface, our address, the address of the packet. Sent: the second is used.
            return [(level, kind, bytes(4) + data[8:12] + bytes(4))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return [(level, kind, data[:16] + bytes(4))]
    return []


def _number_of(address: str) -> int | None:
    """The place of an address in our ranges; None when it is in neither."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    base = SYNTHETIC_V4 if parsed.version == 4 else SYNTHETIC_V6
    return int(parsed) - int(base.network_address) - 1 if parsed in base else None


class DnsServer:
    """Answers on the given sockets until closed."""

    def __init__(
        self,
        table: SyntheticTable,
        *,
        could_resolve: Callable[[str], bool],
        on_refused: Callable[[DnsRefusal], None],
        clock: Callable[[], float],
        own_hostname: str = "",
    ) -> None:
        self._table = table
        self._could_resolve = could_resolve
        self._on_refused = on_refused
        self._clock = clock
        self._own = frozenset({"localhost", own_hostname.lower()} - {""})
        self._allowance = BURST
        self._refilled = clock()
        self._udp: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.StreamWriter] = set()
        self.queries = 0
        self.refused = 0

    async def start(self, udp: tuple[socket.socket, ...], tcp: tuple[socket.socket, ...]) -> None:
        """Takes over bound UDP and listening TCP sockets."""
        loop = asyncio.get_running_loop()
        for sock in udp:
            sock.setblocking(False)
            loop.add_reader(sock, self._datagrams, sock)
            self._udp.append(sock)
        for sock in tcp:
            sock.setblocking(False)
            self._servers.append(await asyncio.start_server(self._serve_tcp, sock=sock, limit=2048))

    async def close(self) -> None:
        """Stops answering and closes the sockets."""
        loop = asyncio.get_running_loop()
        for sock in self._udp:
            loop.remove_reader(sock)
            sock.close()
        self._udp.clear()
        for server in self._servers:
            server.close()
        for writer in list(self._clients):
            writer.transport.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def answer(self, message: bytes) -> bytes | None:
        """The answer to one message; None when there is nobody to answer."""
        self.queries += 1
        if not self._admit():
            return self._reject(QueryRejected(RCode.REFUSED, _identifier(message)), "rate_limited")
        try:
            query = parse_query(message)
        except QueryRejected as rejected:
            return self._reject(rejected, "malformed_query")
        return self._answer(query)

    def _answer(self, query: Query) -> bytes:
        host = query.host
        if host in self._own or host.endswith(".localhost"):
            # RFC 6761 6.3; the host's own name means the sandbox itself, never the machine around it.
            address = _LOOPBACK.get(RType(query.rtype)) if query.rtype in _LOOPBACK else None
            return render_answer(query, () if address is None else (address,), ttl=TTL_SECONDS)
        if not self._could_resolve(host):
            return self._refuse(query, RCode.NXDOMAIN, "host_not_allowed")
        if query.rtype not in _LOOPBACK:
            # The name exists as far as we say, without records of this type.
            return render_answer(query, (), ttl=TTL_SECONDS)
        address = self._table.address_for(host, RType(query.rtype))
        if address is None:
            return self._refuse(query, RCode.REFUSED, "too_many_names")
        return render_answer(query, (address,), ttl=TTL_SECONDS)

    def _refuse(self, query: Query, rcode: RCode, reason: str) -> bytes:
        self.refused += 1
        self._on_refused(DnsRefusal(query.host, query.rtype, reason))
        return render_error(query.identifier, rcode, query.question)

    def _reject(self, rejected: QueryRejected, reason: str) -> bytes | None:
        self.refused += 1
        self._on_refused(DnsRefusal(None, None, reason))
        if rejected.identifier is None:
            return None
        return render_error(rejected.identifier, rejected.rcode)

    def _admit(self) -> bool:
        """A token bucket over all clients: they are one agent."""
        now = self._clock()
        self._allowance = min(BURST, self._allowance + (now - self._refilled) * QUERIES_PER_SECOND)
        self._refilled = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _datagrams(self, sock: socket.socket) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                message, control, _, peer = sock.recvmsg(QUERY_LIMIT + 1, _CONTROL_SPACE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # An ICMP error of an earlier answer: the asker has gone.
                continue
            answer = self.answer(message)
            if answer is None:
                continue
            try:
                sock.sendmsg([answer], _from_where_it_was_asked(control), 0, peer)
            except OSError:
                # Full or unreachable: to the asker a lost datagram, which resolvers repeat.
                continue

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_TCP_CLIENTS:
            writer.close()
            return
        self._clients.add(writer)
        # Each answer is out before the next query is read, so that a client that never reads holds nothing.
        writer.transport.set_write_buffer_limits(0)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    if size > QUERY_LIMIT:
                        return
                    message = await reader.readexactly(size)
                    answer = self.answer(message)
                    if answer is None:
                        return
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        except (OSError, EOFError, TimeoutError):
            return
        finally:
            self._clients.discard(writer)
            if writer.transport.get_write_buffer_size():
                # A close would wait for the client to take it, for ever and uncounted.
                writer.transport.abort()
            else:
                writer.close()


def _identifier(message: bytes) -> int | None:
    # Not for answers: see `parse_query`.
    if len(message) < 12 or message[2] & 0x80:
        return None
    return int.from_bytes(message[:2], "big")
