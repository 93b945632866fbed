"""How a request to an endpoint with `credential_signing` is to be signed, or why it cannot be. Pure.

Which endpoint's settings count, for which service and region, and what stands for the body in the
signature. Keys, time and the signature itself are `signing`'s part. The rules are those of `proxy.md`
12.7; where they would let a request name another object than its client meant, it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from openshell.egress.http1 import Chunked, Length, NoBody, RequestHead
from openshell.policy.decide import ConnectionAllowed, EndpointConfig
from openshell.policy.model import Endpoint

__all__ = [
    "SIGNED_BODY_LIMIT",
    "Payload",
    "SigningFault",
    "SigningPlan",
    "plan_signing",
    "signing_endpoint",
]

# What is held of a body whose digest goes into the signature. SDKs split uploads into parts of 5 to 8
# MiB by default; larger bodies go with an unsigned payload. The client sees 413.
SIGNED_BODY_LIMIT: Final = 10 * 1024 * 1024


class Payload(Enum):
    """What stands for the body in the signature."""

    HASH = "hash"
    UNSIGNED = "UNSIGNED-PAYLOAD"
    # The body is cut into chunks by the client and ends with checksums; none of it is signed.
    UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


class SigningFault(Enum):
    """Why a request cannot be signed: a sentence that quotes nothing of it."""

    MODE = "the endpoint's credential_signing is none that this version knows"
    SERVICE = "the endpoint's signing_service is missing or no name of a service"
    SERVICE_UNKNOWN = (
        "requests to the service s3express are signed with keys of a session of its own, which is "
        "not supported yet"
    )
    REGION = "the region cannot be told from the host: set signing_region at the endpoint"
    BODY_REWRITE = (
        "the endpoint asks for credential_signing and request_body_credential_rewrite, which "
        "exclude each other"
    )
    METHOD = "the answer to this method repeats the request, signature and session token included"
    UPGRADE = "handshakes of WebSocket are not signed"
    OWN_SIGNATURE = (
        "the request carries a signature in its query: presigned URLs are not signed again"
    )
    PATH = (
        "the path has an empty part, a dot part or ';': it would be sent in another form and name "
        "another object"
    )
    SIGNED_CHUNKS = (
        "the client signs each chunk of the body with keys that are none: let it send "
        "UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER or a digest"
    )
    BODY_LENGTH = "a body whose digest is signed needs a Content-Length"
    BODY_SIZE = (
        f"a body whose digest is signed may have {SIGNED_BODY_LIMIT} bytes: send it in parts or "
        "with an unsigned payload"
    )
    SECOND_GRANT = "the endpoint has a token grant, and a request carries one authorization"
    LATE = "the policy changed while the body was on its way: send the request again"
    KEYS = "AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY of the provider cannot be used here"
    LIBRARY = "signing needs botocore: install the extra openshell-py[aws] for the supervisor"


@dataclass(frozen=True, slots=True)
class SigningPlan:
    """Settings that can be signed with."""

    service: str
    region: str
    payload: Payload

    @property
    def is_object_store(self) -> bool:
        """Whether the path is signed as it is written."""
        return self.service in _OBJECT_STORES

    @property
    def names_payload(self) -> bool:
        """Whether a field says what stands for the body; a server computes a digest itself."""
        return self.is_object_store or self.payload is not Payload.HASH


_OBJECT_STORES: Final = frozenset({"s3", "s3-object-lambda", "s3-outposts"})
_UNKNOWN: Final = frozenset({"s3express"})
_MODES: Final = frozenset({"sigv4", "sigv4:body", "sigv4:no_body"})
# Both stand between slashes in the scope of a signature.
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
# `us-east-1`, `us-gov-west-1`; a host such as `s3-us-west-2.amazonaws.com` does not begin like one.
_REGION: Final = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2}").fullmatch
_AWS_SUFFIXES: Final = (".amazonaws.com", ".amazonaws.com.cn")
_STREAMING: Final = "STREAMING-"
# Parameters that carry a signature: version 4, and version 2 as S3 still takes it.
_SIGNED_QUERY: Final = frozenset(
    {
        b"x-amz-algorithm",
        b"x-amz-credential",
        b"x-amz-security-token",
        b"x-amz-signature",
        b"awsaccesskeyid",
    }
)


def signing_endpoint(
    decision: ConnectionAllowed, config: EndpointConfig | None, path: str
) -> Endpoint | None:
    """The endpoint whose settings sign this request; None where it goes unsigned.

    `config` is the endpoint that governs the request, None where none inspects it. Of several with
    a path as specific, the one with the most specific host counts, then one that names its region:
    a profile may well have patterns that meet in one host. An endpoint that inspects nothing knows
    no paths: it signs whatever comes.
    """
    candidates = [
        c
        for c in decision.endpoints
        if c.endpoint.credential_signing
        and (
            config is None
            or c is config
            or not c.is_inspected
            or (c.specificity == config.specificity and bool(c.matches_route(path)))
        )
    ]
    return max(candidates, key=_rank).endpoint if candidates else None


def _rank(config: EndpointConfig) -> tuple[bool, int, bool]:
    endpoint = config.endpoint
    literal = len(endpoint.host) - endpoint.host.count("*")
    return config.is_exact_host, literal, bool(endpoint.signing_region)


def plan_signing(
    endpoint: Endpoint, host: str, head: RequestHead, target: bytes
) -> SigningPlan | SigningFault:
    """Plan the signature of a request as its client sent it; `target` is its canonical form."""
    if endpoint.credential_signing not in _MODES:
        return SigningFault.MODE
    if endpoint.request_body_credential_rewrite:
        return SigningFault.BODY_REWRITE
    service = endpoint.signing_service
    if _NAME(service) is None:
        return SigningFault.SERVICE
    if service in _UNKNOWN:
        return SigningFault.SERVICE_UNKNOWN
    region = endpoint.signing_region or _region_of(host)
    if _NAME(region) is None:
        return SigningFault.REGION
    if _has_own_signature(target):
        return SigningFault.OWN_SIGNATURE
    payload = _payload(endpoint.credential_signing, head)
    if isinstance(payload, SigningFault):
        return payload
    plan = SigningPlan(service, region, payload)
    return plan if _keeps_meaning(plan, head.target, target) else SigningFault.PATH


def _region_of(host: str) -> str:
    """The region in a host name of AWS; nothing where there is none."""
    name = host.lower().rstrip(".")
    for suffix in _AWS_SUFFIXES:
        if name.endswith(suffix):
            labels = name.removesuffix(suffix).split(".")
            named = [label for label in labels if label != "dualstack"]
            return named[-1] if named and _REGION(named[-1]) else ""
    return ""


def _payload(mode: str, head: RequestHead) -> Payload | SigningFault:
    asked = {value.decode("latin-1").upper() for value in head.values(b"x-amz-content-sha256")}
    if any(value.startswith(_STREAMING) for value in asked):
        # The body is cut into chunks that only this word makes a server put together again.
        if asked != {Payload.UNSIGNED_TRAILER.value} or mode == "sigv4:body":
            return SigningFault.SIGNED_CHUNKS
        return Payload.UNSIGNED_TRAILER
    if mode == "sigv4:no_body":
        return Payload.UNSIGNED
    if mode == "sigv4":
        if asked == {Payload.UNSIGNED.value}:
            return Payload.UNSIGNED
        if not asked and isinstance(head.framing, Chunked):
            return Payload.UNSIGNED
    match head.framing:
        case NoBody():
            return Payload.HASH
        case Length(octets=octets):
            return Payload.HASH if octets <= SIGNED_BODY_LIMIT else SigningFault.BODY_SIZE
        case _:
            return SigningFault.BODY_LENGTH


def _has_own_signature(target: bytes) -> bool:
    query = target.partition(b"?")[2]
    names = (pair.partition(b"=")[0] for pair in query.split(b"&"))
    return any(unquote_to_bytes(name).lower() in _SIGNED_QUERY for name in names)


def _keeps_meaning(plan: SigningPlan, sent: bytes, canonical: bytes) -> bool:
    """Whether the canonical path names what the client's path does.

    The client signed its own path and would have been refused; our signature would make it good.
    """
    if not sent.startswith((b"/", b"?")):
        rest = sent.partition(b"://")[2]
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        sent = rest[cut:]
    path = unquote_to_bytes(sent.partition(b"?")[0]) or b"/"
    if plan.is_object_store:
        return path == unquote_to_bytes(canonical.partition(b"?")[0])
    # Servers of other services resolve dots and empty parts themselves, before they sign.
    return b";" not in path
