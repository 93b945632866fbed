"""Connections from outside to a port inside: dial the sandbox's loopback, carry the bytes.

The socket is made by process 1, so it lives in the sandbox's network; connecting and copying is
done here. Only loopback is dialled: what a program inside listens on, never what lies beyond. Used by
relays (`tcp`) and by the SSH server (`direct-tcpip`); who may ask was decided by the gateway.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
from typing import Any

import grpc.aio

from openshell._proto import openshell_pb2
from openshell.supervisor.gateway_client import END
from openshell.supervisor.process import ProcessHost, SandboxGone
from openshell.supervisor.tasks import Tasks

__all__ = ["TunnelRefused", "carry", "dial"]

CHUNK_BYTES = 65_536
"""Read from the socket at a time, and so the largest frame sent."""
DIAL_SECONDS = 5.0
"""A listener on loopback answers at once; one whose queue is full may take a retransmission."""
PORT_MAX = 65_535

_LOCALHOST = ("127.0.0.1", "::1")


class TunnelRefused(Exception):
    """There is no connection; the text says why and is for the client."""

    def __init__(self, message: str, *, was_tried: bool = False) -> None:
        super().__init__(message)
        self.was_tried = was_tried
        """False: such a target is never dialled."""


async def dial(host: ProcessHost, name: str, port: int) -> socket.socket:
    """A connected, non-blocking socket to a port inside.

    Args:
        host: Process 1 of the sandbox.
        name: `localhost` in any case, or an address of loopback.
        port: 1 to 65535.

    Raises:
        TunnelRefused: the target is not loopback, or nobody listens there.
    """
    if not 1 <= port <= PORT_MAX:
        raise TunnelRefused(f"port {port} is not between 1 and {PORT_MAX}")
    failure: OSError | None = None
    for address in _addresses(name):
        try:
            return await _connect(host, address, port)
        except OSError as error:
            failure = failure or error
        except SandboxGone as error:
            raise TunnelRefused("the sandbox has ended", was_tried=True) from error
    # The loop's own text names the call instead of the reason.
    reason = os.strerror(failure.errno) if failure and failure.errno else "no answer"
    sentence = f"nothing can be reached at {name.strip()} port {port}: {reason}"
    raise TunnelRefused(sentence, was_tried=True)


def _addresses(name: str) -> tuple[str, ...]:
    bare = name.strip().removeprefix("[").removesuffix("]")
    if bare.lower() == "localhost":
        return _LOCALHOST
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        address = None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    if address is None or not address.is_loopback:
        raise TunnelRefused("only the sandbox's own loopback can be reached, for example localhost")
    return (str(address),)


async def _connect(host: ProcessHost, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = await host.open_socket(family)
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            await asyncio.get_running_loop().sock_connect(made, (address, port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except TimeoutError as error:
        made.close()
        raise OSError(errno.ETIMEDOUT, "no answer") from error
    except BaseException:
        made.close()
        raise
    return made


async def carry(call: Any, inside: socket.socket, tasks: Tasks) -> None:
    """Copies both ways until the gateway's side is over; either side may end its half before.

    Args:
        call: The RelayStream, its init frame already sent.
        inside: The connected socket; closed in the end.
        tasks: Owner of the second direction.
    """
    up = tasks.start(_up(call, inside), "tunnel up")
    try:
        await _down(call, inside)
    finally:
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)
        inside.close()


async def _up(call: Any, inside: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.sock_recv(inside, CHUNK_BYTES):
            await call.write(openshell_pb2.RelayFrame(data=data))
        # Said, not only meant: the gateway takes a stream that ends without it for a cut one.
        await call.write(openshell_pb2.RelayFrame(end=True))
        await call.done_writing()
    except OSError:
        call.cancel()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        # The other direction reads the same end, with its reason.
        return


async def _down(call: Any, inside: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while (frame := await call.read()) is not END:
        match frame.WhichOneof("payload"):
            case "data":
                try:
                    await loop.sock_sendall(inside, frame.data)
                except OSError:
                    call.cancel()
                    return
            case "end":
                with contextlib.suppress(OSError):
                    inside.shutdown(socket.SHUT_WR)
            case _:
                return
