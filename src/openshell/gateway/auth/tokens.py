"""Identity tokens of sandboxes: issued at creation, presented by supervisors on every call.

A token is a compact JWS signed with Ed25519; writing, taking apart and verifying it is joserfc's work.
Only what we issue ourselves is read, so what stands in front of the library is exact instead of
general: a bounded size, one algorithm, one key, a fixed header, no member twice, claims of fixed
types. That keeps the classic confusions out by construction: a token chooses nothing.

Expiry is the only revocation. Whether the sandbox still exists is for the interceptor and the
handlers. Key files are made by `gateway.pki`.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import EdDSAAlgorithm
from joserfc.jwk import OKPKey
from joserfc.registry import HeaderParameter

__all__ = [
    "IssuedToken",
    "NotOurs",
    "Rejected",
    "SandboxTokens",
    "SigningKeys",
    "SigningKeysUnusable",
    "Verdict",
    "Verified",
    "load_signing_keys",
]

# How far clocks may differ: a token is accepted this long after it expired.
_LEEWAY_SECONDS: Final = 60

# Ours take about 500 bytes; gRPC's own limit for all metadata of a call is 8 KiB.
_MAX_TOKEN_BYTES: Final = 4096

_ALGORITHM: Final = "EdDSA"
_TYPE: Final = "JWT"
_SUBJECT_PREFIX: Final = "spiffe://openshell/sandbox/"
_COMPACT: Final = re.compile(r"(?:[A-Za-z0-9_-]+\.){2}[A-Za-z0-9_-]+")
# Signed with the same key for services beside the gateway; the gateway itself never accepts them.
_EXTENSION_TYPE: Final = "openshell-ext+jwt"


class _EdDSA(EdDSAAlgorithm):
    """The algorithm under the name that the contract fixes for the header.

    The library warns about that name at every use because it leaves the curve open (RFC 9864). Here it
    does not: the only key is our own and of the type Ed25519. Signing and verifying are the library's.
    """

    security_warning = ""


def _make_registry() -> jws.JWSRegistry:
    """What the library may process: one algorithm, three header parameters."""
    registry = jws.JWSRegistry(algorithms=[_ALGORITHM])
    registry.algorithms = {_ALGORITHM: _EdDSA()}
    registry.header_registry = {
        name: HeaderParameter(name, "str", required=True) for name in ("alg", "kid", "typ")
    }
    return registry


_REGISTRY: Final = _make_registry()


class SigningKeysUnusable(Exception):
    """The key files cannot be used; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The gateway's key pair for sandbox tokens, and the id under which it is known."""

    private: Ed25519PrivateKey = field(repr=False)
    public: Ed25519PublicKey = field(repr=False)
    kid: str


@dataclass(frozen=True, slots=True)
class IssuedToken:
    token: str = field(repr=False)
    # Milliseconds since the epoch; zero for a token that never expires.
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Verified:
    sandbox_id: str
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class NotOurs:
    """A well-formed token under another key: some other authenticator may know it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Not acceptable, whoever else might look at it. The reason never repeats the token."""

    reason: str


Verdict: TypeAlias = Verified | NotOurs | Rejected


def load_signing_keys(signing: Path, public: Path, kid: Path) -> SigningKeys:
    """Read the three files and check that they belong together."""
    private_key = _load(signing, lambda data: load_pem_private_key(data, password=None))
    public_key = _load(public, load_pem_public_key)
    name = _read(kid).decode("ascii", "replace").strip()
    if not isinstance(private_key, Ed25519PrivateKey):
        raise SigningKeysUnusable(f"{signing} holds no Ed25519 private key")
    if not isinstance(public_key, Ed25519PublicKey):
        raise SigningKeysUnusable(f"{public} holds no Ed25519 public key")
    if private_key.public_key() != public_key:
        raise SigningKeysUnusable(
            f"{public} does not belong to {signing}; remove the directory and generate both again"
        )
    if not name:
        raise SigningKeysUnusable(f"{kid} is empty; it must hold the id of the key")
    return SigningKeys(private_key, public_key, name)


