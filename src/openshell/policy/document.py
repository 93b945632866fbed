"""YAML text to a plain tree that remembers where everything stood; nothing of policy in it.

Only the part of YAML that one document of settings needs: no anchors, aliases, merge keys, tags or
second documents, no duplicate keys, bounded size and depth. Plain scalars follow the core schema of
YAML 1.2, so `no`, `on` and `12:30` are text, as they look. `parse` walks the tree by `Cursor`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import yaml

from openshell.policy.model import JsonValue

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "Cursor",
    "PolicyParseError",
    "is_plain_text",
    "read_document",
    "short",
]

# Twice the largest policy a gateway stores: room for comments and indentation.
MAX_DOCUMENT_BYTES: Final = 524_288
# Text of the document is echoed only this far.
_ECHO: Final = 80
# Far deeper than the schema; keeps the recursion here shallow.
_MAX_DEPTH: Final = 32

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# Python refuses to convert longer digit strings anyway; no number of ours is near it.
_MAX_DIGITS: Final = 40
# Interpreters of settings receive numbers as doubles, so larger integers would change silently.
_DOUBLE: Final = 2**53


class PolicyParseError(ValueError):
    """The text is not a policy. Lines and columns count from 1, `path` is the place in the tree."""

    def __init__(self, *, file: str, line: int, column: int, path: str, message: str) -> None:
        where = f"{file}:{line}:{column}"
        at = f" at {path}" if path else ""
        super().__init__(f"failed to parse sandbox policy YAML: {where}:{at} {message}")
        self.file = file
        self.line = line
        self.column = column
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class _Scalar:
    text: str
    plain: bool
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class _List:
    items: tuple[_Node, ...]
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class _Map:
    entries: tuple[tuple[_Scalar, _Node], ...]
    line: int
    column: int


_Node: TypeAlias = "_Scalar | _List | _Map"


def _kind(node: _Node) -> str:
    if isinstance(node, _List):
        return "a list"
    if isinstance(node, _Map):
        return "a mapping"
    if not node.plain:
        return "text"
    for pattern, name in ((_NULL, "nothing"), (_BOOL, "a boolean"), (_INT, "a number")):
        if pattern.fullmatch(node.text):
            return name
    return "a number" if _FLOAT.fullmatch(node.text) else "text"


def is_plain_text(text: str) -> bool:
    """Whether unquoted text would be read back as text."""
    return _kind(_Scalar(text, True, 0, 0)) == "text"


def _position(mark: object) -> tuple[int, int]:
    """The C and the Python parser have mark classes of their own; both count from 0."""
    return int(getattr(mark, "line", 0)) + 1, int(getattr(mark, "column", 0)) + 1


class _Builder:
    """Builds the tree from parser events, refusing what the tree cannot say."""

    def __init__(self, text: str, source: str, least: str) -> None:
        self._source = source
        self._least = least
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=loader)

    def fail(self, mark: object, message: str) -> PolicyParseError:
        line, column = _position(mark)
        return PolicyParseError(
            file=self._source, line=line, column=column, path="", message=message
        )

    def document(self) -> _Node:
        root: _Node | None = None
        for event in self._events:
            if isinstance(event, (yaml.StreamStartEvent, yaml.DocumentEndEvent)):
                continue
            if isinstance(event, yaml.StreamEndEvent):
                break
            if root is not None:
                raise self.fail(event.start_mark, "a second document; expected only one")
            if not isinstance(event, yaml.DocumentStartEvent):
                raise self.fail(event.start_mark, "expected the start of a document")
            root = self._node(next(self._events), 0)
        if root is None:
            raise self.fail(None, f"the document is empty; expected at least {self._least}")
        return root

    def _node(self, event: yaml.Event, depth: int) -> _Node:
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise self.fail(mark, "aliases ('*name') are not supported; write the value out")
        if getattr(event, "anchor", None) is not None:
            raise self.fail(mark, "anchors ('&name') are not supported; write the value out")
        if getattr(event, "tag", None) not in (None, "!"):
            raise self.fail(mark, "tags ('!name') are not supported; remove it")
        if depth > _MAX_DEPTH:
            raise self.fail(mark, f"nested deeper than {_MAX_DEPTH} levels")
        line, column = _position(mark)
        if isinstance(event, yaml.ScalarEvent):
            return _Scalar(event.value, bool(event.implicit[0]), line, column)
        if isinstance(event, yaml.SequenceStartEvent):
            return _List(tuple(self._items(depth + 1)), line, column)
        return _Map(tuple(self._entries(depth + 1)), line, column)

    def _items(self, depth: int) -> Iterator[_Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth)

    def _entries(self, depth: int) -> Iterator[tuple[_Scalar, _Node]]:
        seen: set[str] = set()
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth)
            if not isinstance(key, _Scalar) or _kind(key) != "text":
                raise self.fail(
                    event.start_mark, f"a key must be text, got {_kind(key)}; put it in quotes"
                )
            if key.plain and key.text == "<<":
                raise self.fail(event.start_mark, "merge keys ('<<') are not supported")
            if key.text in seen:
                raise self.fail(event.start_mark, f"duplicate key '{short(key.text)}'")
            seen.add(key.text)
            yield key, self._node(next(self._events), depth)


def short(text: str) -> str:
    """For messages: one line that drives no terminal, not a screenful."""
    head = text[:_ECHO]
    if not head.isprintable():
        head = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in head)
    return head if len(text) <= _ECHO else head + "…"


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the tree. Each reader returns what is expected there or says what would be."""

    source: str
    node: _Node
    path: str

    def fail(self, message: str) -> PolicyParseError:
        return PolicyParseError(
            file=self.source,
            line=self.node.line,
            column=self.node.column,
            path=self.path,
            message=message,
        )

    def _expected(self, what: str) -> PolicyParseError:
        kind = _kind(self.node)
        hint = ""
        if kind == "nothing":
            hint = "; write a value or remove the key"
        elif what.startswith("text") and kind in ("a number", "a boolean"):
            hint = "; put it in quotes"
        return self.fail(f"expected {what}, got {kind}{hint}")

    def string(self) -> str:
        if not isinstance(self.node, _Scalar) or _kind(self.node) != "text":
            raise self._expected("text")
        if "\0" in self.node.text:
            raise self.fail("text contains a NUL character")
        return self.node.text

    def boolean(self) -> bool:
        if _kind(self.node) != "a boolean" or not isinstance(self.node, _Scalar):
            raise self._expected("true or false")
        return self.node.text.lower() == "true"

    def integer(self, low: int, high: int) -> int:
        what = f"an integer from {low} to {high}"
        node = self.node
        if not isinstance(node, _Scalar) or not node.plain or not _INT.fullmatch(node.text):
            raise self._expected(what)
        if len(node.text) > _MAX_DIGITS:
            raise self.fail(f"expected {what}, got a number of {len(node.text)} digits")
        base = {"0o": 8, "0x": 16}.get(node.text[:2], 10)
        value = int(node.text, base)
        if not low <= value <= high:
            raise self.fail(f"expected {what}, got {value}")
        return value

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.node, _Map)

    @property
    def is_text(self) -> bool:
        return _kind(self.node) == "text"

    @property
    def is_list(self) -> bool:
        return isinstance(self.node, _List)

    def items(self) -> list[Cursor]:
        if not isinstance(self.node, _List):
            raise self._expected("a list")
        return [
            Cursor(self.source, item, f"{self.path}[{index}]")
            for index, item in enumerate(self.node.items)
        ]

    def strings(self) -> tuple[str, ...]:
        return tuple(item.string() for item in self.items())

    def entries(self) -> list[tuple[str, Cursor]]:
        """Of a map with keys of the author's choice."""
        if not isinstance(self.node, _Map):
            raise self._expected("a mapping")
        return [
            (key.text, Cursor(self.source, value, _join(self.path, key.text)))
            for key, value in self.node.entries
        ]

    def key_lines(self) -> dict[str, int]:
        """The line of each key of a map; nothing for anything else."""
        entries = self.node.entries if isinstance(self.node, _Map) else ()
        return {key.text: key.line for key, _ in entries}

    def fields(
        self, accepted: tuple[str, ...], required: tuple[str, ...] = ()
    ) -> dict[str, Cursor]:
        """Of a closed map: an unknown key or a missing one fails, naming what is accepted."""
        found = dict(self.entries())
        if isinstance(self.node, _Map):
            for key, _ in self.node.entries:
                if key.text not in accepted:
                    raise PolicyParseError(
                        file=self.source,
                        line=key.line,
                        column=key.column,
                        path=self.path,
                        message=f"unknown key '{short(key.text)}'; accepted here: "
                        + ", ".join(accepted),
                    )
        for name in required:
            if name not in found:
                raise self.fail(f"missing key '{name}'")
        return found

    def json(self, largest: int = _DOUBLE) -> JsonValue:
        """Any value, for settings that somebody else interprets; integers up to `largest`."""
        node = self.node
        if isinstance(node, _List):
            return tuple(item.json(largest) for item in self.items())
        if isinstance(node, _Map):
            return {key: value.json(largest) for key, value in self.entries()}
        kind = _kind(node)
        if kind == "text":
            return self.string()
        if kind == "a boolean":
            return self.boolean()
        if kind == "nothing":
            return None
        if _INT.fullmatch(node.text):
            return self.integer(-largest, largest)
        if not re.fullmatch(r"[-+0-9.eE]+", node.text):
            raise self.fail("expected a finite number")
        return float(node.text)


def _join(path: str, key: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_*/-]+", key):
        return f'{path}["{short(key)}"]'
    return f"{path}.{key}" if path else key


def read_document(text: str, *, source: str, least: str = "'version: 1'") -> Cursor:
    """Parses one document or raises `PolicyParseError`; `least` is what an empty one lacks."""
    if len(text) > MAX_DOCUMENT_BYTES or len(text.encode("utf-8", "replace")) > MAX_DOCUMENT_BYTES:
        message = f"the document is larger than {MAX_DOCUMENT_BYTES} bytes"
        raise PolicyParseError(file=source, line=1, column=1, path="", message=message)
    builder = _Builder(text, source, least)
    try:
        return Cursor(source, builder.document(), "")
    except yaml.MarkedYAMLError as error:
        problem = error.problem or "not valid YAML"
        raise builder.fail(error.problem_mark or error.context_mark, problem) from None
    except (yaml.YAMLError, UnicodeError):
        raise builder.fail(None, "contains a character that YAML does not allow") from None
