"""The gateway's doors: gRPC over TLS for users, a Unix socket for the supervisors of this machine.

Two servers, because each admits other callers; both share one loop and one set of services.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

__all__ = ["ListenError", "ServerTls", "bind_tcp", "bind_unix", "new_server"]

MESSAGE_BYTES_MAX = 1_048_576
"""One message from a client; larger ones are refused by gRPC itself."""
KEEPALIVE_MS = 20_000
"""Our pings: a dead supervisor is noticed after this and the timeout."""
KEEPALIVE_TIMEOUT_MS = 10_000
CLIENT_PING_INTERVAL_MIN_MS = 5_000
"""Clients may ping this often; ours do every ten seconds, and gRPC's default would cut them off."""
STREAMS_MAX = 4_096
"""Calls at once on one connection: a supervisor's relays all share one."""

OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MIN_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MIN_MS),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    # A second gateway must get an error, not half of the connections.
    ("grpc.so_reuseport", 0),
)


class ListenError(Exception):
    """An address cannot be served; one sentence says why."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM contents. With a client authority every caller must present a certificate of it."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes | None = field(default=None, repr=False)


def new_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]],
) -> grpc.aio.Server:
    """A server without services or addresses yet; both are added before it starts."""
    return grpc.aio.server(interceptors=list(interceptors), options=list(OPTIONS))


def bind_tcp(server: grpc.aio.Server, host: str, port: int, tls: ServerTls | None) -> int:
    """Adds the address; the port it got, for port 0."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _probe(host, port, address)
    try:
        if tls is None:
            return server.add_insecure_port(address)
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)],
            root_certificates=tls.client_ca,
            require_client_auth=tls.client_ca is not None,
        )
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ListenError(
            f"cannot listen on {address}: check the address, the certificate and its key"
        ) from error


def _probe(host: str, port: int, address: str) -> None:
    """Asks the kernel first: gRPC tells a refused address on stderr, in words of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ListenError(
                f"cannot listen on {address}: {error.strerror}; stop what holds it or choose "
                "another address with --bind-address and --port"
            ) from error


def bind_unix(server: grpc.aio.Server, path: str) -> None:
    """Adds a socket that only this user can reach, in place of one a dead gateway left."""
    _remove_stale(path)
    # The mode comes from the umask at bind; a chmod afterwards would leave a moment.
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise ListenError(f"cannot listen on the socket {path}") from error
    finally:
        os.umask(before)


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(f"{path} exists and is no socket; remove it")
    except FileNotFoundError:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise ListenError(f"another gateway serves {path}; stop it first")
