"""One request put to the endpoints that cover it, and a judge's answer: refused or not.

Judges (`judge_rest`, `judge_graphql`, `judge_rpc`) are pure functions of a `Question`. Allow rules
count only where they may (`may_allow`), deny rules of every covering endpoint always. What follows
from a refusal (denied, or only recorded) is `compiled`'s to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from openshell.policy.decide import EndpointConfig, L7Request
from openshell.policy.endpoint_rules import EndpointRules

__all__ = ["Judge", "Question", "Refusal"]


class Refusal(msgspec.Struct, frozen=True):
    """`hard` ones ignore audit mode: what was asked could not be judged at all."""

    code: str
    reason: str
    nearest: str
    suggestion: str
    hard: bool = False


class Question(msgspec.Struct, frozen=True):
    # What governs the request: parser, enforcement, whose rules may allow it.
    config: EndpointConfig
    request: L7Request
    # Endpoints of the connection whose path covers the request, in order.
    covering: list[tuple[EndpointConfig, EndpointRules]]
    # Endpoints of the connection whose allow rules count.
    may_allow: tuple[EndpointConfig, ...]
    rules: Mapping[EndpointConfig, EndpointRules]
    trusted_only: bool

    def allowing(self) -> Iterator[tuple[EndpointConfig, EndpointRules]]:
        """Covering endpoints whose allow rules count."""
        if not self.trusted_only:
            return iter(self.covering)
        return (pair for pair in self.covering if pair[0] in self.may_allow)

    def malformed(self, code: str, reason: str, suggestion: str = "") -> Refusal:
        return Refusal(code, reason, self.config.location, suggestion, hard=True)


Judge: TypeAlias = Callable[[Question], Refusal | None]
