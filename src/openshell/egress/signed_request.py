"""Writes a request of a signing endpoint for its upstream, or says what it lacks. Never unsigned.

The third way upstream beside those of `writing`; no placeholder is replaced on it. A request whose digest
is signed is written when its body is there. Called by `judging` with nothing awaited since its look at
the generation.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from openshell.egress.credentials import (
    NEEDS_TLS,
    CredentialRefused,
    find_marker,
    first_placeholder,
    refuse_marker,
)
from openshell.egress.http1 import Length, NoBody, RequestHead, lowered, render_request_head
from openshell.egress.route import Pending
from openshell.egress.signing import EMPTY_DIGEST, digest_of, sign
from openshell.egress.signing_plan import Payload, SigningFault, SigningPlan, plan_signing
from openshell.egress.writing import BODY_FIELDS, Writing, prepare_head
from openshell.policy.model import Endpoint

__all__ = ["Lacking", "write_signed"]

_EMPTY: Final = Length(0)


class Lacking(Enum):
    """What must be had before the request can be signed."""

    BODY = "body"


def write_signed(
    writing: Writing, endpoint: Endpoint, pending: Pending, target: bytes, *, scan_body: bool
) -> bytes | Lacking | CredentialRefused | SigningFault:
    """Write the request with the signature that `endpoint` asks for."""
    head, route = pending.head, writing.route
    if writing.granted is not None:
        return SigningFault.SECOND_GRANT
    if b"websocket" in head.upgrade_tokens():
        return SigningFault.UPGRADE
    plan = plan_signing(endpoint, route.admitted.request.host, head, target)
    if isinstance(plan, SigningFault):
        return plan
    if route.is_downgraded:
        return CredentialRefused(NEEDS_TLS, "signature")
    digest = _digest(plan, pending)
    if not isinstance(digest, str):
        return digest
    body = pending.body
    if body is not None and scan_body and find_marker(body):
        found, _ = first_placeholder(body)
        return refuse_marker(writing.credentials, found, writing.scope, now_ms=writing.now_ms)
    plain = prepare_head(route, head, lowered(head.headers), target)
    if body is not None:
        plain = _with_length(plain, len(body))
    signed = sign(plan, plain, digest, writing.credentials, writing.scope, now_ms=writing.now_ms)
    if not isinstance(signed, RequestHead):
        return signed
    wire = render_request_head(signed)
    return wire if body is None else wire + body


def _digest(plan: SigningPlan, pending: Pending) -> str | Lacking | SigningFault:
    """The digest of the body, where it is signed."""
    if plan.payload is not Payload.HASH:
        return ""
    if pending.body is not None:
        if not pending.digest:
            # Signing may be tried again; ten megabytes are read once.
            pending.digest = digest_of(pending.body)
        return pending.digest
    framing = pending.head.framing
    if isinstance(framing, NoBody) or framing == _EMPTY:
        return EMPTY_DIGEST
    return SigningFault.LATE if pending.is_streaming else Lacking.BODY


def _with_length(head: RequestHead, octets: int) -> RequestHead:
    fields = [pair for pair in head.headers if pair[0].lower() not in BODY_FIELDS]
    fields.append((b"Content-Length", b"%d" % octets))
    return head.with_headers(tuple(fields))
