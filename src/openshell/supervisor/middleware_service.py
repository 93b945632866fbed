"""A middleware service elsewhere, as one stage's implementation: connect, describe, evaluate.

What a service says of its failures (status, details) goes nowhere: a stage that failed is a code. Channels
start threads, so none is made before the sandbox's first process exists. Made by `middleware_registry`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import empty_pb2

from openshell._proto import sandbox_pb2, supervisor_middleware_pb2_grpc
from openshell.codec.middleware import (
    CONNECT_SECONDS,
    DEFAULT_SECONDS,
    MAX_PAYLOAD_BYTES,
    MESSAGE_BYTES,
    check_endpoint,
    read_manifest,
    read_timeout,
)
from openshell.egress.middleware import Answer, Evaluation, StageFailed, StageFault
from openshell.supervisor.middleware_messages import SandboxFacts, answer_of, evaluation_of

__all__ = ["RemoteService", "Unreachable", "connect_service"]

_OPTIONS: Final[list[tuple[str, int | str]]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # The operator names the service itself: no proxy of the environment stands between.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # A compressed answer would be inflated before its size is known.
    ("grpc.default_compression_algorithm", 0),
]


class Unreachable(Exception):
    """A service could not be connected; the text is ours."""


class RemoteService:
    """A connected service. Compared by identity: what was connected anew is another stage."""

    def __init__(
        self,
        name: str,
        channel: grpc.aio.Channel,
        stub: Any,
        sandbox: SandboxFacts,
        *,
        body_limit: int,
        seconds: float,
    ) -> None:
        self.name = name
        self.body_limit = body_limit
        self.seconds = seconds
        self._channel = channel
        self._stub = stub
        self._sandbox = sandbox

    async def evaluate(self, evaluation: Evaluation) -> Answer:
        """Ask the service. Raises StageFailed; the caller bounds the time, too."""
        message = evaluation_of(evaluation, self.name, self._sandbox)
        try:
            result = await self._stub.EvaluateHttpRequest(message, timeout=self.seconds)
        except grpc.aio.AioRpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            raise StageFailed(StageFault.TIMEOUT if late else StageFault.SERVICE) from None
        return answer_of(result)

    async def close(self, grace: float | None = None) -> None:
        """Let go of the connection; calls that run get `grace` seconds."""
        await self._channel.close(grace=grace)


async def connect_service(
    sent: sandbox_pb2.SupervisorMiddlewareService, sandbox: SandboxFacts
) -> RemoteService:
    """Connect a registered service and have it describe itself. Raises Unreachable."""
    try:
        target, is_tls = check_endpoint(sent.grpc_endpoint)
        seconds = read_timeout(sent.timeout) if sent.timeout else None
    except ValueError as error:
        raise Unreachable(f"its registration cannot be used: {error}") from error
    if not (is_tls or sent.allow_insecure_transport):
        raise Unreachable("its registration neither has TLS nor allows to do without")
    channel = _channel(target, is_tls, sent.tls_ca_cert_pem)
    stub: Any = supervisor_middleware_pb2_grpc.SupervisorMiddlewareStub(channel)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            manifest = await stub.Describe(empty_pb2.Empty(), wait_for_ready=True)
        described = read_manifest(manifest)
    except (TimeoutError, grpc.aio.AioRpcError) as error:
        await channel.close(grace=None)
        raise Unreachable("it does not answer") from error
    except ValueError as error:
        await channel.close(grace=None)
        raise Unreachable(str(error)) from error
    except BaseException:
        await channel.close(grace=None)
        raise
    limit = min(sent.max_payload_bytes or MAX_PAYLOAD_BYTES, described.max_payload_bytes)
    chosen = seconds or described.seconds or DEFAULT_SECONDS
    return RemoteService(sent.name, channel, stub, sandbox, body_limit=limit, seconds=chosen)


def _channel(target: str, is_tls: bool, roots: bytes) -> grpc.aio.Channel:
    if not is_tls:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(root_certificates=roots or None)
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
