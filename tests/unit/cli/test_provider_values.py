"""Values, times and credentials as they come from a command line, an environment and files."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from openshell.cli.failures import CliError
from openshell.cli.provider_adc import adc_path, credential_key_for, read_adc
from openshell.cli.provider_discovery import discover_by_profile, discover_by_table
from openshell.cli.provider_types import KNOWN_TYPES, known_type, type_of_command
from openshell.cli.provider_values import (
    epoch_ms,
    read_credentials,
    read_expiries,
    read_material,
    values_on_command_line,
)
from openshell.cli.sandbox_create_providers import Missing, plan_providers
from openshell.providers.profile.model import (
    Discovery,
    Material,
    ProfileCredential,
    ProviderProfile,
    Refresh,
    Strategy,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRET = "hunter2-not-to-be-seen"


def test_credentials():
    items = ["A=1", "B", " C = x=y", "D="]
    assert read_credentials(items, {"B": "two"}) == {"A": "1", "B": "two", "C": " x=y", "D": ""}
    assert values_on_command_line(items) == ["A", " C "]


@pytest.mark.parametrize(
    "items",
    [["=" + SECRET], ["UNSET"], ["BLANK"], [""]],
    ids=["no name", "unset", "blank", "empty"],
)
def test_credentials_refused(items):
    with pytest.raises(CliError) as refused:
        read_credentials(items, {"BLANK": " "})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1700000000000", 1_700_000_000_000),
        ("2026-01-02T03:04:05Z", 1_767_323_045_000),
        ("2026-01-02T04:04:05.250+01:00", 1_767_323_045_250),
    ],
)
def test_times(text, expected):
    assert epoch_ms(text, "--x", NOW) == expected


@pytest.mark.parametrize("text", ["-1", "", "tomorrow", "2026-01-02", "2026-01-02T03:04:05", "१"])
def test_times_refused(text):
    with pytest.raises(CliError, match="--x"):
        epoch_ms(text, "--x", NOW)


def test_expiries():
    assert read_expiries(["A=0", "B=5"], NOW) == {"A": 0, "B": 5}
    with pytest.raises(CliError, match="KEY=VALUE"):
        read_expiries(["A"], NOW)


def test_material():
    values, secret = read_material(
        ["client_id=c", "note=n"],
        ["client_secret=VAR", "TOKEN"],
        ["note"],
        {"VAR": "s", "TOKEN": "t"},
    )
    assert values == {"client_id": "c", "note": "n", "client_secret": "s", "TOKEN": "t"}
    assert secret == ["client_secret", "TOKEN", "note"]


@pytest.mark.parametrize(
    ("material", "environment", "secret", "says"),
    [
        (["a=1"], ["a=VAR"], [], "given twice"),
        ([], ["a=VAR", "a=VAR"], [], "given twice"),
        ([], ["a=UNSET"], [], "UNSET is not set"),
        ([], ["a="], [], "KEY=VARIABLE"),
        ([], [], ["a"], "no material of that name"),
        ([SECRET], [], [], "KEY=VALUE"),
    ],
    ids=["both", "twice", "unset", "no variable", "unknown secret", "no value"],
)
def test_material_refused(material, environment, secret, says):
    with pytest.raises(CliError, match=says):
        read_material(material, environment, secret, {"VAR": SECRET})


def test_a_refused_pair_shows_no_value():
    with pytest.raises(CliError) as refused:
        read_material(["=" + SECRET], [], [], {})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("claude", "claude-code"),
        ("Claude_Code", "claude-code"),
        ("gh", "github"),
        ("gcp-vertex", "google-vertex-ai"),
        ("aws-s3", None),
        ("", None),
    ],
)
def test_known_types(word, expected):
    assert known_type(word) == expected
    assert all(known_type(kind) == kind for kind in KNOWN_TYPES)


def test_commands():
    assert type_of_command("/usr/bin/glab") == "gitlab"
    assert type_of_command("CLAUDE") == "claude-code"
    assert type_of_command("bash") is None
    assert type_of_command("/") is None


# Discovery


def test_the_table_takes_every_variable_that_is_set():
    environ = {"GITHUB_TOKEN": "g", "GH_TOKEN": "h", "OTHER": "o"}
    assert discover_by_table("github", environ).credentials == {
        "GITHUB_TOKEN": "g",
        "GH_TOKEN": "h",
    }
    nothing = discover_by_table("github", {"GITHUB_TOKEN": " "})
    assert (nothing.credentials, nothing.looked_for) == ({}, ("GITHUB_TOKEN", "GH_TOKEN"))


def test_vertex_has_config():
    found = discover_by_table(
        "google-vertex-ai",
        {"VERTEX_AI_TOKEN": "t", "VERTEX_AI_REGION": "r", "VERTEX_AI_BASE_URL": ""},
    )
    assert (found.credentials, found.config) == (
        {"VERTEX_AI_TOKEN": "t"},
        {"VERTEX_AI_REGION": "r"},
    )


def test_an_unknown_type_is_not_discovered():
    with pytest.raises(CliError, match="nothing is known about where type 'aws' keeps credentials"):
        discover_by_table("aws", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            json.dumps({"provider": {"my-llm": {"options": {"apiKey": "f"}}}}),
            {"MY_LLM_API_KEY": "f"},
            id="found",
        ),
        pytest.param(
            json.dumps({"provider": {"openai": {"options": {"apiKey": "f"}}}}),
            {"OPENAI_API_KEY": "e"},
            id="the environment wins",
        ),
        pytest.param("{", {}, id="broken"),
        pytest.param('{"provider": {"x": {"options": 3}, "y": []}}', {}, id="of other types"),
        pytest.param("[]", {}, id="a list"),
        pytest.param(None, {}, id="no file"),
    ],
)
def test_opencode(text, expected):
    paths = []

    def read(path):
        paths.append(path)
        return text

    environ = {"HOME": "/h"} | ({"OPENAI_API_KEY": "e"} if "OPENAI_API_KEY" in expected else {})
    assert discover_by_table("opencode", environ, read).credentials == expected
    assert paths == ["/h/.config/opencode/opencode.json"]


def profile(*credentials, discovery=()):
    return ProviderProfile(
        id="work", credentials=credentials, discovery=Discovery(discovery) if discovery else None
    )


def test_a_profile_says_what_is_looked_for():
    one = ProfileCredential(name="one", env_vars=("A", "B"))
    two = ProfileCredential(name="two", env_vars=("B2",))
    found = discover_by_profile(
        profile(one, two, discovery=("one",)), "work", {"A": "a", "B": "b", "B2": "c"}
    )
    assert (found.credentials, found.looked_for) == ({"A": "a", "B": "b"}, ("A", "B"))
    assert discover_by_profile(profile(one), "work", {"A": "a"}).credentials == {}
    with pytest.raises(CliError, match="discovers 'three'"):
        discover_by_profile(profile(one, discovery=("three",)), "work", {})


def test_what_was_found_is_not_in_a_repr():
    assert SECRET not in repr(discover_by_table("openai", {"OPENAI_API_KEY": SECRET}))


# Google's login

GRANT = {
    "type": "authorized_user",
    "client_id": "c",
    "client_secret": SECRET,
    "refresh_token": SECRET,
}


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"GOOGLE_APPLICATION_CREDENTIALS": "/x.json", "CLOUDSDK_CONFIG": "/c"}, "/x.json"),
        ({"CLOUDSDK_CONFIG": "/c"}, "/c/application_default_credentials.json"),
        ({"HOME": "/h"}, "/h/.config/gcloud/application_default_credentials.json"),
    ],
)
def test_where_the_login_is(environ, path):
    assert adc_path(environ) == path


def test_a_login_is_read():
    user = read_adc({}, lambda _path: json.dumps(GRANT))
    assert user.material == {"client_id": "c", "client_secret": SECRET, "refresh_token": SECRET}
    assert SECRET not in repr(user)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read"),
        (f"{{{SECRET}", "is not JSON"),
        ("[]", "is not of type"),
        (json.dumps(GRANT | {"type": "service_account"}), "service account's key"),
        (json.dumps(GRANT | {"type": "external_account"}), "is not of type"),
        (json.dumps(GRANT | {"refresh_token": ""}), "lacks refresh_token"),
        (json.dumps(GRANT | {"client_id": 3}), "lacks client_id"),
    ],
    ids=["absent", "broken", "list", "service account", "other", "blank", "wrong type"],
)
def test_a_login_is_refused(text, says):
    with pytest.raises(CliError, match=says) as refused:
        read_adc({"HOME": "/h"}, lambda _path: text)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_which_key_a_login_renews():
    names = ("client_id", "client_secret", "refresh_token")
    refresh = Refresh(
        strategy=Strategy.OAUTH2_REFRESH_TOKEN, material=tuple(Material(name) for name in names)
    )
    wrong = ProfileCredential(name="a", env_vars=("A",), refresh=Refresh(strategy=Strategy.STATIC))
    right = ProfileCredential(name="b", env_vars=("B", "B2"), refresh=refresh)
    assert credential_key_for(profile(wrong, right)) == "B"
    with pytest.raises(CliError, match="no credential for a person's Google login"):
        credential_key_for(profile(wrong))


# Providers of a new sandbox

KNOWN = {"mine": "claude-code", "second": "Claude-Code", "gh": "generic"}
IMPLIED = ("claude-code", "claude-code-1", "claude-code-2", "claude-code-3", "claude-code-4")


@pytest.mark.parametrize(
    ("explicit", "implied", "known", "expected"),
    [
        pytest.param(["mine", "mine"], None, KNOWN, ("mine",), id="named twice"),
        pytest.param(["gh"], None, KNOWN, ("gh",), id="a provider's name before a type's"),
        pytest.param(["glab"], None, KNOWN, (Missing("gitlab", ("glab",)),), id="a type"),
        pytest.param([], "claude-code", KNOWN, ("mine",), id="implied: the first of the type"),
        pytest.param(["gh"], "claude-code", KNOWN, ("gh", "mine"), id="explicit first"),
        pytest.param(["second"], "claude-code", KNOWN, ("second",), id="implied is there already"),
        pytest.param(
            [], "claude-code", {}, (Missing("claude-code", IMPLIED),), id="implied and missing"
        ),
        pytest.param(
            ["claude"],
            "claude-code",
            {},
            (Missing("claude-code", ("claude",)),),
            id="implied is created already",
        ),
    ],
)
def test_plan(explicit, implied, known, expected):
    assert plan_providers(explicit, implied, known).items == expected


def test_a_name_that_is_nothing():
    with pytest.raises(CliError, match="provider 'nope' not found") as refused:
        plan_providers(["nope"], None, KNOWN)
    assert "openshell provider create --name nope" in str(refused.value)
