"""A running sandbox follows every way in which its policy can change, and is never restarted.

All through the command line, as a person would; the upstream shows what got out. The main process
writes its start into a file once: that it still holds the same word at the end is the control.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from openshell.sdk.client import SandboxClient
from openshell.sdk.refs import SandboxRef
from support import inside
from support.private_gateway import (
    FILESYSTEM,
    PREFIX,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.upstream import ALIAS, Upstream

CLIENT = Path(inside.__file__).read_text()
STARTED = ("sh", "-c", "date +%s%N > /tmp/started; exec sleep infinity")


@dataclass
class Box:
    """A sandbox, seen from inside and from the command line."""

    gateway: PrivateGateway
    client: SandboxClient
    ref: SandboxRef
    upstream: Upstream

    @property
    def place(self) -> str:
        return f"{ALIAS}:{self.upstream.port}"

    def ask(self, method: str = "GET", path: str = "/ok") -> int:
        """Sends one request from inside; the status of the answer."""
        send = (
            f"{method} http://{self.place}{path} HTTP/1.1\r\nHost: {self.place}\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        ran = self.client.exec(
            self.ref.id,
            [PYTHON, "-S", "-c", CLIENT],
            env={"PYTHONHOME": PREFIX, "LD_LIBRARY_PATH": f"{PREFIX}/lib"},
            stdin=json.dumps([{"op": "raw", "send": send}]).encode(),
            timeout_seconds=20,
        )
        assert ran.exit_code == 0, ran.stderr
        (answer,) = json.loads(ran.stdout)
        return int(answer[9:12])

    def policy(self, command: str, *arguments: str, code: int = 0) -> str:
        """`openshell policy COMMAND NAME ...`; what it printed."""
        ran = self.gateway.cli("policy", command, self.ref.name, *arguments)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def started(self) -> str:
        """The word that the main process wrote when it began; alive, it has not written another."""
        ran = self.client.exec(self.ref.id, ["cat", "/tmp/started"], timeout_seconds=20)
        return ran.stdout.decode() if isinstance(ran.stdout, bytes) else ran.stdout

    def versions(self) -> list[tuple[int, str]]:
        found = json.loads(self.policy("list", "-o", "json"))
        return [(item["version"], item["status"]) for item in found]

    def policy_file(self, path: Path, access: str) -> str:
        path.write_text(
            f"{FILESYSTEM}network_policies:\n  web:\n    endpoints:\n"
            f"      - {{host: {ALIAS}, port: {self.upstream.port}, protocol: rest,"
            f" enforcement: enforce, access: {access}}}\n"
            f"    binaries: [{{path: '/**'}}]\n"
        )
        return str(path)


@pytest.fixture
def box(gateway: PrivateGateway, client: SandboxClient, upstream: Upstream) -> Iterator[Box]:
    with ready_sandbox(client, sandbox_spec(command=STARTED)) as ref:
        made = Box(gateway, client, ref, upstream)
        wait_until(made.started)
        before = made.started()
        yield made
        assert made.started() == before, "it was restarted"
    gateway.cli("policy", "delete", "--global", "--yes")


def add(box: Box, *more: str) -> str:
    return box.policy(
        "update",
        "--add-endpoint",
        f"{box.place}:read-only:rest:enforce",
        "--binary",
        "/**",
        "--rule-name",
        "web",
        *more,
    )


def test_merge_operations_take_effect_without_a_restart(box: Box) -> None:
    assert box.ask() == 403
    shown = add(box, "--dry-run")
    assert "web:" in shown
    assert f"port: {box.upstream.port}" in shown
    assert box.ask() == 403, "a dry run changes nothing"

    assert "version 2 loaded" in add(box, "--wait")
    assert box.ask() == 200
    assert box.ask("POST") == 403
    box.policy("update", "--add-allow", f"{box.place}:POST:/ok", "--wait")
    assert box.ask("POST") == 200
    assert box.ask("POST", "/other") == 403
    box.policy("update", "--add-deny", f"{box.place}:GET:/secret", "--wait")
    assert box.ask("GET", "/secret") == 403
    assert box.ask("GET", "/public") == 200
    assert "unchanged" in add(box)

    # All or nothing: the second operation cannot be, so the first is not.
    before = box.versions()
    both = ("--remove-rule", "web", "--add-allow", f"{box.place}:PUT:/ok")
    assert "was not found" in box.policy("update", *both, code=1)
    assert box.versions() == before
    assert box.ask() == 200

    box.policy("update", "--remove-rule", "web", "--wait")
    assert box.ask() == 403
    assert [status for _version, status in box.versions()] == ["loaded", *["superseded"] * 4]


def test_going_back_is_a_new_revision_that_is_enforced(box: Box, tmp_path: Path) -> None:
    add(box, "--wait")
    box.policy("set", "--policy", box.policy_file(tmp_path / "full.yaml", "full"), "--wait")
    assert box.ask("POST") == 200
    assert "version 4 loaded" in box.policy("rollback", "--to", "2", "--wait")
    assert (box.ask(), box.ask("POST")) == (200, 403)
    assert [version for version, _status in box.versions()] == [4, 3, 2, 1]
    old, new = (json.loads(box.policy("get", "--rev", rev, "--full", "-o", "json")) for rev in "24")
    assert old["policy"] == new["policy"]
    assert "unchanged" in box.policy("rollback", "--to", "4")
    assert "revision 9 not found" in box.policy("rollback", "--to", "9", code=1)
    # What is shown can be given back as it is.
    shown = tmp_path / "shown.yaml"
    shown.write_text(box.policy("get", "--base"))
    assert "unchanged" in box.policy("set", "--policy", str(shown))


def test_the_policy_for_all_stands_over_a_sandboxs_own(box: Box, tmp_path: Path) -> None:
    add(box, "--wait")
    assert (box.ask(), box.ask("POST")) == (200, 403)
    cli = box.gateway.cli
    everywhere = box.policy_file(tmp_path / "all.yaml", "full")
    refused = cli("policy", "set", "--global", "--policy", everywhere)
    assert refused.returncode == 1
    assert "--yes" in refused.stderr

    ran = cli("policy", "set", "--global", "--policy", everywhere, "--yes")
    assert ran.returncode == 0, ran.stderr
    wait_until(lambda: box.ask("POST") == 200)
    shown = json.loads(box.policy("get", "-o", "json"))
    assert shown["policy_source"] == "global"
    assert shown["global_policy_version"] == 1
    assert "Scope: global" in cli("policy", "get", "--global").stdout
    for command in (("update", "--remove-rule", "web"), ("rollback", "--to", "1")):
        assert "managed globally" in " ".join(box.policy(*command, code=1).split())
    narrower = box.policy_file(tmp_path / "narrower.yaml", "read-only")
    compared = cli("policy", "diff", "--global", "--policy", narrower)
    assert compared.stdout.startswith("all sandboxes: revision 1 -> "), compared.stderr
    assert "- * **" in compared.stdout
    assert "policy diff" in cli("policy", "diff", "--global", "work").stderr
    # No sandbox acknowledges it: the history of its own stays as it was.
    assert box.versions() == [(2, "loaded"), (1, "superseded")]

    assert cli("policy", "delete", "--global", "--yes").returncode == 0
    wait_until(lambda: box.ask("POST") == 403)
    assert box.ask() == 200
    assert "superseded" in cli("policy", "list", "--global").stdout
    logged = cli("logs", box.ref.name, "-n", "200").stdout
    assert "global policy version 1 loaded" in logged


def test_a_sandbox_can_be_made_while_there_is_a_policy_for_all(
    gateway: PrivateGateway, client: SandboxClient, tmp_path: Path
) -> None:
    path = tmp_path / "all.yaml"
    # Without a word on files: what programs need to run is added, as for a sandbox's own policy.
    path.write_text(
        "version: 1\nnetwork_policies:\n  web:\n    endpoints: [{host: a.example.com, port: 443}]\n"
        "    binaries: [{path: '/**'}]\n"
    )
    ran = gateway.cli("policy", "set", "--global", "--policy", str(path), "--yes", "-o", "json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["scope"] == "global"
    try:
        with ready_sandbox(client) as ref:
            ran_inside = client.exec(ref.id, ["sh", "-c", "echo made > ~/x && cat ~/x"])
            assert ran_inside.exit_code == 0, ran_inside.stderr
            shown = json.loads(gateway.cli("policy", "get", ref.name, "-o", "json").stdout)
            assert (shown["policy_source"], shown["active_version"]) == ("global", 0)
    finally:
        gateway.cli("policy", "delete", "--global", "--yes")


def test_settings_reach_the_sandbox(box: Box) -> None:
    cli = box.gateway.cli
    key = ("--key", "ocsf_json_enabled")
    assert (
        "= true (revision 1)" in cli("settings", "set", box.ref.name, *key, "--value", "on").stdout
    )

    def logged(text: str) -> bool:
        return text in cli("logs", box.ref.name, "-n", "200").stdout

    wait_until(lambda: logged("setting ocsf_json_enabled changed from <unset> to true"))
    ran = cli("settings", "set", "--global", *key, "--value", "off", "--yes")
    assert ran.returncode == 0, ran.stderr
    wait_until(lambda: logged("setting ocsf_json_enabled changed from true to false"))
    shown = json.loads(cli("settings", "get", box.ref.name, "--json").stdout)
    assert shown["settings"]["ocsf_json_enabled"] == {"value": "false", "scope": "global"}
    refused = cli("settings", "delete", box.ref.name, *key)
    assert refused.returncode == 1
    assert "is managed" in refused.stderr
    everywhere = json.loads(cli("settings", "get", "--global", "--json").stdout)
    assert everywhere["settings"]["ocsf_json_enabled"] == "false"
    assert cli("settings", "delete", "--global", *key, "--yes").returncode == 0
    assert "ocsf_json_enabled = true (sandbox)" in cli("settings", "get", box.ref.name).stdout
    assert "Deleted" in cli("settings", "delete", box.ref.name, *key).stdout
    again = cli("settings", "delete", box.ref.name, *key)
    assert (again.returncode, "not found" in again.stdout) == (0, True)


def test_an_update_is_enforced_at_once(box: Box) -> None:
    """The push carries it: far sooner than the supervisor's own look every half minute."""
    began = time.monotonic()
    add(box, "--wait", "--timeout", "10")
    assert box.ask() == 200
    assert time.monotonic() - began < 10
