"""Puts credentials into a request head, at the last moment before it goes upstream.

Places for a credential are path segments, query values, and of a field the whole value,
`<scheme> <placeholder>`, and the user or password of `Authorization: Basic`. A marker anywhere else (a
name, the middle of a value, a field that decides framing or routing) refuses the request. Bodies are
`body`'s part, and `MarkerScanner`'s where nobody opted in. See `proxy.md` 12.4.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from openshell.egress.credentials.binding import EndpointScope
from openshell.egress.credentials.lookup import Lookup
from openshell.egress.credentials.placeholder import find_marker
from openshell.egress.credentials.placing import place_in_pairs, place_in_path
from openshell.egress.credentials.state import CredentialSet, Unresolved
from openshell.egress.http1 import RequestHead, is_token, render_request_head

__all__ = ["NEEDS_TLS", "CredentialRefused", "Rewritten", "is_echoed", "rewrite_head"]

# The code of a request that would have carried a value in clear text where TLS was expected.
NEEDS_TLS: Final = "credential_needs_tls"


class Rewritten(msgspec.Struct, frozen=True):
    """The head to send; `used` names the keys whose values are in it. Never log the head."""

    head: RequestHead
    used: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Rewritten(used={self.used!r})"


@dataclass(frozen=True, slots=True)
class CredentialRefused:
    """Nothing may be sent.

    `code` is credential_endpoint_mismatch, credential_unavailable or credential_needs_tls; `place` says
    where the marker stood, without any byte of it.
    """

    code: str
    place: str

    @property
    def is_mismatch(self) -> bool:
        return self.code == Unresolved.MISMATCH.value


# Fields that decide who gets the message or where it ends never carry a credential.
_NEVER = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"via",
    }
)
# Methods whose answer repeats the request, fields included (RFC 9110 9.3.8; TRACK is an old server's word
# for it): the agent would read the value in the response. Some servers ignore the case of methods.
_ECHOED = frozenset({b"TRACE", b"TRACK"})
_AUTHORIZATION = b"authorization"
# The user part may itself be a placeholder, whose colons do not end it.
_USER_AND_PASSWORD = re.compile(
    rb"(openshell:resolve:env:[A-Za-z0-9_]+|[^:]*):(.*)", re.DOTALL
).fullmatch


def rewrite_head(
    credentials: CredentialSet, head: RequestHead, scope: EndpointScope, *, now_ms: int
) -> Rewritten | CredentialRefused:
    """The head with values in place of placeholders, or the refusal. The path is canonical."""
    if not find_marker(render_request_head(head)) and not _has_basic(head):
        return Rewritten(head, ())
    lookup = Lookup(credentials, scope, now_ms)
    target = _target(head.target, lookup)
    if isinstance(target, Unresolved):
        return _refused(lookup, head, target, "request-target")
    headers: list[tuple[bytes, bytes]] = []
    for name, value in head.headers:
        if find_marker(value):
            outcome = _marked(lookup, name.lower(), value)
        elif len(name) == len(_AUTHORIZATION) and name.lower() == _AUTHORIZATION:
            outcome = _authorization(lookup, value)
        else:
            outcome = value
        if isinstance(outcome, Unresolved):
            return _refused(lookup, head, outcome, "header")
        headers.append((name, outcome))
    used = lookup.used
    if used and is_echoed(head.method):
        return CredentialRefused(Unresolved.UNAVAILABLE.value, "method")
    rewritten = head.with_target(target).with_headers(tuple(headers))
    # Whatever went wrong above, no marker leaves: this is the last look at what will be sent.
    if find_marker(render_request_head(rewritten)):
        return _refused(lookup, head, Unresolved.UNAVAILABLE, "header")
    return Rewritten(rewritten, used)


def is_echoed(method: bytes) -> bool:
    """Whether the answer repeats the request, so that no value may be in it."""
    return method.upper() in _ECHOED


def _refused(lookup: Lookup, head: RequestHead, why: Unresolved, place: str) -> CredentialRefused:
    if why is not Unresolved.MISMATCH:
        values = (value for _, value in head.headers)
        why = lookup.refusal(head.target, *values)
    return CredentialRefused(why.value, place)


def _target(target: bytes, lookup: Lookup) -> bytes | Unresolved:
    if not find_marker(target):
        return target
    path, question, query = target.partition(b"?")
    placed = place_in_path(path, lookup.value)
    if isinstance(placed, Unresolved) or not question:
        return placed
    pairs = place_in_pairs(query, lookup.value)
    return pairs if isinstance(pairs, Unresolved) else b"%b?%b" % (placed, pairs)


def _has_basic(head: RequestHead) -> bool:
    return any(value[:6].lower() == b"basic " for value in head.values(b"authorization"))


def _marked(lookup: Lookup, name: bytes, value: bytes) -> bytes | Unresolved:
    """A value in which a marker stands."""
    if name in _NEVER:
        return Unresolved.UNAVAILABLE
    scheme, space, token = value.partition(b" ")
    if not space:
        return lookup.token(value)
    if not is_token(scheme) or find_marker(scheme):
        return Unresolved.UNAVAILABLE
    found = lookup.token(token)
    return found if isinstance(found, Unresolved) else b"%b %b" % (scheme, found)


def _authorization(lookup: Lookup, value: bytes) -> bytes | Unresolved:
    """A value without a visible marker; in Basic one may stand behind the encoding."""
    scheme, _, token = value.partition(b" ")
    if scheme.lower() != b"basic":
        return value
    token = token.strip(b" \t")
    try:
        plain = base64.b64decode(token + b"=" * (-len(token) % 4), validate=True)
    except binascii.Error:
        return value
    if not find_marker(plain):
        return value
    found = _USER_AND_PASSWORD(plain)
    if found is None:
        return Unresolved.UNAVAILABLE
    parts: list[bytes] = []
    for part in found.groups():
        outcome = lookup.token(part) if find_marker(part) else part
        if isinstance(outcome, Unresolved):
            return outcome
        parts.append(outcome)
    # A colon in the user's value would move the border between user and password.
    if b":" in parts[0]:
        return Unresolved.UNAVAILABLE
    return value[:6] + base64.b64encode(b":".join(parts))
