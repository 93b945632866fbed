"""`openshell provider profile import`, `lint`, `update` and `delete`: the contract's own methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import grpc

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import note
from openshell.cli.profile_scope import ProfileScope, global_option, id_argument, source_options

if TYPE_CHECKING:
    from openshell._proto import openshell_pb2
    from openshell.cli.profile_files import ProfileFile

__all__ = ["delete", "import_", "lint", "update"]


@command("import")
@source_options
@global_option
def import_(file: str | None, directory: str | None, is_global: bool) -> None:
    """Create profiles of documents, all of them or none; existing ones are refused."""
    from openshell.cli.profile_files import read_batch
    from openshell.cli.profile_report import print_diagnostics
    from openshell.sdk.profiles import ProfileClient

    batch = read_batch(file, directory)
    if not batch.is_sound:
        print_diagnostics(batch.diagnostics)
        raise CliError("provider profile import failed: nothing was sent")
    with session(start=True) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        answer = ProfileClient(opened.client).import_(
            [item.import_item() for item in batch.files], workspace=scope.workspace
        )
    print_diagnostics([*batch.diagnostics, *answer.diagnostics])
    if not answer.imported:
        raise CliError("provider profile import failed: nothing was imported")
    print(f"Imported {len(answer.profiles)} provider profile(s).")


@command("lint")
@source_options
@global_option
def lint(file: str | None, directory: str | None, is_global: bool) -> None:
    """Judge documents as 'import' would, without storing anything."""
    from openshell.cli.profile_files import read_batch
    from openshell.cli.profile_report import print_diagnostics
    from openshell.sdk.profiles import ProfileClient

    batch = read_batch(file, directory)
    diagnostics, valid = list(batch.diagnostics), batch.is_sound
    if batch.files:
        with session(start=True) as opened:
            scope = ProfileScope.of(opened, is_global=is_global)
            answer = ProfileClient(opened.client).lint(
                [item.import_item() for item in batch.files], workspace=scope.workspace
            )
        diagnostics += answer.diagnostics
        valid = valid and answer.valid
    print_diagnostics(diagnostics)
    if not valid:
        raise CliError("provider profile lint failed")
    print("Provider profile lint passed.")


@command("update")
@id_argument
@click.option("-f", "--file", "file", required=True, metavar="FILE", help="An edited export.")
@global_option
def update(id_: str, file: str, is_global: bool) -> None:
    """Replace profile ID with the document in FILE; running sandboxes follow at once.

    Refused when the profile has changed since FILE was exported: the answer shows what you changed,
    what changed meanwhile, and the commands to go on with.
    """
    from openshell.cli.profile_files import read_file
    from openshell.cli.profile_report import print_diagnostics
    from openshell.cli.profile_stale import find_stale
    from openshell.sdk.profiles import ProfileClient

    found, told = read_file(file)
    if found is None:
        print_diagnostics(told)
        raise CliError("provider profile update failed: nothing was sent")
    with session(start=True) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        client = ProfileClient(opened.client)
        try:
            answer = client.update(
                id_,
                found.import_item(),
                workspace=scope.workspace,
                expected=found.profile.resource_version,
            )
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
            stale = find_stale(client, found, id_, scope)
            if stale is None:
                raise
            raise CliError("\n".join([stale.sentence, *stale.lines()])) from error
    print_diagnostics([*told, *answer.diagnostics])
    if not answer.updated:
        raise CliError(_refused(answer, id_, found, scope))
    print("Updated provider profile.")
    note(
        f"It is at version {answer.profile.resource_version} now; "
        f"before the next change: {scope.command('export', id_)}"
    )


def _refused(
    answer: openshell_pb2.UpdateProviderProfilesResponse,
    id_: str,
    found: ProfileFile,
    scope: ProfileScope,
) -> str:
    """What to do about a refusal, as far as its fields tell."""
    fields = {item.field for item in answer.diagnostics}
    message = "provider profile update failed: nothing was changed"
    if found.profile.id != id_.strip().lower():
        return f"{message}\n{found.path} is about '{found.profile.id}', not '{id_}'"
    if "id" in fields:
        created = scope.command("import", "-f", found.path)
        return f"{message}\nA profile of your own is created with:  {created}"
    if "resource_version" in fields:
        return (
            f"{message}\n{found.path} does not say which version it started from. "
            f"Begin with:  {scope.command('export', id_)}"
        )
    return message


@command("delete")
@id_argument
@global_option
def delete(id_: str, is_global: bool) -> None:
    """Delete profile ID. Built-in ones and those that sandboxes use are refused."""
    from openshell.sdk.profiles import ProfileClient

    with session(start=True) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        deleted = ProfileClient(opened.client).delete(id_, workspace=scope.workspace)
    print(f"Deleted provider profile {id_}" if deleted else f"Provider profile {id_} not found")
