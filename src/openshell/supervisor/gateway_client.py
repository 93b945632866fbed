"""The supervisor's way to its gateway: one channel, the calls it needs, the token on each.

Local gateways are reached by a Unix socket that only this user can open; the token travels in the
call's metadata. Supervisors elsewhere use TLS, which this build does not offer yet and refuses by
name. A channel starts threads, so none is made before the sandbox's first process exists.
"""

import functools
from typing import Any, NamedTuple, cast

import grpc
import grpc.aio

from openshell._proto import (
    inference_pb2_grpc,
    openshell_ext_inference_pb2_grpc,
    openshell_pb2_grpc,
)
from openshell.supervisor.bearer import Token

__all__ = [
    "END",
    "EndpointError",
    "GatewayClient",
    "is_transient",
    "method_table",
    "sentence_of",
]

# A gateway that restarts is back within a second; the library's own first wait is as long as that.
_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # One message of the contract is at most 1 MiB; configuration may be larger.
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    # The socket's path is no name that a certificate or proxy could be about.
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),
    ("grpc.use_local_subchannel_pool", 1),
]

_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)


# What `read` answers at the end of a stream.
END = grpc.aio.EOF  # type: ignore[attr-defined] # missing in the stubs


class EndpointError(Exception):
    """The gateway's address is none that this supervisor can use."""


class _Method(NamedTuple):
    """How the generated stub would make the callable of one RPC."""

    # Name of the channel's factory: unary_unary, stream_stream and so on.
    kind: str
    path: str
    options: dict[str, Any]


class _Recorder:
    """Stands in for a channel and notes what the generated stub asks of it."""

    def __getattr__(self, kind: str) -> Any:
        return lambda path, **options: _Method(kind, path, options)


@functools.cache
def method_table() -> dict[str, _Method]:
    """Every RPC of the services by name; made once, in the zygote."""
    recorder = cast("grpc.Channel", _Recorder())
    # No method of one service has the name of a method of the other.
    return {
        **vars(inference_pb2_grpc.InferenceStub(recorder)),
        **vars(openshell_ext_inference_pb2_grpc.InferenceMeteringStub(recorder)),
        **vars(openshell_pb2_grpc.OpenShellStub(recorder)),
    }


class _Stub:
    """The generated stub, an RPC at a time.

    A supervisor uses a tenth of them. To make all at every start costs half a millisecond and
    0.3 MB of what is shared with the zygote until it is touched.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        method = method_table().get(name)
        if method is None:
            raise AttributeError(name)
        made = getattr(self._channel, method.kind)(method.path, **method.options)
        setattr(self, name, made)
        return made


class GatewayClient:
    """One channel and its stubs, which are one object."""

    def __init__(self, endpoint: str, token: Token) -> None:
        if not endpoint.startswith("unix:"):
            raise EndpointError(
                "this supervisor reaches gateways by unix: addresses only; others are not built yet"
            )
        self._token = token
        self._channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
        self.stub = cast("openshell_pb2_grpc.OpenShellAsyncStub", _Stub(self._channel))
        self.inference = cast("inference_pb2_grpc.InferenceAsyncStub", self.stub)
        self.metering = cast(
            "openshell_ext_inference_pb2_grpc.InferenceMeteringAsyncStub", self.stub
        )
        self._streaming: Any = self.stub

    def connect_supervisor(self) -> Any:
        """The session's stream; a call to read and write, which the stubs do not know."""
        return self._streaming.ConnectSupervisor(metadata=self.metadata())

    def relay_stream(self) -> Any:
        """One relay's stream."""
        return self._streaming.RelayStream(metadata=self.metadata())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return self._token.metadata()

    async def close(self) -> None:
        await self._channel.close(grace=None)


def is_transient(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same call may succeed later."""
    return error.code() in _TRANSIENT


def sentence_of(error: grpc.aio.AioRpcError) -> str:
    """For the log: code and the gateway's own words, bounded."""
    return f"{error.code().name}: {(error.details() or '')[:300]}"
