"""What is asked of issuers: forms, addresses, assertions, roles."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import RSAKey

from openshell.providers.profile.model import Strategy
from openshell.providers.refresh import RefreshReason, RefreshRefused
from openshell.providers.refresh_requests import (
    GOOGLE_TOKEN_URL,
    MintInputs,
    SourceKeys,
    plan_role,
    plan_token_request,
)

NOW_MS = 1_700_000_000_500
URL = "https://issuer.example/oauth/token"
SECRET = "s3cr3t-in-material"


def pem_of(key, encryption=None):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    ).decode()


KEY = rsa.generate_private_key(65537, 2048)
PEM = pem_of(KEY)


def inputs(strategy, material, **fields):
    fields.setdefault("token_url", URL)
    return MintInputs(strategy=strategy, material=material, **fields)


def oauth2(strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS, material=None, **fields):
    return inputs(
        strategy,
        {"client_id": "me", "client_secret": SECRET, "refresh_token": "rt", **(material or {})},
        **fields,
    )


def google(material=None, **fields):
    fields.setdefault("scopes", ("scope-a", "scope-b"))
    given_material = {"client_email": "sa@x.iam", "private_key": PEM, **(material or {})}
    return inputs(Strategy.GOOGLE_SERVICE_ACCOUNT_JWT, given_material, **fields)


def refusal(plan, *arguments):
    with pytest.raises(RefreshRefused) as caught:
        plan(*arguments)
    assert SECRET not in caught.value.message
    assert caught.value.__context__ is None
    return caught.value


def test_client_credentials():
    request = plan_token_request(oauth2(scopes=("a", "b")), NOW_MS)
    assert request.url == URL
    assert request.form == {
        "grant_type": "client_credentials",
        "client_id": "me",
        "client_secret": SECRET,
        "scope": "a b",
    }
    assert not request.rotates
    assert SECRET not in repr(request)


def test_a_refresh_token_with_and_without_a_client_secret():
    request = plan_token_request(oauth2(Strategy.OAUTH2_REFRESH_TOKEN), NOW_MS)
    assert request.form == {
        "grant_type": "refresh_token",
        "client_id": "me",
        "refresh_token": "rt",
        "client_secret": SECRET,
    }
    assert request.rotates
    public = oauth2(Strategy.OAUTH2_REFRESH_TOKEN, {"client_secret": " "})
    assert "client_secret" not in plan_token_request(public, NOW_MS).form


@pytest.mark.parametrize(
    ("strategy", "missing"),
    [
        (Strategy.OAUTH2_CLIENT_CREDENTIALS, "client_id"),
        (Strategy.OAUTH2_CLIENT_CREDENTIALS, "client_secret"),
        (Strategy.OAUTH2_REFRESH_TOKEN, "client_id"),
        (Strategy.OAUTH2_REFRESH_TOKEN, "refresh_token"),
    ],
)
def test_missing_material_is_named(strategy, missing):
    plan_token_request(oauth2(strategy), NOW_MS)
    refused = refusal(plan_token_request, oauth2(strategy, {missing: ""}), NOW_MS)
    assert refused.reason is RefreshReason.ARGUMENT
    assert f"'{missing}'" in refused.message


def test_a_tenant_wins_over_the_profile():
    request = plan_token_request(oauth2(material={"tenant_id": "my.tenant"}), NOW_MS)
    assert request.url == "https://login.microsoftonline.com/my.tenant/oauth2/v2.0/token"


@pytest.mark.parametrize("tenant", ["../x", "a/b", "a?b", "a#b", "a b", ".", "a..b", "x" * 300])
def test_a_tenant_stays_one_part_of_the_path(tenant):
    refusal(plan_token_request, oauth2(material={"tenant_id": tenant}), NOW_MS)


def test_google_ignores_a_tenant_and_has_a_default():
    request = plan_token_request(google({"tenant_id": "t"}, token_url=""), NOW_MS)
    assert request.url == GOOGLE_TOKEN_URL


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example",
        "https://issuer.example:8443/token?x=1",
        "http://localhost:9/token",
        "http://127.0.0.1/token",
        "http://[::1]:80/token",
    ],
)
def test_accepted_addresses(url):
    assert plan_token_request(oauth2(token_url=url), NOW_MS).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://issuer.example/token",
        "http://localhost.evil.example/",
        "http://127.0.0.2/",
        "http://localhost@evil.example/",
        "https://user:pass@issuer.example/",
        "https://issuer.example\\@evil.example/",
        "https://issuer.example/#x",
        "https://issuer.example/a b",
        "https://issuer.example/\r\nHost: x",
        "https://issuer.example:0/",
        "https://issuer.example:99999/",
        "https://issüer.example/",
        "https:///token",
        "ftp://issuer.example/",
        "file:///etc/passwd",
        " https://issuer.example/",
        "HTTPS://issuer.example/\n",
    ],
)
def test_refused_addresses(url):
    refused = refusal(plan_token_request, oauth2(token_url=url), NOW_MS)
    assert refused.reason is RefreshReason.ARGUMENT


@given(st.text(max_size=40))
def test_no_address_in_the_clear_leaves_this_machine(rest):
    url = "http://" + rest
    try:
        request = plan_token_request(oauth2(token_url=url), NOW_MS)
    except RefreshRefused:
        return
    assert request.host.lower() in {"localhost", "127.0.0.1", "[::1]"}


def test_the_assertion_says_what_google_wants():
    request = plan_token_request(google({"subject": "user@x", "sub": "other@x"}), NOW_MS)
    assert request.form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    token = jwt.decode(request.form["assertion"], RSAKey.import_key(PEM), algorithms=["RS256"])
    assert token.header == {"alg": "RS256", "typ": "JWT"}
    assert token.claims == {
        "iss": "sa@x.iam",
        "scope": "scope-a scope-b",
        "aud": URL,
        "iat": NOW_MS // 1000,
        "exp": NOW_MS // 1000 + 3600,
        "sub": "user@x",
    }


@pytest.mark.parametrize(("lifetime", "seconds"), [(0, 3600), (60, 60), (99_999, 3600)])
def test_an_assertion_lives_an_hour_at_most(lifetime, seconds):
    request = plan_token_request(google(max_lifetime_seconds=lifetime), NOW_MS)
    claims = jwt.decode(request.form["assertion"], RSAKey.import_key(PEM)).claims
    assert claims["exp"] - claims["iat"] == seconds
    assert "sub" not in claims


BAD_KEYS = {
    "text": f"{SECRET}",
    "broken": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
    "elliptic": pem_of(ec.generate_private_key(ec.SECP256R1())),
    "short": pem_of(rsa.generate_private_key(65537, 1024)),
    "encrypted": pem_of(KEY, serialization.BestAvailableEncryption(b"x")),
    "public": KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode(),
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("pem", [pytest.param(pem, id=name) for name, pem in BAD_KEYS.items()])
def test_a_bad_key_is_refused_without_quoting_it(pem):
    refused = refusal(plan_token_request, google({"private_key": pem}), NOW_MS)
    assert refused.reason is RefreshReason.ARGUMENT


def test_google_needs_a_scope_and_an_address():
    assert "scope" in refusal(plan_token_request, google(scopes=()), NOW_MS).message
    missing = refusal(plan_token_request, google({"client_email": ""}), NOW_MS)
    assert "client_email" in missing.message


def role(material=None, **fields):
    base = {"role_arn": "arn:aws:iam::123456789012:role/agent"}
    return inputs(Strategy.AWS_STS_ASSUME_ROLE, {**base, **(material or {})}, **fields)


def test_a_role_with_defaults():
    plan = plan_role(role())
    assert plan.session_name == "openshell-sandbox"
    assert plan.region == "us-east-1"
    assert plan.duration_seconds == 3600
    assert plan.source is None
    assert plan.external_id == ""


def test_a_role_with_everything():
    keys = {
        "aws_access_key_id": "AKIA",
        "aws_secret_access_key": SECRET,
        "aws_session_token": "st",
        "aws_region": "eu-central-1",
        "session_name": "mine",
        "external_id": "ext",
    }
    plan = plan_role(role(keys, max_lifetime_seconds=1800))
    assert plan.source == SourceKeys("AKIA", SECRET, "st")
    assert (plan.region, plan.session_name) == ("eu-central-1", "mine")
    assert (plan.external_id, plan.duration_seconds) == ("ext", 1800)
    assert SECRET not in repr(plan)


@pytest.mark.parametrize(("lifetime", "seconds"), [(60, 900), (99_999, 43_200)])
def test_a_role_lasts_what_aws_grants(lifetime, seconds):
    assert plan_role(role(max_lifetime_seconds=lifetime)).duration_seconds == seconds


@pytest.mark.parametrize("region", ["x.evil.example", "us-east-1/", "US-EAST-1", "us", "a@b-1"])
def test_a_region_is_no_host(region):
    assert refusal(plan_role, role({"aws_region": region})).reason is RefreshReason.ARGUMENT


def test_a_role_needs_its_name():
    assert "role_arn" in refusal(plan_role, role({"role_arn": ""})).message


def test_no_secret_is_in_the_repr_of_inputs():
    assert SECRET not in repr(oauth2())
