"""The glob dialects of the policy language, each compiled once to a matcher of linear time.

Dialect E (evaluator): separator-aware, case-sensitive, braces and classes; the separator is `/`
for paths and `.` for hosts, queries and names. Dialect R (route selection): `*` and `?` cross
`/`. Dialect H (selectors): label-wise, case-insensitive.

Why a pattern cannot make matching slow. Between two stars stands a piece of fixed length, and
between two `**` a block of a fixed number of components; taking the leftmost place for each is
always right, because an earlier end leaves a superset of what a later one leaves. So every gap is
one atomic group (`(?>...)`): the regular expression engine never comes back into it, and the cost
is at most (length of text) x (length of pattern). Braces are multiplied out beforehand, within a
bound. Text is bounded by the callers, patterns here.

A pattern that cannot be read raises `GlobError`; callers decide what that means (a refusal).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = [
    "MAX_ALTERNATIVES",
    "MAX_GLOB_LENGTH",
    "GlobError",
    "Step",
    "TextMatcher",
    "check_glob",
    "compile_glob",
    "compile_route",
    "compile_selector",
    "steps_of",
]

# True or a match object for yes, False or None for no.
TextMatcher: TypeAlias = Callable[[str], object]

# As long as the longest path a request may have; what is longer can match nothing.
MAX_GLOB_LENGTH: Final = 4096
# Patterns that one pattern with braces stands for. People write two to ten.
MAX_ALTERNATIVES: Final = 64
# Braces inside braces.
_MAX_NESTING: Final = 8
# Characters after multiplying out braces: keeps the compiled form, and so each match, small.
_MAX_EXPANDED: Final = 16384


class GlobError(ValueError):
    """The pattern cannot be read; the text says why and quotes nothing but the pattern's parts."""


@dataclass(frozen=True, slots=True)
class _Literal:
    char: str


@dataclass(frozen=True, slots=True)
class _One:
    """One character other than the separator: `?`."""


@dataclass(frozen=True, slots=True)
class _Star:
    """`*`; `double` for exactly two in a row, which mean more when they stand alone."""

    double: bool = False


