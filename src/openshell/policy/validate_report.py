"""Makes findings that know their endpoint; one is made for each endpoint looked at.

In a policy, messages begin with the rule's display name and those about inspection name the
endpoint's position; in a provider profile the place says it all. Used by the `validate_*` modules and
the lint of profiles.
"""

from __future__ import annotations

from collections.abc import Iterator

from openshell.policy.findings import Finding, Severity
from openshell.policy.globs import GlobError, check_glob
from openshell.policy.model import NetworkRule

__all__ = ["Report", "shortened"]

# An author's text is echoed only this far.
_ECHO = 80


class Report:
    """`where` is the endpoint's path. The others begin messages: of any kind, of warnings, of l7."""

    def __init__(self, where: str, name: str = "", position: str = "", about: str = "") -> None:
        self._where = where
        self._name = name
        self._position = position
        self._about = about

    @classmethod
    def of_rule(cls, rule: NetworkRule, index: int) -> Report:
        """Of an endpoint in a policy."""
        return cls(
            f"network_policies.{rule.key}.endpoints[{index}]",
            f"network policy '{rule.display_name}': ",
            f"endpoint {index}: ",
            f"endpoint {index} has invalid L7 configuration: ",
        )

    def error(self, code: str, field: str, message: str) -> Finding:
        return Finding(code, Severity.ERROR, self._at(field), f"{self._name}{message}")

    def warning(self, code: str, field: str, message: str) -> Finding:
        text = f"{self._name}{self._position}{message}"
        return Finding(code, Severity.WARNING, self._at(field), text)

    def l7(self, code: str, field: str, reason: str) -> Finding:
        return self.error(code, field, f"{self._about}{reason}")

    def foreign(self, field: str, key: str, protocol: str) -> Finding:
        """A key that does nothing on an endpoint of this protocol."""
        on = f"protocol: {protocol}" if protocol else "an endpoint without protocol"
        return self.warning("foreign_field", field, f"{key} has no effect on {on}; remove it")

    def glob(self, glob: str, field: str) -> Iterator[Finding]:
        try:
            check_glob(glob)
        except GlobError as error:
            message = f"the pattern cannot be read ({error}): requests that meet it are refused"
            yield self.warning("unreadable_glob", field, message)

    def _at(self, field: str) -> str:
        return f"{self._where}.{field}" if field else self._where


def shortened(text: str) -> str:
    return text if len(text) <= _ECHO else text[:_ECHO] + "…"
