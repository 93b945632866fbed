"""OpenShell: the safe runtime for autonomous AI agents.

The names below are the client library. They load on first use, because this package is also the
root of programs that must start fast and never talk gRPC themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openshell.sandbox import (
        ExecChunk,
        ExecResult,
        InferenceRouteClient,
        InferenceRouteConfig,
        Sandbox,
        SandboxClient,
        SandboxError,
        SandboxRef,
        SandboxSession,
        SandboxStatusRef,
        TlsConfig,
    )

__all__ = [
    "ExecChunk",
    "ExecResult",
    "InferenceRouteClient",
    "InferenceRouteConfig",
    "Sandbox",
    "SandboxClient",
    "SandboxError",
    "SandboxRef",
    "SandboxSession",
    "SandboxStatusRef",
    "TlsConfig",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # costs 20 ms

        try:
            return version("openshell-py")
        except PackageNotFoundError:
            return "0.0.0"
    if name in __all__:
        from openshell import sandbox  # noqa: PLC0415  # loads grpc

        return getattr(sandbox, name)
    raise AttributeError(f"module 'openshell' has no attribute {name!r}")