@dataclass(frozen=True, slots=True)
class _Class:
    ranges: tuple[tuple[str, str], ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple[tuple[_Token, ...], ...]


_Token: TypeAlias = "_Literal | _One | _Star | _Class | _Choice"  # noqa: S105 (a type)
_Tokens: TypeAlias = tuple[_Token, ...]


class _Reader:
    """Recursive descent over one pattern. `braces` and `escapes` differ between dialects."""

    def __init__(self, pattern: str, *, braces: bool, escapes: bool) -> None:
        if len(pattern) > MAX_GLOB_LENGTH:
            raise GlobError(f"pattern is longer than {MAX_GLOB_LENGTH} characters")
        if "\0" in pattern:
            raise GlobError("pattern contains a NUL character")
        self._text = pattern
        self._at = 0
        self._braces = braces
        self._escapes = escapes

    def read(self) -> _Tokens:
        tokens = self._sequence(0)
        if self._at < len(self._text):
            raise GlobError(f"'{self._text[self._at]}' without an opening '{{'")
        return tokens

    def _sequence(self, depth: int) -> _Tokens:
        out: list[_Token] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if self._braces and (char == "}" or (char == "," and depth)):
                break
            self._at += 1
            if char == "*":
                out.append(self._stars())
            elif char == "?":
                out.append(_One())
            elif char == "[":
                out.append(self._class())
            elif char == "{" and self._braces:
                out.append(self._choice(depth + 1))
            elif char == "\\" and self._escapes:
                out.append(_Literal(self._escaped()))
            else:
                out.append(_Literal(char))
        return tuple(out)

    def _stars(self) -> _Star:
        start = self._at - 1
        while self._at < len(self._text) and self._text[self._at] == "*":
            self._at += 1
        return _Star(double=self._at - start == 2)

    def _escaped(self) -> str:
        if self._at >= len(self._text):
            raise GlobError("'\\' at the end escapes nothing")
        self._at += 1
        return self._text[self._at - 1]

    def _class(self) -> _Class:
        negated = self._text[self._at : self._at + 1] in ("!", "^")
        if negated:
            self._at += 1
        ranges: list[tuple[str, str]] = []
        first = True
        while True:
            if self._at >= len(self._text):
                raise GlobError("'[' without a closing ']'")
            char = self._text[self._at]
            self._at += 1
            if char == "]" and not first:
                return _Class(tuple(ranges), negated)
            first = False
            if char == "\\" and self._escapes:
                char = self._escaped()
            ranges.append((char, self._range_end(char)))

    def _range_end(self, low: str) -> str:
        """The upper end when `-x` follows; a `-` just before `]` is itself a member."""
        rest = self._text[self._at : self._at + 2]
        if len(rest) < 2 or rest[0] != "-" or rest[1] == "]":
            return low
        self._at += 2
        high = self._escaped() if rest[1] == "\\" and self._escapes else rest[1]
        if high < low:
            raise GlobError(f"class range '{low}-{high}' is backwards")
        return high

    def _choice(self, depth: int) -> _Choice:
        if depth > _MAX_NESTING:
            raise GlobError(f"braces nest deeper than {_MAX_NESTING}")
        options: list[_Tokens] = []
        while True:
            options.append(self._sequence(depth))
            if self._at >= len(self._text):
                raise GlobError("'{' without a closing '}'")
            self._at += 1
            if self._text[self._at - 1] == "}":
                return _Choice(tuple(options))


def _expand(tokens: _Tokens) -> list[_Tokens]:
    """Multiplies out braces, outermost first, refusing to grow past the bounds."""
    results: list[_Tokens] = [()]
    for token in tokens:
        if isinstance(token, _Choice):
            tails = [tail for option in token.options for tail in _expand(option)]
        else:
            tails = [(token,)]
        if len(results) * len(tails) > MAX_ALTERNATIVES:
            raise GlobError(f"braces stand for more than {MAX_ALTERNATIVES} patterns")
        results = [head + tail for head in results for tail in tails]
    if sum(map(len, results)) > _MAX_EXPANDED:
        raise GlobError(f"braces grow the pattern past {_MAX_EXPANDED} characters")
    return results


def _member(token: _Token, sep: str) -> str:
    """The expression for one token that stands for exactly one character."""
    if isinstance(token, _Literal):
        return re.escape(token.char)
    if isinstance(token, _One):
        return f"[^{re.escape(sep)}]" if sep else "."
    if not isinstance(token, _Class):
        raise TypeError("stars and braces are not single characters")
    body = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in token.ranges)
    # A class never reaches over a separator, even when it names it.
    guard = f"(?!{re.escape(sep)})" if sep else ""
    return f"{guard}[{'^' if token.negated else ''}{body}]"


def _split_components(tokens: _Tokens, sep: str) -> list[_Tokens]:
    components: list[list[_Token]] = [[]]
    for token in tokens:
        if sep and token == _Literal(sep):
            components.append([])
        else:
            components[-1].append(token)
    return [tuple(component) for component in components]


def _component(tokens: _Tokens, sep: str) -> str:
    """One component: pieces of fixed length with gaps between them, each gap atomic."""
    gap = f"[^{re.escape(sep)}]" if sep else "."
    end = f"(?={re.escape(sep)}|\\Z)" if sep else "\\Z"
    pieces: list[str] = [""]
    for token in tokens:
        if not isinstance(token, _Star):
            pieces[-1] += _member(token, sep)
        elif pieces[-1] or len(pieces) == 1:
            pieces.append("")
    if len(pieces) == 1:
        return pieces[0]
    middle = "".join(f"(?>{gap}*?{piece})" for piece in pieces[1:-1])
    return f"{pieces[0]}{middle}(?>{gap}*{pieces[-1]}{end})"


def _is_globstar(component: _Tokens) -> bool:
    return component == (_Star(double=True),)


