"""The network of a sandbox: loopback only, everything TCP led to our listeners.

Runs in process 1 while it still holds the capabilities of its own namespaces. Makes the links,
addresses, rules, routes and listeners, and hands the sockets on; who accepts on them, reads the
log or the counters is the supervisor's affair. Without nftables there are no routes either: only
the explicit proxy remains, and the report says so.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from openshell.supervisor.isolation import nftables
from openshell.supervisor.isolation.model import Layer, LayerStatus
from openshell.supervisor.isolation.netlink import (
    FLAG_ACK,
    FLAG_CREATE,
    FLAG_EXCLUSIVE,
    FLAG_REQUEST,
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NETLINK_SOCK_DIAG,
    Message,
    attribute,
    encode,
    netlink_socket,
    transact,
)

__all__ = [
    "AGENT_ADDRESS",
    "AGENT_ADDRESS_V6",
    "CAPTURE_PORT",
    "DNS_PORT",
    "PROXY_ADDRESS",
    "PROXY_PORT",
    "SOCKET_NAMES",
    "NetworkPlan",
    "plan_network",
    "set_up_network",
]

PROXY_ADDRESS = "10.200.0.1"
PROXY_PORT = 3128
AGENT_ADDRESS = "10.200.0.2"
# A unique local address that means nothing outside: the source of captured IPv6 connections.
AGENT_ADDRESS_V6 = "fd9b:6f70:656e::2"
CAPTURE_PORT = 15001
DNS_PORT = 53
# Connections wait here while the supervisor starts; the kernel cuts it to somaxconn.
_BACKLOG = 4096

_LOOPBACK_INDEX = 1
_IFF_UP = 1
_NO_DAD = 0x02
_LOCAL_TABLE = 255
_IP_PKTINFO = 8
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78

# Every socket this module may make, in the order in which they travel.
SOCKET_NAMES = (
    "proxy",
    "capture_v4",
    "capture_v6",
    "dns_udp_v4",
    "dns_udp_v6",
    "dns_tcp_v4",
    "dns_tcp_v6",
    "sock_diag",
    "nfnetlink",
    "nflog",
)


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The prepared messages: built once, the same for every sandbox."""

    links: tuple[Message, ...]
    links_v6: tuple[Message, ...]
    routes: tuple[Message, ...]
    routes_v6: tuple[Message, ...]
    rules: tuple[Message, ...]
    rules_datagram: bytes
    log: tuple[Message, ...]


def _address(address: str) -> Message:
    parsed = ipaddress.ip_address(address)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    flags = 0 if parsed.version == 4 else _NO_DAD
    body = struct.pack("=BBBBI", family, parsed.max_prefixlen, flags, 0, _LOOPBACK_INDEX)
    body += attribute(2, parsed.packed) + attribute(1, parsed.packed)
    return Message(f"address {address}", 20, _new_flags(), body)


def _local_route(source: str) -> Message:
    """Make every address of one family local, reached from `source`."""
    parsed = ipaddress.ip_address(source)
    four = parsed.version == 4
    family, scope = (socket.AF_INET, 254) if four else (socket.AF_INET6, 0)
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _LOCAL_TABLE, 4, scope, 2, 0)
    body += attribute(4, struct.pack("=I", _LOOPBACK_INDEX)) + attribute(7, parsed.packed)
    return Message(f"route v{parsed.version}", 24, _new_flags(), body)


def _new_flags() -> int:
    return FLAG_REQUEST | FLAG_ACK | FLAG_CREATE | FLAG_EXCLUSIVE


