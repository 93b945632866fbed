"""What two people made of one document: field by field, and where they meet.

Pure: documents are what JSON knows, as `profile_to_json` makes them. Elements of a list are told apart
by what they are about (a credential by its name, an endpoint by host, port and path), not by their
place, so that an endpoint inserted at the top is one change. Used by `provider profile update`,
`apply` and `diff`; printing is `profile_report`'s part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ABSENT", "Change", "ThreeWay", "Twice", "changes", "three_way"]

Document = Mapping[str, Any]

_BOOKKEEPING: Final = frozenset({"resource_version", "source", "scope"})
"""Written by the gateway, so never a change of the document."""

_NAMES: Final = ("name", "output", "path")
"""Keys that tell elements of a list apart, the first that is there."""


class _Absent:
    """Marks what is not there at all; None is a value of JSON."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs. `path` is dotted, elements of lists stand in brackets."""

    path: tuple[str, ...]
    before: Any
    after: Any

    @property
    def is_added(self) -> bool:
        return self.before is ABSENT

    @property
    def is_removed(self) -> bool:
        return self.after is ABSENT

    @property
    def dotted(self) -> str:
        text = ""
        for part in self.path:
            text += part if not text or part.startswith("[") else f".{part}"
        return text

    def touches(self, other: Change) -> bool:
        """Whether both speak of one field, or one of a part of the other's."""
        length = min(len(self.path), len(other.path))
        return self.path[:length] == other.path[:length]


@dataclass(frozen=True, slots=True)
class Twice:
    """One place that both changed, each in a way of its own."""

    mine: Change
    theirs: Change


@dataclass(frozen=True, slots=True)
class ThreeWay:
    """What became of one document in two hands.

    `mine` and `theirs` hold all changes of each, also what both changed; `twice` pairs those that do
    not agree. Changes that are the same on both sides are in both lists and in no pair.
    """

    mine: tuple[Change, ...]
    theirs: tuple[Change, ...]
    twice: tuple[Twice, ...]


def three_way(base: Document, mine: Document, theirs: Document) -> ThreeWay:
    """Compares two descendants of one document."""
    ours, others = changes(base, mine), changes(base, theirs)
    twice = tuple(
        Twice(one, other) for one in ours for other in others if one.touches(other) and one != other
    )
    return ThreeWay(ours, others, twice)


def changes(before: Document, after: Document) -> tuple[Change, ...]:
    """The fields in which two documents differ, in the documents' order."""
    return tuple(_compare((), _without_bookkeeping(before), _without_bookkeeping(after)))


def _without_bookkeeping(document: Document) -> Document:
    return {key: value for key, value in document.items() if key not in _BOOKKEEPING}


def _compare(path: tuple[str, ...], before: Any, after: Any) -> list[Change]:
    if before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return _compare_parts(path, before, after)
    if _is_list(before) and _is_list(after):
        old, new = _by_identity(before), _by_identity(after)
        if old is not None and new is not None:
            found = _compare_parts(path, old, new)
            return found or [
                Change((*path, "[order]"), *([*map(_identity, x)] for x in (before, after)))
            ]
    return [Change(path, before, after)]


def _compare_parts(
    path: tuple[str, ...], before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[Change]:
    found: list[Change] = []
    for key in dict.fromkeys((*before, *after)):
        found += _compare((*path, key), before.get(key, ABSENT), after.get(key, ABSENT))
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _by_identity(items: Sequence[Any]) -> dict[str, Any] | None:
    """Elements by what they are about; None when two are about the same."""
    found = {f"[{_identity(item)}]": item for item in items}
    return found if len(found) == len(items) else None


def _identity(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        if "host" in item:
            ports = item.get("ports") or [item.get("port", 0)]
            port = ",".join(str(number) for number in ports)
            return f"{item['host']}:{port}{item.get('path', '')}"
        rule = item.get("allow", item)
        if isinstance(rule, Mapping) and {"method"} < rule.keys() <= {"method", "path"}:
            return f"{rule['method']} {rule['path']}"
        for key in _NAMES:
            if isinstance(item.get(key), str):
                return str(item[key])
    return json.dumps(item, ensure_ascii=False, sort_keys=True)
