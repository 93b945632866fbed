"""Minting against a real authorization server: what it grants, what it refuses, what never leaks."""

import asyncio
import logging
import socket
import ssl
import threading
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from openshell.gateway.refresh.minting import Minter
from openshell.gateway.refresh.token_endpoint import TokenEndpoint
from openshell.providers.profile.model import Strategy
from openshell.providers.refresh import RefreshReason, RefreshRefused
from openshell.providers.refresh_requests import MintInputs
from support.certificates import make_certificates
from support.oauth_server import oauth_issuer

SECRET = "cl1ent-s3cret-of-tests"
KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
PUBLIC = (
    KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
# Trusts nobody, and is made faster than one with the system's authorities.
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.fixture
def issuer():
    with oauth_issuer() as started:
        started.register(
            "agent",
            secret=SECRET,
            grants=("client_credentials", "refresh_token"),
            scopes=frozenset({"read", "write"}),
        )
        started.register("sa@example.iam", public_key=PUBLIC, grants=(JWT_BEARER,))
        yield started


def now_ms():
    return time.time_ns() // 1_000_000


def oauth2(issuer, strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS, *, url=None, **material):
    scopes = material.pop("scopes", ())
    return MintInputs(
        strategy=strategy,
        material={"client_id": "agent", "client_secret": SECRET, **material},
        token_url=url or issuer.url,
        scopes=scopes,
    )


def google(issuer, **fields):
    material = {"client_email": "sa@example.iam", "private_key": PEM, **fields.pop("material", {})}
    return MintInputs(
        strategy=Strategy.GOOGLE_SERVICE_ACCOUNT_JWT,
        material=material,
        token_url=fields.pop("url", issuer.url),
        scopes=("read",),
        **fields,
    )


async def mint(inputs, **options):
    options.setdefault("tls", NOBODY)
    return await Minter(TokenEndpoint(**options)).mint("KEY", inputs, now_ms())


async def refused(inputs, **options):
    with pytest.raises(RefreshRefused) as caught:
        await mint(inputs, **options)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    return caught.value


async def test_client_credentials(issuer):
    before = now_ms()
    minted = await mint(oauth2(issuer, scopes=("read",)))
    assert issuer.accepts(minted.values["KEY"])
    assert before + 3_600_000 <= minted.expires_at_ms <= now_ms() + 3_600_000
    assert issuer.requests == [
        {
            "grant_type": "client_credentials",
            "client_id": "agent",
            "client_secret": SECRET,
            "scope": "read",
        }
    ]


async def test_a_refresh_token_is_replaced_and_works_once(issuer):
    first = issuer.authorise("agent")
    minted = await mint(oauth2(issuer, Strategy.OAUTH2_REFRESH_TOKEN, refresh_token=first))
    assert issuer.accepts(minted.values["KEY"])
    assert minted.refresh_token not in ("", first)
    second = await mint(
        oauth2(issuer, Strategy.OAUTH2_REFRESH_TOKEN, refresh_token=minted.refresh_token)
    )
    assert issuer.accepts(second.values["KEY"])
    error = await refused(oauth2(issuer, Strategy.OAUTH2_REFRESH_TOKEN, refresh_token=first))
    assert error.reason is RefreshReason.PRECONDITION
    assert not issuer.accepts(second.values["KEY"]), "the issuer revokes what was replayed"


async def test_a_refresh_token_that_stays(issuer):
    issuer.rotates = False
    first = issuer.authorise("agent")
    for _ in range(2):
        minted = await mint(oauth2(issuer, Strategy.OAUTH2_REFRESH_TOKEN, refresh_token=first))
        assert issuer.accepts(minted.values["KEY"])
        assert minted.refresh_token == ""


async def test_an_issuer_that_repeats_the_refresh_token_replaced_nothing(issuer):
    class Repeating(TokenEndpoint):
        async def send(self, request):
            return 200, b'{"access_token": "new", "refresh_token": "same"}'

    inputs = oauth2(issuer, Strategy.OAUTH2_REFRESH_TOKEN, refresh_token="same")
    minted = await Minter(Repeating()).mint("KEY", inputs, now_ms())
    assert (minted.values, minted.refresh_token) == ({"KEY": "new"}, "")


async def test_a_public_client(issuer):
    issuer.register("phone", grants=("refresh_token",))
    first = issuer.authorise("phone")
    minted = await mint(
        oauth2(
            issuer,
            Strategy.OAUTH2_REFRESH_TOKEN,
            client_id="phone",
            client_secret="",
            refresh_token=first,
        )
    )
    assert issuer.accepts(minted.values["KEY"])


async def test_a_signed_assertion(issuer):
    minted = await mint(google(issuer, material={"subject": "user@example.com"}))
    assert issuer.accepts(minted.values["KEY"])


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param(lambda i: oauth2(i, client_secret="wrong"), id="wrong secret"),
        pytest.param(lambda i: oauth2(i, client_id="nobody"), id="unknown client"),
        pytest.param(lambda i: oauth2(i, scopes=("admin",)), id="scope"),
        pytest.param(
            lambda i: oauth2(i, Strategy.OAUTH2_REFRESH_TOKEN, refresh_token="made-up"),
            id="unknown refresh token",
        ),
        pytest.param(
            lambda i: google(i, material={"subject": "else@example.com"}), id="unknown subject"
        ),
        pytest.param(
            lambda i: google(i, material={"client_email": "nobody"}), id="unknown service account"
        ),
        pytest.param(lambda i: google(i, url=i.url.replace("localhost", "127.0.0.1")), id="aud"),
        pytest.param(
            lambda i: google(
                i,
                material={
                    "private_key": rsa.generate_private_key(65537, 2048)
                    .private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption(),
                    )
                    .decode()
                },
            ),
            id="another key",
        ),
    ],
)
async def test_what_the_issuer_refuses(issuer, inputs):
    assert await mint(oauth2(issuer))
    assert await mint(google(issuer))
    issued = len(issuer.tokens)
    error = await refused(inputs(issuer))
    assert error.reason is RefreshReason.PRECONDITION
    assert "HTTP 40" in error.message
    assert len(issuer.tokens) == issued


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/redirect", "redirect"),
        ("/redirect-keeping-form", "redirect"),
        ("/garbage", "JSON"),
        ("/huge", "exceeds"),
        ("/compressed", "compressed"),
        ("/empty", "access token"),
        ("/absent", "404"),
    ],
)
async def test_an_odd_answer_is_refused(issuer, path, word):
    error = await refused(oauth2(issuer, url=issuer.at(path)))
    assert error.reason is RefreshReason.PRECONDITION
    assert word in error.message
    assert issuer.paths == [path], "nothing was sent anywhere else"


