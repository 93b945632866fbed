"""Client certificates of profiles: what may be declared, who is handed what, which pairs are refused."""

import datetime as dt

import pytest

from openshell.codec.profile import profile_from_proto, profile_to_proto
from openshell.gateway.errors import ApiError
from openshell.gateway.services.client_certificates import refuse_bad_pair
from openshell.providers.client_certificates import certificate_keys
from openshell.providers.environment import Destination, plan_environment
from openshell.providers.profile.document import dump_profile, read_profile
from openshell.providers.profile.lint import lint_profile
from openshell.providers.profile.model import ClientCertificate, ProfileCredential, TokenGrant
from support.authorities import Authority
from unit.providers.provider_cases import attached, changed, endpoint, policy, profile, situation

CERT = ProfileCredential(name="cert", env_vars=("CLIENT_CERT",))
KEY = ProfileCredential(name="key", env_vars=("CLIENT_KEY",))
TOKEN = ProfileCredential(name="token", env_vars=("TOKEN",))
REST = {"protocol": "rest", "access": "full"}
SOUND = changed(
    profile(
        endpoints=[endpoint(**REST)],
        credentials=[CERT, KEY, TOKEN],
        client_certificate=ClientCertificate("cert", "key"),
    ),
    display_name="Custom",
)
NOW = dt.datetime.now(dt.UTC)


def test_a_sound_profile_survives_every_way_of_writing_it():
    assert lint_profile(SOUND) == ()
    assert profile_from_proto(profile_to_proto(SOUND)) == SOUND
    for form in ("yaml", "json"):
        assert read_profile(dump_profile(SOUND, form), source="t", format=form) == SOUND


UNSOUND = {
    "unknown": (
        {"client_certificate": ClientCertificate("cert", "other")},
        "client_certificate.private_key",
        "unknown credential 'other'",
    ),
    "one for both": (
        {"client_certificate": ClientCertificate("cert", "cert")},
        "client_certificate",
        "two credentials",
    ),
    "no variable": (
        {"credentials": (changed(CERT, env_vars=()), KEY)},
        "client_certificate.certificate",
        "exactly one entry",
    ),
    "token grant": (
        {"credentials": (CERT, changed(KEY, token_grant=TokenGrant("https://idp.example.com/t")))},
        "client_certificate.private_key",
        "given by hand",
    ),
    "skip": ({"endpoints": (endpoint(tls="skip"),)}, "endpoints[0].tls", "passes TLS through"),
    "path": ({"endpoints": (endpoint(path="/v1", **REST),)}, "endpoints[0].path", "by rules"),
}


@pytest.mark.parametrize(("change", "field", "gist"), UNSOUND.values(), ids=UNSOUND.keys())
def test_what_could_not_work_is_refused(change, field, gist):
    found = [f for f in lint_profile(changed(SOUND, **change)) if f.is_error]
    assert any(f.field == field and gist in f.message for f in found), found


def test_the_supervisor_alone_gets_the_pair():
    plan = plan_environment(
        situation(attached("work", SOUND, keys=("CLIENT_CERT", "CLIENT_KEY", "TOKEN")))
    )
    assert [c.key for c in plan.credentials] == ["TOKEN"]
    (shown,) = plan.identities
    assert (shown.certificate.key, shown.private_key.key) == ("CLIENT_CERT", "CLIENT_KEY")
    assert shown.endpoints == (Destination("api.example.com", 443, ""),)


@pytest.mark.parametrize("keys", [("CLIENT_CERT",), ("CLIENT_KEY",)])
def test_half_a_pair_is_neither_shown_nor_put_into_the_environment(keys):
    plan = plan_environment(situation(attached("work", SOUND, keys=(*keys, "TOKEN"))))
    assert plan.identities == ()
    assert [c.key for c in plan.credentials] == ["TOKEN"]


def test_an_expired_key_withholds_the_pair():
    keys = ("CLIENT_CERT", "CLIENT_KEY")
    found = attached("work", SOUND, keys=keys, expires_at_ms={"CLIENT_KEY": 1})
    plan = plan_environment(situation(found))
    assert (plan.identities, plan.credentials) == ((), ())
    assert [w.key for w in plan.withheld] == ["CLIENT_KEY"]


@pytest.mark.parametrize(("path", "count"), [("", 1), ("/v1/**", 0)], ids=["whole", "part"])
def test_a_policy_binds_a_certificate_to_whole_hosts_only(path, count):
    bound = policy(endpoint(provider="work", path=path, **REST))
    found = attached("work", changed(SOUND, endpoints=()), keys=("CLIENT_CERT", "CLIENT_KEY"))
    plan = plan_environment(situation(found, base=bound))
    assert len(plan.identities) == count
    assert plan.credentials == ()


# Values.

OURS = Authority()
ONE, OTHER = OURS.issue("one"), OURS.issue("other")
OLD = OURS.issue("old", begins=-3, ends=-1)
PAIRS = {
    "no certificate": ("nonsense", ONE.key, "no certificate in PEM"),
    "swapped": (ONE.key, ONE.certificate, "no certificate in PEM"),
    "no key": (ONE.certificate, "nonsense", "no private key in PEM"),
    "two of different pairs": (ONE.certificate, OTHER.key, "does not belong"),
    "expired": (OLD.certificate, OLD.key, "has expired"),
}


@pytest.mark.parametrize(("certificate", "key", "gist"), PAIRS.values(), ids=PAIRS.keys())
def test_pairs_that_cannot_be_used(certificate, key, gist):
    refuse_bad_pair(SOUND, {"CLIENT_CERT": ONE.certificate, "CLIENT_KEY": ONE.key}, NOW)
    with pytest.raises(ApiError, match=gist) as caught:
        refuse_bad_pair(SOUND, {"CLIENT_CERT": certificate, "CLIENT_KEY": key}, NOW)
    for issued in (ONE, OTHER, OLD):
        for text in (issued.certificate, issued.key):
            assert text.splitlines()[1] not in str(caught.value)


def test_values_of_other_profiles_are_not_looked_at():
    plain = changed(SOUND, client_certificate=None)
    assert certificate_keys(plain) is None
    refuse_bad_pair(plain, {"CLIENT_CERT": "x", "CLIENT_KEY": "y"}, NOW)
    refuse_bad_pair(None, {"CLIENT_CERT": "x", "CLIENT_KEY": "y"}, NOW)
