"""The gateway's answer to a change of profiles, and to one that is only tried, for people and programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from openshell.cli.output import note, print_structured
from openshell.cli.profile_report import (
    Diagnostic,
    diagnostic_document,
    impact_document,
    impact_lines,
    print_diagnostics,
)

if TYPE_CHECKING:
    from openshell._proto import openshell_ext_profiles_pb2 as ext

__all__ = ["done_lines", "show_answer", "show_unsound"]


def show_unsound(diagnostics: Sequence[Diagnostic], output: str) -> None:
    """Prints what is wrong with documents that are not sent."""
    if output == "table":
        print_diagnostics(diagnostics)
        return
    document = {
        "applied": False,
        "valid": False,
        "diagnostics": [diagnostic_document(item) for item in diagnostics],
    }
    print_structured(document, output)


def show_answer(
    answer: ext.ApplyProfilesResponse,
    created: set[str],
    lines: Iterable[str],
    output: str,
    *,
    dry_run: bool,
    told: Sequence[Diagnostic] = (),
) -> None:
    """Prints an answer.

    Args:
        answer: What the gateway said.
        created: Ids of the profiles that it created.
        lines: What was changed, for people.
        output: The format asked for.
        dry_run: Whether it was only tried.
        told: Warnings that were found before it was asked.
    """
    if output != "table":
        document: dict[str, Any] = {
            "applied": answer.applied,
            "valid": answer.valid,
            "dry_run": dry_run,
            "diagnostics": [diagnostic_document(item) for item in (*told, *answer.diagnostics)],
            "profiles": _profile_documents(answer, created),
            "impacts": [impact_document(item) for item in answer.impacts],
        }
        print_structured(document, output)
        return
    print_diagnostics([*told, *answer.diagnostics])
    for line in (*lines, *impact_lines(answer.impacts)):
        print(line)
    if answer.valid and not answer.impacts:
        print("No sandbox gains or loses anything.")
    if dry_run and answer.valid:
        note("Nothing was written.")


def done_lines(answer: ext.ApplyProfilesResponse, created: set[str], *, dry_run: bool) -> list[str]:
    """What was done, or with `dry_run` would be."""
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
