"""Attaching this terminal to the main process of a sandbox."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from openshell._proto import openshell_ext_pb2 as ext
from openshell.cli.failures import CliError
from openshell.cli.output import note
from openshell.cli.terminal import InputPump, raw_terminal, window_size, write_all

if TYPE_CHECKING:
    from openshell.cli.connection import Session

__all__ = ["attach"]


def attach(session: Session, name: str, *, tty: bool) -> int:
    """Connects until the process ends and answers its exit code.

    Raises:
        CliError: the sandbox failed before its process started, or the stream ended without an exit.
    """
    terminal = tty and sys.stdin.isatty()
    cols, rows = window_size()
    pump = InputPump(
        ext.AttachRequest(
            start=ext.AttachStart(
                name=name,
                workspace=session.workspace,
                stdin=True,
                tty=tty,
                cols=cols,
                rows=rows,
            )
        ),
        stdin=lambda data: ext.AttachRequest(frame=ext.ProcessFrame(stdin=data)),
        eof=lambda: ext.AttachRequest(frame=ext.ProcessFrame(stdin_eof=True)),
        resize=(
            lambda columns, lines: ext.AttachRequest(
                frame=ext.ProcessFrame(resize=ext.Resize(cols=columns, rows=lines))
            )
        )
        if terminal
        else None,
    )
    with pump.running(), raw_terminal(enabled=terminal):
        call = session.client.extensions.Attach(iter(pump))
        for event in call:
            if event.WhichOneof("event") != "frame":
                continue
            code = _handle(event.frame)
            if code is not None:
                return code
    raise CliError("the connection ended before the command did; its fate is unknown")


def _handle(frame: ext.ProcessFrame) -> int | None:
    """Writes output; answers the exit code of the last frame."""
    match frame.WhichOneof("frame"):
        case "stdout":
            write_all(1, frame.stdout)
        case "stderr":
            write_all(2, frame.stderr)
        case "exit":
            if frame.exit.truncated_bytes:
                note(f"{frame.exit.truncated_bytes} bytes of earlier output were not kept")
            if frame.exit.error_code:
                note(f"Error: {frame.exit.error_message or frame.exit.error_code}")
            return frame.exit.code
    return None
