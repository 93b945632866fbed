"""The arithmetic of AWS signatures, version 4: botocore's, behind one method.

Botocore (the extra `aws`) is imported when the first request is signed and stays out of every supervisor
that signs none. Which request is signed, with which keys and for what, is `signing`'s part; the time is
given.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, Protocol, cast

from openshell.egress.http1 import Headers, RequestHead
from openshell.egress.signing_plan import SigningPlan

__all__ = ["Signer", "SigningKeys", "load_signer"]

# What a hop on the way may change, or a client between two attempts.
_UNSIGNED: Final = frozenset(
    {
        b"accept-encoding",
        b"amz-sdk-invocation-id",
        b"amz-sdk-request",
        b"connection",
        b"transfer-encoding",
        b"user-agent",
    }
)
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """What a signature is made with."""

    access: str = field(repr=False)
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


class Signer:
    """Botocore's classes, told to sign the fields and the payload they are given."""

    __slots__ = ("_normalizing", "_request", "_verbatim")

    def __init__(self, auth: Any, awsrequest: Any) -> None:
        """Take botocore's modules of these names."""
        own = {
            "headers_to_sign": lambda _self, request: request.headers,
            "payload": lambda _self, request: request.context["payload"],
        }
        self._request = awsrequest.AWSRequest
        self._normalizing = type("NormalizingSigner", (auth.SigV4Auth,), own)
        self._verbatim = type("VerbatimSigner", (auth.S3SigV4Auth,), own)

    def fields(
        self, plan: SigningPlan, head: RequestHead, payload: str, keys: SigningKeys, *, now_ms: int
    ) -> Headers:
        """The fields that make `head` a signed one; `payload` is what stands for the body."""
        moment = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        added = [(b"X-Amz-Date", moment.encode())]
        if plan.names_payload:
            added.append((b"X-Amz-Content-SHA256", payload.encode()))
        if keys.token:
            added.append((b"X-Amz-Security-Token", keys.token.encode()))
        request = self._given(head, (*head.headers, *added))
        request.context["timestamp"] = moment
        request.context["payload"] = payload
        make = self._verbatim if plan.is_object_store else self._normalizing
        signer: _BotoSigner = make(_BotoKeys(keys), plan.service, plan.region)
        # The steps one by one: the library's own way through them reads the clock, and writes the
        # request with its session token to the debug log.
        text = signer.string_to_sign(request, signer.canonical_request(request))
        value = (
            f"{_ALGORITHM} Credential={signer.scope(request)}, "
            f"SignedHeaders={signer.signed_headers(request.headers)}, "
            f"Signature={signer.signature(text, request)}"
        )
        return (*added, (b"Authorization", value.encode()))

    def _given(self, head: RequestHead, fields: Iterable[tuple[bytes, bytes]]) -> _BotoRequest:
        """A request of botocore's with the fields that are signed."""
        host = (head.host or b"").decode("ascii")
        url = f"https://{host}{head.target.decode('ascii')}"
        request = self._request(method=head.method.decode("ascii"), url=url)
        for name, value in fields:
            lowered = name.lower()
            if lowered not in _UNSIGNED:
                # Fields of one name are joined by the signer, in this order.
                request.headers[lowered.decode("ascii")] = value.decode()
        return cast("_BotoRequest", request)


@cache
def load_signer() -> Signer | None:
    """Load botocore: some sixty milliseconds and eight megabytes, once. None where it is missing."""
    try:
        auth = importlib.import_module("botocore.auth")
        return Signer(auth, importlib.import_module("botocore.awsrequest"))
    except ImportError:
        return None


class _BotoKeys:
    """The keys as botocore's signers want them."""

    __slots__ = ("access_key", "secret_key", "token")

    def __init__(self, keys: SigningKeys) -> None:
        self.access_key = keys.access
        self.secret_key = keys.secret
        self.token = keys.token


class _BotoRequest(Protocol):
    """What is used of botocore's requests."""

    headers: Any
    context: dict[str, str]


class _BotoSigner(Protocol):
    """What is used of botocore's signers."""

    def canonical_request(self, request: _BotoRequest) -> str: ...
    def string_to_sign(self, request: _BotoRequest, canonical_request: str) -> str: ...
    def signature(self, string_to_sign: str, request: _BotoRequest) -> str: ...
    def scope(self, request: _BotoRequest) -> str: ...
    def signed_headers(self, headers_to_sign: Any) -> str: ...
