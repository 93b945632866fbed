"""Providers and profiles by the real command against a real gateway with a sandbox that uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.private_gateway import PrivateGateway

SECRET = "hunter2-not-to-be-seen"
PROFILE = """\
id: {id}
display_name: {id}
category: data
credentials:
  - {{name: key, env_vars: [{variable}], required: true, auth_style: bearer, header_name: authorization}}
discovery: {{credentials: [key]}}
endpoints:
  - {{host: a.example, port: 443, protocol: rest, access: read-only, enforcement: enforce}}
binaries: [/usr/bin/curl]
"""


@pytest.fixture(scope="module")
def work(gateway: PrivateGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A profile `work`, its provider `mine` and a sandbox `box` that has it; answers a directory."""
    directory = tmp_path_factory.mktemp("profiles")
    (directory / "work.yaml").write_text(PROFILE.format(id="work", variable="WORK_KEY"))
    # What a former test of this file left is in the way of nobody: the gateway is the module's own.
    for arguments in (
        ("settings", "set", "--global", "--key", "providers_v2_enabled", "--value", "on", "--yes"),
        ("provider", "profile", "import", "-f", str(directory / "work.yaml")),
        ("provider", "create", "--name", "mine", "--type", "work", "--from-existing"),
        (
            "sandbox",
            "create",
            "--name",
            "box",
            "--detach",
            "--provider",
            "mine",
            "--",
            "sleep",
            "1d",
        ),
    ):
        done = gateway.cli(*arguments, environ={"WORK_KEY": SECRET})
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr
    yield directory
    gateway.cli("sandbox", "delete", "box")


def run(gateway: PrivateGateway, *arguments: object, code: int = 0) -> str:
    done = gateway.cli(*map(str, arguments))
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def export(gateway: PrivateGateway) -> str:
    return run(gateway, "provider", "profile", "export", "work")


def test_export_edit_diff_update(gateway: PrivateGateway, work: Path) -> None:
    before = export(gateway)
    edited = work / "edited.yaml"
    edited.write_text(before.replace("a.example", "b.example"))
    run(gateway, "provider", "profile", "lint", "-f", work / "work.yaml", code=1)
    assert "_provider_mine:" in run(gateway, "policy", "get", "box", "--full")
    assert "_provider_mine:" not in run(gateway, "policy", "get", "box", "--base")

    shown = run(gateway, "provider", "profile", "diff", "work", "-f", edited)
    assert "+ endpoints[b.example:443]" in shown
    assert "Sandbox default/box:" in shown
    assert "  + credential mine:WORK_KEY b.example:443" in shown
    assert "  - credential mine:WORK_KEY a.example:443" in shown
    assert export(gateway) == before, "a diff writes nothing"

    assert run(gateway, "provider", "profile", "update", "work", "-f", edited) == (
        "Updated provider profile.\n"
    )
    assert "b.example" in run(gateway, "policy", "get", "box", "--full")
    fresh = export(gateway)
    assert _version(fresh) > _version(before)

    mine = work / "mine.yaml"
    mine.write_text(before.replace("display_name: work", "display_name: Mine"))
    refused = run(gateway, "provider", "profile", "update", "work", "-f", mine, code=1)
    assert export(gateway) == fresh
    for part in (
        "You changed:\n  ~ display_name: ",
        "Changed meanwhile (last: revision ",
        "  + endpoints[b.example:443]",
        "Nothing was changed by both.",
        f"  openshell provider profile export work > {work}/mine.new.yaml",
        f"  openshell provider profile update work -f {work}/mine.new.yaml",
    ):
        assert part in refused
    renewed = work / "mine.new.yaml"
    renewed.write_text(fresh.replace("display_name: work", "display_name: Mine"))
    run(gateway, "provider", "profile", "update", "work", "-f", renewed)
    assert "display_name: Mine" in export(gateway)


def _version(document: str) -> int:
    (line,) = [line for line in document.splitlines() if line.startswith("resource_version: ")]
    return int(line.partition(" ")[2])


