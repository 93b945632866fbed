"""`openshell provider profile apply`, `diff` and `rollback`: changes whose effect is seen first.

All three ask the gateway what a change means for the sandboxes that use a profile, and show its answer.
Exit codes: 0 done (or could be done), 1 refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
import grpc

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import note, output_option, print_structured
from openshell.cli.profile_scope import ProfileScope, global_option, id_argument, source_options

if TYPE_CHECKING:
    from openshell._proto import openshell_ext_profiles_pb2 as ext
    from openshell.cli.profile_conflict import Change
    from openshell.cli.profile_files import Batch, ProfileFile
    from openshell.cli.profile_stale import Stale
    from openshell.sdk.profiles import ProfileClient

__all__ = ["apply", "diff", "rollback"]

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
        _unsound(batch, output)
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
    _show(answer, created, _done(answer, created, dry_run=dry_run), output, dry_run=dry_run)
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


def _unsound(batch: Batch, output: str) -> None:
    from openshell.cli.profile_report import diagnostic_document, print_diagnostics

    if output == "table":
        print_diagnostics(batch.diagnostics)
        return
    document = {
        "applied": False,
        "valid": False,
        "diagnostics": [diagnostic_document(item) for item in batch.diagnostics],
    }
    print_structured(document, output)


def _show(
    answer: ext.ApplyProfilesResponse,
    created: set[str],
    lines: Iterable[str],
    output: str,
    *,
    dry_run: bool,
) -> None:
    """Prints an answer; `lines` say to people what was changed."""
    from openshell.cli.profile_report import (
        diagnostic_document,
        impact_document,
        impact_lines,
        print_diagnostics,
    )

    if output != "table":
        document: dict[str, Any] = {
            "applied": answer.applied,
            "valid": answer.valid,
            "dry_run": dry_run,
            "diagnostics": [diagnostic_document(item) for item in answer.diagnostics],
            "profiles": _profile_documents(answer, created),
            "impacts": [impact_document(item) for item in answer.impacts],
        }
        print_structured(document, output)
        return
    print_diagnostics(answer.diagnostics)
    for line in (*lines, *impact_lines(answer.impacts)):
        print(line)
    if answer.valid and not answer.impacts:
        print("No sandbox gains or loses anything.")
    if dry_run and answer.valid:
        note("Nothing was written.")


def _done(answer: ext.ApplyProfilesResponse, created: set[str], *, dry_run: bool) -> list[str]:
    verbs = {item.id: "create" if item.id in created else "update" for item in answer.profiles}
    return [
        f"Would {verb} {id_}" if dry_run else f"{verb.capitalize()}d {id_}"
        for id_, verb in verbs.items()
    ]


def _profile_documents(
    answer: ext.ApplyProfilesResponse, created: set[str]
) -> list[dict[str, Any]]:
    return [
        {
            "id": item.id,
            "operation": "create" if item.id in created else "update",
            "resource_version": item.resource_version,
        }
        for item in answer.profiles
    ]


@command("diff")
@id_argument
@click.option("-f", "--file", "file", required=True, metavar="FILE", help="The other document.")
@global_option
@output_option()
def diff(id_: str, file: str, is_global: bool, output: str) -> None:
    """Show what FILE would change in profile ID as it is now, and what sandboxes gain and lose.

    Nothing is written. Exit code 1: the change would be refused.
    """
    from openshell.cli.profile_conflict import changes
    from openshell.cli.profile_files import Batch, read_file
    from openshell.cli.profile_report import change_lines
    from openshell.cli.profile_stale import present_profile
    from openshell.codec.profile import profile_from_proto
    from openshell.providers.profile.dump import profile_to_json
    from openshell.sdk.profiles import ProfileClient

    found, wrong = read_file(file)
    if found is None:
        _unsound(Batch((), tuple(wrong)), output)
        raise CliError("provider profile diff failed: nothing was sent")
    if found.profile.id != id_.strip().lower():
        raise CliError(f"{file} is about profile '{found.profile.id}', not '{id_}'")
    with session(start=False) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        client = ProfileClient(opened.client)
        present = present_profile(client, found.profile.id, scope)
        version = present.resource_version if present is not None else 0
        answer = client.apply([found.apply_item(version)], workspace=scope.workspace, dry_run=True)
    before = profile_to_json(profile_from_proto(present)) if present is not None else {}
    fields: tuple[Change, ...] = ()
    if version or answer.valid:
        fields = changes(before, profile_to_json(found.profile))
    if output == "table":
        if version and found.profile.resource_version not in {0, version}:
            note(
                f"Note: {file} started from version {found.profile.resource_version}; "
                f"the profile is at {version}, and 'update' will refuse the file"
            )
        if version:
            lines = list(change_lines(fields)) or ["No field differs."]
        else:
            lines = _done(answer, {found.profile.id}, dry_run=True)
        _show(answer, set(), lines, output, dry_run=True)
    else:
        _print_diff(answer, fields, version, output)
    if not answer.valid:
        raise CliError("this change would be refused")


def _print_diff(
    answer: ext.ApplyProfilesResponse, fields: Sequence[Change], version: int, output: str
) -> None:
    from openshell.cli.profile_report import (
        change_document,
        diagnostic_document,
        impact_document,
    )

    document = {
        "valid": answer.valid,
        "resource_version": version or None,
        "changes": [change_document(item) for item in fields],
        "diagnostics": [diagnostic_document(item) for item in answer.diagnostics],
        "impacts": [impact_document(item) for item in answer.impacts],
    }
    print_structured(document, output)


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
    _show(answer, created, lines, output, dry_run=dry_run)
    if not answer.valid:
        raise CliError("provider profile rollback failed: nothing was written")
