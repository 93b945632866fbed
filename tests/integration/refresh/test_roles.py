"""Assuming roles against moto's STS, a real HTTP server that checks who signed."""

import logging
import sys
import time

import botocore.config
import botocore.session
import pytest

from openshell.gateway.refresh.minting import Minter
from openshell.gateway.refresh.roles import RoleAssumer
from openshell.providers.profile.model import Strategy
from openshell.providers.refresh import RefreshReason, RefreshRefused
from openshell.providers.refresh_requests import MintInputs, plan_role

KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


def now_ms():
    return time.time_ns() // 1_000_000


async def assume(aws, inputs, url=None):
    roles = RoleAssumer(endpoint_url=url or aws.url)
    return await Minter(roles=roles).mint("AWS_ACCESS_KEY_ID", inputs, now_ms())


async def refused(aws, inputs, url=None):
    with pytest.raises(RefreshRefused) as caught:
        await assume(aws, inputs, url)
    assert caught.value.reason is RefreshReason.ISSUER
    assert aws.secret not in caught.value.message
    assert caught.value.__context__ is None
    return caught.value


async def test_three_values_with_one_end(aws):
    before = now_ms()
    minted = await assume(aws, aws.inputs(lifetime=1800))
    assert set(minted.values) == KEYS
    assert before + 1_799_000 <= minted.expires_at_ms <= now_ms() + 1_800_000
    assert aws.secret not in str(minted.values)
    assert all(value not in repr(minted) for value in minted.values.values())


async def test_a_short_lifetime_is_kept_by_using_the_values_shorter(aws):
    minted = await assume(aws, aws.inputs(lifetime=60))
    assert minted.expires_at_ms <= now_ms() + 60_000


async def test_what_aws_refuses(aws):
    assert await assume(aws, aws.inputs())
    wrong = await refused(aws, aws.inputs(aws_secret_access_key="x" * 40))
    assert "SignatureDoesNotMatch" in wrong.message
    unknown = await refused(aws, aws.inputs(aws_access_key_id="AKIAUNKNOWNUNKNOWN00"))
    assert "InvalidClientTokenId" in unknown.message
    other = await refused(aws, aws.inputs(role_arn="arn:aws:iam::123456789012:role/other"))
    assert "AccessDenied" in other.message
    await refused(aws, aws.inputs(role_arn="x"))


async def test_the_gateways_environment_has_no_part_when_keys_are_given(aws, monkeypatch, tmp_path):
    config = tmp_path / "config"
    config.write_text("[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = absent\n")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAENVIRONMENT00000",
        "AWS_SECRET_ACCESS_KEY": "environment",
        "AWS_SESSION_TOKEN": "environment",
        "AWS_PROFILE": "absent",
        "AWS_CONFIG_FILE": str(config),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    assert set((await assume(aws, aws.inputs())).values) == KEYS


async def test_without_keys_the_gateways_own_identity_assumes(aws, monkeypatch):
    inputs = aws.inputs(aws_access_key_id="", aws_secret_access_key="")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", aws.key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
    assert "SignatureDoesNotMatch" in (await refused(aws, inputs)).message
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", aws.secret)
    assert set((await assume(aws, inputs)).values) == KEYS


@pytest.mark.parametrize("given", [True, False], ids=["given keys", "own identity"])
def test_nothing_moves_the_endpoint(monkeypatch, tmp_path, given):
    config = tmp_path / "config"
    config.write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    keys = {"aws_access_key_id": "AKIAEXAMPLE000000000", "aws_secret_access_key": "x" * 40}
    plan = plan_role(
        MintInputs(
            strategy=Strategy.AWS_STS_ASSUME_ROLE,
            material={"role_arn": "arn:aws:iam::1:role/x", **(keys if given else {})},
        )
    )
    client = RoleAssumer()._client(botocore.session, botocore.config, plan)
    assert client.meta.endpoint_url == "https://sts.us-east-1.amazonaws.com"
    client.close()


async def test_aws_that_cannot_be_reached(aws):
    error = await refused(aws, aws.inputs(), "http://127.0.0.1:9")
    assert "EndpointConnectionError" in error.message


async def test_the_extra_is_named_when_it_is_missing(aws, monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(RefreshRefused) as caught:
        await assume(aws, aws.inputs())
    assert caught.value.reason is RefreshReason.PRECONDITION
    assert "pip install 'openshell-py[aws]'" in caught.value.message


async def test_nothing_secret_is_logged(aws, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("probe").debug("the probe sees debug lines")
    minted = await assume(aws, aws.inputs())
    assert "the probe sees" in caplog.text
    for secret in (aws.secret, *minted.values.values()):
        assert secret not in caplog.text
