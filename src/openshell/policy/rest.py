"""REST rules of one endpoint, compiled: method, path and query against a request.

Access presets are expanded here, in the evaluator's private form; the model keeps what was
written. `compile` decides which endpoints take part and what follows from a match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openshell.policy.decide import L7Request
from openshell.policy.globs import GlobError, TextMatcher, compile_glob
from openshell.policy.model import Endpoint, L7Rule, Matcher

__all__ = ["ACCESS_PRESETS", "RestRule", "RestRules", "compile_rest", "methods_of"]

# Methods of each preset; the path is always `**`.
ACCESS_PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    "read-only": ("GET", "HEAD", "OPTIONS"),
    "read-write": ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"),
    "full": ("*",),
}


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
    """What one endpoint says about requests. `broken` names a pattern that cannot be read."""

    covers_path: TextMatcher
    allow: tuple[RestRule, ...]
    deny: tuple[RestRule, ...]
    broken: str | None


def _compile_query(query: Mapping[str, Matcher]) -> tuple[tuple[str, tuple[TextMatcher, ...]], ...]:
    return tuple(
        (name, tuple(compile_glob(glob, ".") for glob in matcher.globs))
        for name, matcher in sorted(query.items())
    )


def _compile_rules(rules: tuple[L7Rule, ...], location: str) -> tuple[RestRule, ...]:
    """Rules without a method or a path never match, so they are left out."""
    out: list[RestRule] = []
    for index, rule in enumerate(rules):
        if not rule.method or not rule.path:
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


def _preset(endpoint: Endpoint, location: str) -> tuple[RestRule, ...]:
    return tuple(
        RestRule(
            location=f"{location}.access",
            methods=methods_of(method),
            matches_path=_everything,
            query=(),
        )
        for method in ACCESS_PRESETS.get(endpoint.access, ())
    )


def compile_rest(endpoint: Endpoint, location: str) -> RestRules:
    """Compiles what one endpoint says.

    A pattern that cannot be read makes it refuse every request that it covers, because a deny rule that silently never fires would be an opening.
    """
    covers_path: TextMatcher = _everything
    try:
        if endpoint.path:
            covers_path = compile_glob(endpoint.path, "/")
        allow = (*_compile_rules(endpoint.rules, f"{location}.rules"), *_preset(endpoint, location))
        deny = _compile_rules(endpoint.deny_rules, f"{location}.deny_rules")
    except GlobError as error:
        return RestRules(covers_path, (), (), broken=str(error))
    return RestRules(covers_path, allow, deny, broken=None)
