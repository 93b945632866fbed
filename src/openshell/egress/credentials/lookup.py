"""The placeholders of one request, asked of one set of credentials for one endpoint.

Remembers what it answered, so that a body full of one placeholder costs one look, and which keys were
used. A refusal is a mismatch as soon as any placeholder of the request belongs elsewhere: that is what
an operator must hear of, even where another fault stands before it. Used by `rewrite` and `body`.
"""

from __future__ import annotations

from openshell.egress.credentials.binding import EndpointScope
from openshell.egress.credentials.placeholder import (
    Placeholder,
    named_placeholders,
    parse_placeholder,
)
from openshell.egress.credentials.state import CredentialSet, Unresolved

__all__ = ["Lookup"]

# Placeholders in each part of a refused request that are looked at for a mismatch.
_LOOKED_AT = 16


class Lookup:
    """Answers for one request."""

    __slots__ = ("_credentials", "_known", "_now_ms", "_scope")

    def __init__(self, credentials: CredentialSet, scope: EndpointScope, now_ms: int) -> None:
        self._credentials = credentials
        self._scope = scope
        self._now_ms = now_ms
        self._known: dict[Placeholder, str | Unresolved] = {}

    @property
    def used(self) -> tuple[str, ...]:
        """The keys whose values were given out, each once."""
        found = (key.key for key, value in self._known.items() if isinstance(value, str))
        return tuple(dict.fromkeys(found))

    def value(self, wanted: Placeholder) -> str | Unresolved:
        known = self._known.get(wanted)
        if known is None:
            known = self._credentials.resolve(wanted, self._scope, now_ms=self._now_ms)
            self._known[wanted] = known
        return known

    def token(self, token: bytes) -> bytes | Unresolved:
        """The value for bytes that are a placeholder as a whole."""
        placeholder = parse_placeholder(token)
        if placeholder is None:
            return Unresolved.UNAVAILABLE
        value = self.value(placeholder)
        return value if isinstance(value, Unresolved) else value.encode()

    def refusal(self, *texts: bytes) -> Unresolved:
        """Why texts that hold markers are refused: whether any placeholder in them belongs elsewhere."""
        for text in texts:
            for placeholder in named_placeholders(text, _LOOKED_AT):
                if self.value(placeholder) is Unresolved.MISMATCH:
                    return Unresolved.MISMATCH
        return Unresolved.UNAVAILABLE
