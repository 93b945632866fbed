"""The server's half of AWS signatures, version 4, written from AWS's description and nothing of ours.

Upstreams of tests ask it whether a request is signed with a key they know; it says what is wrong.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from urllib.parse import parse_qsl, quote, unquote

__all__ = ["find_fault", "signed_fields"]

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
).fullmatch
_LITERAL = ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")

Fields = Sequence[tuple[str, str]]


def find_fault(
    method: str, target: str, fields: Fields, body: bytes, secrets: Mapping[str, str]
) -> str | None:
    """Nothing where the request is signed well; `secrets` are the secrets of access keys."""
    named: dict[str, list[str]] = {}
    for name, value in fields:
        named.setdefault(name.lower(), []).append(" ".join(value.split()))
    if len(named.get("authorization", ())) != 1:
        return "not one authorization"
    found = _AUTHORIZATION(named["authorization"][0])
    if found is None:
        return "malformed authorization"
    access, day, region, service, signed, signature = found.groups()
    names = signed.split(";")
    must = {"host"} | {name for name in named if name.startswith("x-amz-")}
    if names != sorted(set(names)) or not must <= set(names) or not set(names) <= set(named):
        return f"signed fields: {signed}"
    moment = named["x-amz-date"][0]
    if not moment.startswith(day):
        return "another day"
    payload = named.get("x-amz-content-sha256", [sha256(body).hexdigest()])[0]
    if payload not in _LITERAL and payload != sha256(body).hexdigest():
        return "another body"
    canonical = "\n".join(
        (
            method,
            _path(target, service),
            _query(target),
            *(f"{name}:{','.join(named[name])}" for name in names),
            "",
            signed,
            payload,
        )
    )
    scope = f"{day}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + secrets.get(access, "").encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    wanted = hmac.digest(key, text.encode(), "sha256").hex()
    if access not in secrets:
        return "unknown access key"
    return None if hmac.compare_digest(wanted, signature) else f"another signature: {canonical}"


def signed_fields(authorization: str) -> set[str]:
    found = _AUTHORIZATION(authorization)
    assert found is not None
    return set(found[5].split(";"))


def _path(target: str, service: str) -> str:
    # A server has decoded the path; for S3 it is encoded once again, for others twice.
    path = target.partition("?")[0]
    once = "/".join(quote(unquote(segment), safe="-._~") for segment in path.split("/"))
    return once if service == "s3" else quote(once, safe="/-._~")


def _query(target: str) -> str:
    pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    written = sorted((quote(k, safe="-._~"), quote(v, safe="-._~")) for k, v in pairs)
    return "&".join(f"{name}={value}" for name, value in written)
