"""What people and programs read about changes of profiles: findings, fields, effects on sandboxes.

Pure but for printing. Diagnostics go to stderr, as the contract has it; the rest is made as lines or
documents and the commands decide where it goes. Everything that came from elsewhere is printed with
its control characters visible.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from openshell._proto import openshell_pb2
from openshell.cli.output import bold, note, printable
from openshell.cli.profile_conflict import ABSENT, Change, ThreeWay

if TYPE_CHECKING:
    from openshell._proto import openshell_ext_profiles_pb2 as ext

__all__ = [
    "ERROR",
    "Diagnostic",
    "change_document",
    "change_lines",
    "diagnostic_document",
    "impact_document",
    "impact_lines",
    "print_diagnostics",
    "three_way_document",
    "three_way_lines",
]

Diagnostic = openshell_pb2.ProviderProfileDiagnostic

ERROR: Final = "error"

_SHOWN: Final = 200
"""Characters of a value in a line; `-o json` has it whole."""


def print_diagnostics(items: Iterable[Diagnostic]) -> None:
    """Writes findings to stderr; nothing when there are none."""
    lines = [
        f"  {item.severity} {item.source or '<input>'} profile={item.profile_id or '-'} "
        f"field={item.field} {item.message}"
        for item in items
    ]
    if lines:
        note("Provider profile diagnostics:")
    for line in lines:
        note(printable(line))


def diagnostic_document(item: Diagnostic) -> dict[str, Any]:
    return {
        "source": item.source,
        "profile_id": item.profile_id,
        "field": item.field,
        "message": item.message,
        "severity": item.severity,
    }


def change_lines(items: Iterable[Change]) -> Iterator[str]:
    """One line per field: `+` added, `-` removed, `~` changed."""
    for item in items:
        if item.is_added:
            yield printable(f"+ {item.dotted}: {_value(item.after)}")
        elif item.is_removed:
            yield printable(f"- {item.dotted}: {_value(item.before)}")
        else:
            yield printable(f"~ {item.dotted}: {_value(item.before)} -> {_value(item.after)}")


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def change_document(item: Change) -> dict[str, Any]:
    document: dict[str, Any] = {"path": item.dotted}
    if item.before is not ABSENT:
        document["before"] = item.before
    if item.after is not ABSENT:
        document["after"] = item.after
    return document


def three_way_lines(found: ThreeWay, meanwhile: str) -> Iterator[str]:
    """The three parts of a conflict; `meanwhile` says who and when."""
    yield "You changed:"
    yield from _indented(change_lines(found.mine), "nothing")
    yield f"Changed meanwhile{meanwhile}:"
    yield from _indented(change_lines(found.theirs), "nothing")
    if not found.twice:
        yield "Nothing was changed by both."
        return
    yield "Changed by both:"
    for pair in found.twice:
        yield from (f"  yours   {line}" for line in change_lines([pair.mine]))
        yield from (f"  theirs  {line}" for line in change_lines([pair.theirs]))


def three_way_document(found: ThreeWay) -> dict[str, Any]:
    return {
        "mine": [change_document(item) for item in found.mine],
        "theirs": [change_document(item) for item in found.theirs],
        "both": [
            {"mine": change_document(pair.mine), "theirs": change_document(pair.theirs)}
            for pair in found.twice
        ],
    }


def _indented(lines: Iterable[str], without: str) -> Iterator[str]:
    empty = True
    for line in lines:
        empty = False
        yield f"  {line}"
    if empty:
        yield f"  {without}"


def impact_lines(items: Iterable[ext.SandboxImpact]) -> Iterator[str]:
    """Per sandbox what it gains and loses, and what forbids the change."""
    for item in items:
        yield bold(printable(f"Sandbox {item.workspace}/{item.sandbox}:"))
        parts = (
            ("+", "", item.gained),
            ("-", "", item.lost),
            ("+", "credential ", item.credentials_bound),
            ("-", "credential ", item.credentials_unbound),
        )
        for sign, what, texts in parts:
            for text in texts:
                yield printable(f"  {sign} {what}{text}")
        for conflict in item.conflicts:
            yield printable(f"  ! {conflict.code}: {conflict.message}")


def impact_document(item: ext.SandboxImpact) -> dict[str, Any]:
    return {
        "workspace": item.workspace,
        "sandbox": item.sandbox,
        "sandbox_id": item.sandbox_id,
        "gained": list(item.gained),
        "lost": list(item.lost),
        "credentials_bound": list(item.credentials_bound),
        "credentials_unbound": list(item.credentials_unbound),
        "conflicts": [{"code": c.code, "message": c.message} for c in item.conflicts],
    }
