"""Where a provider's secret and the tokens and keys of the system are to be found: nowhere else.

One sandbox does everything that touches them; then every place that outlives a request is searched.
Each search is first shown to find what is there.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import ProviderClient
from openshell.sdk.refs import SandboxRef
from support.certificates import make_certificates
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec, wait_until
from support.traces import children, supervisor_pid, tree, zygote_pid
from support.upstream import ALIAS, Upstream, http_upstream

SECRET = "s3cr3t/+of=the~test-7f3a9c51d2"
SECOND = "another-secret-5d1e8b7740"
MARKER = "public-marker-of-the-test"

PROGRAM = """
import os, sys, urllib.error, urllib.request
def ask(url, headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as got:
            print(got.status, got.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
token = os.environ["TOKEN"]
bound, unbound = sys.argv[1:3]
ask(bound + "/ok", {"Authorization": "Bearer " + token})
ask(bound + "/refused", {"Authorization": "Bearer " + token})
ask(unbound + "/ok?token=" + token, {})
ask(unbound + "/ok", {"Authorization": "Bearer " + token})
print(os.environ)
open("/sandbox/notes", "w").write(str(dict(os.environ)) + "public-marker-of-the-test")
"""


@dataclass
class Used:
    """A sandbox in which the secret was used, and where."""

    gateway: PrivateGateway
    client: SandboxClient
    sandbox: SandboxRef
    upstream: Upstream
    said: str

    def token(self) -> str:
        """The sandbox's own token; only its supervisor and the driver's file have it."""
        path = self.gateway.state / "local/sandboxes" / self.sandbox.id / "token"
        return path.read_text().strip()

    def processes(self) -> dict[str, list[int]]:
        """All of ours, by what they are."""
        running = self.gateway.embedded.record()
        assert running is not None
        supervisor = supervisor_pid(self.gateway.state, self.sandbox.id)
        return {
            "gateway": [running.pid],
            "zygote": [zygote_pid(self.gateway.state)],
            "supervisor": [supervisor],
            "inside": [below for child in children(supervisor) for below in tree(child)],
        }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("certificates")
    paths = directory / "ca.pem", directory / "key.pem"
    make_certificates(*paths, ALIAS)
    return paths


@pytest.fixture(scope="module")
def gateway(certificate: tuple[Path, Path]) -> Iterator[PrivateGateway]:
    toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{certificate[0]}"\n'
    with PrivateGateway(toml=toml, environ={"OPENSHELL_LOG_LEVEL": "debug"}) as gateway:
        yield gateway


def policy(bound: int, unbound: int) -> str:
    return (
        "network_policies:\n  web:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {bound}, protocol: rest, enforcement: enforce,\n"
        "         credential_binding: {provider: work},\n"
        "         rules: [{allow: {method: GET, path: /ok}}]}\n"
        f"      - {{host: {ALIAS}, port: {unbound}, protocol: rest, enforcement: enforce,\n"
        "         access: full}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )


@pytest.fixture(scope="module")
def used(
    gateway: PrivateGateway, client: SandboxClient, certificate: tuple[Path, Path]
) -> Iterator[Used]:
    created = gateway.cli(
        "provider", "create", "--name", "work", "--type", "generic", "--credential", "TOKEN",
        environ={"TOKEN": SECRET},
    )  # fmt: skip
    assert created.returncode == 0, created.stderr
    with http_upstream(certificate[1]) as bound, http_upstream() as unbound:
        spec = sandbox_spec(network=policy(bound.port, unbound.port), providers=("work",))
        with ready_sandbox(client, spec) as sandbox:
            ran = client.exec(
                sandbox.id,
                [PYTHON, "-c", PROGRAM, f"https://{ALIAS}:{bound.port}",
                 f"http://{ALIAS}:{unbound.port}"],
                timeout_seconds=40,
            )  # fmt: skip
            assert ran.exit_code == 0, ran.stderr
            made = Used(gateway, client, sandbox, bound, ran.stdout + ran.stderr)

            def logged() -> bool:
                text = gateway.cli("logs", sandbox.name).stdout
                return "/refused" in text and "ALLOWED" in text

            wait_until(logged)
            yield made


def forms(secret: str) -> list[bytes]:
    """A value as it may stand somewhere: plain, percent-encoded, in base64 at each offset, in hex."""
    raw = secret.encode()
    shifted = [base64.b64encode(bytes(n) + raw)[4 * ((n + 2) // 3) : -4] for n in range(3)]
    return [
        raw,
        urllib.parse.quote(secret, safe="").encode(),
        raw.hex().encode(),
        raw[::-1],
        raw[: len(raw) // 2],
        raw[len(raw) // 2 :],
        *(part for part in shifted if len(part) > 8),
    ]


def holds(data: bytes | str, secret: str) -> bool:
    found = data.encode() if isinstance(data, str) else data
    return any(form in found for form in forms(secret))


def files_below(root: Path) -> dict[Path, bytes]:
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                found[path] = path.read_bytes()
    return found


def test_the_upstream_received_the_secret(used: Used) -> None:
    """The control of everything below: it was there, and it was used."""
    assert [item.headers.get("Authorization") for item in used.upstream.received] == [
        f"Bearer {SECRET}"
    ]
    assert used.said.startswith("200 GET /ok\n")
    assert used.said.count("\n403 ") == 3, used.said
    assert "credential_" in used.said


@pytest.mark.parametrize("secret", [SECRET, SECOND], ids=["plain", "other"])
def test_the_search_finds_what_is_there(secret: str) -> None:
    for around in (secret, urllib.parse.quote(secret, safe=""), f"x{secret}x"):
        assert holds(around, secret)
    for lead in ("", "a", "ab"):
        assert holds(base64.b64encode(f"{lead}{secret}tail".encode()), secret)
    assert not holds("nothing of it", secret)


def test_the_sandbox_saw_a_placeholder(used: Used) -> None:
    assert "openshell:resolve:env:" in used.said
    assert not holds(used.said, SECRET)
    assert used.token() not in used.said


def test_no_file_of_the_state_holds_the_secret(used: Used) -> None:
    """Database and its journals, logs, plans, and the files of the agent."""
    found = files_below(used.gateway.directory)
    names = {path.name for path in found}
    assert {"openshell.db", "openshell.db-wal", "gateway.log", "supervisor.log", "notes"} <= names
    assert any(MARKER.encode() in data for data in found.values())
    assert any(b"work" in data for path, data in found.items() if "openshell.db" in path.name)
    assert [path for path, data in found.items() if holds(data, SECRET)] == []


def test_the_sandboxs_token_is_in_its_file_only(used: Used) -> None:
    token = used.token()
    assert token.count(".") == 2, "the probe reads a token"
    found = files_below(used.gateway.directory)
    holders = [path for path, data in found.items() if token.encode() in data]
    assert [path.name for path in holders] == ["token"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    # Neither its signature alone, which is what makes it one.
    signature = token.rpartition(".")[2]
    assert [path.name for path, data in found.items() if signature.encode() in data] == ["token"]


def test_private_keys_are_in_their_files_only(used: Used) -> None:
    found = files_below(used.gateway.directory)
    keys = [path for path, data in found.items() if b"PRIVATE KEY" in data]
    assert keys, "the probe finds keys"
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)
    for path in keys:
        body = b"".join(found[path].split(b"\n")[1:3])
        others = [other for other, data in found.items() if body in data.replace(b"\n", b"")]
        assert {other.name for other in others} == {path.name}


@pytest.mark.parametrize("what", ["cmdline", "environ"])
def test_no_process_shows_a_secret(used: Used, what: str) -> None:
    token = used.token()
    seen = 0
    for pids in used.processes().values():
        for pid in pids:
            try:
                data = Path(f"/proc/{pid}/{what}").read_bytes()
            except PermissionError:
                continue  # hidden from this user: nobody reads anything there
            seen += bool(data)
            assert not holds(data, SECRET)
            assert token.encode() not in data
    assert seen >= 2


def test_the_memory_of_what_runs_inside_holds_no_secret(used: Used) -> None:
    """Process 1 was made before the supervisor read its token; so were all that it starts."""
    if os.geteuid():
        pytest.skip("needs root: the memory of these processes is closed to their own user")
    processes = used.processes()
    assert any(SECRET.encode() in memory for memory in _memory(processes["supervisor"][0]))
    token = used.token().encode()
    for pid in processes["inside"]:
        for block in _memory(pid):
            assert SECRET.encode() not in block
            assert token not in block
    for block in _memory(processes["zygote"][0]):
        assert SECRET.encode() not in block


def _memory(pid: int) -> Iterator[bytes]:
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if area is None:
                continue
            start, end = (int(part, 16) for part in area.groups())
            with contextlib.suppress(OSError, OverflowError):
                memory.seek(start)
                yield memory.read(end - start)


ANSWERS = {
    "sandbox list": "sandbox list -o json",
    "sandbox get": "sandbox get NAME -o json",
    "sandbox get as text": "sandbox get NAME",
    "policy": "policy get NAME --full",
    "revisions": "policy list NAME",
    "provider list": "provider list -o json",
    "provider get": "provider get work -o json",
    "attached": "sandbox provider list NAME -o json",
    "log": "logs NAME -o json",
    "log as text": "logs NAME -n 1000",
    "status": "status",
    "gateway": "gateway info -o json",
}


@pytest.mark.parametrize("line", ANSWERS.values(), ids=ANSWERS)
def test_no_answer_shows_a_secret(used: Used, line: str) -> None:
    ran = used.gateway.cli(*line.replace("NAME", used.sandbox.name).split())
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout) > 10
    for text in (ran.stdout, ran.stderr):
        assert not holds(text, SECRET)
        assert used.token() not in text


def test_no_message_of_the_api_shows_a_secret(used: Used) -> None:
    """The messages themselves: what a command line leaves out may still be sent."""
    providers = ProviderClient(used.client)
    name = used.sandbox.name
    messages = [
        providers.get("work", workspace="default"),
        *providers.list(workspace="default"),
        *providers.attached(name, workspace="default"),
        used.client.describe(name, workspace="default"),
        *used.client.describe_all(workspace="default"),
        providers.update("work", workspace="default", credentials={"SECOND": SECOND}),
    ]
    for message in messages:
        data = message.SerializeToString()
        assert data
        for secret in (SECRET, SECOND):
            assert not holds(data, secret)
            assert not holds(repr(message), secret)


WRONG = {
    "a bad name": {"1bad": SECRET},
    "a value too long": {"LONG": SECRET * 1000},
    "a name too long": {"N" * 10_000: SECRET},
    "a zero byte": {"ZERO": f"{SECRET}\0"},
}


@pytest.mark.parametrize("credentials", WRONG.values(), ids=WRONG)
def test_no_error_shows_a_secret(used: Used, credentials: dict[str, str]) -> None:
    providers = ProviderClient(used.client)
    try:
        providers.create("wrong", "generic", credentials, workspace="default")
    except grpc.RpcError as error:
        assert not holds(f"{error!r} {error}", SECRET)
    else:
        providers.delete("wrong", workspace="default")
    (key, value), *_ = credentials.items()
    if "\0" not in value and len(value) < 100_000:
        ran = used.gateway.cli(
            "provider", "create", "--name", "work", "--type", "generic",
            "--credential", f"{key}={value}",
        )  # fmt: skip
        assert ran.returncode == 1
        assert not holds(ran.stderr + ran.stdout, SECRET)


def test_the_gateways_log_shows_no_secret(used: Used) -> None:
    """At its most talkative, after all of the above."""
    assert "serving on" in used.gateway.log
    assert not holds(used.gateway.log, SECRET)
    assert used.token() not in used.gateway.log
