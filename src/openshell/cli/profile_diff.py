"""`openshell provider profile diff`: one document against the profile as it is, without writing.

Fields are compared here, what sandboxes gain and lose is the gateway's answer to a dry run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import note, output_option, print_structured
from openshell.cli.profile_answer import done_lines, show_answer, show_unsound
from openshell.cli.profile_conflict import Change, changes
from openshell.cli.profile_report import (
    Diagnostic,
    change_document,
    change_lines,
    diagnostic_document,
    impact_document,
)
from openshell.cli.profile_scope import ProfileScope, global_option, id_argument

if TYPE_CHECKING:
    from openshell._proto import openshell_ext_profiles_pb2 as ext

__all__ = ["diff"]


@command("diff")
@id_argument
@click.option("-f", "--file", "file", required=True, metavar="FILE", help="The other document.")
@global_option
@output_option()
def diff(id_: str, file: str, is_global: bool, output: str) -> None:
    """Show what FILE would change in profile ID as it is now, and what sandboxes gain and lose.

    Nothing is written. Exit code 1: the change would be refused.
    """
    from openshell.cli.profile_files import read_file
    from openshell.cli.profile_stale import present_profile
    from openshell.codec.profile import profile_from_proto
    from openshell.providers.profile.dump import profile_to_json
    from openshell.sdk.profiles import ProfileClient

    found, told = read_file(file)
    if found is None:
        show_unsound(told, output)
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
            lines = done_lines(answer, {found.profile.id}, dry_run=True)
        show_answer(answer, set(), lines, output, dry_run=True, told=told)
    else:
        _print_diff(answer, fields, version, output, told)
    if not answer.valid:
        raise CliError("this change would be refused")


def _print_diff(
    answer: ext.ApplyProfilesResponse,
    fields: Sequence[Change],
    version: int,
    output: str,
    told: Sequence[Diagnostic],
) -> None:
    document = {
        "valid": answer.valid,
        "resource_version": version or None,
        "changes": [change_document(item) for item in fields],
        "diagnostics": [diagnostic_document(item) for item in (*told, *answer.diagnostics)],
        "impacts": [impact_document(item) for item in answer.impacts],
    }
    print_structured(document, output)
