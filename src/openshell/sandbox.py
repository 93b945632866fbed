"""The client library under its contract's import path; the code is in `openshell.sdk`."""

from openshell.sdk.channel import TlsConfig
from openshell.sdk.client import SandboxClient
from openshell.sdk.errors import SandboxError
from openshell.sdk.inference import InferenceRouteClient, InferenceRouteConfig
from openshell.sdk.refs import ExecChunk, ExecResult, SandboxRef, SandboxStatusRef
from openshell.sdk.session import Sandbox, SandboxSession

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
]
