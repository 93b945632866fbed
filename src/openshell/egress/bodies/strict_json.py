"""JSON as the two ends of a connection must both read it: no repeated keys, no NaN, bounded depth.

Where a document could mean one thing here and another at the server, it is refused: a repeated key
of which one reader takes the first and one the last would carry a call past its rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["MAX_DEPTH", "JsonRejected", "misspelled", "read_json", "spellings"]

MAX_DEPTH: Final = 128
"""Arrays and objects inside each other; the contract's number for GraphQL."""

# A string that does not end is taken to the end, once: looking for its quote again and again would be
# quadratic.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(r"[][{}]")


class JsonRejected(ValueError):
    """Not JSON, or JSON that two readers may read differently. The text quotes nothing."""


def read_json(data: bytes) -> Any:
    """The document of a body in UTF-8. Raises `JsonRejected`."""
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            raise JsonRejected("invalid JSON")
        _check_depth(text)
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (UnicodeDecodeError, RecursionError) as error:
        raise JsonRejected("invalid JSON") from error
    except JsonRejected:
        raise
    except ValueError as error:
        # Also what exceeds the digits that an integer may have.
        raise JsonRejected("invalid JSON") from error


def spellings(*names: str) -> Mapping[str, str]:
    """Names for `misspelled`, by what readers that fold case make of them."""
    return {name.casefold(): name for name in names}


def misspelled(keys: Iterable[str], names: Mapping[str, str]) -> str:
    """The one of `names` that a key is only for readers who fold case; nothing where there is none.

    Go's JSON takes `Method` and `method`, whichever comes last, and folds even letters outside ASCII.
    """
    for key in keys:
        meant = names.get(key.casefold())
        if meant is not None and meant != key:
            return meant
    return ""


def _check_depth(text: str) -> None:
    """Walks only documents with many brackets, and only those outside of strings."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for found in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if found[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise JsonRejected(f"JSON is nested deeper than {MAX_DEPTH}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonRejected("invalid JSON: an object has a key twice")
    return found


def _no_constant(_name: str) -> Any:
    raise JsonRejected("invalid JSON")
