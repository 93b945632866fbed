"""Whether two host or path selectors of credentials can mean the same request.

Selectors decide where a credential may go: hosts label by label (`*`, `?`, `[]` inside a label, `**`
for several labels), paths as the proxy chooses routes. Two questions, so that who compares them does
not have to know dialects: do two of them overlap, and does one cover a given host and path. What is
too complex to compare counts as overlapping.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from openshell.policy.globs import GlobError, TextMatcher, compile_route, compile_selector
from openshell.policy.overlap import Budget, paths_overlap

__all__ = [
    "EVERY_PATH",
    "covers_host",
    "covers_path",
    "is_pattern",
    "is_usable_host",
    "selectors_overlap",
    "spans_overlap",
]

EVERY_PATH: Final = ("", "**", "/**")
"""Spellings of "any path"."""

_SPECIAL: Final = frozenset("*?[")
# Policies read these as part of a pattern, credentials as themselves: not worth comparing exactly.
_TWO_READINGS: Final = frozenset("{}\\")


def is_pattern(text: str) -> bool:
    return not _SPECIAL.isdisjoint(text)


def is_usable_host(host: str) -> bool:
    """Whether the proxy can read it; one that it cannot would cost the sandbox all credentials."""
    return _host_matcher(host) is not None


def covers_host(pattern: str, host: str) -> bool:
    """A pattern that cannot be read covers nothing."""
    matcher = _host_matcher(pattern)
    return matcher is not None and bool(matcher(host))


def covers_path(pattern: str, path: str) -> bool:
    return bool(compile_route(pattern)(path))


def selectors_overlap(first: str, second: str, budget: Budget) -> bool:
    """Hosts, in any case. `**` may stand for no label at all, which is stricter than the proxy."""
    first, second = first.lower(), second.lower()
    if first == second or not first or not second:
        return True
    if not is_pattern(first) and not is_pattern(second):
        return False
    if _reads_twice(first) or _reads_twice(second):
        return True
    lefts, rights = first.split("."), second.split(".")
    budget.spend(len(lefts) * len(rights))
    if budget.is_spent:
        return True
    # Row by row: which beginnings of `rights` can equal the labels of `lefts` read so far.
    row = [True] + [False] * len(rights)
    for at, right in enumerate(rights):
        row[at + 1] = row[at] and right == "**"
    for left in lefts:
        following = [row[0] and left == "**"]
        for at, right in enumerate(rights):
            stays = (left == "**" and (row[at + 1] or following[at])) or (
                right == "**" and (following[at] or row[at + 1])
            )
            following.append(stays or (row[at] and _labels_overlap(left, right, budget)))
        row = following
    return row[-1]


def spans_overlap(first: str, second: str, budget: Budget) -> bool:
    """Paths. Two that both hold a star overlap unless both are trees that lie apart."""
    if first in EVERY_PATH or second in EVERY_PATH or first == second:
        return True
    if "*" not in first or "*" not in second:
        if covers_path(second, first) or covers_path(first, second):
            return True
        return is_pattern(first) and is_pattern(second) and _patterns_overlap(first, second, budget)
    if not (first.endswith("/**") and second.endswith("/**")):
        return True
    one, two = first[:-3], second[:-3]
    if is_pattern(one) or is_pattern(two):
        return _patterns_overlap(first, second, budget)
    return f"{one}/".startswith(f"{two}/") or f"{two}/".startswith(f"{one}/")


def _labels_overlap(first: str, second: str, budget: Budget) -> bool:
    if first == second:
        return True
    if not is_pattern(first) and not is_pattern(second):
        return False
    return paths_overlap(first, second, budget)


def _patterns_overlap(first: str, second: str, budget: Budget) -> bool:
    return _reads_twice(first) or _reads_twice(second) or paths_overlap(first, second, budget)


def _reads_twice(text: str) -> bool:
    return not _TWO_READINGS.isdisjoint(text)


# As many patterns as a workspace of a hundred profiles has.
@lru_cache(maxsize=2048)
def _host_matcher(pattern: str) -> TextMatcher | None:
    try:
        return compile_selector(pattern)
    except GlobError:
        return None
