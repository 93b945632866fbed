"""Where secrets of providers and of their renewal are to be found after all has been done with them: nowhere.

Static values, client secrets, refresh tokens as given and as rotated, minted tokens: each is used, then
every place that outlives a request is searched for each. That the search finds what is there is shown
beside the tests of `system/test_secrets.py`, whose search this is; here every secret's control is that
the place where it belongs did get it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from e2e.providers.asking import OTHER_NAME, asker, document, endpoint, run, switch_on
from e2e.system.test_secrets import _memory, files_below, holds
from openshell.sdk.client import SandboxClient
from openshell.sdk.profiles import ProfileClient
from openshell.sdk.providers import ProviderClient, RefreshClient
from openshell.sdk.refs import SandboxRef
from support.oauth_server import Issuer, oauth_issuer
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec, wait_until
from support.traces import children, supervisor_pid, tree, zygote_pid
from support.upstream import ALIAS, Upstream

STATIC = "st4tic/+of=the~test-7f3a9c51d2"
NEWER = "newer-static-value-5d1e8b7740"
MACHINE = "m4chine-client-secret-0a1b2c3d"
PERSON = "p3rson-client-secret-9f8e7d6c"
WRONG = "wr0ng-client-secret-1234abcd"
MARKER = "public-marker-of-the-test"
PROFILES = ("fixed", "machine", "person")
CLEAR = ", request_body_credential_rewrite: true"


@dataclass
class Used:
    """What was used, and where."""

    gateway: PrivateGateway
    client: SandboxClient
    issuer: Issuer
    upstream: Upstream
    sandbox: SandboxRef
    secrets: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: object, code: int = 0, **environ: str) -> str:
        done = self.gateway.cli(*map(str, arguments), environ=environ)
        assert done.returncode == code, done.stdout + done.stderr
        self.said += [done.stdout, done.stderr]
        return done.stdout + done.stderr

    def rotate(self, name: str) -> None:
        key = f"{name.upper()}_KEY"
        self.run("provider", "refresh", "rotate", name, "--credential-key", key)
        token = self.issuer.tokens[-1]
        count = len(self.secrets)
        self.secrets[f"access token {count} of {name}"] = token.access_token
        if name == "person":
            self.secrets[f"refresh token {count}"] = token.refresh_token

    def found_in(self, data: bytes | str) -> list[str]:
        return [name for name, secret in self.secrets.items() if holds(data, secret)]

    def processes(self) -> list[int]:
        running = self.gateway.embedded.record()
        assert running is not None
        roots = (running.pid, zygote_pid(self.gateway.state))
        return [pid for root in roots for pid in tree(root)]


@pytest.fixture(scope="module")
def gateway() -> Iterator[PrivateGateway]:
    with PrivateGateway(environ={"OPENSHELL_LOG_LEVEL": "debug"}) as gateway:
        switch_on(gateway)
        yield gateway


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with oauth_issuer() as issuer:
        issuer.register("machine", secret=MACHINE, grants=("client_credentials",))
        issuer.register("person", secret=PERSON, grants=("refresh_token",))
        yield issuer


def renewing(name: str, strategy: str, issuer: Issuer) -> str:
    return (
        f"{{name: token, env_vars: [{name.upper()}_KEY], auth_style: bearer, "
        f"header_name: authorization, refresh: {{strategy: {strategy}, token_url: '{issuer.url}'}}}}"
    )


@pytest.fixture(scope="module")
def used(
    gateway: PrivateGateway,
    client: SandboxClient,
    issuer: Issuer,
    upstream: Upstream,
    elsewhere: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Used]:
    directory = tmp_path_factory.mktemp("profiles")
    for name, credentials in {
        "fixed": "",
        "machine": renewing("machine", "oauth2_client_credentials", issuer),
        "person": renewing("person", "oauth2_refresh_token", issuer),
    }.items():
        # One path prefix for each: endpoints that may not be one another's.
        text = document(
            name,
            endpoint(upstream, more=f"{CLEAR}, path: /{name}/**"),
            variable="FIXED_KEY",
            credentials=credentials,
        )
        (directory / f"{name}.yaml").write_text(text)
    run(gateway, "provider", "profile", "import", "--from", directory)
    spec = sandbox_spec(
        network="network_policies:\n  others:\n    endpoints:\n"
        f"      - {endpoint(elsewhere, host=OTHER_NAME, more=CLEAR)}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )
    with ready_sandbox(client, spec) as ref:
        made = Used(gateway, client, issuer, upstream, ref)
        made.secrets = {"static": STATIC, "newer": NEWER, "machine": MACHINE, "person": PERSON}
        set_up(made)
        work(made, elsewhere)
        quarrel(made, directory)
        wait_until(lambda: "DENIED" in gateway.cli("logs", ref.name).stdout)
        yield made


def set_up(used: Used) -> None:
    create = ("provider", "create")
    fixed = ("--name", "fixed", "--type", "fixed", "--credential", "FIXED_KEY")
    used.run(*create, *fixed, FIXED_KEY=STATIC)
    first = used.issuer.authorise("person")
    used.secrets["refresh token as given"] = first
    for name, strategy, material in (
        ("machine", "oauth2-client-credentials", {"client_secret": MACHINE}),
        ("person", "oauth2-refresh-token", {"client_secret": PERSON, "refresh_token": first}),
    ):
        used.run(*create, "--name", name, "--type", name, "--runtime-credentials")
        wanted = ["--credential-key", f"{name.upper()}_KEY", "--strategy", strategy]
        wanted += ["--material", f"client_id={name}"]
        for key in material:
            wanted += ["--secret-material-env", f"{key}={key.upper()}"]
        environ: Any = {key.upper(): value for key, value in material.items()}
        used.run("provider", "refresh", "configure", name, *wanted, **environ)
        used.rotate(name)
    for name in PROFILES:
        used.run("sandbox", "provider", "attach", used.sandbox.name, name)


def work(used: Used, elsewhere: Upstream) -> None:
    """Every credential in every place, where it belongs and where not, before and after it changes."""
    for _ in range(2):
        # A process of its own each time: what was attached is there from its start.
        with asker(used.client, used.sandbox.id) as process:
            used.said.append(json.dumps(process.environ()))
            for name in PROFILES:
                word = f"${name.upper()}_KEY"
                requests: list[dict[str, Any]] = [
                    {"headers": {"Authorization": f"Bearer {word}"}},
                    {"basic": f"me:{word}"},
                    {"method": "POST", "body": json.dumps({"key": word}),
                     "headers": {"Content-Type": "application/json"}},
                ]  # fmt: skip
                for request in requests:
                    status, said = process.ask(
                        f"http://{ALIAS}:{used.upstream.port}/{name}/x", **request
                    )
                    assert status == 200, said
                    other = f"http://{OTHER_NAME}:{elsewhere.port}/{name}"
                    status, said = process.ask(other, **request)
                    assert status == 403, said
                    used.said.append(said)
                status, said = process.ask(f"http://{OTHER_NAME}:{elsewhere.port}/?key={word}")
                assert status == 403
                used.said.append(said)
        notes = f"import os; print({MARKER!r}, os.environ, file=open('/sandbox/notes', 'w'))"
        used.client.exec(used.sandbox.id, [PYTHON, "-c", notes], timeout_seconds=20)
        used.rotate("machine")
        used.rotate("person")
        used.run("provider", "update", "fixed", "--credential", "FIXED_KEY", FIXED_KEY=NEWER)
        wait_until(lambda: arrives(used, NEWER))


def arrives(used: Used, secret: str) -> bool:
    with asker(used.client, used.sandbox.id) as process:
        url = f"http://{ALIAS}:{used.upstream.port}/fixed/x"
        process.ask(url, headers={"Authorization": "Bearer $FIXED_KEY"})
    return used.upstream.received[-1].headers["Authorization"] == f"Bearer {secret}"


def quarrel(used: Used, directory: Path) -> None:
    """What goes wrong with secrets at hand."""
    used.secrets["wrong"] = WRONG
    key = ("machine", "--credential-key", "MACHINE_KEY")
    configure = ("--strategy", "oauth2-client-credentials", "--material", "client_id=machine")
    secret = ("--secret-material-env", "client_secret=WRONG")
    used.run("provider", "refresh", "configure", *key, *configure, *secret, WRONG=WRONG)
    used.run("provider", "refresh", "rotate", *key, code=1)
    owned = ("provider", "update", "machine", "--credential", "MACHINE_KEY")
    used.run(*owned, code=1, MACHINE_KEY=NEWER)
    used.run("provider", "profile", "delete", "fixed", code=1)
    stale = directory / "fixed.yaml"
    stale.write_text(stale.read_text() + "resource_version: 99\n")
    used.run("provider", "profile", "update", "fixed", "-f", stale, code=1)


def test_each_secret_was_where_it_belongs(used: Used) -> None:
    """The control of everything below."""
    arrived = " ".join(got.headers.get("Authorization", "") for got in used.upstream.received)
    bodies = b" ".join(got.body for got in used.upstream.received)
    sent = [value for form in used.issuer.requests for value in form.values()]
    for name, secret in used.secrets.items():
        if "refresh token" in name or name in ("machine", "person", "wrong"):
            last = secret == used.issuer.tokens[-1].refresh_token
            assert secret in sent or last, name
        else:
            assert secret in arrived or name.startswith("access token"), name
            assert secret in arrived or used.issuer.accepts(secret)
    assert STATIC.encode() in bodies
    assert len(used.secrets) >= 13


def test_nothing_that_was_printed_shows_one(used: Used) -> None:
    assert len(used.said) > 30
    assert any("openshell:resolve:env:" in text for text in used.said)
    assert [used.found_in(text) for text in used.said if used.found_in(text)] == []


def test_no_file_holds_one(used: Used) -> None:
    """Database and journals, logs, the supervisor's plans, and what the agent wrote."""
    found = files_below(used.gateway.directory)
    names = {path.name for path in found}
    assert {"openshell.db", "openshell.db-wal", "gateway.log", "supervisor.log", "notes"} <= names
    assert any(MARKER.encode() in data for data in found.values())
    database = b"".join(data for path, data in found.items() if "openshell.db" in path.name)
    assert b"MACHINE_KEY" in database, "what is no secret is there in clear"
    assert {path: held for path, data in found.items() if (held := used.found_in(data))} == {}


