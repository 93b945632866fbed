"""Puts credentials into a text message of a WebSocket, where the endpoint's author opted in.

A message is JSON, or text of a kind that nobody declared: there only values are placed that mean
nothing in any language. Which messages may hold placeholders at all is decided by the caller; see
`proxy.md` 12.4 and 13.4.
"""

from __future__ import annotations

from typing import Final

from openshell.egress.credentials.binding import EndpointScope
from openshell.egress.credentials.body import RewrittenBody
from openshell.egress.credentials.lookup import Lookup
from openshell.egress.credentials.placeholder import find_marker
from openshell.egress.credentials.placing import place_in_json, place_in_text
from openshell.egress.credentials.rewrite import CredentialRefused
from openshell.egress.credentials.state import CredentialSet, Unresolved

__all__ = ["MESSAGE_PLACE", "rewrite_message"]

MESSAGE_PLACE: Final = "websocket-message"
# What a JSON document that can hold a string begins with.
_JSON: Final = (b"{", b"[", b'"')


def rewrite_message(
    credentials: CredentialSet, data: bytes, scope: EndpointScope, *, now_ms: int
) -> RewrittenBody | CredentialRefused:
    """The message with values in place of placeholders, or the refusal."""
    if not find_marker(data):
        return RewrittenBody(data, ())
    lookup = Lookup(credentials, scope, now_ms)
    if data.lstrip(b" \t\r\n").startswith(_JSON):
        placed = place_in_json(data, lookup.value)
    else:
        placed = place_in_text(data, lookup.value, is_plain=False)
    if isinstance(placed, bytes) and find_marker(placed):
        placed = Unresolved.UNAVAILABLE
    if isinstance(placed, Unresolved):
        why = placed if placed is Unresolved.MISMATCH else lookup.refusal(data)
        return CredentialRefused(why.value, MESSAGE_PLACE)
    return RewrittenBody(placed, lookup.used)
