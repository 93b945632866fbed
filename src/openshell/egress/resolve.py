"""Names to addresses, and which addresses are this host's own: the two questions asked of the host.

The judgement over the answers is `destination.plan`; this module only fetches facts. Names go to
the system's resolver on a small thread pool, because `getaddrinfo` blocks. Whether an address is
local is asked of the kernel's routing table (one netlink message, about ten microseconds), which
knows every address of every interface at this moment, where a list read at start would miss a VPN
that came up later.
"""

import asyncio
import errno
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Final, Protocol

from openshell.egress.destination import Address, literal

__all__ = ["HostResolver", "NameResolver", "RouteTable"]

# A resolver that has not answered by then is down; the client sees the refusal of a failed lookup.
_LOOKUP_SECONDS: Final = 10.0
# Lookups of one sandbox that may wait at once; more of them queue.
_LOOKUP_THREADS: Final = 4
# Dialling tries addresses in order, so a name with hundreds of them is cut, like peers do.
_MAX_ADDRESSES: Final = 16

_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_RTA_DST: Final = 1
_RTN_UNICAST: Final = 1
# Answers of the table that mean "no way there": dialling will say so; nothing of ours is exposed.
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH})


class NameResolver(Protocol):
    """What the pipeline asks about a destination."""

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """Return every address of `host`, or nothing when there is none."""
        ...

    def local(self, addresses: tuple[Address, ...]) -> frozenset[Address]:
        """Return those addresses that lead back to this host."""
        ...


class RouteTable:
    """Asks the kernel where an address leads."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def is_own(self, address: Address) -> bool:
        """Say whether anything but a plain unicast route leads there: local, broadcast, anycast."""
        packed = address.packed
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        if address.version == 6 and address.ipv4_mapped is not None:
            packed, family = address.ipv4_mapped.packed, socket.AF_INET
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        body = struct.pack("=BBBBBBBBI", family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
        body += struct.pack("=HH", 4 + len(packed), _RTA_DST) + packed
        header = struct.pack(
            "=IHHII", 16 + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, self._sequence, 0
        )
        self._socket.send(header + body)
        while True:
            reply = self._socket.recv(8192, socket.MSG_DONTWAIT)
            _, kind, _, sequence, _ = struct.unpack_from("=IHHII", reply)
            if sequence == self._sequence:
                break
        if kind == _RTM_NEWROUTE:
            return reply[16 + 7] != _RTN_UNICAST
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", reply, 16)[0]
            if code in _NO_ROUTE:
                return False
            raise OSError(code, "the routing table did not answer")
        raise OSError(errno.EPROTO, "unexpected answer of the routing table")


class HostResolver:
    """The system's resolver and routing table, as `NameResolver`."""

    def __init__(self, *, timeout: float = _LOOKUP_SECONDS) -> None:
        self._timeout = timeout
        self._routes = RouteTable()
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="resolve")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._routes.close()

    async def resolve(self, host: str) -> tuple[Address, ...]:
        address = literal(host)
        if address is not None:
            return (address,)
        lookup = asyncio.get_running_loop().run_in_executor(self._threads, _lookup, host)
        try:
            async with asyncio.timeout(self._timeout):
                return await lookup
        except (TimeoutError, OSError, UnicodeError):
            return ()

    def local(self, addresses: tuple[Address, ...]) -> frozenset[Address]:
        return frozenset(address for address in addresses if self._routes.is_own(address))


def _lookup(host: str) -> tuple[Address, ...]:
    found: dict[Address, None] = {}
    for *_, sockaddr in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        text = str(sockaddr[0])
        # A zone would let a link-local answer look like something else.
        found[ip_address(text.partition("%")[0])] = None
    return tuple(found)[:_MAX_ADDRESSES]
