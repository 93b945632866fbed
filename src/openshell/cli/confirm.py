"""Asking before a change that concerns every sandbox."""

from __future__ import annotations

import sys

import click

from openshell.cli.failures import CliError

__all__ = ["confirm_global", "yes_option"]

yes_option = click.option("--yes", is_flag=True, help="Do not ask (for --global).")


def confirm_global(question: str, *, yes: bool) -> None:
    """Returns when the person agrees; asks on stderr, so that output stays clean.

    Raises:
        CliError: they do not, or nobody can be asked.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CliError(f"{question}\nNobody can be asked here: give --yes to confirm")
    if not click.confirm(question, err=True):
        raise CliError("aborted; nothing was changed")
