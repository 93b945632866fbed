"""Puts values in the place of placeholders, encoded so that what surrounds them keeps its structure.

One function per place: path, query or form, JSON, other text. Each takes whole text and a lookup and
answers the new text or why there is none; none of them changes a byte outside the parts in which a
marker stands. A value that could move a border of its place (a slash in a path, a quote in markup) is
refused where it cannot be encoded. The rules are those of `proxy.md` 12.4 and 12.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from openshell.egress.credentials.placeholder import Placeholder, cut_placeholders, find_marker
from openshell.egress.credentials.state import Unresolved

__all__ = ["Value", "place_in_json", "place_in_pairs", "place_in_path", "place_in_text"]

Value: TypeAlias = Callable[[Placeholder], str | Unresolved]

# What a path segment holds literally (RFC 3986 pchar), but for `;`: servers cut a segment there.
_SEGMENT_SAFE: Final = "!$&'()*+,=:@"
# Of a value in a path: what servers take for a border of segments, also after decoding.
_PATH_BORDERS: Final = re.compile(r"[/\\?#]").search
_BORDERS_ONCE_DECODED: Final = re.compile(rb"[/\\]").split
_DOTS: Final = frozenset({b".", b".."})
_JSON_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_JSON_NAME: Final = re.compile(rb"[ \t\r\n]*:").match
# Text whose structure we do not know takes values that mean nothing anywhere.
_INERT: Final = re.compile(r"[A-Za-z0-9._~+/=:@-]+").fullmatch
# A body full of placeholders must not make us hold a thousand times its size.
PLACED_LIMIT: Final = 1 << 20


def place_in_path(path: bytes, value: Value) -> bytes | Unresolved:
    """A canonical path; a placeholder may be a part of a segment."""
    segments = path.split(b"/")
    for index, segment in enumerate(segments):
        if find_marker(segment):
            placed = _segment(segment, value)
            if isinstance(placed, Unresolved):
                return placed
            segments[index] = placed
    return b"/".join(segments)


def place_in_pairs(pairs: bytes, value: Value) -> bytes | Unresolved:
    """A query or a form: values only, a marker in a name is refused."""
    parts = pairs.split(b"&")
    size = len(pairs)
    for index, part in enumerate(parts):
        if not find_marker(part):
            continue
        name, equals, text = part.partition(b"=")
        if not equals or find_marker(name):
            return Unresolved.UNAVAILABLE
        found = _replaced(unquote_to_bytes(text.replace(b"+", b" ")), value)
        if isinstance(found, Unresolved):
            return found
        parts[index] = name + b"=" + quote_from_bytes(found, safe="").encode()
        size += len(parts[index])
        if size > PLACED_LIMIT:
            return Unresolved.UNAVAILABLE
    return b"&".join(parts)


def place_in_json(text: bytes, value: Value) -> bytes | Unresolved:
    """A JSON document: inside strings that are no names, each written anew as a string."""
    try:
        # In a valid document every quote belongs to a string, so strings are found by their quotes.
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Unresolved.UNAVAILABLE
    out: list[bytes] = []
    at = size = 0
    for found in _JSON_STRING.finditer(text):
        if not find_marker(found[0]):
            continue
        if _JSON_NAME(text, found.end()):
            return Unresolved.UNAVAILABLE
        placed = _replaced(json.loads(found[0]).encode("utf-8", "surrogatepass"), value)
        if isinstance(placed, Unresolved):
            return placed
        out += (
            text[at : found.start()],
            json.dumps(placed.decode("utf-8", "surrogatepass")).encode(),
        )
        at = found.end()
        size += len(out[-1])
        if size > PLACED_LIMIT:
            return Unresolved.UNAVAILABLE
    out.append(text[at:])
    return b"".join(out)


def place_in_text(text: bytes, value: Value, *, is_plain: bool) -> bytes | Unresolved:
    """Any other text. Unless it is plain, only values are placed that mean nothing in any language."""

    def harmless(wanted: Placeholder) -> str | Unresolved:
        found = value(wanted)
        if isinstance(found, str) and not _INERT(found):
            return Unresolved.UNAVAILABLE
        return found

    return _replaced(text, value if is_plain else harmless)


def _segment(segment: bytes, value: Value) -> bytes | Unresolved:
    def fitting(wanted: Placeholder) -> str | Unresolved:
        found = value(wanted)
        if isinstance(found, str) and _PATH_BORDERS(found):
            return Unresolved.UNAVAILABLE
        return found

    placed = _replaced(unquote_to_bytes(segment), fitting)
    if isinstance(placed, Unresolved):
        return placed
    # With what stands around it a value must not become a dot segment, for any reader of parameters.
    for piece in _BORDERS_ONCE_DECODED(placed):
        name, parameters, _ = piece.partition(b";")
        if name in _DOTS or (parameters and not name):
            return Unresolved.UNAVAILABLE
    return quote_from_bytes(placed, safe=_SEGMENT_SAFE).encode()


def _replaced(text: bytes, value: Value) -> bytes | Unresolved:
    parts = cut_placeholders(text)
    if parts is None:
        return Unresolved.UNAVAILABLE
    out: list[bytes] = []
    size = 0
    for part in parts:
        found = value(part) if isinstance(part, Placeholder) else part
        if isinstance(found, Unresolved):
            return found
        out.append(found.encode() if isinstance(found, str) else found)
        size += len(out[-1])
        if size > PLACED_LIMIT:
            return Unresolved.UNAVAILABLE
    return b"".join(out)
