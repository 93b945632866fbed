"""Which profiles a command is about: the options, and whose profiles they are."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from openshell.cli.completions import gateway_names
from openshell.cli.connection import Session

__all__ = ["ProfileScope", "global_option", "id_argument", "source_options"]

id_argument = click.argument("id_", metavar="ID", shell_complete=gateway_names("profiles"))
global_option = click.option(
    "--global", "is_global", is_flag=True, help="Profiles of the platform, not of a workspace."
)


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`-f FILE` or `--from DIR`."""
    directory = click.option(
        "--from",
        "directory",
        metavar="DIR",
        help="All .yaml, .yml and .json files directly in DIR.",
    )
    file = click.option("-f", "--file", "file", metavar="FILE", help="One document.")
    return file(directory(function))


@dataclass(frozen=True, slots=True)
class ProfileScope:
    """A workspace's name, "" for the platform; and how to say so in a command."""

    workspace: str

    @classmethod
    def of(cls, opened: Session, *, is_global: bool) -> ProfileScope:
        return cls("" if is_global else opened.workspace)

    def command(self, verb: str, *arguments: str) -> str:
        """A command about the same scope, ready to be copied into a shell."""
        where = ""
        if not self.workspace:
            where = " --global"
        elif self.workspace != "default":
            where = f" --workspace {shlex.quote(self.workspace)}"
        words = " ".join(shlex.quote(argument) for argument in arguments)
        return f"openshell provider profile {verb} {words}{where}"
