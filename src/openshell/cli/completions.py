"""`openshell completions`: completion code for a shell, answered by this program itself."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from openshell.cli.failures import CliError
from openshell.cli.groups import command

__all__ = ["completions"]


@command("completions")
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
def completions(shell: str) -> None:
    """Print completion code for SHELL.

    \b
    For bash, in ~/.bashrc:
      eval "$(openshell completions bash)"
    """
    from openshell.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise CliError(f"no completion for {shell} in this version of click")
    try:
        print(found(cli, {}, "openshell", "_OPENSHELL_COMPLETE").source())
    except RuntimeError as error:
        raise CliError(str(error)) from error
