"""The stand-ins for credentials that an agent holds: their forms, finding them, hiding them.

Pure text work: whether a placeholder may become a value is decided in `credentials.state`. A marker is the
fixed part every form shares; whoever sends bytes on looks for markers, because a marker that was not
replaced means that something is wrong. The forms are those of `proxy.md` 12.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from urllib.parse import unquote_to_bytes

__all__ = [
    "REDACTED",
    "MarkerScanner",
    "Placeholder",
    "cut_placeholders",
    "find_marker",
    "first_placeholder",
    "is_reserved_key",
    "is_valid_key",
    "named_placeholders",
    "parse_placeholder",
    "redact_placeholders",
    "render_placeholder",
]

REDACTED = "[CREDENTIAL]"

_CANONICAL = b"openshell:resolve:env:"
_ALIAS = b"OPENSHELL-RESOLVE-ENV-"

_FORM = re.compile(
    rb"openshell:resolve:env:(?:v(0|[1-9][0-9]{0,19})_|s([0-9a-f]{64})_)?([A-Za-z0-9_]{1,256})"
    rb"|[A-Za-z0-9_.~-]{1,256}?OPENSHELL-RESOLVE-ENV-([A-Za-z0-9_]{1,256})"
).fullmatch
_KEY = re.compile(r"[A-Za-z0-9_]{1,256}").fullmatch
_RESERVED = re.compile(r"(?:v[0-9]+|s[0-9a-f]{64})_.*", re.DOTALL).fullmatch


def _spelled(word: bytes) -> bytes:
    """A pattern for the word with each byte either literal or percent-encoded."""
    parts = []
    for byte in word:
        high, low = b"%x" % (byte >> 4), b"%x" % (byte & 15)
        digit = low if low.isdigit() else b"[%b%b]" % (low, low.upper())
        parts.append(b"(?:%b|%%%b%b)" % (re.escape(bytes([byte])), high, digit))
    return b"".join(parts)


_SPELLED = b"(?:%b|%b)" % (_spelled(_CANONICAL), _spelled(_ALIAS))
_ENCODED_MARKER = re.compile(_SPELLED).search
# An encoded marker holds at least one of these; the slow search runs only around them.
_MAY_BE_ENCODED = re.compile(
    b"%(?:" + b"|".join(sorted({b"(?i:%02x)" % byte for byte in _CANONICAL + _ALIAS})) + b")"
).search
# Exactly the bytes of a key: what stands behind a placeholder is the path that the policy judges.
_KEY_SPELLED = rb"(?:[A-Za-z0-9_]|%3[0-9]|%[46][1-9A-Fa-f]|%[57][0-9Aa]|%5[Ff])+"
# Only the alias takes in what stands before it; a canonical placeholder may follow on other text.
_WITH_KEY = re.compile(
    b"(?:%b|(?:(?<![A-Za-z0-9_.~-])[A-Za-z0-9_.~-]{1,256}?)?%b)%b"
    % (_spelled(_CANONICAL), _spelled(_ALIAS), _KEY_SPELLED)
)
# A canonical placeholder, or a whole run of what an alias may consist of.
_CUT = re.compile(
    rb"openshell:resolve:env:[A-Za-z0-9_]+"
    rb"|(?<![A-Za-z0-9_.~-])[A-Za-z0-9_.~-]*?OPENSHELL-RESOLVE-ENV-[A-Za-z0-9_.~-]*"
)
# What must be kept of a stream so that a marker is found wherever it was cut: all of it encoded, less one.
_TAIL = 3 * max(len(_CANONICAL), len(_ALIAS)) - 1
# What is kept from a marker on to learn the placeholder's name: marker and longest key, all encoded.
_NAMED = 1024
# An alias has something before it; how much does not matter for its name.
_BEFORE = 16


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One placeholder. Without revision and handle it asks for the current value."""

    key: str
    revision: int | None = None
    handle: str | None = None


def parse_placeholder(token: bytes) -> Placeholder | None:
    """Reads a token that is a placeholder as a whole; anything before or behind it gives None."""
    found = _FORM(token)
    if found is None:
        return None
    revision, handle, key, alias = found.groups()
    if alias is not None:
        return Placeholder(alias.decode("ascii"))
    return Placeholder(
        key.decode("ascii"),
        revision=None if revision is None else int(revision),
        handle=None if handle is None else handle.decode("ascii"),
    )


