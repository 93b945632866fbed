"""What may be configured, and in which order it is refused."""

import dataclasses

import pytest

from openshell.providers.profile.model import (
    Material,
    ProfileCredential,
    ProviderProfile,
    Refresh,
    RefreshOutput,
    Strategy,
)
from openshell.providers.refresh import STS_OUTPUTS, RefreshReason, RefreshRefused
from openshell.providers.refresh_configure import (
    ConfigureRequest,
    check_material,
    check_subject,
    plan_configure,
)

SECRET = "s3cr3t-of-a-configuration"
OAUTH2 = ProviderProfile(
    id="graph",
    credentials=(
        ProfileCredential(
            name="token",
            env_vars=("TOKEN",),
            refresh=Refresh(
                strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS,
                token_url="https://issuer.example/token",
                scopes=("read", "write"),
                refresh_before_seconds=60,
                max_lifetime_seconds=900,
                material=(Material("client_id", required=True), Material("client_secret")),
            ),
        ),
    ),
)
REQUEST = ConfigureRequest(
    provider="work",
    key="TOKEN",
    strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS,
    material={"client_id": "me", "client_secret": SECRET},
)


def sts_profile(
    key="AWS_ACCESS_KEY_ID", strategy=Strategy.AWS_STS_ASSUME_ROLE, outputs=STS_OUTPUTS
):
    refresh = Refresh(
        strategy=strategy,
        additional_outputs=tuple(RefreshOutput(name, name) for name in outputs),
    )
    return ProviderProfile(
        credentials=(
            ProfileCredential(name="access", env_vars=(key,), refresh=refresh),
            *(ProfileCredential(name=n, env_vars=(v,)) for n, v in outputs.items()),
        )
    )


STS_REQUEST = dataclasses.replace(
    REQUEST,
    key="AWS_ACCESS_KEY_ID",
    strategy=Strategy.AWS_STS_ASSUME_ROLE,
    material={"role_arn": "arn:aws:iam::1:role/x"},
)


def ask(**fields):
    return dataclasses.replace(REQUEST, **fields)


def run(request, profile=OAUTH2):
    check_subject(request)
    check_material(request)
    return plan_configure(request, profile)


def test_the_profile_gives_what_the_client_does_not():
    plan = run(REQUEST)
    assert plan.token_url == "https://issuer.example/token"
    assert plan.scopes == ("read", "write")
    assert (plan.refresh_before_seconds, plan.max_lifetime_seconds) == (60, 900)
    assert plan.outputs == {}


def test_the_client_stands_over_the_profile():
    plan = run(
        ask(
            material={
                **REQUEST.material,
                "scope": "a, b",
                "scopes": "b\tc",
                "refresh_before_seconds": " 10 ",
                "max_lifetime_seconds": "0",
            }
        )
    )
    assert plan.scopes == ("a", "b", "c")
    assert (plan.refresh_before_seconds, plan.max_lifetime_seconds) == (10, 0)
    assert plan.token_url == "https://issuer.example/token"


def test_a_profile_is_not_needed():
    plan = run(REQUEST, None)
    assert (plan.token_url, plan.scopes) == ("", ())


def test_another_strategy_than_the_profiles_needs_not_its_material():
    request = ask(strategy=Strategy.OAUTH2_REFRESH_TOKEN, material={"refresh_token": SECRET})
    assert run(request).token_url == "https://issuer.example/token"


def test_a_role_pins_its_outputs():
    assert run(STS_REQUEST, sts_profile()).outputs == STS_OUTPUTS