def _load(path: Path, parse: Callable[[bytes], object]) -> object:
    try:
        return parse(_read(path))
    except (ValueError, TypeError) as error:
        raise SigningKeysUnusable(f"{path} is not a PEM key this gateway can read") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningKeysUnusable(f"cannot read {path}: {error.strerror}") from error


class SandboxTokens:
    """Issues and verifies the tokens of one gateway."""

    def __init__(
        self, keys: SigningKeys, *, gateway_id: str, ttl_seconds: int, now: Callable[[], float]
    ) -> None:
        self._signing = OKPKey.import_key(keys.private)
        self._verifying = OKPKey.import_key(keys.public)
        self._header = {"alg": _ALGORITHM, "kid": keys.kid, "typ": _TYPE}
        self._issuer = f"openshell-gateway:{gateway_id}"
        self._ttl_seconds = ttl_seconds
        self._now = now

    def __repr__(self) -> str:
        return f"SandboxTokens(issuer={self._issuer!r}, ttl_seconds={self._ttl_seconds})"

    def issue(self, sandbox_id: str) -> IssuedToken:
        if not _is_sandbox_id(sandbox_id):
            raise ValueError("a sandbox id is a UUID in its canonical form")
        issued_at = int(self._now())
        expires = issued_at + self._ttl_seconds if self._ttl_seconds else 0
        claims = {
            "iss": self._issuer,
            "aud": self._issuer,
            "sub": _SUBJECT_PREFIX + sandbox_id,
            "sandbox_id": sandbox_id,
            "iat": issued_at,
            "exp": expires,
        }
        payload = json.dumps(claims, separators=(",", ":"))
        token = jws.serialize_compact(
            dict(self._header), payload, self._signing, registry=_REGISTRY
        )
        return IssuedToken(token, expires * 1000)

    def verify(self, token: str) -> Verdict:
        """Judge a bearer token: header first, then signature, claims last."""
        if len(token) > _MAX_TOKEN_BYTES or not _COMPACT.fullmatch(token):
            return Rejected("invalid token: not in the compact form")
        header = _read_header(token)
        if header is None:
            return Rejected("invalid token: unreadable header")
        if header.get("typ") == _EXTENSION_TYPE:
            return Rejected("invalid token: made for an extension service, not for the gateway")
        if header.get("kid") != self._header["kid"]:
            return NotOurs()
        # Under our own kid nothing else is ours: no other algorithm, no key, no critical extensions.
        if header != self._header:
            return Rejected("invalid token: header not as this gateway writes it")
        try:
            genuine = jws.deserialize_compact(token, self._verifying, registry=_REGISTRY)
        except (JoseError, ValueError):
            return Rejected("invalid token: signature or encoding is wrong")
        return self._judge_claims(_read_object(genuine.payload))

    def _judge_claims(self, claims: dict[str, object] | None) -> Verdict:
        if claims is None:
            return Rejected("invalid token: unreadable claims")
        sandbox_id, expires = claims.get("sandbox_id"), claims.get("exp")
        if claims.get("iss") != self._issuer or claims.get("aud") != self._issuer:
            return Rejected("invalid token: issued by or for another gateway")
        if not isinstance(sandbox_id, str) or not _is_sandbox_id(sandbox_id):
            return Rejected("invalid token: no sandbox id")
        if claims.get("sub") != _SUBJECT_PREFIX + sandbox_id:
            return Rejected("invalid token: subject and sandbox id differ")
        # type(), not isinstance: True is an int, and 1e9 is a float.
        if type(expires) is not int or expires < 0:
            return Rejected("invalid token: no expiry")
        if expires and expires < self._now() - _LEEWAY_SECONDS:
            return Rejected("token has expired; the sandbox must be started again")
        return Verified(sandbox_id, expires * 1000)


def _is_sandbox_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _read_header(token: str) -> dict[str, object] | None:
    """The header as the library will see it, which keeps the last of equal members without a word.

    Lenient in base64 only: the library refuses every spelling but the canonical one.
    """
    segment = token.partition(".")[0]
    try:
        return _read_object(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except ValueError:
        return None


def _read_object(data: bytes | None) -> dict[str, object] | None:
    try:
        value = json.loads(data or b"", object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Two readers disagree on which of two equal names counts, so neither does.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members
