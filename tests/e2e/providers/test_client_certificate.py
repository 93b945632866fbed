"""A server that wants a client certificate, a provider that has one and a sandbox that never sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.providers.asking import document, endpoint, run, switch_on
from e2e.system.test_secrets import files_below
from openshell.sdk.client import SandboxClient
from support.authorities import Authority, Issued
from support.certificates import make_certificates
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec, wait_until
from support.upstream import ALIAS, Upstream, http_upstream

CLIENTS = Authority("clients")
FIRST, SECOND = CLIENTS.issue("first"), CLIENTS.issue("second")
CREDENTIALS = (
    "{name: cert, env_vars: [CLIENT_CERT], required: true}\n"
    "  - {name: key, env_vars: [CLIENT_KEY], required: true}"
)
SHOWN = "client_certificate: {certificate: cert, private_key: key}\n"
ASK = """
import os, sys, urllib.error, urllib.request
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=20) as got:
            print(got.status, got.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
    except OSError as error:
        print("failed", error)
print(sorted(os.environ))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("server")
    paths = directory / "ca.pem", directory / "key.pem"
    make_certificates(*paths, ALIAS)
    return paths


@pytest.fixture(scope="module")
def gateway(server: tuple[Path, Path]) -> Iterator[PrivateGateway]:
    toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{server[0]}"\n'
    with PrivateGateway(toml=toml, environ={"OPENSHELL_LOG_LEVEL": "debug"}) as gateway:
        switch_on(gateway)
        yield gateway


@pytest.fixture(scope="module")
def guarded(server: tuple[Path, Path]) -> Iterator[Upstream]:
    with http_upstream(server[1], client_ca=CLIENTS.certificate) as upstream:
        yield upstream


def given(pair: Issued) -> dict[str, str]:
    return {"CLIENT_CERT": pair.certificate, "CLIENT_KEY": pair.key}


def ask(client: SandboxClient, sandbox_id: str, *urls: str) -> list[str]:
    ran = client.exec(sandbox_id, [PYTHON, "-c", ASK, *urls], timeout_seconds=60)
    assert ran.exit_code == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_certificate_is_shown_where_the_profile_says_and_nowhere_else(
    gateway: PrivateGateway, client: SandboxClient, guarded: Upstream, tmp_path: Path
) -> None:
    path = tmp_path / "bank.yaml"
    path.write_text(document("bank", endpoint(guarded, "/ok"), credentials=CREDENTIALS, more=SHOWN))
    run(gateway, "provider", "profile", "import", "-f", path)
    words = ("--credential", "CLIENT_CERT", "--credential", "CLIENT_KEY")
    create = ("provider", "create", "--name", "bank", "--type", "bank", *words)
    mixed = {"CLIENT_CERT": FIRST.certificate, "CLIENT_KEY": SECOND.key}
    said = gateway.cli(*create, environ=mixed)
    assert said.returncode != 0
    assert "does not belong to the certificate" in " ".join(said.stderr.split())
    run(gateway, *create, **given(FIRST))
    here = f"https://{ALIAS}:{guarded.port}"
    with ready_sandbox(client, sandbox_spec(providers=("bank",))) as ref:
        allowed, refused, *_, environ = ask(client, ref.id, f"{here}/ok", f"{here}/no")
        assert allowed == "200 GET /ok"
        assert refused.startswith("403 ")
        assert "CLIENT" not in environ
        assert (guarded.paths, guarded.clients) == (["/ok"], ["first"])
        # Another program has no rule here.
        other = client.exec(
            ref.id,
            ["/usr/bin/curl", "-s", "-w", "%{http_connect}", f"{here}/ok"],
            timeout_seconds=30,
        )
        assert other.stdout.endswith("403"), other.stderr
        assert guarded.clients == ["first"]

        run(gateway, "provider", "update", "bank", *words, **given(SECOND))

        def shows_the_new_one() -> bool:
            return ask(client, ref.id, f"{here}/ok")[0] == "200 GET /ok" and (
                guarded.clients[-1] == "second"
            )

        wait_until(shows_the_new_one)
        log = run(gateway, "logs", ref.name)
        inside = client.exec(
            ref.id,
            ["/bin/sh", "-c", "env; cat /proc/*/environ; ls -la /proc/*/fd; find / -name '*.pem'"],
            timeout_seconds=60,
        )
        found = log + inside.stdout + inside.stderr + said.stderr + said.stdout
        for pair in (FIRST, SECOND):
            # The second line of a PEM text is enough to know it by.
            secret = pair.key.splitlines()[1]
            assert secret not in found
            assert "CLIENT_KEY" not in inside.stdout
            for file, content in files_below(gateway.state).items():
                assert secret.encode() not in content, file
    # The search finds what is there.
    (tmp_path / "control").write_text(FIRST.key)
    control = FIRST.key.splitlines()[1].encode()
    assert any(control in content for content in files_below(tmp_path).values())
