"""Sandbox tokens: what we issue is read, everything else is refused.

Tokens are forged here by hand, so that the library under the gateway is not its own judge.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from openshell.gateway.auth.tokens import (
    NotOurs,
    Rejected,
    SandboxTokens,
    SigningKeys,
    SigningKeysUnusable,
    Verified,
    load_signing_keys,
)
from openshell.gateway.pki import ensure_pki

SANDBOX = "3f0c2a52-5a0e-4d5e-9d67-111111111111"
OTHER = "3f0c2a52-5a0e-4d5e-9d67-222222222222"
NOW = 1_800_000_000
GATEWAY = "openshell-gateway:openshell"


def make_keys(kid: str = "aa" * 16) -> SigningKeys:
    private = Ed25519PrivateKey.generate()
    return SigningKeys(private, private.public_key(), kid)


KEYS = make_keys()


class Clock:
    def __init__(self) -> None:
        self.time = float(NOW)

    def __call__(self) -> float:
        return self.time


def make_tokens(
    keys: SigningKeys = KEYS,
    *,
    ttl: int = 3600,
    now: Clock | None = None,
    gateway: str = "openshell",
) -> SandboxTokens:
    return SandboxTokens(keys, gateway_id=gateway, ttl_seconds=ttl, now=now or Clock())


TOKENS = make_tokens()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def forge(
    header: object | None = None,
    claims: object | None = None,
    *,
    keys: SigningKeys = KEYS,
    drop: tuple[str, ...] = (),
    **changes: object,
) -> str:
    """A token signed with the real key, so that nothing but the change can be the reason."""
    whole_header = {"alg": "EdDSA", "kid": KEYS.kid, "typ": "JWT"}
    whole = {
        "iss": GATEWAY,
        "aud": GATEWAY,
        "sub": f"spiffe://openshell/sandbox/{SANDBOX}",
        "sandbox_id": SANDBOX,
        "iat": NOW,
        "exp": NOW + 3600,
        **changes,
    }
    for name in drop:
        del whole[name]
    first = header if isinstance(header, str) else json.dumps({**whole_header, **(header or {})})
    second = claims if isinstance(claims, str) else json.dumps(whole)
    signed = f"{b64(first.encode())}.{b64(second.encode())}"
    return f"{signed}.{b64(keys.private.sign(signed.encode()))}"


def test_issued_token_is_read_back() -> None:
    issued = TOKENS.issue(SANDBOX)
    assert issued.expires_at_ms == (NOW + 3600) * 1000
    assert TOKENS.verify(issued.token) == Verified(SANDBOX, issued.expires_at_ms)


def test_forger_of_these_tests_makes_good_tokens() -> None:
    assert TOKENS.verify(forge()) == Verified(SANDBOX, (NOW + 3600) * 1000)


def test_what_is_issued_is_the_contracts_and_verifies_without_the_library() -> None:
    header, claims, signature = TOKENS.issue(SANDBOX).token.split(".")
    KEYS.public.verify(unb64(signature), f"{header}.{claims}".encode())
    assert json.loads(unb64(header)) == {"alg": "EdDSA", "kid": KEYS.kid, "typ": "JWT"}
    assert json.loads(unb64(claims)) == {
        "iss": GATEWAY,
        "aud": GATEWAY,
        "sub": f"spiffe://openshell/sandbox/{SANDBOX}",
        "sandbox_id": SANDBOX,
        "iat": NOW,
        "exp": NOW + 3600,
    }


def test_without_lifetime_a_token_never_expires() -> None:
    clock = Clock()
    tokens = make_tokens(ttl=0, now=clock)
    issued = tokens.issue(SANDBOX)
    clock.time = NOW + 1e9
    assert issued.expires_at_ms == 0
    assert tokens.verify(issued.token) == Verified(SANDBOX, 0)


@pytest.mark.parametrize(
    ("after", "accepted"),
    [(3600, True), (3660, True), (3661, False)],
    ids=["end", "leeway", "late"],
)
def test_expiry(after: int, accepted: bool) -> None:
    clock = Clock()
    tokens = make_tokens(now=clock)
    token = tokens.issue(SANDBOX).token
    clock.time = NOW + after
    verdict = tokens.verify(token)
    assert isinstance(verdict, Verified) == accepted
    if not accepted:
        assert verdict == Rejected("token has expired; the sandbox must be started again")


def unsigned(algorithm: str) -> str:
    return forge({"alg": algorithm}).rsplit(".", 1)[0] + "."


def hs256_with_public_key() -> str:
    """The classic: the verifier's public key taken for a shared secret."""
    secret = KEYS.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = forge({"alg": "HS256"}).rsplit(".", 1)[0]
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def swapped_claims() -> str:
    ours, theirs = TOKENS.issue(SANDBOX).token.split("."), TOKENS.issue(OTHER).token.split(".")
    return ".".join([ours[0], theirs[1], ours[2]])


