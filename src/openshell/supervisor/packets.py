"""Packets that were refused without a connection: what the kernel logs of UDP, ICMP and others.

The rules inside count every such packet and log a few of them per second to a socket that we hold.
Each logged packet becomes an event; of what was not logged the counters tell. Reading is bounded
per wake-up, so that a flood costs the flooder and not the proxy.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from openshell import ocsf
from openshell.supervisor.isolation.launch import IsolatedSandbox
from openshell.supervisor.isolation.netlink import attributes_of, messages_of

__all__ = ["Packet", "PacketLog", "read_packet"]

_PAYLOAD = 9
_UDP, _TCP, _ICMP, _ICMP6 = 17, 6, 1, 58
_NAMES = {_UDP: "udp", _TCP: "tcp", _ICMP: "icmp", _ICMP6: "icmp"}
# Packets read in one go; the kernel logs a few per second.
_BATCH = 64
# The subsystem of netfilter's log (4) and its packet message (0).
_PACKET_MESSAGE = 4 << 8


@dataclass(frozen=True, slots=True)
class Packet:
    """Where a refused packet was meant to go."""

    protocol: str
    host: str
    port: int


def read_packet(data: bytes) -> Packet | None:
    """Read the addresses of an IP packet; None when it is none."""
    if len(data) < 20:
        return None
    version = data[0] >> 4
    if version == 4:
        header = (data[0] & 15) * 4
        number, address = data[9], data[16:20]
    elif version == 6 and len(data) >= 40:
        header = 40
        number, address = data[6], data[24:40]
    else:
        return None
    port = 0
    if number in {_UDP, _TCP} and header >= 20 and len(data) >= header + 4:
        port = int(struct.unpack_from(">H", data, header + 2)[0])
    return Packet(_NAMES.get(number, f"protocol {number}"), str(ip_address(address)), port)


class PacketLog:
    """Turns the kernel's log into events."""

    def __init__(self, sandbox: IsolatedSandbox, sink: Callable[[ocsf.Event], None]) -> None:
        self._socket: socket.socket | None = sandbox.nflog
        self._sink = sink

    def start(self) -> None:
        """Listen, where the kernel has such a log."""
        if self._socket is not None:
            self._socket.setblocking(False)
            asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)

    def _readable(self) -> None:
        if self._socket is None:
            return
        for _ in range(_BATCH):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: more came than fits; what was lost is in the counters.
                return
            for kind, _, body in messages_of(data):
                if kind == _PACKET_MESSAGE:
                    payload = attributes_of(body[4:]).get(_PAYLOAD, b"")
                    packet = read_packet(payload)
                    if packet is not None:
                        self._sink(_event(packet))


def _event(packet: Packet) -> ocsf.Event:
    return ocsf.NetworkEvent(
        time_ms=time.time_ns() // 1_000_000,
        activity=ocsf.NetActivity.REFUSE,
        severity=ocsf.Severity.MEDIUM,
        action=ocsf.Action.DENIED,
        disposition=ocsf.Disposition.BLOCKED,
        dst=ocsf.HostPort(packet.host, packet.port),
        process=ocsf.ProcessRef("-"),
        protocol=packet.protocol,
        policy="bypass-detect",
        engine="nftables",
        observation_point=3,
        refusal=ocsf.Refusal("bypass", stage="bypass", group="bypass"),
        detail="only TCP through the proxy and names through the resolver leave a sandbox",
    )
