"""Export, edit, update by the real command, with all that can come between; what it says to run next works."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from e2e.providers.asking import document, endpoint, run
from support.private_gateway import OPENSHELL, PrivateGateway
from support.upstream import Upstream


def export(gateway: PrivateGateway, id_: str) -> str:
    return run(gateway, "provider", "profile", "export", id_)


def create(gateway: PrivateGateway, directory: Path, *ids: str, upstream: Upstream) -> None:
    """Profiles of one batch; it is what gives them the same version."""
    directory.mkdir()
    for id_ in ids:
        text = document(id_, endpoint(upstream, "/read"), variable=f"{id_.upper()}_KEY")
        (directory / f"{id_}.yaml").write_text(text)
    run(gateway, "provider", "profile", "import", "--from", directory)


def refused(gateway: PrivateGateway, path: Path, id_: str) -> str:
    return run(gateway, "provider", "profile", "update", id_, "-f", path, code=1)


def follow(
    gateway: PrivateGateway, path: Path, *commands: str, was: str = "", now: str = ""
) -> None:
    """Runs what an answer says to run, as it is printed; at a comment the edit is made again."""
    for command in commands:
        if command.startswith("#"):
            fresh = Path(command.rpartition("changes again in ")[2])
            assert fresh != path
            before = fresh.read_text()
            fresh.write_text(before.replace(was, now))
            assert fresh.read_text() != before
            continue
        ran = subprocess.run(
            ["bash", "-c", command],
            env={**gateway.environ, "PATH": f"{Path(OPENSHELL).parent}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stderr}"


def test_a_file_that_was_given_another_id_changes_neither(
    gateway: PrivateGateway, upstream: Upstream, tmp_path: Path
) -> None:
    create(gateway, tmp_path / "both", "alpha", "beta", upstream=upstream)
    before = {id_: export(gateway, id_) for id_ in ("alpha", "beta")}
    versions = {
        line
        for text in before.values()
        for line in text.splitlines()
        if line.startswith("resource_version: ")
    }
    assert len(versions) == 1, "so the version alone does not tell them apart"
    edited = tmp_path / "edited.yaml"
    edited.write_text(
        before["alpha"].replace("id: alpha", "id: beta").replace("/read", "/everything/**")
    )
    answer = refused(gateway, edited, "alpha")
    assert "error" in answer
    assert "field=id " in answer
    assert {id_: export(gateway, id_) for id_ in ("alpha", "beta")} == before
    for id_ in ("alpha", "beta"):
        told = json.loads(run(gateway, "provider", "profile", "history", id_, "-o", "json"))
        assert [revision["operation"] for revision in told] == ["import"]
    # The control: the same edit under its own name is taken.
    edited.write_text(before["alpha"].replace("/read", "/everything/**"))
    run(gateway, "provider", "profile", "update", "alpha", "-f", edited)
    assert "/everything/**" in export(gateway, "alpha")
    assert export(gateway, "beta") == before["beta"]


def test_two_people_who_edit_one_profile(
    gateway: PrivateGateway, upstream: Upstream, tmp_path: Path
) -> None:
    create(gateway, tmp_path / "one", "gamma", upstream=upstream)
    first, second = tmp_path / "first.yaml", tmp_path / "it's second.yaml"
    started = export(gateway, "gamma")
    name = "display_name: gamma"
    first.write_text(
        started.replace(name, "display_name: Theirs").replace("category: data", "category: other")
    )
    second.write_text(started.replace(name, "display_name: Ours").replace("/read", "/browse"))
    run(gateway, "provider", "profile", "update", "gamma", "-f", first)
    theirs = export(gateway, "gamma")

    answer = refused(gateway, second, "gamma")
    assert export(gateway, "gamma") == theirs, "the loser changed nothing"
    ours, _, rest = answer.partition("Changed meanwhile (last: revision 2, update")
    meanwhile, _, rest = rest.partition("Changed by both:\n")
    both, _, following = rest.partition("Next:\n")
    assert 'You changed:\n  ~ display_name: "gamma" -> "Ours"' in ours
    assert "/browse" in ours
    assert '~ category: "data" -> "other"' in meanwhile
    assert "/browse" not in meanwhile
    assert both.splitlines() == [
        '  yours   ~ display_name: "gamma" -> "Ours"',
        '  theirs  ~ display_name: "gamma" -> "Theirs"',
    ]
    # Whoever asks before is told.
    asked = gateway.cli("provider", "profile", "diff", "gamma", "-f", str(second))
    assert asked.returncode == 0
    assert "started from version 1; the profile is at 2" in asked.stderr

    commands = [line.strip() for line in following.splitlines()]
    assert len(commands) == 3
    follow(gateway, second, *commands, was="display_name: Theirs", now="display_name: Ours")
    merged = export(gateway, "gamma")
    assert "display_name: Ours" in merged
    assert "category: other" in merged, "what the other did has stayed"
    told = json.loads(run(gateway, "provider", "profile", "history", "gamma", "-o", "json"))
    assert [revision["operation"] for revision in told] == ["update", "update", "import"]


def test_a_profile_that_was_deleted_while_it_was_edited(
    gateway: PrivateGateway, upstream: Upstream, tmp_path: Path
) -> None:
    create(gateway, tmp_path / "gone", "delta", upstream=upstream)
    edited = tmp_path / "edited.yaml"
    edited.write_text(export(gateway, "delta").replace("/read", "/after"))
    run(gateway, "provider", "profile", "delete", "delta")
    answer = refused(gateway, edited, "delta")
    assert "does not exist" in answer
    follow(gateway, edited, answer.strip().rpartition("is created with:")[2].strip())
    assert "/after" in export(gateway, "delta")
