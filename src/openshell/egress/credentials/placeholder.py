"""The stand-ins for credentials that an agent holds: their forms, finding them, hiding them.

Pure text work: whether a placeholder may become a value is decided in `credentials.state`. A marker is the
fixed part every form shares; whoever sends bytes on looks for markers, because a marker that was not
replaced means that something is wrong. The forms are those of `proxy.md` 12.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "REDACTED",
    "MarkerScanner",
    "Placeholder",
    "find_marker",
    "is_reserved_key",
    "is_valid_key",
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
# What must be kept of a stream so that a marker is found wherever it was cut: all of it encoded, less one.
_TAIL = 3 * max(len(_CANONICAL), len(_ALIAS)) - 1


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
    if _CANONICAL in data or _ALIAS in data:
        return True
    hit = _MAY_BE_ENCODED(data)
    while hit is not None:
        # An encoded marker that holds one of the next _TAIL bytes lies within this stretch.
        at = hit.start()
        if _ENCODED_MARKER(data, max(at - _TAIL, 0), at + 2 * _TAIL + 2) is not None:
            return True
        hit = _MAY_BE_ENCODED(data, at + _TAIL)
    return False


class MarkerScanner:
    """Finds markers in a stream, also where the chunks cut them."""

    __slots__ = ("_tail", "found")

    def __init__(self) -> None:
        self._tail = b""
        self.found = False

    def feed(self, chunk: bytes | memoryview) -> bool:
        """Takes the next bytes; True once a marker has been seen, and from then on."""
        if not self.found:
            window = b"".join((self._tail, chunk))
            self.found = find_marker(window)
            self._tail = window[-_TAIL:]
        return self.found


def redact_placeholders(data: bytes) -> bytes | None:
    """Puts `[CREDENTIAL]` for every placeholder; None when a marker remains that is no placeholder."""
    if not find_marker(data):
        return data
    redacted = _WITH_KEY.sub(REDACTED.encode(), data)
    return None if find_marker(redacted) else redacted
