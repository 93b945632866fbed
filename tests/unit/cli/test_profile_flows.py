"""Commands about profiles against a scripted gateway: what is asked, shown and advised."""

from __future__ import annotations

import json

import grpc
import pytest

from openshell._proto import openshell_pb2
from openshell.cli.main import run
from support.scripted_gateway import ext, profile


def document(version, name, *hosts):
    lines = [f"id: work\nresource_version: {version}\ndisplay_name: {name}\ncategory: data"]
    lines += ["endpoints:"] if hosts else []
    lines += [f"  - {{host: {h}, port: 443, protocol: rest, access: read-only}}" for h in hosts]
    return "\n".join(lines) + "\n"


def stale(scripted):
    scripted.profiles["work"] = profile(5, name="Theirs", hosts=("a.example", "c.example"))
    scripted.revisions = [
        ext.ProfileRevision(
            id="work", revision=2, operation="update", author="alice", resource_version=5,
            created_at_ms=1_767_323_045_000, profile=scripted.profiles["work"],
        ),
        ext.ProfileRevision(
            id="work", revision=1, operation="import", resource_version=3, profile=profile(3)
        ),
    ]  # fmt: skip


def shown(host):
    return json.dumps({"host": host, "port": 443, "protocol": "rest", "access": "read-only"})