def _pattern(tokens: _Tokens, sep: str, least: int) -> str:
    """An anchored expression. `least`: components that an inner or leading `**` must consume."""
    quoted = re.escape(sep)
    skip = f"[^{quoted}]*+{quoted}"
    end = f"(?={quoted}|\\Z)"
    blocks: list[list[str]] = [[]]
    stars: list[int] = []
    for component in _split_components(tokens, sep):
        if not _is_globstar(component):
            blocks[-1].append(_component(component, sep))
        elif stars and not blocks[-1]:
            stars[-1] += 1
        else:
            stars.append(1)
            blocks.append([])
    if not stars:
        return quoted.join(blocks[0]) + "\\Z"
    # `**` at the very end leaves an empty last block; an empty first one means it led.
    out = quoted.join(blocks[0]) + quoted if blocks[0] else ""
    for position, (count, block) in enumerate(zip(stars, blocks[1:], strict=True), start=1):
        if not block:
            return f"{out}(?:{skip}){{{(count - 1) * least}}}.*\\Z"
        stop = "\\Z" if position == len(stars) else end
        repeat = f"{{{count * least},}}?"
        out += f"(?>(?:{skip}){repeat}{quoted.join(block)}{stop})"
        if position < len(stars):
            out += quoted
    return out


def _plain(tokens: _Tokens) -> str | None:
    """The text itself when the pattern has nothing special in it."""
    chars = [token.char for token in tokens if isinstance(token, _Literal)]
    return "".join(chars) if len(chars) == len(tokens) else None


def _everything(_text: str) -> bool:
    return True


class _Matcher:
    """Matches by an expression that is compiled when it is first asked.

    Most patterns of a large policy are never asked between two reloads, and compiling is nine tenths
    of what loading them costs. Everything that can be wrong with a pattern was found before.
    """

    __slots__ = ("_build", "_match")

    def __init__(self, build: Callable[[], Iterable[str]]) -> None:
        self._build = build
        self._match: TextMatcher | None = None

    def __call__(self, text: str) -> object:
        match = self._match
        if match is None:
            match = re.compile(f"(?:{'|'.join(self._build())})", re.DOTALL).match
            self._match = match
        return match(text)


# What can make a pattern unreadable, or stand for something else than itself, besides `*` and `?`.
_CAREFUL = re.compile(r"[\[{}\\\0]")


def _is_simple(pattern: str) -> bool:
    """Stars, question marks and text: nothing in it can be wrong, so it need not be read to know."""
    return len(pattern) <= MAX_GLOB_LENGTH and _CAREFUL.search(pattern) is None


def _read(pattern: str) -> list[_Tokens]:
    return _expand(_Reader(pattern, braces=True, escapes=True).read())