BIG = "x" * 8193
WRONG = {
    "no provider": ask(provider=" "),
    "no key": ask(key=" "),
    "long key": ask(key="K" * 257),
    "key is no variable": ask(key="1-KEY"),
    "key is a placeholder": ask(key="v1_KEY"),
    "unknown strategy": ask(strategy=None),
    "no strategy": ask(strategy=Strategy.UNSPECIFIED),
    "static": ask(strategy=Strategy.STATIC),
    "external": ask(strategy=Strategy.EXTERNAL),
    "too much material": ask(material={f"k{n}": "x" for n in range(65)}),
    "material without name": ask(material={"": "x"}),
    "long material name": ask(material={"x" * 257: "x"}),
    "long material": ask(material={"client_id": BIG}),
    "too many secret names": ask(secret_names=["client_id"] * 65),
    "long secret name": ask(secret_names=["x" * 257]),
    "token_url": ask(material={**REQUEST.material, "token_url": "https://evil.example"}),
    "token_uri": ask(material={**REQUEST.material, "token_uri": "https://evil.example"}),
    "sts endpoint": ask(material={**REQUEST.material, "sts_endpoint_url": ""}),
    "id without secret": ask(material={**REQUEST.material, "aws_access_key_id": "x"}),
    "secret without id": ask(material={**REQUEST.material, "aws_secret_access_key": SECRET}),
    "session without pair": ask(material={**REQUEST.material, "aws_session_token": SECRET}),
    "negative expiry": ask(expires_at_ms=-1),
    "required material missing": ask(material={"client_secret": SECRET}),
    "required material blank": ask(material={"client_id": " "}),
    "secret name without material": ask(secret_names=["absent"]),
    "lead is no number": ask(material={**REQUEST.material, "refresh_before_seconds": "1.5"}),
    "lead is negative": ask(material={**REQUEST.material, "refresh_before_seconds": "-1"}),
    "lifetime is no number": ask(material={**REQUEST.material, "max_lifetime_seconds": "1h"}),
    "lifetime is negative": ask(material={**REQUEST.material, "max_lifetime_seconds": "-5"}),
    "lifetime is endless": ask(material={**REQUEST.material, "max_lifetime_seconds": "9" * 18}),
}


@pytest.mark.parametrize("request_", [pytest.param(r, id=name) for name, r in WRONG.items()])
def test_a_request_is_refused(request_):
    run(REQUEST)
    with pytest.raises(RefreshRefused) as caught:
        run(request_)
    assert caught.value.reason is RefreshReason.ARGUMENT
    assert SECRET not in caught.value.message
    assert BIG not in caught.value.message


@pytest.mark.parametrize(
    ("request_", "profile"),
    [
        pytest.param(STS_REQUEST, None, id="no profile"),
        pytest.param(STS_REQUEST, OAUTH2, id="profile does not know the key"),
        pytest.param(
            STS_REQUEST,
            sts_profile(strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS),
            id="profile renews otherwise",
        ),
        pytest.param(
            dataclasses.replace(STS_REQUEST, key="OTHER"), sts_profile("OTHER"), id="another key"
        ),
        pytest.param(
            STS_REQUEST,
            sts_profile(outputs={"secret_access_key": "AWS_SECRET_ACCESS_KEY"}),
            id="an output is missing",
        ),
        pytest.param(
            STS_REQUEST,
            sts_profile(outputs={**STS_OUTPUTS, "session_token": "ELSEWHERE"}),
            id="an output goes elsewhere",
        ),
    ],
)
def test_a_role_needs_the_canonical_profile(request_, profile):
    run(STS_REQUEST, sts_profile())
    with pytest.raises(RefreshRefused) as caught:
        run(request_, profile)
    assert caught.value.reason is RefreshReason.PRECONDITION


def test_the_order_is_the_contracts():
    """Everything wrong at once; each repair brings up the next refusal."""
    wrong = ask(
        provider="",
        key="",
        strategy=Strategy.STATIC,
        material={"token_url": "x", "sts_endpoint_url": "x", "aws_access_key_id": "x"},
        secret_names=["absent"],
        expires_at_ms=-1,
    )
    repairs = [
        ({"provider": "work"}, "provider"),
        ({"key": "TOKEN"}, "credential_key"),
        ({"strategy": REQUEST.strategy}, "strategy"),
        ({"material": {"sts_endpoint_url": "x", "aws_access_key_id": "x"}}, "token_url"),
        ({"material": {"aws_access_key_id": "x"}}, "sts_endpoint_url"),
        ({"material": {"refresh_before_seconds": "x"}}, "aws_access_key_id"),
        ({"expires_at_ms": 0}, "expires_at_ms"),
        ({"material": {"client_id": "me", "refresh_before_seconds": "x"}}, "client_id"),
        ({"secret_names": []}, "secret_material_keys"),
        ({"material": REQUEST.material}, "refresh_before_seconds"),
    ]
    for repair, word in repairs:
        with pytest.raises(RefreshRefused) as caught:
            run(wrong)
        assert word in caught.value.message
        wrong = dataclasses.replace(wrong, **repair)
    assert run(wrong)


def test_no_secret_is_in_a_repr():
    assert SECRET not in repr(REQUEST)
