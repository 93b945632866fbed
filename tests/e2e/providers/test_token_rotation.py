"""A token that the gateway renews changes under a process that runs on with the same placeholder."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.providers.asking import asker, document, endpoint, run
from openshell.sdk.client import SandboxClient
from support.oauth_server import Issuer, oauth_issuer
from support.private_gateway import PrivateGateway, ready_sandbox, sandbox_spec, wait_until
from support.upstream import ALIAS, Upstream

SECRET = "hunter2-not-to-be-seen"
ROTATIONS = 3
KEY = ("renewed", "--credential-key", "WORK_KEY")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with oauth_issuer() as issuer:
        issuer.register("machine", secret=SECRET, grants=("client_credentials",))
        yield issuer


@pytest.fixture(scope="module")
def renewed(gateway: PrivateGateway, issuer: Issuer, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> str:  # fmt: skip
    """A provider whose token comes from the issuer."""
    credential = (
        "{name: token, env_vars: [WORK_KEY], auth_style: bearer, header_name: authorization, "
        f"refresh: {{strategy: oauth2_client_credentials, token_url: '{issuer.url}'}}}}"
    )
    path: Path = tmp_path_factory.mktemp("profile") / "renewed.yaml"
    path.write_text(document("renewed", endpoint(upstream), credentials=credential))
    run(gateway, "provider", "profile", "import", "-f", path)
    create = ("--name", "renewed", "--type", "renewed", "--runtime-credentials")
    run(gateway, "provider", "create", *create)
    material = ("--material", "client_id=machine", "--secret-material-env", "client_secret=SECRET")
    strategy = ("--strategy", "oauth2-client-credentials")
    run(gateway, "provider", "refresh", "configure", *KEY, *strategy, *material, SECRET=SECRET)
    return "renewed"


def rotate(gateway: PrivateGateway, issuer: Issuer) -> str:
    before = len(issuer.tokens)
    run(gateway, "provider", "refresh", "rotate", *KEY)
    assert len(issuer.tokens) == before + 1
    return f"Bearer {issuer.tokens[-1].access_token}"


def test_a_running_process_gets_each_new_token(
    gateway: PrivateGateway,
    client: SandboxClient,
    issuer: Issuer,
    renewed: str,
    upstream: Upstream,
) -> None:
    tokens = [rotate(gateway, issuer)]
    url = f"http://{ALIAS}:{upstream.port}/work"
    sent: Any = {"headers": {"Authorization": "Bearer $WORK_KEY"}}
    with (
        ready_sandbox(client, sandbox_spec(providers=(renewed,))) as ref,
        asker(client, ref.id) as process,
    ):
        environ = process.environ()
        assert re.fullmatch(r"openshell:resolve:env:s[0-9a-f]{64}_WORK_KEY", environ["WORK_KEY"])
        assert process.ask(url, **sent) == (200, "GET /work")
        assert upstream.received[-1].headers["Authorization"] == tokens[0]
        for _ in range(ROTATIONS):
            token = rotate(gateway, issuer)
            started = time.monotonic()

            def arrived(token: str = token) -> bool:
                assert process.ask(url, **sent)[0] == 200, "it is never without a token"
                return upstream.received[-1].headers["Authorization"] == token

            wait_until(arrived, seconds=5)
            print(f"renewed -> used: {(time.monotonic() - started) * 1000:.0f} ms")
            assert token not in tokens
            tokens.append(token)
        assert process.environ() == environ
        shown = client.exec(ref.id, ["cat", "/proc/self/environ"], timeout_seconds=20).stdout
    assert environ["WORK_KEY"] in shown, "a new process gets the very same placeholder"
    used = [got.headers["Authorization"] for got in upstream.received]
    assert list(dict.fromkeys(used)) == tokens, "no token comes back"
    assert all(issuer.accepts(token.removeprefix("Bearer ")) for token in tokens)


def test_a_token_that_cannot_be_renewed_stays_until_it_ends(
    gateway: PrivateGateway,
    client: SandboxClient,
    issuer: Issuer,
    renewed: str,
    upstream: Upstream,
) -> None:
    token = rotate(gateway, issuer)
    url = f"http://{ALIAS}:{upstream.port}/work"
    sent: Any = {"headers": {"Authorization": "Bearer $WORK_KEY"}}
    machine = issuer.clients.pop("machine")
    try:
        with (
            ready_sandbox(client, sandbox_spec(providers=(renewed,))) as ref,
            asker(client, ref.id) as process,
        ):
            refused = run(gateway, "provider", "refresh", "rotate", *KEY, code=1)
            assert SECRET not in refused
            assert process.ask(url, **sent)[0] == 200
            assert upstream.received[-1].headers["Authorization"] == token
            issuer.clients["machine"] = machine
            token = rotate(gateway, issuer)

            def arrived() -> bool:
                assert process.ask(url, **sent)[0] == 200
                return upstream.received[-1].headers["Authorization"] == token

            wait_until(arrived, seconds=5)
    finally:
        issuer.clients["machine"] = machine
