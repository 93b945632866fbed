"""Whether two patterns have a text in common. Used to compare endpoints, never to decide traffic.

Both patterns are read as small automata (a star is a state that stays) and walked together. The
walk is bounded; what is too complex to compare counts as overlapping, which is the safe answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from openshell.policy.globs import GlobError, Step, steps_of

__all__ = ["MAX_STEPS", "Budget", "hosts_overlap", "paths_overlap"]

# Work that comparing all patterns of one policy may take, in steps of about a microsecond.
# A policy of a thousand endpoints needs a tenth of it.
MAX_STEPS: Final = 1_000_000
# Pairs of positions looked at for one pair of patterns: two patterns of 250 characters.
_MAX_PAIRS: Final = 65_536

# What looking at a pair costs at least.
_PAIR_STEPS: Final = 2
# A closing bracket is special when read backwards, a comma and a backslash inside braces.
_SPECIAL: Final = frozenset("*?[]{}\\,!^-")


class Budget:
    """Counts work down; the caller stops when it is spent."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        self._left -= steps

    @property
    def is_spent(self) -> bool:
        return self._left < 0


def hosts_overlap(first: str, second: str, budget: Budget) -> bool:
    """Host selectors: without case, `*` within a label, `**` across labels; "" is any host."""
    first, second = first.lower(), second.lower()
    if not first or not second or first == second:
        return True
    if "*" not in first and "*" not in second:
        return False
    return _overlap(first, second, ".", budget)


def paths_overlap(first: str, second: str, budget: Budget) -> bool:
    """Endpoint paths: `*` and `**` both cross `/`."""
    everything = ("", "**", "/**")
    if first in everything or second in everything or first == second:
        return True
    return _overlap(first, second, "", budget)


def _overlap(first: str, second: str, sep: str, budget: Budget) -> bool:
    budget.spend(_PAIR_STEPS)
    if budget.is_spent:
        return True
    if not _agree(first, second) or not _agree(first[::-1], second[::-1]):
        return False
    budget.spend(len(first) + len(second))
    try:
        lefts = steps_of(first, sep)
        rights = steps_of(second, sep)
    except GlobError:
        return True
    return any(_intersect(left, right, budget) for left in lefts for right in rights)


def _agree(first: str, second: str) -> bool:
    """Whether the literal beginnings say the same as far as both reach: a cheap first look."""
    for one, two in zip(first, second, strict=False):
        if one in _SPECIAL or two in _SPECIAL:
            return True
        if one != two:
            return False
    return True


def _intersect(left: Sequence[Step], right: Sequence[Step], budget: Budget) -> bool:
    seen = {(0, 0)}
    queue = [(0, 0)]
    while queue:
        at_left, at_right = queue.pop()
        budget.spend(1)
        if at_left == len(left) and at_right == len(right):
            return True
        if len(seen) > _MAX_PAIRS or budget.is_spent:
            return True
        one = left[at_left] if at_left < len(left) else None
        two = right[at_right] if at_right < len(right) else None
        following: list[tuple[int, int]] = []
        if one is not None and one.repeats:
            following.append((at_left + 1, at_right))
        if two is not None and two.repeats:
            following.append((at_left, at_right + 1))
        if one is not None and two is not None and one.meets(two):
            following.append((at_left + (not one.repeats), at_right + (not two.repeats)))
        for pair in following:
            if pair not in seen:
                seen.add(pair)
                queue.append(pair)
    return False
