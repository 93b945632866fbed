"""`openshell provider list-profiles`, `profile export` and `profile history`: looking at profiles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import (
    bold,
    note,
    output_option,
    print_structured,
    print_table,
    printable,
    timestamp,
)
from openshell.cli.profile_scope import ProfileScope, global_option, id_argument

if TYPE_CHECKING:
    from openshell._proto import openshell_ext_profiles_pb2 as ext
    from openshell._proto import openshell_pb2
    from openshell.policy.model import JsonValue
    from openshell.providers.profile.model import ProviderProfile
    from openshell.sdk.profiles import ProfileClient

__all__ = ["export", "history", "list_profiles"]

_ID_SHOWN, _SOURCE_SHOWN, _NAME_SHOWN = 32, 24, 40
"""Characters of a cell; `-o json` has everything."""


@command("list-profiles")
@global_option
@output_option()
def list_profiles(is_global: bool, output: str) -> None:
    """List the types of providers there are, by what they are for."""
    from openshell.codec.profile import profile_from_proto
    from openshell.providers.profile.dump import profile_to_json
    from openshell.sdk.profiles import ProfileClient

    with session(start=False) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        found = [
            profile_from_proto(message)
            for message in ProfileClient(opened.client).iterate(workspace=scope.workspace)
        ]
    found.sort(key=lambda profile: (profile.category, profile.id))
    if output == "table":
        _print_groups(found)
        return
    documents: tuple[JsonValue, ...] = tuple(profile_to_json(profile) for profile in found)
    if output == "json":
        print(json.dumps(documents, indent=2, ensure_ascii=False))
        return
    from openshell.policy.dump import dump_yaml

    print(dump_yaml(documents), end="")


def _print_groups(found: list[ProviderProfile]) -> None:
    if not found:
        print("No provider profiles found.")
        return
    rows = [("ID", "SCOPE", "SOURCE", "NAME", "ENDPOINTS")]
    rows += [
        (
            _cut(profile.id, _ID_SHOWN),
            profile.scope or "-",
            _cut(profile.source, _SOURCE_SHOWN),
            _cut(profile.display_name, _NAME_SHOWN),
            f"{len(profile.endpoints)}{' inference' if profile.inference_capable else ''}",
        )
        for profile in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        return "  ".join([*cells, row[-1]])

    print(bold(f"  {line(rows[0])}"))
    heading = ""
    for profile, row in zip(found, rows[1:], strict=True):
        category = profile.category.name.replace("_", " ")
        if category != heading:
            print(bold(category))
            heading = category
        print(f"  {line(row)}")


def _cut(text: str, limit: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


@command("export")
@id_argument
@click.option("--revision", type=click.IntRange(1), metavar="N", help="As it was; see 'history'.")
@global_option
@output_option("yaml", "json", "table")
def export(id_: str, revision: int | None, is_global: bool, output: str) -> None:
    """Write a profile as a document that 'lint' and, after editing, 'update' take.

    It carries the version it was at: an update is refused if the profile has changed meanwhile.
    """
    if output == "table":
        raise CliError("a profile is a document, not a table: use -o yaml or -o json")
    from openshell.codec.profile import profile_from_proto
    from openshell.providers.profile.dump import dump_profile
    from openshell.sdk.profiles import ProfileClient

    with session(start=False) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        client = ProfileClient(opened.client)
        if revision is None:
            message = _present(client, id_, scope)
        else:
            stored = client.revision(id_, revision, workspace=scope.workspace)
            if not stored.HasField("profile"):
                raise CliError(
                    f"revision {revision} of '{id_}' is its deletion: there is no document\n"
                    f"See the others:  {scope.command('history', id_)}"
                )
            message = stored.profile
    print(dump_profile(profile_from_proto(message), "json" if output == "json" else "yaml"), end="")


def _present(client: ProfileClient, id_: str, scope: ProfileScope) -> openshell_pb2.ProviderProfile:
    """The profile in use, else what is stored: one put out of use must be repaired, too."""
    import grpc

    from openshell.cli.profile_stale import newest_content

    try:
        return client.get(id_, workspace=scope.workspace)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
        stored = newest_content(client, id_, scope)
        if stored is None:
            raise
        note(f"Warning: {printable(error.details() or '')}")
        return stored


@command("history")
@id_argument
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True)
@global_option
@output_option()
def history(id_: str, limit: int, offset: int, is_global: bool, output: str) -> None:
    """List the revisions of a profile, newest first. A deleted profile keeps its history.

    'export ID --revision N' shows one, 'rollback ID --to N' goes back to it.
    """
    from openshell.sdk.profiles import ProfileClient

    with session(start=False) as opened:
        scope = ProfileScope.of(opened, is_global=is_global)
        found = ProfileClient(opened.client).revisions(
            id_, workspace=scope.workspace, limit=limit, offset=offset
        )
    if output != "table":
        print_structured([_revision_document(item) for item in found], output)
    elif not found:
        print(f"No revisions of profile {id_}.")
    else:
        print_table(
            ["REVISION", "VERSION", "OPERATION", "CREATED", "AUTHOR"],
            (
                [
                    item.revision,
                    item.resource_version or "-",
                    f"{item.operation} of {item.restored_from}"
                    if item.restored_from
                    else item.operation,
                    timestamp(item.created_at_ms),
                    item.author,
                ]
                for item in found
            ),
        )


def _revision_document(item: ext.ProfileRevision) -> dict[str, Any]:
    return {
        "id": item.id,
        "revision": item.revision,
        "operation": item.operation,
        "created_at_ms": item.created_at_ms,
        "author": item.author,
        "resource_version": item.resource_version or None,
        "restored_from": item.restored_from or None,
    }
