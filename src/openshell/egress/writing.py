"""Writes an admitted request for its upstream: fields for the next hop, then tokens and credentials.

Pure. Two ways lead upstream: `write_request` for a head whose body follows as it comes, which remembers
the fields that a client repeats, and `write_whole` for a request that carries a token or whose body is
held; of these nothing is ever remembered. Called by `judging` with nothing awaited since its look at
the generation.
"""

from dataclasses import dataclass, field
from typing import Final

from openshell.egress.credentials import (
    NEEDS_TLS,
    CredentialRefused,
    CredentialSet,
    EndpointScope,
    Rewritten,
    TokenGrant,
    find_marker,
    first_placeholder,
    inject,
    is_echoed,
    refuse_marker,
    rewrite_body,
    rewrite_head,
)
from openshell.egress.http1 import (
    RequestHead,
    end_to_end,
    lowered,
    render_fields,
    render_request_head,
)
from openshell.egress.route import Pending, Route
from openshell.egress.switch import Switch

__all__ = ["BODY_FIELDS", "Writing", "prepare_head", "write_request", "write_whole"]

_VIA: Final = (b"Via", b"1.1 openshell-sandbox")
# Fields of a body that is forwarded as it comes; a held one has a length of its own.
BODY_FIELDS: Final = frozenset({b"content-length", b"transfer-encoding", b"trailer", b"expect"})


def write_request(
    route: Route,
    head: RequestHead,
    target: bytes,
    credentials: CredentialSet,
    scope: EndpointScope,
    now_ms: int,
) -> bytes | CredentialRefused:
    """Write the head for the upstream, with credentials in it."""
    kept = route.kept
    if head.headers is kept.headers:
        line = b"%b %b %b\r\n" % (head.method, target, head.version)
        # A marker here takes the long way, to be refused there.
        if not find_marker(line):
            return line + kept.wire
    plain = prepare_head(route, head, lowered(head.headers), target)
    rewritten = rewrite_head(credentials, plain, scope, now_ms=now_ms)
    if not isinstance(rewritten, Rewritten):
        return rewritten
    if rewritten.used and route.is_downgraded:
        return CredentialRefused(NEEDS_TLS, "header")
    if rewritten.head is plain:
        kept.headers, kept.wire = head.headers, render_fields(plain.headers)
    return render_request_head(rewritten.head)


@dataclass(frozen=True, slots=True)
class Writing:
    """What a head and a body are written with."""

    route: Route
    credentials: CredentialSet = field(repr=False)
    scope: EndpointScope
    now_ms: int
    granted: tuple[TokenGrant, str] | None = field(repr=False)
    switch: Switch | None = None


def write_whole(
    writing: Writing, pending: Pending, target: bytes, places_body: bool, scan_body: bool
) -> bytes | CredentialRefused:
    """Write a request that carries a token or whose body was held."""
    head, route, used = pending.head, writing.route, False
    plain = prepare_head(route, head, lowered(head.headers), target)
    if writing.switch is not None:
        plain = plain.with_headers(writing.switch.fields(plain.headers))
    body = pending.body
    if body is not None:
        outcome = _place_body(writing, head, body, places_body, scan_body)
        if isinstance(outcome, CredentialRefused):
            return outcome
        body, used = outcome
        fields = [pair for pair in plain.headers if pair[0].lower() not in BODY_FIELDS]
        fields.append((b"Content-Length", b"%d" % len(body)))
        plain = plain.with_headers(tuple(fields))
    if writing.granted is not None:
        # Before placeholders are looked at: the token stands instead of whatever the agent sent.
        plain = plain.with_headers(inject(*writing.granted, plain.headers))
    rewritten = rewrite_head(writing.credentials, plain, writing.scope, now_ms=writing.now_ms)
    if not isinstance(rewritten, Rewritten):
        return rewritten
    if (used or rewritten.used) and route.is_downgraded:
        return CredentialRefused(NEEDS_TLS, "request-body" if used else "header")
    if used and is_echoed(head.method):
        return CredentialRefused("credential_unavailable", "method")
    wire = render_request_head(rewritten.head)
    return wire if body is None else wire + body


def _place_body(
    writing: Writing, head: RequestHead, body: bytes, places_body: bool, scan_body: bool
) -> tuple[bytes, bool] | CredentialRefused:
    if not places_body:
        # Held to be judged, or the policy changed while it came: it goes on as any other would.
        if not (scan_body and find_marker(body)):
            return body, False
        found, _ = first_placeholder(body)
        return refuse_marker(writing.credentials, found, writing.scope, now_ms=writing.now_ms)
    encodings = [value.strip().lower() for value in head.values(b"content-encoding")]
    placed = rewrite_body(
        writing.credentials,
        body,
        head.values(b"content-type"),
        writing.scope,
        is_encoded=any(encoding != b"identity" for encoding in encodings),
        now_ms=writing.now_ms,
    )
    return placed if isinstance(placed, CredentialRefused) else (placed.data, bool(placed.used))


def prepare_head(route: Route, head: RequestHead, names: list[bytes], target: bytes) -> RequestHead:
    """Write the head for the upstream; `names` are its field names in lower case."""
    headers = end_to_end(head.headers)
    if len(headers) != len(names):
        names = lowered(headers)
    # The Host field goes out in our spelling, so that upstream reads what was judged.
    kept = [pair for pair, name in zip(headers, names, strict=True) if name != b"host"]
    kept.insert(0, (b"Host", route.host_field))
    if route.absolute and b"via" not in names:
        kept.append(_VIA)
    return RequestHead(head.method, target, head.version, tuple(kept), head.framing)
