"""Renewal by the real command: a real gateway asks a real authorization server for tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.oauth_server import Issuer, oauth_issuer
from support.private_gateway import PrivateGateway

SECRET = "hunter2-not-to-be-seen"
PROFILE = """\
id: {id}
display_name: {id}
credentials:
  - name: token
    env_vars: [{variable}]
    auth_style: bearer
    header_name: authorization
    refresh: {{strategy: {strategy}, token_url: {url}, material: [{material}]}}
endpoints:
  - {{host: a.example, port: 443, protocol: rest, access: read-only, enforcement: enforce}}
binaries: [/usr/bin/curl]
"""


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with oauth_issuer() as issuer:
        issuer.register("machine", secret=SECRET, grants=("client_credentials",))
        issuer.register("person", secret=SECRET, grants=("refresh_token",))
        yield issuer


def add_profile(
    gateway: PrivateGateway,
    directory: Path,
    issuer: Issuer,
    id_: str,
    strategy: str,
    *material: str,
) -> None:
    path = directory / f"{id_}.yaml"
    path.write_text(
        PROFILE.format(
            id=id_,
            variable=f"{id_.upper()}_TOKEN",
            strategy=strategy,
            url=issuer.url,
            material=", ".join(f"{{name: {name}}}" for name in material),
        )
    )
    run(gateway, "provider", "profile", "import", "-f", path)


def run(gateway: PrivateGateway, *arguments: object, code: int = 0, **environ: str) -> str:
    done = gateway.cli(*map(str, arguments), environ=environ)
    assert done.returncode == code, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.stderr if code else done.stdout


def status(gateway: PrivateGateway, name: str) -> dict[str, object]:
    (found,) = json.loads(run(gateway, "provider", "refresh", "status", name, "-o", "json"))
    return found


def test_a_machine_renews_itself(gateway: PrivateGateway, issuer: Issuer, tmp_path: Path) -> None:
    material = ("client_id", "client_secret")
    add_profile(gateway, tmp_path, issuer, "graph", "oauth2_client_credentials", *material)
    run(
        gateway,
        *("provider", "create", "--name", "graph", "--type", "graph", "--runtime-credentials"),
    )
    assert "renews no credential" in run(gateway, "provider", "refresh", "status", "graph")
    key = ("--credential-key", "GRAPH_TOKEN")
    configure = ("provider", "refresh", "configure", "graph", *key)
    configure += ("--strategy", "oauth2-client-credentials", "--material", "client_id=machine")
    configure += ("--secret-material-env", "client_secret=THE_SECRET")
    assert "THE_SECRET is not set" in run(gateway, *configure, code=1)

    assert "Configured refresh of GRAPH_TOKEN" in run(gateway, *configure, THE_SECRET="wrong")
    refused = run(gateway, "provider", "refresh", "rotate", "graph", *key, code=1)
    assert "internal error" not in refused
    assert status(gateway, "graph")["status"] == "error"

    run(gateway, *configure, THE_SECRET=SECRET)
    assert "Renewed GRAPH_TOKEN of provider graph" in run(
        gateway, "provider", "refresh", "rotate", "graph", *key
    )
    found = status(gateway, "graph")
    assert (found["status"], found["strategy"]) == ("refreshed", "oauth2-client-credentials")
    assert isinstance(found["expires_at_ms"], int)
    item = json.loads(run(gateway, "provider", "get", "graph", "-o", "json"))
    assert item["credential_keys"] == ["GRAPH_TOKEN"]
    assert item["credential_expires_at_ms"] == {"GRAPH_TOKEN": found["expires_at_ms"]}
    token = issuer.tokens[-1].access_token
    assert issuer.accepts(token), "the probe: a token was issued"
    assert token not in json.dumps([item, found])

    owned = run(gateway, "provider", "update", "graph", "--credential", "GRAPH_TOKEN", code=1, GRAPH_TOKEN="x")  # fmt: skip
    assert "GRAPH_TOKEN" in owned
    assert "Deleted refresh" in run(gateway, "provider", "refresh", "delete", "graph", *key)
    assert "nothing to delete" in run(gateway, "provider", "refresh", "delete", "graph", *key)


def test_a_persons_login_is_handed_over(
    gateway: PrivateGateway, issuer: Issuer, tmp_path: Path
) -> None:
    material = ("client_id", "client_secret", "refresh_token")
    add_profile(gateway, tmp_path, issuer, "cloud", "oauth2_refresh_token", *material)
    login = {"type": "authorized_user", "client_id": "person", "client_secret": SECRET}
    path = tmp_path / "adc.json"
    create = ("provider", "create", "--name", "mine", "--type", "cloud", "--from-gcloud-adc")

    path.write_text(json.dumps({**login, "refresh_token": "not one"}))
    refused = run(gateway, *create, code=1, GOOGLE_APPLICATION_CREDENTIALS=str(path))
    assert "was deleted again" in refused
    assert "mine" not in run(gateway, "provider", "list", "--names")

    path.write_text(json.dumps({**login, "refresh_token": issuer.authorise("person")}))
    run(gateway, *create, GOOGLE_APPLICATION_CREDENTIALS=str(path))
    assert status(gateway, "mine")["status"] == "refreshed"
    item = json.loads(run(gateway, "provider", "get", "mine", "-o", "json"))
    assert item["credential_keys"] == ["CLOUD_TOKEN"]
