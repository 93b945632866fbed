"""GraphQL rules of one endpoint, compiled: operation type, name and root fields.

Used on graphql endpoints and for the messages of websocket endpoints. `judge_graphql` decides what
follows from a match; registered operations stand in for what a client does not send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openshell.policy.globs import GlobError, TextMatcher, compile_glob
from openshell.policy.messages import GraphqlCall
from openshell.policy.model import Endpoint, L7Rule
from openshell.policy.protocols import OPERATION_TYPES, is_graphql_rule

__all__ = ["GRAPHQL_PRESETS", "GraphqlRule", "GraphqlRules", "compile_graphql"]

# Operation types of each preset, on graphql endpoints only.
GRAPHQL_PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    "read-only": ("query",),
    "read-write": ("query", "mutation"),
    "full": ("*",),
}


@dataclass(frozen=True, slots=True, eq=False)
class GraphqlRule:
    location: str
    operation_type: str
    matches_name: TextMatcher | None
    fields: tuple[TextMatcher, ...]

    def covers_type(self, call: GraphqlCall) -> bool:
        return self.operation_type in ("*", call.operation_type.lower())

    def _covers(self, call: GraphqlCall) -> bool:
        return self.covers_type(call) and (
            self.matches_name is None or bool(self.matches_name(call.operation_name))
        )

    def allows(self, call: GraphqlCall) -> bool:
        """Fields, where the rule names some: there are any, and every one is covered."""
        if not self._covers(call):
            return False
        return not self.fields or (
            bool(call.fields)
            and all(any(glob(name) for glob in self.fields) for name in call.fields)
        )

    def denies(self, call: GraphqlCall) -> bool:
        """One field that is named is enough."""
        if not self._covers(call):
            return False
        return not self.fields or any(glob(name) for name in call.fields for glob in self.fields)


@dataclass(frozen=True, slots=True, eq=False)
class GraphqlRules:
    allow: tuple[GraphqlRule, ...]
    deny: tuple[GraphqlRule, ...]
    # Empty where persisted operations are not allowed at all.
    registry: Mapping[str, GraphqlCall]


def _compile_rule(rule: L7Rule, where: str) -> GraphqlRule:
    try:
        return GraphqlRule(
            location=where,
            operation_type=rule.operation_type.lower(),
            matches_name=compile_glob(rule.operation_name, ".") if rule.operation_name else None,
            fields=tuple(compile_glob(name, ".") for name in rule.fields),
        )
    except GlobError as error:
        raise GlobError(f"{where}: {error}") from error


def _compile_rules(rules: tuple[L7Rule, ...], location: str) -> tuple[GraphqlRule, ...]:
    """A rule without a type never matches, so it is left out."""
    return tuple(
        _compile_rule(rule, f"{location}[{index}]")
        for index, rule in enumerate(rules)
        if is_graphql_rule(rule) and rule.operation_type
    )


def _registry(endpoint: Endpoint) -> Mapping[str, GraphqlCall]:
    if endpoint.persisted_queries != "allow_registered":
        return {}
    return {
        key: GraphqlCall(entry.operation_type, entry.operation_name, entry.fields)
        for key, entry in endpoint.graphql_persisted_queries.items()
        if key and entry.operation_type in OPERATION_TYPES
    }


def compile_graphql(endpoint: Endpoint, location: str) -> GraphqlRules:
    """Raises `GlobError` for a pattern that cannot be read."""
    presets: tuple[str, ...] = ()
    if endpoint.protocol.strip().lower() == "graphql":
        presets = GRAPHQL_PRESETS.get(endpoint.access, ())
    return GraphqlRules(
        allow=(
            *_compile_rules(endpoint.rules, f"{location}.rules"),
            *(GraphqlRule(f"{location}.access", kind, None, ()) for kind in presets),
        ),
        deny=_compile_rules(endpoint.deny_rules, f"{location}.deny_rules"),
        registry=_registry(endpoint),
    )
