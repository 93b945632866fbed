"""`openshell sandbox exec` and `connect`: running and meeting processes inside."""

from __future__ import annotations

import re
import sys

import click

from openshell.cli.connection import Session, session
from openshell.cli.failures import CliError
from openshell.cli.groups import command

__all__ = ["connect", "exec_"]

_ENV = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-n", "--name", metavar="NAME", help="Sandbox; default: the one used last.")
@click.option("--workdir", metavar="DIR", help="Directory inside; default: the workspace.")
@click.option(
    "--timeout",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="S",
    help="Seconds after which the command is ended with code 124; 0: none.",
)
@click.option("--tty/--no-tty", default=None, help="Give it a terminal.  [default: as here]")
@click.option(
    "--env", "environment", multiple=True, metavar="K=V", help="Variable for the command."
)
@click.argument("argv", nargs=-1, required=True, metavar="COMMAND...", type=click.UNPROCESSED)
def exec_(
    name: str | None,
    workdir: str | None,
    timeout: int,
    tty: bool | None,
    environment: tuple[str, ...],
    argv: tuple[str, ...],
) -> int:
    """Run COMMAND in a sandbox. Its exit code becomes this command's.

    COMMAND is the argv itself, no shell is involved: for pipes and variables write
    'sh -c "..."'. Standard input is passed on.
    """
    variables: dict[str, str] = {}
    for item in environment:
        found = _ENV.fullmatch(item)
        if found is None or found[1].startswith("OPENSHELL_"):
            raise CliError(
                f"--env '{item.partition('=')[0]}' is not a variable that can be set: "
                "write KEY=VALUE, not beginning OPENSHELL_"
            )
        variables[found[1]] = found[2]
    if tty is None:
        tty = sys.stdin.isatty() and sys.stdout.isatty()
    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        code = _run(opened, chosen, argv, workdir or "", variables, timeout, tty)
        opened.remember(chosen)
    return code


def _run(
    opened: Session,
    name: str,
    argv: tuple[str, ...],
    workdir: str,
    variables: dict[str, str],
    timeout: int,
    tty: bool,
) -> int:
    from openshell._proto import openshell_pb2 as api
    from openshell.cli.documents import phase_name
    from openshell.cli.terminal import InputPump, raw_terminal, window_size, write_all

    record = opened.client.describe(name, workspace=opened.workspace)
    if record.status.phase != api.SANDBOX_PHASE_READY:
        raise CliError(f"sandbox '{name}' is not ready: it is {phase_name(record)}")
    terminal = tty and sys.stdin.isatty()
    cols, rows = window_size()
    start = api.ExecSandboxRequest(
        sandbox_id=record.metadata.id,
        command=argv,
        workdir=workdir,
        environment=variables,
        timeout_seconds=timeout,
        tty=tty,
        cols=cols,
        rows=rows,
    )
    # A terminal that the command does not get as its own is no input either.
    reads = terminal or not sys.stdin.isatty()
    pump = InputPump(
        api.ExecSandboxInput(start=start),
        stdin=(lambda data: api.ExecSandboxInput(stdin=data)) if reads else None,
        eof=None,
        resize=(
            lambda columns, lines: api.ExecSandboxInput(
                resize=api.ExecSandboxWindowResize(cols=columns, rows=lines)
            )
        )
        if terminal
        else None,
    )
    with pump.running(), raw_terminal(enabled=terminal):
        for event in opened.client.exec_interactive(iter(pump)):
            match event.WhichOneof("payload"):
                case "stdout":
                    write_all(1, event.stdout.data)
                case "stderr":
                    write_all(2, event.stderr.data)
                case "exit":
                    return event.exit.exit_code
    raise CliError("the stream ended without an exit code: the command's fate is unknown")


@command("connect")
@click.argument("name", required=False)
def connect(name: str | None) -> int:
    """Attach to the main process of a sandbox; earlier output is shown first."""
    from openshell.cli.attach import attach

    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        record = opened.client.describe(chosen, workspace=opened.workspace)
        opened.remember(chosen)
        return attach(opened, chosen, tty=record.spec.tty)
