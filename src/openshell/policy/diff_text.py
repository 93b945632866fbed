"""A policy difference as lines for people: by program, `+` gained, `-` lost, `~` changed."""

from __future__ import annotations

from collections.abc import Iterator

from openshell.policy.diff import ChangeKind, FieldChange, PolicyDiff, ReachChange
from openshell.policy.grants import Terms

__all__ = ["render_diff", "summary_of", "terms_line"]

_SIGNS = {ChangeKind.GAINED: "+", ChangeKind.LOST: "-", ChangeKind.CHANGED: "~"}


def render_diff(diff: PolicyDiff) -> str:
    """Ends with a line break; one sentence when nothing changed."""
    if diff.is_empty:
        return "No change in what is allowed.\n"
    return "\n".join(_lines(diff)) + "\n"


def summary_of(diff: PolicyDiff) -> str:
    counts = [(kind, len(diff.of_kind(kind))) for kind in ChangeKind]
    parts = [f"{count} {kind.value}" for kind, count in counts if count]
    if diff.sections:
        parts.append(f"{len(diff.sections)} in static sections")
    return ", ".join(parts) or "no change"


def _lines(diff: PolicyDiff) -> Iterator[str]:
    binary: str | None = None
    for change in diff.network:
        if change.reach.binary != binary:
            binary = change.reach.binary
            yield binary
        yield from _change_lines(change)
    for field in diff.sections:
        yield field.field
        yield from _sides(field, "  ")


def _change_lines(change: ReachChange) -> Iterator[str]:
    yield f"  {_SIGNS[change.kind]} {change.reach.place}"
    terms = change.after if change.kind is ChangeKind.GAINED else change.before
    if change.kind is not ChangeKind.CHANGED and terms is not None:
        yield f"      {terms_line(terms)}"
    for field in change.fields:
        yield f"      {field.field} ({field.effect.value})"
        yield from _sides(field, "        ")


def _sides(field: FieldChange, indent: str) -> Iterator[str]:
    for item in field.lost:
        yield f"{indent}- {item}"
    for item in field.gained:
        yield f"{indent}+ {item}"
    kept = [item for item in field.now if item not in field.gained]
    if kept:
        yield f"{indent}= {', '.join(kept)}"


def terms_line(terms: Terms) -> str:
    """The terms of one place in one line."""
    if not terms.is_inspected:
        head = ["not inspected: any traffic"]
    else:
        head = ["/".join(terms.protocols), "/".join(terms.enforcement)]
        allow = ", ".join(map(str, terms.allow)) or "nothing"
        head.append(f"allow {allow}")
        if terms.deny:
            head.append(f"deny {', '.join(map(str, terms.deny))}")
    if terms.tls == "skip":
        head.append("TLS not opened")
    if terms.allowed_ips:
        head.append(f"addresses {', '.join(terms.allowed_ips)}")
    if terms.credentials:
        head.append(f"credentials {', '.join(terms.credentials)}")
    return "; ".join([*head, *terms.options])
