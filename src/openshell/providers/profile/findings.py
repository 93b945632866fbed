"""What a check of a profile reports. Checks collect all findings; nothing stops at the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ProfileFinding"]


@dataclass(frozen=True, slots=True)
class ProfileFinding:
    """`field` is a path in the profile, `message` a sentence for people."""

    field: str
    message: str
    severity: Literal["error", "warning"] = "error"
    # Of the document; 0 is unknown.
    line: int = 0

    @property
    def is_error(self) -> bool:
        return self.severity == "error"
