"""Rules for the head of a request, of one endpoint, compiled: method, path and query.

Access presets are expanded here, in the evaluator's private form; the model keeps what was
written. `judge_rest` decides what follows from a match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openshell.policy.decide import L7Request
from openshell.policy.globs import GlobError, TextMatcher, compile_glob
from openshell.policy.model import Endpoint, L7Rule, Matcher
from openshell.policy.protocols import WEBSOCKET_TEXT, is_graphql_rule

__all__ = [
    "ACCESS_PRESETS",
    "WEBSOCKET_PRESETS",
    "RestRule",
    "RestRules",
    "compile_rest",
    "methods_of",
    "presets_of",
]

# Methods of each preset; the path is always `**`.
ACCESS_PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    "read-only": ("GET", "HEAD", "OPTIONS"),
    "read-write": ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"),
    "full": ("*",),
}
WEBSOCKET_PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    "read-only": ("GET",),
    "read-write": ("GET", WEBSOCKET_TEXT),
    "full": ("*",),
}


def presets_of(protocol: str) -> Mapping[str, tuple[str, ...]]:
    return WEBSOCKET_PRESETS if protocol == "websocket" else ACCESS_PRESETS


def methods_of(rule_method: str) -> frozenset[str] | None:
    """Upper-case request methods that a rule's method covers; None for every method."""
    method = rule_method.upper()
    if method == "*":
        return None
    return frozenset(("GET", "HEAD")) if method == "GET" else frozenset((method,))


@dataclass(frozen=True, slots=True, eq=False)
class RestRule:
    # Where the rule stands, for people: "key.endpoints[0].rules[2]".
    location: str
    methods: frozenset[str] | None
    matches_path: TextMatcher
    # Each configured parameter with its globs.
    query: tuple[tuple[str, tuple[TextMatcher, ...]], ...]

    def covers_method(self, method: str) -> bool:
        return self.methods is None or method in self.methods

    def allows(self, method: str, request: L7Request) -> bool:
        """Every configured parameter is there and all of its values match."""
        if not self.covers_method(method) or not self.matches_path(request.path):
            return False
        for name, globs in self.query:
            values = request.query.get(name)
            if not values or not all(any(glob(value) for glob in globs) for value in values):
                return False
        return True

    def denies(self, method: str, request: L7Request) -> bool:
        """Every configured parameter is there and at least one value of each matches."""
        if not self.covers_method(method) or not self.matches_path(request.path):
            return False
        for name, globs in self.query:
            values = request.query.get(name, ())
            if not any(glob(value) for value in values for glob in globs):
                return False
        return True


@dataclass(frozen=True, slots=True, eq=False)
class RestRules:
    allow: tuple[RestRule, ...]
    deny: tuple[RestRule, ...]


def _compile_query(query: Mapping[str, Matcher]) -> tuple[tuple[str, tuple[TextMatcher, ...]], ...]:
    return tuple(
        (name, tuple(compile_glob(glob, ".") for glob in matcher.globs))
        for name, matcher in sorted(query.items())
    )


def _compile_rules(rules: tuple[L7Rule, ...], location: str, protocol: str) -> tuple[RestRule, ...]:
    """Rules without a method or a path never match, so they are left out."""
    out: list[RestRule] = []
    for index, rule in enumerate(rules):
        if not rule.method or not rule.path:
            continue
        # On a websocket endpoint such a rule speaks of operations; mixed ones match nothing.
        if protocol == "websocket" and is_graphql_rule(rule):
            continue
        where = f"{location}[{index}]"
        try:
            out.append(
                RestRule(
                    location=where,
                    methods=methods_of(rule.method),
                    matches_path=compile_glob(rule.path, "/"),
                    query=_compile_query(rule.query),
                )
            )
        except GlobError as error:
            raise GlobError(f"{where}: {error}") from error
    return tuple(out)


def _everything(_text: str) -> bool:
    return True


def _preset(endpoint: Endpoint, location: str, protocol: str) -> tuple[RestRule, ...]:
    return tuple(
        RestRule(
            location=f"{location}.access",
            methods=methods_of(method),
            matches_path=_everything,
            query=(),
        )
        for method in presets_of(protocol).get(endpoint.access, ())
    )


def compile_rest(endpoint: Endpoint, location: str) -> RestRules:
    """Raises `GlobError` for a pattern that cannot be read."""
    protocol = endpoint.protocol.strip().lower()
    return RestRules(
        allow=(
            *_compile_rules(endpoint.rules, f"{location}.rules", protocol),
            *_preset(endpoint, location, protocol),
        ),
        deny=_compile_rules(endpoint.deny_rules, f"{location}.deny_rules", protocol),
    )
