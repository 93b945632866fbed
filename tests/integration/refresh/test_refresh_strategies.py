"""Google assertions and AWS roles through the RPCs, with the built-in profiles where that can be."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from integration.refresh.conftest import graph
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.refresh.minting import Minter
from openshell.gateway.refresh.roles import RoleAssumer
from openshell.providers.profile.model import Strategy

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@pytest.fixture
async def role(gateway, aws):
    """A provider of the built-in type `aws` whose role is about to be assumed."""
    gateway.use(Minter(roles=RoleAssumer(endpoint_url=aws.url)))
    await gateway.v2()
    await gateway.provider(credentials={}, kind="aws")
    await gateway.configure(
        KEYS[0],
        strategy=Strategy.AWS_STS_ASSUME_ROLE,
        material={
            "role_arn": aws.role,
            "aws_access_key_id": aws.key_id,
            "aws_secret_access_key": aws.secret,
        },
    )
    return gateway


async def test_a_role_gives_three_values_with_one_end(role):
    status = await role.rotate(KEYS[0])
    assert status.status == "refreshed"
    assert (await role.record()).credential_expires_at_ms == dict.fromkeys(
        KEYS, status.expires_at_ms
    )
    first = [await role.value(key) for key in KEYS]
    assert all(first)
    await role.rotate(KEYS[0])
    second = [await role.value(key) for key in KEYS]
    assert not set(first) & set(second)
    assert await role.sealed() == 4
    assert await role.forget(KEYS[0])
    assert not (await role.record()).credential_expires_at_ms


async def test_without_the_setting_no_role_is_assumed(role, aws):
    await role.rotate(KEYS[0])
    before = await role.value(KEYS[0])
    await role.v2(False)
    with pytest.raises(ApiError) as caught:
        await role.rotate(KEYS[0])
    assert caught.value.code is Code.FAILED_PRECONDITION
    (status,) = await role.statuses()
    assert (status.status, status.last_error) == ("error", caught.value.message)
    assert await role.value(KEYS[0]) == before
    await role.v2()
    assert (await role.rotate(KEYS[0])).status == "refreshed"


async def test_every_key_of_a_role_is_claimed(role):
    await role.provider("other", credentials={"AWS_SESSION_TOKEN": "x"})
    box = await role.sandbox(providers=["work"])
    with pytest.raises(ApiError) as caught:
        await role.attach(box, "other")
    assert caught.value.code is Code.FAILED_PRECONDITION
    with pytest.raises(ApiError) as caught:
        await role.configure("AWS_SESSION_TOKEN")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "AWS_ACCESS_KEY_ID" in caught.value.message


async def test_a_google_assertion(gateway, issuer):
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    issuer.register(
        "sa@example.iam",
        public_key=public.decode(),
        grants=("urn:ietf:params:oauth:grant-type:jwt-bearer",),
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    await gateway.profile(graph(issuer.url, scopes=("https://www.googleapis.com/auth/x",)))
    await gateway.provider(credentials={}, kind="graph")
    await gateway.configure(
        strategy=Strategy.GOOGLE_SERVICE_ACCOUNT_JWT,
        material={"client_email": "sa@example.iam", "private_key": pem},
    )
    assert (await gateway.rotate()).status == "refreshed"
    assert issuer.accepts(await gateway.value())
    assert "private_key" not in (await gateway.state()).material
