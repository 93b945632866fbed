"""The sandboxes that a write to one provider is about, and whether it makes any of them unfit.

What was wrong with a sandbox before the write is not held against it: else one old fault would keep
every credential of a provider from being renewed.
"""

from __future__ import annotations

from openshell.gateway.services.inference_rows import sandboxes_of_routes
from openshell.gateway.services.situations import (
    Situations,
    refuse_faults,
    sandboxes_using,
)
from openshell.gateway.store.model import Row, Tx
from openshell.providers.fitness import find_faults

__all__ = ["Users"]


class Users:
    """Made before the write, in its transaction."""

    def __init__(self, tx: Tx, provider: Row) -> None:
        self._tx = tx
        self._sandboxes = sandboxes_using(tx, provider.workspace, provider.name or "")
        self._routed = sandboxes_of_routes(tx, provider.workspace, provider.name or "")
        before = Situations(tx)
        self._known = [find_faults(before.of(sandbox), gate=False) for sandbox in self._sandboxes]

    @property
    def ids(self) -> list[str]:
        """Of all that are to be told, also those that only ask models through the provider."""
        attached = [sandbox.metadata.id for sandbox in self._sandboxes]
        return list(dict.fromkeys([*attached, *self._routed]))

    def refuse_new_faults(self) -> None:
        """Raises for what the write broke, naming the sandbox."""
        after = Situations(self._tx)
        for sandbox, known in zip(self._sandboxes, self._known, strict=True):
            refuse_faults(after.of(sandbox), gate=False, known=known, named=True)
