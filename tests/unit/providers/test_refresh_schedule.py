"""Which material is sealed, what is pinned, when a value is renewed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.providers.profile.model import (
    Material,
    ProfileCredential,
    ProviderProfile,
    Refresh,
    RefreshOutput,
    Strategy,
)
from openshell.providers.refresh import find_credential, next_due, pin_outputs, secret_names

STS = ProviderProfile(
    id="aws",
    credentials=(
        ProfileCredential(
            name="access",
            env_vars=("AWS_ACCESS_KEY_ID",),
            refresh=Refresh(
                strategy=Strategy.AWS_STS_ASSUME_ROLE,
                additional_outputs=(
                    RefreshOutput("secret_access_key", "secret"),
                    RefreshOutput("session_token", "session"),
                    RefreshOutput("unbound", "nothing"),
                ),
            ),
        ),
        ProfileCredential(name="secret", env_vars=("AWS_SECRET_ACCESS_KEY",)),
        ProfileCredential(name="session", env_vars=("AWS_SESSION_TOKEN",)),
    ),
)


@pytest.mark.parametrize(
    ("expires", "before", "due"),
    [
        pytest.param(0, 0, 0, id="no end is due now"),
        pytest.param(1_000_000, 0, 700_000, id="five minutes before"),
        pytest.param(1_000_000, 60, 940_000, id="own lead"),
        pytest.param(1_000, 0, 0, id="never negative"),
    ],
)
def test_when_a_value_is_due(expires, before, due):
    assert next_due(expires, before) == due


@given(st.integers(1, 1 << 50), st.integers(0, 1 << 30))
def test_a_value_is_never_due_after_its_end(expires, before):
    assert 0 <= next_due(expires, before) < expires


@pytest.mark.parametrize(
    ("strategy", "secret"),
    [
        (Strategy.OAUTH2_REFRESH_TOKEN, {"refresh_token", "client_secret"}),
        (Strategy.OAUTH2_CLIENT_CREDENTIALS, {"client_secret"}),
        (Strategy.GOOGLE_SERVICE_ACCOUNT_JWT, {"private_key"}),
        (Strategy.AWS_STS_ASSUME_ROLE, {"aws_secret_access_key", "aws_session_token"}),
    ],
)
def test_the_contracts_secrets_are_sealed(strategy, secret):
    public = {"client_id": "x", "tenant_id": "x", "role_arn": "x", "scope": "x"}
    material = {**public, **dict.fromkeys(secret, "x")}
    assert secret_names(None, "KEY", strategy, material, ()) == secret


@pytest.mark.parametrize(
    ("name", "described", "listed", "sealed"),
    [
        pytest.param("client_id", (), (), False, id="an identifier"),
        pytest.param("client_id", (), ("client_id",), True, id="listed by the client"),
        pytest.param(
            "client_id", (Material("client_id", secret=True),), (), True, id="secret by profile"
        ),
        pytest.param("hint", (), (), True, id="nobody knows what it is"),
        pytest.param("hint", (Material("hint"),), (), False, id="public by profile"),
        pytest.param(
            "client_secret", (Material("client_secret"),), (), True, id="no profile publishes it"
        ),
        pytest.param("hint", (Material("hint"),), ("hint",), True, id="the client is stricter"),
    ],
)
def test_what_else_is_sealed(name, described, listed, sealed):
    strategy = Strategy.OAUTH2_CLIENT_CREDENTIALS
    profile = ProviderProfile(
        credentials=(
            ProfileCredential(name="KEY", refresh=Refresh(strategy=strategy, material=described)),
        )
    )
    names = secret_names(profile, "KEY", strategy, {name: "x", "blank": ""}, listed)
    assert names == ({name} if sealed else set())


def test_a_credential_is_found_by_name_before_variable():
    by_variable = ProfileCredential(name="other", env_vars=("KEY",))
    by_name = ProfileCredential(name="KEY")
    profile = ProviderProfile(credentials=(by_variable, by_name))
    assert find_credential(profile, "KEY") is by_name
    assert find_credential(ProviderProfile(credentials=(by_variable,)), "KEY") is by_variable
    assert find_credential(profile, "ELSE") is None
    assert find_credential(None, "KEY") is None


def test_outputs_are_pinned_to_the_one_variable_of_a_sibling():
    assert pin_outputs(STS, "AWS_ACCESS_KEY_ID", Strategy.AWS_STS_ASSUME_ROLE) == {
        "secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "session_token": "AWS_SESSION_TOKEN",
    }
    assert pin_outputs(STS, "AWS_ACCESS_KEY_ID", Strategy.OAUTH2_REFRESH_TOKEN) == {}
    assert pin_outputs(None, "AWS_ACCESS_KEY_ID", Strategy.AWS_STS_ASSUME_ROLE) == {}
