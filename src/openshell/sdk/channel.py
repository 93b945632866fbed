"""Opening gRPC channels to a gateway. The only place of the client that knows certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from openshell.sdk.errors import SandboxError

if TYPE_CHECKING:
    from openshell.sdk.registry import Registry, Target

__all__ = ["TlsConfig", "channel_arguments", "open_async_channel", "open_channel", "split_endpoint"]

_OPTIONS: Sequence[tuple[str, Any]] = (
    # Pings also when idle (spec: CLI 1): a dead gateway is noticed during a long attach.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    # One channel per process is the rule here; sharing subchannels would keep certificates alive.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


@dataclass(frozen=True)
class TlsConfig:
    """Certificates for a TLS connection; everything unset means the system's roots.

    Attributes:
        ca_path: PEM file of the only authority to trust.
        cert_path: PEM file of the client certificate; needs `key_path`.
        key_path: PEM file of its key.

    Raises:
        ValueError: exactly one of `cert_path` and `key_path` was given.
    """

    ca_path: Path | None = None
    cert_path: Path | None = None
    key_path: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert_path is None) != (self.key_path is None):
            raise ValueError("cert_path and key_path belong together: give both or none")

    @classmethod
    def from_directory(cls, directory: Path) -> TlsConfig:
        """The bundle `ca.crt`, `tls.crt`, `tls.key`.

        Raises:
            SandboxError: a file is missing; the message names it.
        """
        for name in ("ca.crt", "tls.crt", "tls.key"):
            if not (directory / name).is_file():
                raise SandboxError(
                    f"no client certificate: {directory / name} is missing; "
                    "for the local gateway: openshell gateway stop, then openshell gateway start"
                )
        return cls(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")


def split_endpoint(endpoint: str) -> tuple[bool, str, int]:
    """Takes a URL apart: (TLS?, host, port). Default ports are 443 and 80.

    Raises:
        SandboxError: not an `http://` or `https://` URL with a host.
    """
    parts = urlsplit(endpoint)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
        raise SandboxError(f"'{endpoint}' is not a gateway endpoint; write it as https://host:port")
    tls = parts.scheme == "https"
    return tls, parts.hostname, port or (443 if tls else 80)


def open_channel(address: str, tls: TlsConfig | None) -> grpc.Channel:
    """Opens a channel to `host:port`. Connecting happens at the first call.

    Raises:
        SandboxError: a certificate file cannot be read.
    """
    if tls is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(address, _credentials(tls), options=_OPTIONS)


def open_async_channel(address: str, tls: TlsConfig | None) -> grpc.aio.Channel:
    """The same for asyncio; made and used in one running loop.

    Raises:
        SandboxError: a certificate file cannot be read.
    """
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, _credentials(tls), options=_OPTIONS)


def _credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=tls.ca_path.read_bytes() if tls.ca_path else None,
            private_key=tls.key_path.read_bytes() if tls.key_path else None,
            certificate_chain=tls.cert_path.read_bytes() if tls.cert_path else None,
        )
    except OSError as error:
        raise SandboxError(
            f"cannot read the client certificate {error.filename}: {error.strerror}"
        ) from error


def channel_arguments(registry: Registry, target: Target) -> tuple[str, TlsConfig | None]:
    """Address and certificates for a resolved gateway, as kept under its name.

    Raises:
        SandboxError: the endpoint is not a URL, its certificates are missing, or its way of
            authentication is not built yet.
    """
    tls, host, port = split_endpoint(target.endpoint)
    mode = target.record.auth if target.record else ("mtls" if tls else "plaintext")
    if mode not in {"mtls", "plaintext"}:
        raise SandboxError(f"gateway '{target.name}' signs in with {mode}: not supported yet")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return address, TlsConfig.from_directory(registry.mtls_directory(target.name)) if tls else None
