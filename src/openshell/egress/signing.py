"""Signs a request with AWS keys that the agent never had, in place of the signature it sent itself.

An SDK in a sandbox signs with placeholders. That signature goes, with everything that belongs to it, and
one over what really goes upstream takes its place; the arithmetic is `signer`'s. Nothing else of the
request is replaced: a placeholder left in it refuses it, so that no key is ever written where it can be
read back. Called by `signed_request` for a head prepared for the next hop; the plan comes from `signing_plan`.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from openshell.egress.credentials import (
    CredentialRefused,
    CredentialSet,
    EndpointScope,
    Placeholder,
    Unresolved,
    find_marker,
    is_echoed,
)
from openshell.egress.credentials.lookup import Lookup
from openshell.egress.http1 import RequestHead, render_request_head
from openshell.egress.signer import SigningKeys, load_signer
from openshell.egress.signing_plan import Payload, SigningFault, SigningPlan

__all__ = ["EMPTY_DIGEST", "digest_of", "find_signing_keys", "sign"]

_ACCESS: Final = "AWS_ACCESS_KEY_ID"
_SECRET: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a variable
_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105 - the name of a variable

# What belongs to the client's own signature, and what is answered here.
_REMOVED: Final = frozenset(
    {
        b"authorization",
        b"expect",
        b"x-amz-content-sha256",
        b"x-amz-date",
        b"x-amz-security-token",
    }
)
EMPTY_DIGEST: Final = sha256().hexdigest()
# Comma and slash have a meaning where an access key stands.
_ACCESS_FORM: Final = re.compile(r"[!-+.0-~-]+").fullmatch
_TOKEN_FORM: Final = re.compile(r"[!-~]+").fullmatch


def find_signing_keys(
    credentials: CredentialSet, scope: EndpointScope, *, now_ms: int
) -> SigningKeys | CredentialRefused | SigningFault:
    """The keys that may be used at this endpoint now."""
    found: dict[str, str] = {}
    for key in (_ACCESS, _SECRET, _TOKEN):
        if key == _TOKEN and not credentials.holds(key):
            continue
        # Our own revision asks for the present value, also of a key that is refreshed.
        wanted = Placeholder(key, revision=credentials.revision)
        value = credentials.resolve(wanted, scope, now_ms=now_ms)
        if value is Unresolved.MISMATCH:
            return CredentialRefused(value.value, "signature")
        if isinstance(value, Unresolved):
            return SigningFault.KEYS
        found[key] = value
    keys = SigningKeys(found[_ACCESS], found[_SECRET], found.get(_TOKEN, ""))
    usable = _ACCESS_FORM(keys.access) and (not keys.token or _TOKEN_FORM(keys.token))
    # A value may itself read like a placeholder, and no marker leaves.
    if not usable or find_marker(f"{keys.access} {keys.token}".encode()):
        return SigningFault.KEYS
    return keys


def digest_of(body: bytes) -> str:
    """What stands for a body that is signed."""
    return sha256(body).hexdigest()


def sign(
    plan: SigningPlan,
    head: RequestHead,
    digest: str,
    credentials: CredentialSet,
    scope: EndpointScope,
    *,
    now_ms: int,
) -> RequestHead | CredentialRefused | SigningFault:
    """The head to send. It comes with the Host field and the canonical target that go on the wire.

    `digest` is the body's, used where the plan says that it is signed.
    """
    if is_echoed(head.method):
        return SigningFault.METHOD
    plain = RequestHead(
        head.method,
        _spelled(head.target),
        head.version,
        tuple([pair for pair in head.headers if pair[0].lower() not in _REMOVED]),
        head.framing,
    )
    if find_marker(render_request_head(plain)):
        values = (value for _, value in plain.headers)
        why = Lookup(credentials, scope, now_ms).refusal(plain.target, *values)
        return CredentialRefused(why.value, "signed-request")
    keys = find_signing_keys(credentials, scope, now_ms=now_ms)
    if not isinstance(keys, SigningKeys):
        return keys
    signer = load_signer()
    if signer is None:
        return SigningFault.LIBRARY
    payload = digest if plan.payload is Payload.HASH else plan.payload.value
    fields = signer.fields(plan, plain, payload, keys, now_ms=now_ms)
    return plain.with_headers((*plain.headers, *fields))


def _spelled(target: bytes) -> bytes:
    """A canonical target in the one spelling that AWS signs: all but unreserved characters encoded.

    A server computes the signature from this spelling, whatever it was sent.
    """
    path, question, query = target.partition(b"?")
    segments = [_encoded(unquote_to_bytes(segment)) for segment in path.split(b"/")]
    spelled = "/".join(segments)
    if question:
        pairs = (pair.partition(b"=") for pair in query.split(b"&") if pair)
        written = "&".join(
            f"{_parameter(name)}{equals.decode()}{_parameter(value)}"
            for name, equals, value in pairs
        )
        spelled = f"{spelled}?{written}" if written else spelled
    return spelled.encode("ascii")


def _encoded(text: bytes) -> str:
    return quote_from_bytes(text, safe="")


def _parameter(text: bytes) -> str:
    # The policy has read a plus as a blank, and so does AWS.
    return _encoded(unquote_to_bytes(text.replace(b"+", b" ")))
