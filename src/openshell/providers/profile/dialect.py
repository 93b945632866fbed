"""The tree of a profile document to the tree that the model's types expect.

People write `port: 443`, a rule as `{allow: {...}}`, a matcher as its glob, a binary as its path and
a category as a word; this module turns each into the one form that the schema in `document` checks.
Unknown keys go, required ones must be there. A value of the wrong type is left alone: the schema
says what it expects. Called by `document` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from openshell.policy.model import JsonValue
from openshell.providers.profile.fields import Field, Holds, section_of
from openshell.providers.profile.model import Category, Strategy

__all__ = ["DialectError", "model_tree"]

_Path: TypeAlias = tuple[str | int, ...]
_Tree: TypeAlias = dict[str, JsonValue]

# A word is echoed only this far.
_ECHO: Final = 40


class DialectError(ValueError):
    """What is wrong and where in the document."""

    def __init__(self, path: _Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def model_tree(document: JsonValue) -> JsonValue:
    """The whole document in the model's shape. Raises `DialectError`."""
    return _section(document, "profile", ())


def _section(value: JsonValue, key: str, path: _Path) -> JsonValue:
    short = _SHORT_FORMS.get(key)
    if short is not None and isinstance(value, str):
        return {short: value}
    if not isinstance(value, Mapping):
        return value
    section = section_of(key)
    for field in section.fields:
        if field.required and field.name not in value:
            raise DialectError(path, f"missing key '{field.name}'")
    tree = {
        field.name: _field(field, value[field.name], (*path, field.name))
        for field in section.fields
        if field.name in value
    }
    reshape = _RESHAPE.get(key)
    return reshape(tree, path) if reshape is not None else tree


def _field(field: Field, value: JsonValue, path: _Path) -> JsonValue:
    if field.bounds is not None:
        _check_bounds(field.bounds, value, path)
    if field.holds is None:
        return value
    how, key = field.holds
    if how is Holds.LIST and isinstance(value, (tuple, list)):
        return tuple(_section(item, key, (*path, index)) for index, item in enumerate(value))
    if how is Holds.MAP and isinstance(value, Mapping):
        return {name: _section(item, key, (*path, name)) for name, item in value.items()}
    return _section(value, key, path) if how is Holds.ONE else value


def _check_bounds(bounds: tuple[int, int], value: JsonValue, path: _Path) -> None:
    low, high = bounds
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(item, int) and not isinstance(item, bool) and not low <= item <= high:
            raise DialectError(path, f"expected a number from {low} to {high}, got {item}")


def _profile(tree: _Tree, path: _Path) -> JsonValue:
    _read_word(tree, "category", path, Category, Category.OTHER)
    return tree


def _refresh(tree: _Tree, path: _Path) -> JsonValue:
    _read_word(tree, "strategy", path, Strategy, Strategy.UNSPECIFIED)
    return tree


def _read_word(tree: _Tree, name: str, path: _Path, words: type[IntEnum], blank: IntEnum) -> None:
    """A word in any case, `-` or `_`, to its number; "" and a missing key are `blank`."""
    value = tree.get(name, "")
    known = {member.name.lower(): member.value for member in words if member.value}
    found = None
    if isinstance(value, str):
        word = value.strip().lower().replace("-", "_")
        found = known.get(word) if word else blank.value
    if found is None:
        got = f"'{value[:_ECHO]}'" if isinstance(value, str) else "another type"
        raise DialectError((*path, name), f"expected one of {', '.join(known)}; got {got}")
    tree[name] = found


def _endpoint(tree: _Tree, path: _Path) -> JsonValue:
    """`ports` wins over `port`; a single port 0 is the same as none."""
    single = tree.pop("port", 0)
    if not isinstance(single, int) or isinstance(single, bool):
        raise DialectError((*path, "port"), "expected a number")
    if not tree.get("ports"):
        tree.setdefault("ports", ())
        if single:
            tree["ports"] = (single,)
    protocol = tree.get("protocol")
    if isinstance(protocol, str):
        tree["protocol"] = protocol.lower()
    return tree


def _rule(tree: _Tree, path: _Path) -> JsonValue:
    """`tool` is short for the parameter `name`, which wins."""
    tool = tree.pop("tool", None)
    params = tree.get("params", {})
    if tool is not None and not isinstance(params, Mapping):
        raise DialectError((*path, "params"), "expected a mapping")
    if tool is not None and isinstance(params, Mapping):
        tree["params"] = {"name": tool, **params}
    return tree


def _rename(old: str, new: str) -> Callable[[_Tree, _Path], JsonValue]:
    def renamed(tree: _Tree, _path: _Path) -> JsonValue:
        if old in tree:
            tree[new] = tree.pop(old)
        return tree

    return renamed


# What a scalar stands for where a mapping is the long form.
_SHORT_FORMS: Final[Mapping[str, str]] = MappingProxyType({"matcher": "glob", "binary": "path"})
_RESHAPE: Final[Mapping[str, Callable[[_Tree, _Path], JsonValue]]] = MappingProxyType(
    {
        "profile": _profile,
        "refresh": _refresh,
        "endpoint": _endpoint,
        "allow": lambda tree, _path: tree["allow"],
        "l7_rule": _rule,
        "matcher": _rename("any", "any_of"),
        "binary": _rename("harness", "advisor_proposed"),
    }
)