def sloppy_base64() -> str:
    """Another spelling of the same 64 bytes: unused low bits of the last character set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = forge()
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


ATTACKS = {
    "garbage": "garbage",
    "empty": "",
    "two-segments": "a.b",
    "four-segments": forge() + ".x",
    "oversized": forge(pad="x" * 5000),
    "non-ascii-claims": forge().replace(".", ".é", 1),
    "wrong-key": forge(keys=make_keys(KEYS.kid)),
    "alg-none": unsigned("none"),
    "alg-none-signed": forge({"alg": "none"}),
    "alg-none-mixed-case": unsigned("NoNe"),
    "hs256-with-the-public-key": hs256_with_public_key(),
    "alg-ed25519-alias": forge({"alg": "Ed25519"}),
    "key-in-header": forge({"jwk": {"kty": "OKP"}}),
    "key-url-in-header": forge({"jku": "https://example.com/keys"}),
    "critical-extension": forge({"crit": ["b64"], "b64": False}),
    "no-type": forge(json.dumps({"alg": "EdDSA", "kid": KEYS.kid})),
    "unknown-type": forge({"typ": "at+jwt"}),
    "extension-token": forge({"typ": "openshell-ext+jwt"}),
    "extension-token-of-another-key": forge({"typ": "openshell-ext+jwt", "kid": "other"}),
    "header-no-object": forge('["EdDSA"]'),
    "header-duplicate-member": forge(
        f'{{"alg":"none","alg":"EdDSA","kid":"{KEYS.kid}","typ":"JWT"}}'
    ),
    "header-deeply-nested": forge("[" * 1200),
    "header-list-of-names": forge('["alg","b64"]'),
    "header-text": forge('"alg b64 crit"'),
    "unencoded-claims": forge({"b64": False}),
    "algorithm-no-text": forge({"alg": ["EdDSA"]}),
    "algorithm-object": forge({"alg": {"EdDSA": 1}}),
    "foreign-kid-but-no-jws": forge({"kid": "other"}) + "=",
    "foreign-kid-two-segments": forge({"kid": "other"}).rsplit(".", 1)[0],
    "line-end-behind": forge() + "\n",
    "surrogate": forge() + "\ud800",
    "standard-base64-alphabet": forge(pad="\u00fb\u00ff>>>???").replace("-", "+").replace("_", "/")
    + "+",
    "claims-deeply-nested": forge(None, "[" * 1200),
    "claims-no-object": forge(None, "7"),
    "claims-duplicate-member": forge(
        None,
        f'{{"iss":"{GATEWAY}","aud":"{GATEWAY}","sub":"spiffe://openshell/sandbox/{SANDBOX}",'
        f'"sandbox_id":"{OTHER}","sandbox_id":"{SANDBOX}","exp":0}}',
    ),
    "swapped-claims": swapped_claims(),
    "truncated-signature": forge()[:-4],
    "sloppy-base64": sloppy_base64(),
    "padded-base64": forge() + "==",
    "other-issuer": forge(iss="openshell-gateway:other"),
    "other-audience": forge(aud="openshell-gateway:other"),
    "audience-list": forge(aud=[GATEWAY, "x"]),
    "other-gateway": make_tokens(gateway="other").issue(SANDBOX).token,
    "subject-of-another-sandbox": forge(sub=f"spiffe://openshell/sandbox/{OTHER}"),
    "id-of-another-sandbox": forge(sandbox_id=OTHER),
    "id-not-canonical": forge(
        sandbox_id=SANDBOX.upper(), sub=f"spiffe://openshell/sandbox/{SANDBOX.upper()}"
    ),
    "id-no-uuid": forge(sandbox_id="../x", sub="spiffe://openshell/sandbox/../x"),
    "id-no-string": forge(sandbox_id=7),
    "no-issuer": forge(drop=("iss",)),
    "no-audience": forge(drop=("aud",)),
    "no-subject": forge(drop=("sub",)),
    "no-sandbox-id": forge(drop=("sandbox_id",)),
    "no-expiry": forge(drop=("exp",)),
    "expiry-null": forge(exp=None),
    "expiry-false": forge(exp=False),
    "expiry-text": forge(exp="0"),
    "expiry-float": forge(exp=float(NOW + 3600)),
    "expiry-negative": forge(exp=-1),
    "expired": forge(exp=NOW - 61),
}


@pytest.mark.parametrize("token", ATTACKS.values(), ids=ATTACKS.keys())
def test_attack_is_rejected(token: str) -> None:
    verdict = TOKENS.verify(token)
    assert isinstance(verdict, Rejected)
    assert not token or token not in verdict.reason


def test_token_of_another_key_is_left_to_others() -> None:
    theirs = make_tokens(make_keys("bb" * 16)).issue(SANDBOX).token
    assert TOKENS.verify(theirs) == NotOurs()


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert isinstance(TOKENS.verify(text), Rejected | NotOurs)


@given(st.data())
def test_no_changed_character_goes_unnoticed(data: st.DataObject) -> None:
    token = TOKENS.issue(SANDBOX).token
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[place]))
    assert not isinstance(TOKENS.verify(token[:place] + other + token[place + 1 :]), Verified)


@pytest.mark.parametrize("sandbox_id", ["", "x", SANDBOX.upper(), f"{{{SANDBOX}}}"])
def test_only_canonical_ids_get_a_token(sandbox_id: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        TOKENS.issue(sandbox_id)


def test_nothing_secret_is_shown() -> None:
    issued = TOKENS.issue(SANDBOX)
    assert issued.token not in repr(issued)
    assert "private" not in repr(KEYS)
    assert repr(TOKENS) == f"SandboxTokens(issuer='{GATEWAY}', ttl_seconds=3600)"


@pytest.fixture
def key_files(tmp_path: Path) -> tuple[Path, Path, Path]:
    paths = ensure_pki(tmp_path / "tls").paths
    return paths.jwt_signing, paths.jwt_public, paths.jwt_kid


def test_key_files_are_loaded(key_files: tuple[Path, Path, Path]) -> None:
    keys = load_signing_keys(*key_files)
    der = keys.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert keys.kid == hashlib.sha256(der).hexdigest()[:32]
    tokens = make_tokens(keys)
    assert isinstance(tokens.verify(tokens.issue(SANDBOX).token), Verified)


@pytest.mark.parametrize(
    ("broken", "content", "message"),
    [
        pytest.param(0, b"nonsense", "not a PEM key", id="signing-garbage"),
        pytest.param(0, None, "cannot read", id="signing-missing"),
        pytest.param(1, b"nonsense", "not a PEM key", id="public-garbage"),
        pytest.param(2, b" \n", "is empty", id="kid-empty"),
        pytest.param(2, None, "cannot read", id="kid-missing"),
    ],
)
def test_unusable_key_files_are_refused(
    key_files: tuple[Path, Path, Path], broken: int, content: bytes | None, message: str
) -> None:
    load_signing_keys(*key_files)
    if content is None:
        key_files[broken].unlink()
    else:
        key_files[broken].write_bytes(content)
    with pytest.raises(SigningKeysUnusable, match=message) as caught:
        load_signing_keys(*key_files)
    assert str(key_files[broken]) in str(caught.value)


def test_halves_of_two_pairs_are_refused(
    key_files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    other = ensure_pki(tmp_path / "other").paths
    with pytest.raises(SigningKeysUnusable, match="does not belong"):
        load_signing_keys(key_files[0], other.jwt_public, key_files[2])


def test_key_of_another_kind_is_refused(key_files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = ensure_pki(tmp_path / "other").paths
    with pytest.raises(SigningKeysUnusable, match="no Ed25519 private key"):
        load_signing_keys(other.ca_key, key_files[1], key_files[2])


IMPORTED = """
import sys
import openshell, openshell.cli.main, openshell.supervisor.zygote, openshell.supervisor.main
import openshell.egress.proxy
found = {name.partition(".")[0] for name in sys.modules} & {"joserfc"}
sys.exit(f"loaded: {found}" if found else 0)
"""


@pytest.mark.parametrize(
    "first", ["", "import openshell.gateway.auth.tokens"], ids=["others", "probe"]
)
def test_only_the_gateway_pays_for_the_library(first: str) -> None:
    """Start-up of the command line and the memory of every sandbox are budgets of their own."""
    done = subprocess.run(
        [sys.executable, "-c", first + IMPORTED], capture_output=True, check=False
    )
    assert (done.returncode != 0) == bool(first), done.stderr.decode()