def test_a_stale_update_shows_three_ways_and_what_to_run(scripted, tmp_path, capsys):
    stale(scripted)
    (tmp_path / "work.yaml").write_text(document(3, "Mine", "a.example", "b.example"))
    assert run(["provider", "profile", "update", "work", "-f", "work.yaml"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert " ".join(err.splitlines()[:2]) == (
        "Error: profile 'work' has changed since work.yaml was exported: the file says "
        "version 3, the profile is at version 5"
    )
    assert err.splitlines()[2:] == [
        "You changed:",
        '  ~ display_name: "Work" -> "Mine"',
        f"  + endpoints[b.example:443]: {shown('b.example')}",
        "Changed meanwhile (last: revision 2, update by alice, 2026-01-02 03:04:05):",
        '  ~ display_name: "Work" -> "Theirs"',
        f"  + endpoints[c.example:443]: {shown('c.example')}",
        "Changed by both:",
        '  yours   ~ display_name: "Work" -> "Mine"',
        '  theirs  ~ display_name: "Work" -> "Theirs"',
        "Next:",
        "  openshell provider profile export work > work.new.yaml",
        "  # make your changes again in work.new.yaml",
        "  openshell provider profile update work -f work.new.yaml",
    ]


def test_a_stale_update_whose_beginning_is_unknown(scripted, tmp_path, capsys):
    stale(scripted)
    scripted.failing["ListRevisions"] = (grpc.StatusCode.UNIMPLEMENTED, "unknown method")
    (tmp_path / "w.json").write_text(
        json.dumps(
            {"id": "work", "display_name": "Mine", "resource_version": 3, "category": "data"}
        )
    )
    arguments = [
        "--workspace",
        "other place",
        "provider",
        "profile",
        "update",
        "work",
        "-f",
        "w.json",
    ]
    assert run(arguments) == 1
    err = capsys.readouterr().err
    assert "The history lacks the version the file started from." in err
    assert '  ~ display_name: "Theirs" -> "Mine"' in err
    assert (
        "  openshell provider profile export work -o json --workspace 'other place' > w.new.json"
        in err.splitlines()
    )


def test_an_aborted_update_that_is_not_stale_stays_what_it_is(scripted, tmp_path, capsys):
    scripted.profiles["work"] = profile(3)
    scripted.failing["UpdateProviderProfiles"] = (grpc.StatusCode.ABORTED, "try again")
    (tmp_path / "work.yaml").write_text(document(3, "Mine"))
    assert run(["provider", "profile", "update", "work", "-f", "work.yaml"]) == 1
    assert "Error: aborted: try again" in capsys.readouterr().err


def test_update(scripted, tmp_path, capsys):
    scripted.profiles["work"] = profile(3)
    (tmp_path / "work.yaml").write_text(document(3, "Mine", "a.example"))
    assert run(["provider", "profile", "update", "work", "-f", "work.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == "Updated provider profile.\n"
    assert "It is at version 4 now" in err
    (sent,) = scripted.asked("UpdateProviderProfiles")
    assert (sent.id, sent.expected_resource_version, sent.workspace) == ("work", 3, "default")
    assert sent.profile.source == "work.yaml"


def test_an_update_with_the_document_of_another(scripted, tmp_path, capsys):
    (tmp_path / "zoo.yaml").write_text("id: zoo\ndisplay_name: Z\n")
    assert run(["provider", "profile", "update", "work", "-f", "zoo.yaml"]) == 1
    assert "zoo.yaml is about 'zoo', not 'work'" in capsys.readouterr().err


def test_a_document_that_would_create_what_exists(scripted, tmp_path, capsys):
    scripted.profiles["work"] = profile(3)
    scripted.applied = REFUSED
    (tmp_path / "work.yaml").write_text(document(0, "W"))
    assert run(["provider", "profile", "apply", "-f", "work.yaml"]) == 1
    assert "begin with:  openshell provider profile export work" in capsys.readouterr().err


def test_a_diff_with_nothing_stored(scripted, tmp_path, capsys):
    scripted.applied = ext.ApplyProfilesResponse(valid=True, profiles=[profile(1)])
    (tmp_path / "work.yaml").write_text(document(0, "W"))
    assert run(["provider", "profile", "diff", "work", "-f", "work.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "Would create work"
    scripted.applied = REFUSED
    arguments = ["provider", "profile", "diff", "work", "-f", "work.yaml", "-o", "json"]
    assert run(arguments) == 1
    assert json.loads(capsys.readouterr().out)["changes"] == []


def test_an_update_without_a_version_says_where_to_begin(scripted, tmp_path, capsys):
    (tmp_path / "work.yaml").write_text("id: work\ndisplay_name: W\n")
    assert run(["provider", "profile", "update", "work", "-f", "work.yaml", "--global"]) == 1
    err = capsys.readouterr().err
    assert "  error work.yaml profile=work field=resource_version non-zero needed" in err
    assert "Begin with:  openshell provider profile export work --global" in err
    assert scripted.asked("UpdateProviderProfiles")[0].workspace == ""


def test_a_broken_file_stops_an_import_before_it_is_sent(scripted, tmp_path, capsys):
    for name, text in {
        "a.yaml": document(0, "A"),
        "b.yml": "id: [\n",
        "c.json": '{"id": "c", "display_name": "C", "endpoints": [{"host": "h", "rules": []}]}',
        "d.txt": "not looked at",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "e.yaml").mkdir()
    assert run(["provider", "profile", "import", "--from", str(tmp_path)]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "Provider profile diagnostics:"
    assert err[1].startswith(f"  error {tmp_path}/b.yml profile=- field=file failed to parse")
    assert err[2].startswith(
        f"  error {tmp_path}/c.json profile=c field=endpoints[0] an empty rules"
    )
    assert err[3] == "Error: provider profile import failed: nothing was sent"
    assert scripted.calls == []


def test_lint_still_sends_what_could_be_read(scripted, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(document(0, "A"))
    (tmp_path / "b.yaml").write_text("id: [\n")
    assert run(["provider", "profile", "lint", "--from", str(tmp_path)]) == 1
    assert [len(sent.profiles) for sent in scripted.asked("LintProviderProfiles")] == [1]
    (tmp_path / "b.yaml").unlink()
    capsys.readouterr()
    assert run(["provider", "profile", "lint", "--from", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Provider profile lint passed.\n"


def test_warnings_are_printed_on_success(scripted, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(document(0, "A"))
    assert run(["provider", "profile", "import", "-f", "a.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == "Imported 1 provider profile(s).\n"
    assert "  warning a.yaml profile=work field=id shadows" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["import"], 2, "give one of --file and --from"),
        (["import", "-f", "x", "--from", "y"], 2, "give one of --file and --from"),
        (["import", "-f", "x.toml"], 1, "unsupported provider profile format '.toml'"),
        (["import", "-f", "absent.yaml"], 1, "cannot be read: No such file"),
        (["lint", "--from", "absent"], 1, "cannot read the directory absent"),
        (["lint", "--from", "."], 1, "no provider profile files found"),
        (["export", "work", "-o", "table"], 1, "a document, not a table"),
        (["rollback", "work"], 2, "Missing option '--to'"),
        (["diff", "work"], 2, "Missing option '-f'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused_here_is_not_sent(scripted, capsys, arguments, code, says):
    assert run(["provider", "profile", *arguments]) == code
    out, err = capsys.readouterr()
    assert (out, says in err) == ("", True), err
    assert scripted.calls == []


APPLIED = ext.ApplyProfilesResponse(
    valid=True,
    applied=True,
    profiles=[profile(4)],
    impacts=[
        ext.SandboxImpact(
            workspace="default",
            sandbox="box",
            sandbox_id="1",
            gained=["/usr/bin/curl to b.example:443: GET **"],
            lost=["/usr/bin/curl to a.example:443: all"],
            credentials_bound=["mine:KEY b.example:443"],
            credentials_unbound=["mine:KEY a.example:443"],
        )
    ],
)
REFUSED = ext.ApplyProfilesResponse(
    diagnostics=[
        openshell_pb2.ProviderProfileDiagnostic(
            source="work.yaml", profile_id="work", field="endpoints", message="m", severity="error"
        )
    ],
    impacts=[
        ext.SandboxImpact(
            workspace="default",
            sandbox="box",
            conflicts=[ext.ImpactConflict(code="layer_conflict", message="tls differs")],
        )
    ],
)


def test_apply(scripted, tmp_path, capsys):
    scripted.applied = APPLIED
    (tmp_path / "work.yaml").write_text(document(3, "Mine", "b.example"))
    assert run(["provider", "profile", "apply", "-f", "work.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "Updated work",
        "Sandbox default/box:",
        "  + /usr/bin/curl to b.example:443: GET **",
        "  - /usr/bin/curl to a.example:443: all",
        "  + credential mine:KEY b.example:443",
        "  - credential mine:KEY a.example:443",
    ]
    assert err == ""
    (sent,) = scripted.asked("Apply")
    item = sent.items[0]
    assert (item.id, item.expected_resource_version, item.source) == ("work", 3, "work.yaml")
    assert not sent.dry_run


def test_apply_refused_as_json(scripted, tmp_path, capsys):
    scripted.applied = REFUSED
    (tmp_path / "work.yaml").write_text(document(0, "Mine"))
    arguments = ["provider", "profile", "apply", "-f", "work.yaml", "--dry-run", "-o", "json"]
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["applied"], answer["valid"], answer["dry_run"]) == (False, False, True)
    assert answer["diagnostics"][0]["field"] == "endpoints"
    assert answer["impacts"][0]["conflicts"] == [
        {"code": "layer_conflict", "message": "tls differs"}
    ]
    assert "apply failed: nothing was written" in err


def test_a_stale_batch(scripted, tmp_path, capsys):
    stale(scripted)
    scripted.failing["Apply"] = (grpc.StatusCode.ABORTED, "concurrent modification")
    (tmp_path / "work.yaml").write_text(document(3, "Mine", "a.example"))
    (tmp_path / "zoo.yaml").write_text("id: zoo\ndisplay_name: Zoo\n")
    assert run(["provider", "profile", "apply", "--from", ".", "-o", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    (item,) = answer["stale"]
    assert (item["id"], item["file_resource_version"], item["resource_version"]) == ("work", 3, 5)
    assert [change["path"] for change in item["mine"]] == ["display_name"]
    assert [pair["theirs"]["after"] for pair in item["both"]] == ["Theirs"]
    assert run(["provider", "profile", "apply", "--from", "."]) == 1
    assert "Changed by both:" in capsys.readouterr().err


def test_an_id_that_is_none_is_not_sent_in_a_batch(scripted, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("id: Not An Id\ndisplay_name: A\n")
    assert run(["provider", "profile", "apply", "-f", "a.yaml"]) == 1
    assert "a.yaml profile=Not An Id field=id an id is lowercase" in capsys.readouterr().err
    assert scripted.calls == []


def test_diff_compares_with_the_present_and_says_who_is_behind(scripted, tmp_path, capsys):
    stale(scripted)
    scripted.applied = ext.ApplyProfilesResponse(valid=True, profiles=[profile(5)])
    (tmp_path / "work.yaml").write_text(document(3, "Theirs", "a.example"))
    assert run(["provider", "profile", "diff", "work", "-f", "work.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("- endpoints[c.example:443]:")
    assert out.splitlines()[1:] == ["No sandbox gains or loses anything."]
    assert "started from version 3; the profile is at 5" in err
    (sent,) = scripted.asked("Apply")
    assert (sent.dry_run, sent.items[0].expected_resource_version) == (True, 5)
    scripted.applied = REFUSED
    assert run(["provider", "profile", "diff", "work", "-f", "work.yaml", "-o", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [change["path"] for change in answer["changes"]] == ["endpoints[c.example:443]"]


def test_diff_of_another_profile(scripted, tmp_path, capsys):
    (tmp_path / "work.yaml").write_text(document(3, "W"))
    assert run(["provider", "profile", "diff", "other", "-f", "work.yaml"]) == 1
    assert "is about profile 'work', not 'other'" in capsys.readouterr().err


def test_rollback_expects_the_version_it_saw(scripted, capsys):
    scripted.profiles["work"] = profile(5)
    scripted.applied = APPLIED
    assert run(["provider", "profile", "rollback", "work", "--to", "1"]) == 0
    (sent,) = scripted.asked("Rollback")
    assert (sent.to_revision, sent.expected_resource_version, sent.dry_run) == (1, 5, False)
    scripted.failing["Rollback"] = (grpc.StatusCode.ABORTED, "concurrent modification")
    assert run(["provider", "profile", "rollback", "work", "--to", "1"]) == 1
    assert "changed at the same time" in capsys.readouterr().err


def test_a_platform_profile_beneath_a_workspace_is_not_its_own(scripted, capsys):
    scripted.profiles["work"] = profile(5)
    scripted.profiles["work"].scope = "platform"
    assert run(["provider", "profile", "rollback", "work", "--to", "1"]) == 0
    assert scripted.asked("Rollback")[0].expected_resource_version == 0


def test_history_and_export(scripted, capsys):
    stale(scripted)
    assert run(["provider", "profile", "history", "work"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "REVISION  VERSION  OPERATION  CREATED              AUTHOR",
        "2         5        update     2026-01-02 03:04:05  alice",
        "1         3        import     -                    ",
    ]
    assert run(["provider", "profile", "export", "work", "--revision", "1"]) == 0
    assert "resource_version: 3\ndisplay_name: Work\n" in capsys.readouterr().out
    scripted.failing["GetProviderProfile"] = (
        grpc.StatusCode.FAILED_PRECONDITION,
        "the stored profile is not in use",
    )
    assert run(["provider", "profile", "export", "work", "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["resource_version"] == 5
    assert err == "Warning: the stored profile is not in use\n"


def test_list_profiles_groups_and_cuts(scripted, capsys):
    scripted.profiles["work"] = profile(5)
    other = profile(0, id="x" * 40, name="N" * 50, inference_capable=True)
    other.category = openshell_pb2.PROVIDER_PROFILE_CATEGORY_AGENT
    other.source, other.scope = "builtin", ""
    scripted.profiles["other"] = other
    assert run(["provider", "list-profiles"]) == 0
    header, agent, first, data, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["ID", "SCOPE", "SOURCE", "NAME", "ENDPOINTS"]
    assert (agent, data) == ("AGENT", "DATA")
    assert first.split() == ["x" * 29 + "...", "-", "builtin", "N" * 37 + "...", "1", "inference"]
    assert second.split() == ["work", "workspace", "user", "Work", "1"]
    assert run(["provider", "list-profiles", "-o", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [item["id"] for item in listed] == ["x" * 40, "work"]
    assert list(listed[1])[:3] == ["id", "resource_version", "display_name"]


ODD = "enforcment"
TOLD = "warning work.yaml:6 profile=work field=endpoints[0].enforcment unknown key 'enforcment'"


@pytest.mark.parametrize(
    "command",
    [
        ["lint", "-f", "work.yaml"],
        ["import", "-f", "work.yaml"],
        ["update", "work", "-f", "work.yaml"],
        ["apply", "-f", "work.yaml"],
        ["diff", "work", "-f", "work.yaml"],
    ],
    ids=lambda words: words[0],
)
def test_an_ignored_key_is_told_and_the_document_sent(scripted, tmp_path, capsys, command):
    scripted.profiles["work"] = profile(3)
    text = document(3, "Mine", "a.example")
    (tmp_path / "work.yaml").write_text(text.replace("access:", "enforcment: enforce, access:"))
    assert run(["provider", "profile", *command]) == 0
    err = capsys.readouterr().err
    assert f"{TOLD} is ignored; did you mean 'enforcement'?" in err
    assert err.count(ODD) == 2
    (tmp_path / "work.yaml").write_text(text)
    assert run(["provider", "profile", *command]) == 0
    assert ODD not in capsys.readouterr().err


@pytest.mark.parametrize("command", [["apply"], ["diff", "work"]], ids=["apply", "diff"])
def test_an_ignored_key_for_programs(scripted, tmp_path, capsys, command):
    scripted.profiles["work"] = profile(3)
    (tmp_path / "work.yaml").write_text(document(3, "Mine") + "nme: x\n")
    assert run(["provider", "profile", *command, "-f", "work.yaml", "-o", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert (told["severity"], told["source"], told["field"]) == ("warning", "work.yaml:5", "nme")