async def test_an_address_where_nobody_listens(issuer):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/token"
        error = await refused(oauth2(issuer, url=url))
    assert error.reason is RefreshReason.UNREACHABLE


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("x" * 64 + ".example.invalid", id="no label is that long"),
        pytest.param("a..example.invalid", id="empty label"),
    ],
)
async def test_a_host_that_cannot_be(issuer, host):
    error = await refused(oauth2(issuer, url=f"https://{host}/token"))
    assert error.reason is RefreshReason.UNREACHABLE


async def test_an_issuer_that_does_not_answer_in_time(issuer):
    issuer.hold = threading.Event()
    error = await refused(oauth2(issuer), timeout_seconds=0.2)
    issuer.hold.set()
    assert error.reason is RefreshReason.UNREACHABLE
    assert "0.2 seconds" in error.message


async def test_the_environment_has_no_say(issuer, monkeypatch, tmp_path):
    """A proxy or a .netrc of the gateway's user would be handed the account."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine localhost login x password netrc-s3cret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert issuer.accepts((await mint(oauth2(issuer))).values["KEY"])


async def test_tls_is_verified(tmp_path):
    make_certificates(tmp_path / "ca.pem", tmp_path / "server.pem", "localhost")
    with oauth_issuer(tmp_path / "server.pem") as issuer:
        issuer.register("agent", secret=SECRET, grants=("client_credentials",))
        trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        assert issuer.accepts((await mint(oauth2(issuer), tls=trusting)).values["KEY"])
        issuer.requests.clear()
        error = await refused(oauth2(issuer), tls=None)
        assert error.reason is RefreshReason.UNREACHABLE
        assert not issuer.requests


async def test_nothing_secret_is_logged(issuer, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("probe").debug("the probe sees debug lines")
    endpoint = TokenEndpoint()
    refresh_token = issuer.authorise("agent")
    inputs = oauth2(
        issuer,
        Strategy.OAUTH2_REFRESH_TOKEN,
        url=f"{issuer.url}?tenant=private-tenant",
        refresh_token=refresh_token,
    )
    minted = await Minter(endpoint).mint("KEY", inputs, now_ms())
    with pytest.raises(RefreshRefused):
        await Minter(endpoint).mint("KEY", inputs, now_ms())
    # authlib's own lines are those of the issuer, which is in this process.
    ours = [record for record in caplog.records if not record.name.startswith("authlib")]
    written = f"{[record.getMessage() for record in ours]} {minted} {inputs} {endpoint}"
    assert "the probe sees" in written
    for secret in (
        SECRET,
        refresh_token,
        minted.values["KEY"],
        minted.refresh_token,
        "private-tenant",
    ):
        assert secret not in written


async def test_a_cancelled_request_ends(issuer):
    issuer.hold = threading.Event()
    asking = asyncio.create_task(mint(oauth2(issuer)))
    assert await asyncio.to_thread(issuer.arrived.wait, 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    issuer.hold.set()
