"""`openshell completions`: completion code for a shell, answered by this program itself.

Names of what the gateway has are asked of it when a person presses Tab. `gateway_names` is given to the
arguments that take such names; it loads nothing until then, and answers nothing when anything fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal

import click
from click.shell_completion import get_completion_class

from openshell.cli.failures import CliError
from openshell.cli.groups import command

if TYPE_CHECKING:
    from openshell.cli.connection import Session

__all__ = ["completions", "gateway_names"]

Noun = Literal["profiles", "providers", "sandboxes"]
Complete = Callable[[click.Context, click.Parameter, str], list[str]]

_NAMES_OFFERED: Final = 200
"""More than a person reads through; one page of the gateway's."""


def gateway_names(noun: Noun) -> Complete:
    """Candidates for an argument that names something at the gateway."""

    def complete(
        context: click.Context,
        parameter: click.Parameter,  # noqa: ARG001  # click's signature
        incomplete: str,
    ) -> list[str]:
        from openshell.cli.connection import session

        try:
            with context.scope(cleanup=False), session(start=False) as opened:
                return [name for name in _names(opened, noun) if name.startswith(incomplete)]
        except Exception:  # a shell that waits for a word has no place for our troubles
            return []

    return complete


def _names(opened: Session, noun: Noun) -> Iterable[str]:
    workspace = opened.workspace
    match noun:
        case "sandboxes":
            boxes = opened.client.describe_all(workspace=workspace, limit=_NAMES_OFFERED)
            return [item.metadata.name for item in boxes]
        case "providers":
            from openshell.sdk.providers import ProviderClient

            found = ProviderClient(opened.client).list(workspace=workspace, limit=_NAMES_OFFERED)
            return [item.metadata.name for item in found]
        case "profiles":
            from openshell.sdk.profiles import ProfileClient

            profiles = ProfileClient(opened.client).list(workspace=workspace, limit=_NAMES_OFFERED)
            return dict.fromkeys(item.id for item in profiles)


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
