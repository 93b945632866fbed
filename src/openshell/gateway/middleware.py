"""The middleware services of this gateway: described at start, asked about policies, told to supervisors.

A service that is down when the gateway starts is an error of the operator's; one that goes down later refuses
the policies that name it, since nobody can say whether they are right. Traffic never passes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import empty_pb2

from openshell._proto import (
    sandbox_pb2,
    supervisor_middleware_pb2,
    supervisor_middleware_pb2_grpc,
)
from openshell.codec.middleware import (
    CONNECT_SECONDS,
    MAX_CONFIG_BYTES,
    MESSAGE_BYTES,
    check_endpoint,
    read_manifest,
)
from openshell.codec.policy import struct_of
from openshell.gateway.config import ConfigError
from openshell.gateway.errors import failed_precondition, invalid_argument
from openshell.gateway.middleware_registrations import Registration
from openshell.policy.model import MiddlewareConfig, SandboxPolicy
from openshell.policy.validate_middleware import BUILT_IN_PREFIX

__all__ = ["MiddlewareServices"]

_OPTIONS: Final[list[tuple[str, int | str]]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
# A service's sentence about a configuration, as it is shown to whoever wrote that.
_SHOWN_REASON: Final = 256


class MiddlewareServices:
    """The registered services. `open` before policies are checked; `close` at the end."""

    def __init__(self, registrations: Mapping[str, Registration]) -> None:
        self._registrations = registrations
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def open(self) -> None:
        """Connect each. Raises ConfigError for one that does not answer or offers something else."""
        await asyncio.gather(*map(self._describe, self._registrations.values()))

    async def close(self) -> None:
        """Let go of all connections."""
        await asyncio.gather(*(channel.close(grace=None) for channel in self._channels.values()))
        self._channels.clear()

    async def check(self, policy: SandboxPolicy) -> None:
        """Have services judge their settings. Raises INVALID_ARGUMENT, naming the attachment."""
        items = [policy.network_middlewares[key] for key in sorted(policy.network_middlewares)]
        asked = [item for item in items if not item.middleware.startswith(BUILT_IN_PREFIX)]
        faults = [fault for fault in await asyncio.gather(*map(self._fault, asked)) if fault]
        if faults:
            raise invalid_argument(f"policy middleware validation failed: {'; '.join(faults)}")

    def needed(self, policy: SandboxPolicy) -> Sequence[sandbox_pb2.SupervisorMiddlewareService]:
        """What a supervisor must be told to enforce a policy. Raises FAILED_PRECONDITION."""
        names = {item.middleware for item in policy.network_middlewares.values()}
        asked = sorted(name for name in names if not name.startswith(BUILT_IN_PREFIX))
        for name in asked:
            if name not in self._registrations:
                raise failed_precondition(
                    f"the policy names the middleware '{name}', which is not registered; register it "
                    "in gateway.toml or take it out of the policy"
                )
        return [_message(self._registrations[name]) for name in asked]

    async def _describe(self, registration: Registration) -> None:
        where = f"openshell.supervisor.middleware '{registration.name}'"
        target, is_tls = check_endpoint(registration.endpoint)
        channel = self._channels[registration.name] = _channel(target, is_tls, registration.ca_pem)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                manifest = await _stub(channel).Describe(empty_pb2.Empty(), wait_for_ready=True)
            described = read_manifest(manifest)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            raise ConfigError(f"{where} does not answer at {registration.endpoint}") from error
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
        if registration.max_payload_bytes > described.max_payload_bytes:
            raise ConfigError(
                f"{where}: max_payload_bytes is more than the service takes, "
                f"{described.max_payload_bytes}"
            )

    async def _fault(self, item: MiddlewareConfig) -> str:
        where = f"middleware config '{item.key}'"
        channel = self._channels.get(item.middleware)
        if channel is None:
            known = ", ".join(sorted(self._registrations)) or "none"
            return f"{where}: '{item.middleware}' is not registered (registered: {known})"
        config = struct_of(item.config)
        if config.ByteSize() > MAX_CONFIG_BYTES:
            return f"{where}: config is larger than {MAX_CONFIG_BYTES} bytes"
        request = supervisor_middleware_pb2.ValidateConfigRequest(
            config=config, middleware_name=item.middleware
        )
        try:
            answer = await _stub(channel).ValidateConfig(request, timeout=CONNECT_SECONDS)
        except grpc.aio.AioRpcError:
            return f"{where}: '{item.middleware}' does not answer"
        return "" if answer.valid else f"{where}: {_shown(answer.reason) or 'rejected'}"


def _stub(channel: grpc.aio.Channel) -> Any:
    return supervisor_middleware_pb2_grpc.SupervisorMiddlewareStub(channel)


def _channel(target: str, is_tls: bool, roots: bytes) -> grpc.aio.Channel:
    if not is_tls:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(root_certificates=roots or None)
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:_SHOWN_REASON])


def _message(registration: Registration) -> sandbox_pb2.SupervisorMiddlewareService:
    return sandbox_pb2.SupervisorMiddlewareService(
        name=registration.name,
        grpc_endpoint=registration.endpoint,
        max_payload_bytes=registration.max_payload_bytes,
        timeout=registration.timeout,
        tls_ca_cert_pem=registration.ca_pem,
        allow_insecure_transport=registration.allow_insecure,
    )
