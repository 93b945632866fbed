"""Errors that the client library itself detects; failures of a call stay `grpc.RpcError`."""

from __future__ import annotations

__all__ = ["SandboxError"]


class SandboxError(RuntimeError):
    """Something the caller can act on: the message is a sentence that says how."""
