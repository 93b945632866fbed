"""Whose process is at the other end of a connection from this machine? Asked of the kernel.

Directories of the caller are shown inside a sandbox only to the user the gateway runs as; a client
certificate says who is asking, not on which machine. An answer of None means: not from this machine,
or the kernel did not say; both are treated as a stranger. Called when a sandbox is created.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from urllib.parse import unquote

__all__ = ["peer_address", "uid_of_peer"]

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
# sock_diag(7): header; family, protocol, ext, pad; states; then the socket's id of 48 bytes.
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI")
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8
# inet_diag_msg: 4 bytes, the id, three counters, then uid and inode.
_UID_OFFSET = _HEADER.size + 4 + 48 + 12
_ANSWER_BYTES = 8_192
_ANSWER_SECONDS = 1.0


def peer_address(peer: str) -> tuple[str, int] | None:
    """Address and port of a gRPC peer string such as `ipv4:127.0.0.1:5` or `ipv6:%5B::1%5D:5`."""
    family, _, rest = peer.partition(":")
    host, separator, port = unquote(rest).rpartition(":")
    if family not in {"ipv4", "ipv6"} or not separator or not port.isdigit():
        return None
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address), int(port)


def uid_of_peer(peer: str, listen_host: str, listen_port: int) -> int | None:
    """The user whose socket is connected to us from `peer`; None for a stranger."""
    found = peer_address(peer)
    if found is None:
        return None
    host, port = found
    if not ipaddress.ip_address(host).is_loopback:
        return None
    # A wildcard is reached on loopback under the very address the caller uses.
    ours = host if ipaddress.ip_address(listen_host).is_unspecified else listen_host
    try:
        return _ask((host, port), (ours, listen_port))
    except (OSError, ValueError, struct.error):
        return None


def _ask(theirs: tuple[str, int], ours: tuple[str, int]) -> int | None:
    source, target = ipaddress.ip_address(theirs[0]), ipaddress.ip_address(ours[0])
    if source.version != target.version:
        return None
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    identity = (
        struct.pack(">HH", theirs[1], ours[1])
        + source.packed.ljust(16, b"\0")
        + target.packed.ljust(16, b"\0")
        + struct.pack("=I", 0)
        + _NO_COOKIE
    )
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ANY_STATE) + identity
    header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    netlink = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    )
    with contextlib.closing(netlink):
        netlink.settimeout(_ANSWER_SECONDS)
        netlink.send(header + body)
        answer = netlink.recv(_ANSWER_BYTES)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        raise OSError(code, os.strerror(code))
    uid: int = struct.unpack_from("=I", answer, _UID_OFFSET)[0]
    return uid
