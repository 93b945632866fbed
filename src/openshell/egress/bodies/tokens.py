"""How many tokens of GraphQL one request may have: what reading it costs. Counted by `graphql_document`."""

from __future__ import annotations

from typing import Final

from openshell.egress.bodies.strict_json import MAX_DEPTH

__all__ = ["MAX_TOKENS", "Tokens"]

MAX_TOKENS: Final = 20_000
"""Of one request, all documents of a batch together; the contract's number.

They take about a fifth of a second to read, in which nothing else of the sandbox's proxy moves.
"""


class Tokens:
    """What is left of them for a request. `is_batch`: more than one document may come."""

    __slots__ = ("is_batch", "left")

    def __init__(self, *, is_batch: bool = False) -> None:
        self.left = MAX_TOKENS
        self.is_batch = is_batch

    def covers(self, query: str) -> bool:
        """Whether they suffice and nesting stays small, seen without reading: the usual document."""
        return (
            not self.is_batch
            and len(query) <= self.left
            and sum(map(query.count, "{([")) <= MAX_DEPTH
        )
