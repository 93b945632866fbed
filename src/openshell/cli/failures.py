"""How failures end: one sentence on stderr, the documented exit code, never a traceback.

The one place where exceptions become text. gRPC is only looked at when it was loaded.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from openshell.cli.output import printable

if TYPE_CHECKING:
    import grpc

__all__ = ["CliError", "report"]

_WIDTH = 80


class CliError(Exception):
    """A failure of the command itself.

    Args:
        message: What happened and what to do; later lines are hints.
        code: Exit code.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def report(error: BaseException) -> int:
    """Writes what went wrong and answers the exit code."""
    if os.environ.get("OPENSHELL_DEBUG"):
        raise error
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.UsageError():
            error.show()
            return 2
        case click.ClickException():
            return _say(error.format_message(), 1)
        case CliError():
            return _say(str(error), error.code)
        case click.Abort() | KeyboardInterrupt():
            return _say("interrupted", 130)
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
    return _foreign(error)


def _foreign(error: BaseException) -> int:
    grpc_module = sys.modules.get("grpc")
    if grpc_module is not None and isinstance(error, grpc_module.RpcError):
        return _say(_describe_rpc(error), 1)
    if type(error).__module__.startswith("openshell."):
        return _say(str(error), 1)
    if isinstance(error, OSError):
        subject = f"{error.filename}: " if error.filename else ""
        return _say(f"{subject}{error.strerror or error}", 1)
    return _say(
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a bug. Run again with OPENSHELL_DEBUG=1 for the traceback.",
        1,
    )


def _describe_rpc(error: grpc.RpcError) -> str:
    """Words for a failed call: the kind of failure and the gateway's own sentence."""
    code, details = error.code(), error.details() or ""
    if code.name == "UNAVAILABLE" and not _from_gateway(details):
        return (
            f"transport error: cannot reach the gateway ({_cause(details)})\n"
            "Start the local one with: openshell gateway start\n"
            "See what is configured with: openshell status"
        )
    if code.name == "DEADLINE_EXCEEDED" and "Deadline" in details:
        return "the gateway did not answer in time; see 'openshell status'"
    if code.name == "RESOURCE_EXHAUSTED" and "SERVER: Received message larger" in details:
        return (
            "the request is larger than the gateway accepts: shorten the command or its variables"
        )
    kind = code.name.replace("_", " ").lower()
    return f"{kind}: {details}" if details else kind


_TRANSPORT_MARKS = (
    "failed to connect",
    "Connection refused",
    "Socket closed",
    "DNS resolution",
    "Handshake",
    "recvmsg",
    "Connection reset",
    "GOAWAY",
    "tcp handshaker",
    "End of TCP stream",
    "Broken pipe",
)


def _from_gateway(details: str) -> bool:
    """Whether the text is a sentence of the gateway's rather than of the transport."""
    return not any(mark in details for mark in _TRANSPORT_MARKS)


def _cause(details: str) -> str:
    for mark, words in (
        ("Connection refused", "connection refused"),
        ("DNS resolution", "its name cannot be resolved"),
        ("Handshake", "TLS handshake failed: wrong or missing certificate"),
        ("SSL", "TLS handshake failed: wrong or missing certificate"),
    ):
        if mark in details:
            return words
    return "the connection was lost" if details else "no answer"


def _say(message: str, code: int) -> int:
    # The gateway's sentences quote names that others chose.
    first, *rest = [printable(line) for line in message.splitlines()] or ["unknown failure"]
    lines = textwrap.wrap(f"Error: {first}", _WIDTH, break_long_words=False, break_on_hyphens=False)
    with contextlib.suppress(BrokenPipeError):
        print("\n".join([*lines, *rest]), file=sys.stderr)
    return code