def test_the_key_that_seals_them_is_in_its_file_only(used: Used) -> None:
    found = files_below(used.gateway.directory)
    keys = [path for path in found if path.name == "key-encryption-key.bin"]
    (path,) = keys
    assert path.stat().st_mode & 0o777 == 0o600
    key = found[path].strip()
    assert len(key) >= 32
    assert [other for other, data in found.items() if key in data] == [path]


@pytest.mark.parametrize("what", ["cmdline", "environ"])
def test_no_process_shows_one(used: Used, what: str) -> None:
    seen = 0
    for pid in used.processes():
        try:
            data = Path(f"/proc/{pid}/{what}").read_bytes()
        except (PermissionError, FileNotFoundError):
            continue  # hidden from this user, or gone
        seen += bool(data)
        assert used.found_in(data) == []
    assert seen >= 2


def test_the_memory_of_what_runs_inside_holds_none(used: Used) -> None:
    if os.geteuid():
        pytest.skip("needs root: the memory of these processes is closed to their own user")
    supervisor = supervisor_pid(used.gateway.state, used.sandbox.id)
    assert any(NEWER.encode() in block for block in _memory(supervisor)), "the probe finds it there"
    plain = {name: secret.encode() for name, secret in used.secrets.items()}
    for pid in [below for child in children(supervisor) for below in tree(child)]:
        for block in _memory(pid):
            assert [name for name, secret in plain.items() if secret in block] == []


