"""Makes findings that know their rule and endpoint; one is made for each endpoint looked at.

Messages begin with the rule's display name, those about inspection name the endpoint's position.
Used by the `validate_*` modules only.
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
    def __init__(self, rule: NetworkRule, index: int) -> None:
        self._name = rule.display_name
        self._index = index
        self._where = f"network_policies.{rule.key}.endpoints[{index}]"

    def error(self, code: str, field: str, message: str) -> Finding:
        text = f"network policy '{self._name}': {message}"
        return Finding(code, Severity.ERROR, self._at(field), text)

    def warning(self, code: str, field: str, message: str) -> Finding:
        text = f"network policy '{self._name}': endpoint {self._index}: {message}"
        return Finding(code, Severity.WARNING, self._at(field), text)

    def l7(self, code: str, field: str, reason: str) -> Finding:
        return self.error(
            code, field, f"endpoint {self._index} has invalid L7 configuration: {reason}"
        )

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
