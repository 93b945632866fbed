"""Puts credentials into a request body, where the endpoint's author opted in.

The body is whole and without framing here; what it is, its content type says. A marker in a body of a
kind that is not understood refuses the request, and a body without one is left alone. Collecting the
body, and bounding it, is the shell's part; see `proxy.md` 12.5.
"""

from __future__ import annotations

from typing import Final

import msgspec

from openshell.egress.credentials.binding import EndpointScope
from openshell.egress.credentials.lookup import Lookup
from openshell.egress.credentials.placeholder import Placeholder, find_marker
from openshell.egress.credentials.placing import place_in_json, place_in_pairs, place_in_text
from openshell.egress.credentials.rewrite import CredentialRefused
from openshell.egress.credentials.state import CredentialSet, Unresolved

__all__ = ["BODY_LIMIT", "MARKER_PLACE", "RewrittenBody", "refuse_marker", "rewrite_body"]

# What is held of a body to be rewritten, chunk framing included; calls of APIs that want a token in
# the body take a few hundred bytes. The client sees 413.
BODY_LIMIT: Final = 256 * 1024

_FORM: Final = "application/x-www-form-urlencoded"
# The place of a marker in a body where nothing is replaced.
MARKER_PLACE: Final = "request-body"
_PLACE_OPTED_IN: Final = "placed-body"


class RewrittenBody(msgspec.Struct, frozen=True):
    """The body to send; `used` names the keys whose values are in it. Never log the data."""

    data: bytes
    used: tuple[str, ...]

    def __repr__(self) -> str:
        return f"RewrittenBody({len(self.data)} bytes, used={self.used!r})"


def rewrite_body(
    credentials: CredentialSet,
    data: bytes,
    content_types: tuple[bytes, ...],
    scope: EndpointScope,
    *,
    is_encoded: bool,
    now_ms: int,
) -> RewrittenBody | CredentialRefused:
    """The body with values in place of placeholders, or the refusal.

    `content_types` are all values of the field, `is_encoded` says that a content coding was named.
    """
    if not find_marker(data):
        return RewrittenBody(data, ())
    lookup = Lookup(credentials, scope, now_ms)
    placed: bytes | Unresolved = Unresolved.UNAVAILABLE
    if not is_encoded and _is_utf8(data):
        placed = _place(data, _essence(content_types), lookup)
    # A value may itself read like a placeholder: what is sent holds no marker whatever happened.
    if isinstance(placed, bytes) and find_marker(placed):
        placed = Unresolved.UNAVAILABLE
    if isinstance(placed, Unresolved):
        why = placed if placed is Unresolved.MISMATCH else lookup.refusal(data)
        return CredentialRefused(why.value, _PLACE_OPTED_IN)
    return RewrittenBody(placed, lookup.used)


def refuse_marker(
    credentials: CredentialSet,
    found: Placeholder | None,
    scope: EndpointScope,
    *,
    now_ms: int,
) -> CredentialRefused:
    """The refusal of a body in which a placeholder stands although nothing is placed there.

    `found` is the placeholder, None where it is malformed.
    """
    why = Unresolved.UNAVAILABLE
    if found is not None and (
        credentials.resolve(found, scope, now_ms=now_ms) is Unresolved.MISMATCH
    ):
        why = Unresolved.MISMATCH
    return CredentialRefused(why.value, MARKER_PLACE)


def _place(data: bytes, kind: str, lookup: Lookup) -> bytes | Unresolved:
    family, _, name = kind.partition("/")
    if kind == _FORM:
        return place_in_pairs(data, lookup.value)
    if family in ("application", "text") and (name == "json" or name.endswith("+json")):
        return place_in_json(data, lookup.value)
    if family == "text" and name:
        return place_in_text(data, lookup.value, is_plain=name == "plain")
    return Unresolved.UNAVAILABLE


def _essence(content_types: tuple[bytes, ...]) -> str:
    """The media type without parameters; nothing where it is not said once."""
    if len(content_types) != 1:
        return ""
    return content_types[0].partition(b";")[0].strip().lower().decode("latin-1")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
