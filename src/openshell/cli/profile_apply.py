"""`openshell provider profile apply` and `rollback`: changes whose effect can be seen first.

The gateway says what a change means for the sandboxes that use a profile; `profile_answer` shows it.
Exit codes: 0 done (or could be done), 1 refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import grpc

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import output_option, print_structured
from openshell.cli.profile_answer import done_lines, show_answer, show_unsound
from openshell.cli.profile_scope import ProfileScope, global_option, id_argument, source_options

if TYPE_CHECKING:
    from openshell.cli.profile_files import ProfileFile
    from openshell.cli.profile_stale import Stale
    from openshell.sdk.profiles import ProfileClient

__all__ = ["apply", "rollback"]

_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would change; write nothing."
)


@command("apply")
@source_options
@_dry_run_option
@global_option
@output_option()
def apply(
    file: str | None, directory: str | None, dry_run: bool, is_global: bool, output: str
) -> None:
    """Create and update profiles, all of them or none.

    A document with a resource_version updates the profile it was exported from, one without creates a
    profile. The answer says for each sandbox what it gains and loses.

    \b
      openshell provider profile apply --from profiles/ --dry-run
      openshell provider profile apply -f work.yaml -o json
    """
    from openshell.cli.profile_files import read_batch
    from openshell.sdk.profiles import ProfileClient

    batch = read_batch(file, directory).with_targets()
    if not batch.is_sound:
        show_unsound(batch.diagnostics, output)
        raise CliError("provider profile apply failed: nothing was sent")
    with session(start=True) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        client = ProfileClient(opened.client)
        try:
            answer = client.apply(
                [item.apply_item() for item in batch.files],
                workspace=scope.workspace,
                dry_run=dry_run,
            )
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
            stale = _stale(client, batch.files, scope)
            if not stale:
                raise
            raise _behind(stale, output) from error
        hints = [] if answer.valid else _existing(client, batch.files, scope)
    created = {f.profile.id for f in batch.files if not f.profile.resource_version}
    show_answer(
        answer,
        created,
        done_lines(answer, created, dry_run=dry_run),
        output,
        dry_run=dry_run,
        told=batch.diagnostics,
    )
    if not answer.valid:
        message = "provider profile apply failed: nothing was written"
        raise CliError("\n".join([message, *hints]))


def _stale(client: ProfileClient, files: Sequence[ProfileFile], scope: ProfileScope) -> list[Stale]:
    from openshell.cli.profile_stale import find_stale

    found = (find_stale(client, item, item.profile.id, scope) for item in files)
    return [item for item in found if item is not None]


def _existing(
    client: ProfileClient, files: Sequence[ProfileFile], scope: ProfileScope
) -> list[str]:
    """Where to begin with documents that would create what is there already."""
    from openshell.cli.profile_stale import present_profile

    return [
        f"{item.path} has no resource_version, so it would create '{item.profile.id}', which exists. "
        f"To change it, begin with:  {scope.command('export', item.profile.id)}"
        for item in files
        if not item.profile.resource_version
        and present_profile(client, item.profile.id, scope) is not None
    ]


def _behind(stale: Sequence[Stale], output: str) -> CliError:
    if output != "table":
        document = {
            "applied": False,
            "valid": False,
            "stale": [item.to_json() for item in stale],
        }
        print_structured(document, output)
        return CliError("\n".join(item.sentence for item in stale))
    parts = ["\n".join([item.sentence, *item.lines()]) for item in stale]
    return CliError("\n".join(parts))


@command("rollback")
@id_argument
@click.option("--to", required=True, type=click.IntRange(1), metavar="N", help="See 'history'.")
@_dry_run_option
@global_option
@output_option()
def rollback(id_: str, to: int, dry_run: bool, is_global: bool, output: str) -> None:
    """Make revision N's content of profile ID the newest revision.

    It is checked like any update, and refused if somebody else changes the profile at the same time.
    """
    from openshell.cli.profile_stale import present_profile
    from openshell.sdk.profiles import ProfileClient

    with session(start=True) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        client = ProfileClient(opened.client)
        present = present_profile(client, id_, scope)
        try:
            answer = client.rollback(
                id_,
                to,
                workspace=scope.workspace,
                expected=present.resource_version if present is not None else 0,
                dry_run=dry_run,
            )
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
            raise CliError(
                f"profile '{id_}' changed at the same time; see what it is now and try again\n"
                f"  {scope.command('history', id_)}"
            ) from error
    created = set() if present is not None else {item.id for item in answer.profiles}
    verb = "Would roll" if dry_run else "Rolled"
    lines = [f"{verb} {item.id} back to revision {to}" for item in answer.profiles]
    show_answer(answer, created, lines, output, dry_run=dry_run)
    if not answer.valid:
        raise CliError("provider profile rollback failed: nothing was written")