def render_placeholder(key: str, *, revision: int, handle: str = "") -> str:
    """The form an agent's environment gets."""
    if handle:
        return f"{_CANONICAL.decode()}s{handle}_{key}"
    return f"{_CANONICAL.decode()}v{revision}_{key}" if revision else f"{_CANONICAL.decode()}{key}"


def is_valid_key(key: str) -> bool:
    return _KEY(key) is not None


def is_reserved_key(key: str) -> bool:
    """Whether the name reads like a revision or a handle, so that its placeholder would be ambiguous."""
    return _RESERVED(key) is not None


def find_marker(data: bytes) -> bool:
    """Whether a marker stands in the data, literal or percent-encoded once."""
    return _CANONICAL in data or _ALIAS in data or _encoded_marker(data) >= 0


def _encoded_marker(data: bytes) -> int:
    """Where a marker stands that may be encoded in part; -1 without one."""
    hit = _MAY_BE_ENCODED(data)
    while hit is not None:
        # An encoded marker that holds one of the next _TAIL bytes lies within this stretch.
        at = hit.start()
        found = _ENCODED_MARKER(data, max(at - _TAIL, 0), at + 2 * _TAIL + 2)
        if found is not None:
            return found.start()
        hit = _MAY_BE_ENCODED(data, at + _TAIL)
    return -1


def _first_marker(data: bytes) -> int:
    starts = (data.find(_CANONICAL), data.find(_ALIAS), _encoded_marker(data))
    return min((at for at in starts if at >= 0), default=-1)


def cut_placeholders(data: bytes) -> list[bytes | Placeholder] | None:
    """Takes text apart: what stands between, and each literal placeholder, in order.

    None when a marker remains that is no placeholder. In text an alias ends where no alias could go on.
    """
    parts: list[bytes | Placeholder] = []
    at = 0
    for found in _CUT.finditer(data):
        placeholder = parse_placeholder(found[0])
        if placeholder is None:
            return None
        parts += (data[at : found.start()], placeholder)
        at = found.end()
    parts.append(data[at:])
    if any(isinstance(part, bytes) and find_marker(part) for part in parts):
        return None
    return parts


def first_placeholder(data: bytes) -> tuple[Placeholder | None, bool]:
    """The first placeholder in the data, however it is spelled, and whether its name is surely whole."""
    found = _WITH_KEY.search(data)
    if found is None:
        return None, False
    behind = data[found.end() :]
    is_whole = bool(behind) and (behind[:1] != b"%" or len(behind) > 2)
    return parse_placeholder(unquote_to_bytes(found[0])), is_whole


def named_placeholders(data: bytes, limit: int) -> list[Placeholder]:
    """The first placeholders in the data, however they are spelled, as far as they are well-formed."""
    if not find_marker(data):
        return []
    tokens = (unquote_to_bytes(found[0]) for found in islice(_WITH_KEY.finditer(data), limit))
    return [placeholder for token in tokens if (placeholder := parse_placeholder(token))]


class MarkerScanner:
    """Finds markers in a stream, also where the chunks cut them.

    After the first marker it may be fed a little more, to learn the name of the placeholder.
    """

    __slots__ = ("_tail", "found")

    def __init__(self) -> None:
        self._tail = b""
        self.found = False

    def feed(self, chunk: bytes | memoryview) -> bool:
        """Takes the next bytes; True once a marker has been seen, and from then on."""
        if self.found:
            self._tail = b"".join((self._tail, chunk[: _NAMED - len(self._tail)]))
            return True
        window = b"".join((self._tail, chunk))
        self.found = find_marker(window)
        if self.found:
            at = max(_first_marker(window) - _BEFORE, 0)
            self._tail = window[at : at + _NAMED]
        else:
            self._tail = window[-_TAIL:]
        return self.found

    @property
    def is_settled(self) -> bool:
        """Whether more bytes could not change which placeholder was found."""
        return self.found and (first_placeholder(self._tail)[1] or len(self._tail) >= _NAMED)

    @property
    def placeholder(self) -> Placeholder | None:
        """The first placeholder of the stream; None while none was found or it is malformed."""
        return first_placeholder(self._tail)[0] if self.found else None


def redact_placeholders(data: bytes) -> bytes | None:
    """Puts `[CREDENTIAL]` for every placeholder; None when a marker remains that is no placeholder."""
    if not find_marker(data):
        return data
    redacted = _WITH_KEY.sub(REDACTED.encode(), data)
    return None if find_marker(redacted) else redacted
