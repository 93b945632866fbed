"""Which programs a rule knows, and how: binaries of a rule, compiled.

A path may be named by a person or proposed by the advisor; the grade says which, because only what a
person named may reach private addresses. Called by the compiled policy for every connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from openshell.policy.decide import ConnectionRequest
from openshell.policy.globs import GlobError, TextMatcher, compile_glob
from openshell.policy.model import Binary, NetworkRule

__all__ = ["Match", "Rule", "compile_binaries", "programs_of"]


class Match(IntEnum):
    """How a rule knows the process: not at all, by an advisor's entry, by a person's."""

    NONE = 0
    MARKED = 1
    NAMED = 2


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    key: str
    named: frozenset[str]
    marked: frozenset[str]
    globs: tuple[tuple[TextMatcher, Match], ...]

    @property
    def has_binaries(self) -> bool:
        return bool(self.named or self.marked or self.globs)

    def match(self, programs: tuple[str, ...]) -> Match:
        best = Match.NONE
        for program in programs:
            if program in self.named:
                return Match.NAMED
            if program in self.marked:
                best = Match.MARKED
            for glob, grade in self.globs:
                if grade > best and glob(program):
                    best = grade
        return best


def programs_of(request: ConnectionRequest) -> tuple[str, ...]:
    """The executable, then its ancestors; a process without identity is nobody."""
    return () if request.binary is None else (request.binary, *request.ancestors)


def compile_binaries(rule: NetworkRule, links: Mapping[str, str]) -> Rule:
    named: set[str] = set()
    marked: set[str] = set()
    globs: list[tuple[TextMatcher, Match]] = []
    for binary in rule.binaries:
        if "*" in binary.path:
            globs.extend(_binary_glob(binary))
            continue
        paths = marked if binary.advisor_proposed else named
        paths.add(binary.path)
        if binary.path in links:
            paths.add(links[binary.path])
    return Rule(rule.key, frozenset(named), frozenset(marked), tuple(globs))


def _binary_glob(binary: Binary) -> Iterable[tuple[TextMatcher, Match]]:
    """An entry that cannot be read grants nothing."""
    try:
        grade = Match.MARKED if binary.advisor_proposed else Match.NAMED
        return ((compile_glob(binary.path, "/"), grade),)
    except GlobError:
        return ()
