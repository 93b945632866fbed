"""What is said of settings and files that would do nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from openshell.cli.main import run
from openshell.cli.profile_files import read_file
from openshell.sdk.nouns import SettingsClient


@pytest.mark.parametrize("scope", [["box"], ["--global", "--yes"]], ids=["sandbox", "global"])
def test_layers_of_one_sandbox_cannot_be_turned_on(scripted, monkeypatch, capsys, scope):
    def answer(*_arguments, **_options):
        return SimpleNamespace(settings_revision=1)

    monkeypatch.setattr(SettingsClient, "write", answer)
    monkeypatch.setattr(SettingsClient, "write_global", answer)
    arguments = ["settings", "set", *scope, "--key", "providers_v2_enabled", "--value", "on"]
    assert run(arguments) == 0
    err = capsys.readouterr().err
    assert ("settings set --global --key providers_v2_enabled" in err) is (scope == ["box"])


def test_a_path_that_is_no_file_says_so(tmp_path):
    assert "--from" in read_file(str(tmp_path))[1][0].message
    assert "No such file" in read_file(str(tmp_path / "none"))[1][0].message


def test_settings_for_programs(scripted, capsys):
    assert run(["settings", "get", "--global", "--json"]) == 0
    shown = capsys.readouterr().out
    assert '"providers_v2_enabled": "false"' in shown
    assert run(["settings", "get", "--global", "-o", "json"]) == 0
    assert capsys.readouterr().out == shown
    assert run(["settings", "get", "--global", "-o", "yaml"]) == 0
    assert "scope: global" in capsys.readouterr().out
