"""What a shell is offered when a person presses Tab after a command about providers."""

from __future__ import annotations

import grpc
import pytest

from openshell._proto import datamodel_pb2
from openshell.cli.main import run
from openshell.cli.provider_discovery import types_using
from support.scripted_gateway import profile


@pytest.fixture
def offered(scripted, monkeypatch, capsys):
    for name in ("gh", "github", "mine"):
        metadata = datamodel_pb2.ObjectMeta(name=name)
        scripted.providers[name] = datamodel_pb2.Provider(metadata=metadata)
    scripted.profiles = {"work": profile(1), "zoo": profile(1, id="zoo")}

    def offer(line):
        words = line.split(" ")
        monkeypatch.setenv("_OPENSHELL_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        run([])
        out, err = capsys.readouterr()
        assert err == ""
        return [item.removeprefix("plain,") for item in out.split()]

    return offer


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("openshell provider get g", ["gh", "github"]),
        ("openshell --workspace default provider delete gh ", ["gh", "github", "mine"]),
        ("openshell provider refresh rotate m", ["mine"]),
        ("openshell provider profile update ", ["work", "zoo"]),
        ("openshell provider profile history z", ["zoo"]),
        ("openshell sandbox create --provider gi", ["github"]),
        ("openshell sandbox provider attach box ", ["gh", "github", "mine"]),
        ("openshell provider prof", ["profile"]),
    ],
)
def test_candidates(offered, line, expected):
    assert offered(line) == expected


def test_a_gateway_in_trouble_offers_nothing(offered, scripted):
    scripted.failing["ListProviders"] = (grpc.StatusCode.INTERNAL, "trouble")
    assert offered("openshell provider get ") == []


def test_no_gateway_offers_nothing(offered, monkeypatch):
    monkeypatch.setenv("OPENSHELL_GATEWAY_ENDPOINT", "http://127.0.0.1:1")
    assert offered("openshell provider get ") == []


def test_whose_credentials_a_variable_holds():
    assert types_using("github_token") == ("copilot", "github")
    assert types_using("HOME") == ()