def test_a_batch_is_all_or_nothing(gateway: PrivateGateway, work: Path) -> None:
    batch = work / "batch"
    batch.mkdir()
    (batch / "new.yaml").write_text(PROFILE.format(id="new", variable="NEW_KEY"))
    (batch / "work.yaml").write_text(
        export(gateway).replace("id: work", "id: work\nannotations: {a: b}")
    )
    (batch / "github.json").write_text('{"id": "github", "display_name": "Mine now"}')
    arguments = ("provider", "profile", "apply", "--from", batch)
    refused = run(gateway, *arguments, code=1)
    assert f"  error {batch}/github.json profile=github field=id" in refused
    assert "not found" in run(gateway, "provider", "profile", "export", "new", code=1)

    (batch / "github.json").unlink()
    planned = json.loads(run(gateway, *arguments, "--dry-run", "-o", "json"))
    assert (planned["valid"], planned["applied"]) == (True, False)
    assert [(p["id"], p["operation"]) for p in planned["profiles"]] == [
        ("new", "create"),
        ("work", "update"),
    ]
    run(gateway, "provider", "profile", "export", "new", code=1)
    assert "Created new\nUpdated work\n" in run(gateway, *arguments)
    assert "annotations:\n  a: b" in export(gateway)
    # The very same files again: one is there already, the other is behind.
    again = run(gateway, *arguments, code=1)
    assert "already exists" in again or "changed since" in again
    run(gateway, "provider", "profile", "delete", "new")


def test_history_and_rollback(gateway: PrivateGateway, work: Path) -> None:
    first = json.loads(run(gateway, "provider", "profile", "history", "work", "-o", "json"))[-1]
    assert (first["revision"], first["operation"]) == (1, "import")
    old = run(gateway, "provider", "profile", "export", "work", "--revision", "1")
    assert "a.example" in old
    assert "Would roll work back to revision 1" in run(
        gateway, "provider", "profile", "rollback", "work", "--to", "1", "--dry-run"
    )
    assert "Rolled work back to revision 1" in run(
        gateway, "provider", "profile", "rollback", "work", "--to", "1"
    )
    assert "a.example" in export(gateway)
    last = json.loads(run(gateway, "provider", "profile", "history", "work", "-o", "json"))[0]
    assert (last["operation"], last["restored_from"]) == ("rollback", 1)
    assert "no revision 99" in run(
        gateway, "provider", "profile", "rollback", "work", "--to", "99", code=1
    )


def test_what_is_in_use_or_built_in_stays(gateway: PrivateGateway, work: Path) -> None:
    assert "box" in run(gateway, "provider", "profile", "delete", "work", code=1)
    assert "builtin" in run(gateway, "provider", "profile", "delete", "github", code=1)
    assert "box" in run(gateway, "provider", "delete", "mine", code=1)
    listed = json.loads(run(gateway, "provider", "list-profiles", "-o", "json"))
    assert {"github", "work"} <= {item["id"] for item in listed}


def test_an_unbound_provider_is_told(gateway: PrivateGateway, work: Path) -> None:
    create = ("provider", "create", "--name", "loose", "--type", "generic", "--credential", "LOOSE")
    done = gateway.cli(*create, environ={"LOOSE": SECRET})
    assert done.returncode == 0, done.stderr
    done = gateway.cli("sandbox", "provider", "attach", "box", "loose")
    assert "Attached provider loose" in done.stdout
    assert "LOOSE will not be set inside" in done.stderr
    assert "credential_binding: {provider: loose}" in done.stderr
    assert "Detached" in run(gateway, "sandbox", "provider", "detach", "box", "loose")


def test_a_missing_provider_is_made_of_what_is_here(gateway: PrivateGateway, work: Path) -> None:
    create = ("sandbox", "create", "--provider", "claude", "--detach", "--", "true")
    refused = gateway.cli(*create)
    assert refused.returncode == 1
    assert "missing required provider 'claude'" in refused.stderr
    assert "claude" not in run(gateway, "provider", "list", "--names").split()
    made = gateway.cli(
        "sandbox", "create", "--provider", "claude", "--auto-providers", "--no-keep", "--", "env",
        environ={"ANTHROPIC_API_KEY": SECRET},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "Created provider claude" in made.stderr
    assert "ANTHROPIC_API_KEY=openshell:resolve:env:" in made.stdout, "a placeholder, not the key"
    assert SECRET not in made.stdout + made.stderr
    item = json.loads(run(gateway, "provider", "get", "claude", "-o", "json"))
    assert (item["type"], item["credential_keys"]) == ("claude-code", ["ANTHROPIC_API_KEY"])
