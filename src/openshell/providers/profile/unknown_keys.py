"""Keys of a profile document that nothing reads: the contract ignores them, people should know.

An ignored `enforcment` would leave an endpoint less strict than its author meant. Only the document has
such keys, so a client looks for them before it sends. Called by `document`.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Final

from openshell.policy.document import Cursor
from openshell.policy.model import JsonValue
from openshell.providers.profile.fields import Field, Holds, section_of
from openshell.providers.profile.findings import ProfileFinding

__all__ = ["unknown_keys"]

# Nobody reads more; a document may have thousands.
_MOST: Final = 50
# No key of ours is nearly as long, and comparing takes the square of it.
_LONGEST: Final = 64


def unknown_keys(document: JsonValue, places: Cursor | None) -> tuple[ProfileFinding, ...]:
    """One warning for each, in the document's order, as far as anybody would read.

    Args:
        document: The whole document.
        places: The same with its lines; None when they are not known.
    """
    found = tuple(itertools.islice(_of_section(document, places, "profile", ""), _MOST + 1))
    if len(found) <= _MOST:
        return found
    more = ProfileFinding("profile", "more unknown keys are not shown", "warning")
    return (*found[:_MOST], more)


def _of_section(
    value: JsonValue, place: Cursor | None, key: str, path: str
) -> Iterator[ProfileFinding]:
    if not isinstance(value, Mapping):
        return
    fields = {field.name: field for field in section_of(key).fields}
    lines = place.key_lines() if place is not None else {}
    places = dict(place.entries()) if place is not None and place.is_mapping else {}
    for name, held in value.items():
        field = fields.get(name)
        shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
        where = f"{path}.{shown}" if path else shown
        if field is not None:
            yield from _of_field(held, places.get(name), field, where)
            continue
        near = difflib.get_close_matches(name[:_LONGEST], fields, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        message = f"unknown key '{shown}' is ignored{hint}"
        yield ProfileFinding(where, message, "warning", lines.get(name, 0))


def _of_field(
    value: JsonValue, place: Cursor | None, field: Field, path: str
) -> Iterator[ProfileFinding]:
    if field.holds is None:
        return
    how, key = field.holds
    if how is Holds.ONE:
        yield from _of_section(value, place, key, path)
    elif how is Holds.LIST and isinstance(value, tuple):
        items = place.items() if place is not None and place.is_list else ()
        pairs = itertools.zip_longest(value, items)
        for index, (item, below) in enumerate(pairs):
            yield from _of_section(item, below, key, f"{path}[{index}]")
    elif how is Holds.MAP and isinstance(value, Mapping):
        places = dict(place.entries()) if place is not None and place.is_mapping else {}
        for name, item in value.items():
            yield from _of_section(item, places.get(name), key, f"{path}.{name[:_LONGEST]}")