def _has_wildcard(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def check_glob(pattern: str) -> None:
    """Raises `GlobError` where `compile_glob` would, at a fraction of the cost."""
    if not _is_simple(pattern):
        _read(pattern)


def compile_glob(pattern: str, sep: str) -> TextMatcher:
    """Dialect E: anchored, case-sensitive, `sep` is `/` or `.`.

    `**` counts only as a whole component. With `/` it may stand for no component at all, except at
    the end; with `.` it stands for at least one. The pattern `**` alone matches everything.
    """
    if pattern == "**":
        return _everything
    least = 1 if sep == "." else 0
    if not _is_simple(pattern):
        expanded = _read(pattern)
        plain = _plain(expanded[0]) if len(expanded) == 1 else None
        if plain is not None:
            return plain.__eq__
        return _Matcher(lambda: [_pattern(tokens, sep, least) for tokens in expanded])
    if not _has_wildcard(pattern):
        return pattern.__eq__
    if pattern.endswith(f"{sep}**") and not _has_wildcard(pattern[:-3]):
        prefix = pattern[:-2]
        return lambda text: text.startswith(prefix)
    return _Matcher(lambda: [_pattern(tokens, sep, least) for tokens in _read(pattern)])


def compile_route(pattern: str) -> TextMatcher:
    """Dialect R: `*` and `?` cross `/`; `P/**` is P and all below; never raises.

    A pattern that cannot be read matches only the path that is spelled the same.
    """
    if pattern in ("", "**", "/**"):
        return _everything
    below = pattern.endswith("/**")
    base = pattern[:-3] if below else pattern
    if _is_simple(base) and not _has_wildcard(base):
        return _below(base) if below else pattern.__eq__
    try:
        tokens = _Reader(base, braces=False, escapes=False).read()
    except GlobError:
        return pattern.__eq__
    plain = _plain(tokens)
    if plain is not None and not below:
        return plain.__eq__
    if plain is not None:
        return _below(plain)
    compiled = _Matcher(lambda: [_route_expression(tokens, below=below)])
    return lambda text: text == pattern or compiled(text)


def _below(base: str) -> TextMatcher:
    """The path and what is under it."""
    prefix = base + "/"
    return lambda text: text == base or text.startswith(prefix)


def _route_expression(tokens: _Tokens, *, below: bool) -> str:
    """Gaps cross `/`; `/**/` may also be a single `/`. Each gap with its piece is atomic."""
    slash = _Literal("/")
    gaps: list[str] = [""]
    pieces: list[str] = [""]
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if not isinstance(token, _Star):
            pieces[-1] += _member(token, "")
            continue
        alone = token.double and (position == 1 or tokens[position - 2] == slash)
        if alone and tokens[position : position + 1] == (slash,):
            gaps.append("(?:.*?/)??")
            position += 1
        else:
            gaps.append(".*?")
        pieces.append("")
    end = "(?:/.*)?\\Z" if below else "\\Z"
    parts = [f"(?>{gap}{piece})" for gap, piece in zip(gaps[:-1], pieces[:-1], strict=True)]
    return f"{''.join(parts)}(?>{gaps[-1]}{pieces[-1]}{end})"


def compile_selector(pattern: str) -> TextMatcher:
    """Dialect H: label by label, case-insensitive; a label `**` stands for one or more labels.

    Hosts with an empty label (a trailing dot) never match.
    """
    if not pattern:
        raise GlobError("pattern is empty")
    if any(char.isspace() for char in pattern):
        raise GlobError("pattern contains white space")
    if "{" in pattern or "}" in pattern:
        raise GlobError("braces are not supported here: write one pattern for each name")
    if not all(pattern.split(".")):
        raise GlobError("pattern has an empty label")
    tokens = _Reader(pattern.lower(), braces=False, escapes=False).read()
    compiled = _Matcher(lambda: [_pattern(tokens, ".", 1)])

    def matches(host: str) -> bool:
        lowered = host.lower()
        return all(lowered.split(".")) and compiled(lowered) is not None

    return matches


@dataclass(frozen=True, slots=True)
class Step:
    """One position of a pattern seen as an automaton: which characters, and whether it stays."""

    repeats: bool
    # Characters that it takes; with `excluded`, all characters but these.
    chars: frozenset[str]
    excluded: bool

    def meets(self, other: Step) -> bool:
        """Whether one character suits both."""
        if self.excluded and other.excluded:
            return True
        if self.excluded:
            return bool(other.chars - self.chars)
        if other.excluded:
            return bool(self.chars - other.chars)
        return not self.chars.isdisjoint(other.chars)


# Members of a class that are enumerated for comparison; a wider class counts as any character.
_MAX_CLASS_MEMBERS: Final = 1024


def _step(token: _Token, sep: str) -> Step:
    if isinstance(token, _Literal):
        return Step(False, frozenset((token.char,)), False)
    if isinstance(token, _Star):
        crosses = token.double or not sep
        return Step(True, frozenset() if crosses else frozenset((sep,)), True)
    if not isinstance(token, _Class):
        return Step(False, frozenset((sep,)) if sep else frozenset(), True)
    if sum(ord(high) - ord(low) + 1 for low, high in token.ranges) > _MAX_CLASS_MEMBERS:
        return Step(False, frozenset((sep,)) if sep else frozenset(), True)
    members = {chr(c) for low, high in token.ranges for c in range(ord(low), ord(high) + 1)}
    if token.negated:
        return Step(False, frozenset(members | ({sep} if sep else set())), True)
    return Step(False, frozenset(members - {sep}), False)


def steps_of(pattern: str, sep: str) -> list[tuple[Step, ...]]:
    """The pattern as automata, one for each alternative, for comparing two patterns.

    `sep` "" lets every star cross everything; otherwise only `**` crosses it. Raises `GlobError`.
    """
    tokens = _Reader(pattern, braces=True, escapes=True).read()
    return [tuple(_step(token, sep) for token in alternative) for alternative in _expand(tokens)]