def plan_network() -> NetworkPlan:
    up = struct.pack("=BBHiII", 0, 0, 0, _LOOPBACK_INDEX, _IFF_UP, _IFF_UP)
    rules = tuple(
        nftables.ruleset(
            proxy=PROXY_ADDRESS,
            own=(f"{PROXY_ADDRESS}/32", f"{AGENT_ADDRESS}/32", f"{AGENT_ADDRESS_V6}/128"),
            capture_port=CAPTURE_PORT,
        )
    )
    return NetworkPlan(
        links=(
            Message("loopback up", 16, FLAG_REQUEST | FLAG_ACK, up),
            _address(PROXY_ADDRESS),
            _address(AGENT_ADDRESS),
        ),
        links_v6=(_address(AGENT_ADDRESS_V6),),
        routes=(_local_route(AGENT_ADDRESS),),
        routes_v6=(_local_route(AGENT_ADDRESS_V6),),
        rules=rules,
        rules_datagram=encode(rules),
        log=tuple(nftables.nflog_messages()),
    )


def _listener(family: int, address: str, port: int, *, transparent: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent:
        level, option = (
            (socket.IPPROTO_IP, _IP_TRANSPARENT)
            if family == socket.AF_INET
            else (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT)
        )
        made.setsockopt(level, option, 1)
    made.bind((address, port))
    made.listen(_BACKLOG)
    return made


def _resolver(family: int, address: str) -> socket.socket:
    """A datagram socket that learns and may use the address it was asked at."""
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    made.bind((address, DNS_PORT))
    return made


def _apply_rules(plan: NetworkPlan) -> tuple[dict[str, socket.socket], str]:
    """Install the rules; the sockets for counters and log, or the reason why there are none."""
    try:
        counters = netlink_socket(NETLINK_NETFILTER)
    except OSError as error:
        return {}, f"no netfilter: {error.strerror}"
    refused = transact(counters, plan.rules, plan.rules_datagram)
    if refused:
        counters.close()
        return {}, f"nftables refused {refused[0]}"
    sockets = {"nfnetlink": counters}
    try:
        log = netlink_socket(NETLINK_NETFILTER)
        if transact(log, plan.log):
            log.close()
        else:
            log.setblocking(False)
            sockets["nflog"] = log
    except OSError:
        # Only the sample of refused packets is lost; the counters stay.
        pass
    return sockets, ""


def _listeners(*, capture: bool, ipv6: bool) -> dict[str, socket.socket]:
    made = {
        "proxy": _listener(socket.AF_INET, PROXY_ADDRESS, PROXY_PORT),
        "dns_udp_v4": _resolver(socket.AF_INET, "0.0.0.0"),
        "dns_tcp_v4": _listener(socket.AF_INET, "0.0.0.0", DNS_PORT),
    }
    if ipv6:
        made["dns_udp_v6"] = _resolver(socket.AF_INET6, "::")
        made["dns_tcp_v6"] = _listener(socket.AF_INET6, "::", DNS_PORT)
    if capture:
        made["capture_v4"] = _listener(socket.AF_INET, "127.0.0.1", CAPTURE_PORT, transparent=True)
        if ipv6:
            made["capture_v6"] = _listener(socket.AF_INET6, "::1", CAPTURE_PORT, transparent=True)
    return made


def set_up_network(plan: NetworkPlan) -> tuple[dict[str, socket.socket], list[Layer]]:
    """Build the whole network of the caller's new namespace."""
    with netlink_socket(NETLINK_ROUTE) as route:
        for error in transact(route, plan.links):
            raise error
        ipv6 = not transact(route, plan.links_v6)
        sockets, reason = _apply_rules(plan)
        capture = not reason
        if capture:
            for error in transact(route, plan.routes):
                raise error
            ipv6 = ipv6 and not transact(route, plan.routes_v6)
    sockets |= _listeners(capture=capture, ipv6=ipv6)
    diag = netlink_socket(NETLINK_SOCK_DIAG)
    sockets["sock_diag"] = diag
    if not capture:
        detail = f"loopback only, explicit proxy only (protocol: tcp by CONNECT only): {reason}"
        return sockets, [Layer("network", LayerStatus.PARTLY, detail)]
    detail = "loopback only; all TCP captured" + ("" if ipv6 else "; no IPv6 in this kernel")
    return sockets, [Layer("network", LayerStatus.ENFORCED, detail)]
