"""What a check of a policy reports. Checks collect all findings; nothing stops at the first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Severity", "errors_of"]


class Severity(StrEnum):
    """An error keeps a policy from being used, a warning is shown."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is stable, `location` is a path in the policy, `message` a sentence for people."""

    code: str
    severity: Severity
    location: str
    message: str

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR


def errors_of(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.is_error)
