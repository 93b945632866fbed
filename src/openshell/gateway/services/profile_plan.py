"""What a request to change profiles comes to: diagnostics, and the rows to write when none is an error.

Decided from values alone: the documents as sent, and the facts of one scope as the transaction that
will write sees them. Faults that a change would cause in sandboxes are found afterwards
(`profile_change`), because they can only be seen once it is written. Stale versions are no
diagnostics: they are refused by whoever carries the plan out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from openshell._proto import openshell_pb2
from openshell.codec.profile import binding_set, profile_from_proto
from openshell.gateway.services.profile_facts import (
    Document,
    Facts,
    TargetDocument,
    normal_id,
)
from openshell.gateway.store.model import Row
from openshell.providers.profile.lint import batch_findings
from openshell.providers.profile.model import ProviderProfile

__all__ = [
    "ERROR",
    "WARNING",
    "Diagnostic",
    "Plan",
    "Write",
    "bounded",
    "has_errors",
    "plan_apply",
    "plan_import",
    "plan_update",
]

ERROR: Final = "error"
WARNING: Final = "warning"

MAX_DIAGNOSTICS: Final = 1000
"""Of one answer, which must fit into a message; nobody reads more."""

Diagnostic = openshell_pb2.ProviderProfileDiagnostic


@dataclass(frozen=True, slots=True)
class Write:
    """One row to write: create it, or (`row`) replace its content."""

    source: str
    profile: ProviderProfile
    row: Row | None = None
    expected: int = 0
    """0: the version does not matter."""


@dataclass(frozen=True, slots=True)
class Plan:
    diagnostics: tuple[Diagnostic, ...]
    writes: tuple[Write, ...] = ()
    """Empty when any diagnostic is an error."""


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    return any(diagnostic.severity == ERROR for diagnostic in diagnostics)


def bounded(diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    """The first ones; what is left out counts by its severity, so that no error gets lost."""
    left = diagnostics[MAX_DIAGNOSTICS:]
    if not left:
        return diagnostics
    more = Diagnostic(
        field="profiles",
        message=f"{len(left)} more diagnostics are not shown",
        severity=ERROR if has_errors(left) else WARNING,
    )
    return [*diagnostics[:MAX_DIAGNOSTICS], more]


def plan_import(documents: Sequence[Document], facts: Facts) -> Plan:
    """Creates every document or none. Also what lint tells, which writes nothing."""
    found = [*_item_findings(documents)]
    present = [document for document in documents if document.message is not None]
    for document in present:
        found += _create_findings(document, facts)
    profiles, findings = _read(present)
    found += findings
    writes = [
        Write(document.source, profile) for document, profile in zip(present, profiles, strict=True)
    ]
    return _plan(found, writes)


def plan_update(item: TargetDocument, facts: Facts) -> Plan:
    """Replaces the content of one stored profile, whatever the document itself says it is."""
    document = item.document
    found = [*_item_findings([document]), *_update_findings(item, facts)]
    profiles, findings = _read([document] if document.message is not None else [])
    found += findings
    if not item.version:
        found.append(
            _error(
                document,
                "resource_version",
                f"updating provider profile '{item.target}' needs a non-zero resource_version: the "
                "one that the document was exported with",
            )
        )
    row = facts.rows.get(item.target)
    return _plan(found, [Write(document.source, p, row, item.version) for p in profiles])


def plan_apply(items: Sequence[TargetDocument], facts: Facts) -> Plan:
    """Creates and updates; an item without a version creates."""
    found = [*_item_findings([item.document for item in items])]
    present = [item for item in items if item.document.message is not None]
    for item in present:
        if item.version:
            found += _update_findings(item, facts)
        else:
            found += _mismatch(item)
            found += _create_findings(item.document, facts)
    profiles, findings = _read([item.document for item in present])
    found += findings
    writes = [
        Write(
            item.document.source,
            profile,
            facts.rows.get(item.target) if item.version else None,
            item.version,
        )
        for item, profile in zip(present, profiles, strict=True)
    ]
    return _plan(found, writes)


def _plan(found: list[Diagnostic], writes: list[Write]) -> Plan:
    return Plan(tuple(bounded(found)), () if has_errors(found) else tuple(writes))


def _item_findings(documents: Sequence[Document]) -> Iterator[Diagnostic]:
    clean = True
    for document in documents:
        if document.message is None:
            clean = False
            yield _error(document, "profile", "the item has no profile; one is required")
            continue
        for index in binding_set(document.message):
            clean = False
            yield _error(
                document,
                f"endpoints[{index}].credential_binding",
                "credential_binding is only valid in a sandbox's policy; remove it",
            )
    if clean and not documents:
        yield Diagnostic(
            field="profiles", message="at least one profile is required", severity=ERROR
        )


def _create_findings(document: Document, facts: Facts) -> Iterator[Diagnostic]:
    profile_id = normal_id(document.id)
    manager = facts.manager(profile_id)
    if manager:
        yield _error(
            document,
            "id",
            f"provider profile '{profile_id}' is managed by source '{manager}' and cannot be "
            "overwritten; choose another id",
        )
    elif profile_id in facts.rows:
        yield _error(
            document,
            "id",
            f"provider profile '{profile_id}' already exists; update it, or choose another id",
        )
    elif profile_id in facts.platform:
        yield _diagnostic(
            document,
            "id",
            f"provider profile '{profile_id}' shadows a platform-scoped profile: providers of "
            "this workspace that look here first will use this one",
            WARNING,
        )


def _update_findings(item: TargetDocument, facts: Facts) -> Iterator[Diagnostic]:
    yield from _mismatch(item)
    manager = facts.manager(item.target)
    if manager:
        yield _target_error(item.target, _managed(item.target, manager))
    elif item.target not in facts.rows:
        yield _target_error(
            item.target, f"custom provider profile '{item.target}' does not exist; import it first"
        )
    written = normal_id(item.document.id)
    other = facts.manager(written) if written != item.target else ""
    if other:
        yield _error(item.document, "id", _managed(written, other))


def _mismatch(item: TargetDocument) -> Iterator[Diagnostic]:
    document = item.document
    if document.message is not None and normal_id(document.id) != item.target:
        yield _error(
            document,
            "id",
            f"target provider profile '{item.target}' does not match payload id "
            f"'{document.shown_id}'",
        )


def _managed(profile_id: str, manager: str) -> str:
    return f"provider profile '{profile_id}' is managed by source '{manager}' and cannot be updated"


def _read(documents: Sequence[Document]) -> tuple[list[ProviderProfile], list[Diagnostic]]:
    """The documents' profiles without what the server sets, and what is wrong with each by itself."""
    profiles = [
        replace(profile_from_proto(document.message), resource_version=0, source="", scope="")
        for document in documents
        if document.message is not None
    ]
    found = [
        _diagnostic(document, finding.field, finding.message, finding.severity)
        for document, findings in zip(documents, batch_findings(profiles), strict=True)
        for finding in findings
    ]
    return profiles, found


def _target_error(target: str, message: str) -> Diagnostic:
    return Diagnostic(source=target, profile_id=target, field="id", message=message, severity=ERROR)


def _error(document: Document, field: str, message: str) -> Diagnostic:
    return _diagnostic(document, field, message, ERROR)


def _diagnostic(document: Document, field: str, message: str, severity: str) -> Diagnostic:
    return Diagnostic(
        source=document.source,
        profile_id=document.shown_id,
        field=field,
        message=message,
        severity=severity,
    )