ANSWERS = (
    *(f"provider get {name} -o json" for name in PROFILES),
    *(f"provider profile export {name}" for name in PROFILES),
    *(f"provider profile history {name} -o json" for name in PROFILES),
    "provider refresh status machine -o json",
    "provider refresh status person -o json",
    "provider list -o json",
    "provider list-profiles -o json",
    "sandbox provider list NAME -o json",
    "sandbox get NAME -o json",
    "policy get NAME --full",
    "logs NAME -o json -n 1000",
    "settings get NAME",
)


def test_no_answer_shows_one(used: Used) -> None:
    """One test, because what it needs takes long to set up."""
    for line in ANSWERS:
        ran = used.gateway.cli(*line.replace("NAME", used.sandbox.name).split())
        assert ran.returncode == 0, ran.stderr
        assert len(ran.stdout) > 10
        assert used.found_in(ran.stdout) == [], line
        assert used.found_in(ran.stderr) == [], line


def test_no_message_of_the_api_shows_one(used: Used) -> None:
    """What a command leaves out may still be sent."""
    home = "default"
    providers, refresh = ProviderClient(used.client), RefreshClient(used.client)
    profiles = ProfileClient(used.client)
    messages = [
        *providers.list(workspace=home),
        *providers.attached(used.sandbox.name, workspace=home),
        *(status for name in PROFILES for status in refresh.status(name, workspace=home)),
        *(profiles.revision(name, workspace=home) for name in PROFILES),
        *profiles.list(workspace=home),
        used.client.describe(used.sandbox.name, workspace=home),
    ]
    assert len(messages) > 12
    for message in messages:
        assert used.found_in(message.SerializeToString()) == []
        assert used.found_in(repr(message)) == []
