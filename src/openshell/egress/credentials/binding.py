"""To which endpoints a credential belongs: patterns of host and path, compiled once, matched in linear time.

A host pattern works label by label (`*`, `?`, `[..]` inside one label, a label `**` for one or more). A path
pattern is a glob whose `*` crosses slashes; `x/**` is `x` and everything below. See `proxy.md` 12.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

__all__ = ["BadPattern", "BoundEndpoint", "EndpointScope"]


class BadPattern(ValueError):
    """A binding's host pattern that names no host."""


class EndpointScope(msgspec.Struct, frozen=True):
    """Where a request goes. `path` is canonical, without query, placeholders redacted."""

    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class BoundEndpoint:
    """One endpoint a credential may be sent to."""

    host: str
    port: int
    path: str = ""
    _labels: tuple[re.Pattern[str] | None, ...] = field(init=False, repr=False, compare=False)
    _path: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compiles the patterns; raises BadPattern for a host or port that cannot be one."""
        if not 1 <= self.port <= 65535:
            raise BadPattern("port outside 1..65535")
        object.__setattr__(self, "_labels", _compile_host(self.host))
        object.__setattr__(self, "_path", _compile_path(self.path))

    def covers(self, scope: EndpointScope) -> bool:
        return (
            scope.port == self.port
            and _match_labels(self._labels, scope.host.lower().split("."))
            and (self._path is None or self._path.fullmatch(scope.path) is not None)
        )


def _compile_host(pattern: str) -> tuple[re.Pattern[str] | None, ...]:
    """One entry per label, None for `**`."""
    if not pattern or any(char.isspace() or char in "{}" for char in pattern):
        raise BadPattern("host pattern is blank or holds blanks or braces")
    labels: list[re.Pattern[str] | None] = []
    # Several `**` labels in a row would only mean "at least so many labels".
    for label in pattern.lower().split("."):
        if not label:
            raise BadPattern("host pattern with an empty label")
        if label == "**":
            labels.append(None)
            continue
        source = _glob(label)
        if source is None:
            raise BadPattern("host pattern with an open bracket")
        labels.append(re.compile(source, re.DOTALL))
    return tuple(labels)


def _match_labels(patterns: tuple[re.Pattern[str] | None, ...], labels: list[str]) -> bool:
    """Keeps the set of patterns that may come next, so that `**` costs no backtracking."""
    states = {0}
    for label in labels:
        if not label:
            return False
        following = set()
        for state in states:
            # A state behind the last pattern has only `**` to stay in, and that is the state before it.
            if state == len(patterns):
                continue
            pattern = patterns[state]
            if pattern is None:
                following |= {state, state + 1}
            elif pattern.fullmatch(label):
                following.add(state + 1)
        states = following
    return len(patterns) in states


def _compile_path(pattern: str) -> re.Pattern[str] | None:
    """None where every path is covered."""
    if pattern in ("", "**", "/**"):
        return None
    subtree = pattern.endswith("/**")
    source = _glob(pattern[:-3] if subtree else pattern)
    if source is None:
        return re.compile(re.escape(pattern))
    return re.compile(source + (r"(?:/.*)?" if subtree else ""), re.DOTALL)


def _glob(pattern: str) -> str | None:
    """The glob as a regular expression for fullmatch; None when a bracket stays open.

    Text between two stars is found by an atomic group at its first place: for a glob that is as good as any
    later place, and it cannot backtrack. Only the text behind the last star may slide.
    """
    pieces: list[str] = [""]
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            pieces.append("")
        elif char == "?":
            pieces[-1] += "."
        elif char == "[":
            end = pattern.find(
                "]", position + (2 if pattern[position : position + 1] in ("!", "^") else 1)
            )
            if end < 0:
                return None
            pieces[-1] += _bracket(pattern[position:end])
            position = end + 1
        else:
            pieces[-1] += re.escape(char)
    if len(pieces) == 1:
        return pieces[0]
    middle = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1] if piece)
    return f"{pieces[0]}{middle}.*{pieces[-1]}"


def _bracket(content: str) -> str:
    negated = content[:1] in ("!", "^")
    body = content[1:] if negated else content
    choices: list[str] = []
    position = 0
    while position < len(body):
        low = body[position]
        if body[position + 1 : position + 2] == "-" and position + 2 < len(body):
            high = body[position + 2]
            # An empty range matches nothing, as in a shell.
            if low <= high:
                choices.append(f"{re.escape(low)}-{re.escape(high)}")
            position += 3
        else:
            choices.append(re.escape(low))
            position += 1
    if not choices:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{''.join(choices)}]"
