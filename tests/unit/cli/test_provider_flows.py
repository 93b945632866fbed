"""Commands about providers, their renewal and those of new sandboxes, against a scripted gateway."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import grpc
import pytest

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.cli.main import run
from support.scripted_gateway import REFRESH_TOKEN, profile, refreshing

SECRET = "hunter2-not-to-be-seen"


@pytest.mark.parametrize(
    "sources",
    [
        [],
        ["--from-existing", "--runtime-credentials"],
        ["--credential", "A=1", "--from-gcloud-adc"],
    ],
    ids=["none", "two flags", "value and flag"],
)
def test_create_takes_exactly_one_source(scripted, capsys, sources):
    assert run(["provider", "create", "--name", "a", "--type", "generic", *sources]) == 2
    assert "give exactly one of" in capsys.readouterr().err
    assert scripted.calls == []


def test_create_from_here(scripted, monkeypatch, capsys):
    monkeypatch.setenv("GH_TOKEN", SECRET)
    create = ["provider", "create", "--name", "a", "--type", "gh"]
    assert run([*create, "--from-existing"]) == 0
    (sent,) = scripted.asked("CreateProvider")
    assert (sent.provider.type, dict(sent.provider.credentials)) == ("github", {"GH_TOKEN": SECRET})
    assert sent.provider.profile_workspace == "default"
    assert run([*create, "--credential", "X=" + SECRET]) == 1, "the name is taken"
    out, err = capsys.readouterr()
    assert "Warning: --credential X: values in a command line can be read" in err
    assert SECRET not in out + err


def test_create_by_profile_with_v2(scripted, monkeypatch, capsys):
    scripted.v2 = True
    monkeypatch.setenv("TOKEN", SECRET)
    create = ["provider", "create", "--name", "a", "--type", "gcp", "--from-existing"]
    assert run(create) == 1
    assert "type 'google-cloud' has no profile" in capsys.readouterr().err
    scripted.profiles["google-cloud"] = refreshing("google-cloud")
    assert run(create) == 1
    assert "no credentials for type 'google-cloud'" in capsys.readouterr().err
    scripted.profiles["google-cloud"].discovery.credentials[:] = ["token"]
    assert run([*create, "--global-profile"]) == 0
    (sent,) = scripted.asked("CreateProvider")
    assert dict(sent.provider.credentials) == {"TOKEN": SECRET}
    assert sent.provider.profile_workspace == ""
    assert scripted.asked("GetProviderProfile")[-1].workspace == ""


def test_a_type_that_is_none(scripted, capsys):
    assert run(["provider", "create", "--name", "a", "--type", "nope", "--credential", "A=1"]) == 1
    err = capsys.readouterr().err
    assert "unsupported provider type 'nope'" in err
    assert "openshell provider profile import -f FILE" in err
    assert scripted.asked("CreateProvider") == []


def test_runtime_credentials_need_a_profile_that_makes_them(scripted, capsys):
    scripted.profiles["gcp-like"] = refreshing("gcp-like")
    scripted.profiles["work"] = profile(1)
    create = ["provider", "create", "--name", "a", "--runtime-credentials", "--type"]
    assert run([*create, "work"]) == 1
    assert "does not allow --runtime-credentials" in capsys.readouterr().err
    assert run([*create, "gcp-like"]) == 0
    (sent,) = scripted.asked("CreateProvider")
    assert dict(sent.provider.credentials) == {}


def adc(tmp_path, monkeypatch):
    path = tmp_path / "adc.json"
    path.write_text(
        json.dumps(
            {
                "type": "authorized_user",
                "client_id": "c",
                "client_secret": SECRET,
                "refresh_token": SECRET,
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return ["provider", "create", "--name", "a", "--type", "google-cloud", "--from-gcloud-adc"]


def test_a_google_login_is_handed_over(scripted, tmp_path, monkeypatch, capsys):
    scripted.profiles["google-cloud"] = refreshing("google-cloud")
    assert run(adc(tmp_path, monkeypatch)) == 0
    (sent,) = scripted.asked("ConfigureProviderRefresh")
    assert (sent.provider, sent.credential_key, sent.strategy) == ("a", "TOKEN", REFRESH_TOKEN)
    assert dict(sent.material)["refresh_token"] == SECRET
    assert sorted(sent.secret_material_keys) == ["client_secret", "refresh_token"]
    assert [r.credential_key for r in scripted.asked("RotateProviderCredential")] == ["TOKEN"]
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("failing", "says"),
    [
        (
            {"RotateProviderCredential": (grpc.StatusCode.UNAVAILABLE, "no way")},
            "was deleted again",
        ),
        ({"ConfigureProviderRefresh": (grpc.StatusCode.ABORTED, "no way")}, "was deleted again"),
        (
            {
                "RotateProviderCredential": (grpc.StatusCode.UNAVAILABLE, "no way"),
                "DeleteProvider": (grpc.StatusCode.INTERNAL, "disk"),
            },
            "could not be deleted again (disk): openshell provider delete a",
        ),
    ],
    ids=["rotate", "configure", "and delete"],
)
def test_a_login_that_fails_leaves_no_provider(
    scripted, tmp_path, monkeypatch, capsys, failing, says
):
    scripted.profiles["google-cloud"] = refreshing("google-cloud")
    scripted.failing = failing
    assert run(adc(tmp_path, monkeypatch)) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "no way" in err
    assert says in err
    assert len(scripted.asked("DeleteProvider")) == 1


def test_a_login_is_read_before_anything_is_created(scripted, tmp_path, monkeypatch, capsys):
    scripted.profiles["google-cloud"] = refreshing("google-cloud")
    arguments = adc(tmp_path, monkeypatch)
    (tmp_path / "adc.json").unlink()
    assert run(arguments) == 1
    assert scripted.asked("CreateProvider") == []


def test_update_merges_what_is_named(scripted, monkeypatch, capsys):
    scripted.providers["a"] = datamodel_pb2.Provider(type="gh", profile_workspace="default")
    monkeypatch.setenv("GITHUB_TOKEN", SECRET)
    update = ["provider", "update", "a"]
    assert run([*update, "--from-existing", "--credential-expires-at", "GITHUB_TOKEN=0"]) == 0
    (sent,) = scripted.asked("UpdateProvider")
    assert dict(sent.provider.credentials) == {"GITHUB_TOKEN": SECRET}
    assert dict(sent.credential_expires_at_ms) == {"GITHUB_TOKEN": 0}
    assert sent.provider.type == ""
    assert run([*update, "--from-existing", "--credential", "A"]) == 2
    assert run([*update, "--credential-expires-at", "A=-1"]) == 1
    assert "cannot be negative" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("provider", {"grpc", "yaml", "pydantic"}),
        ("profile", {"grpc", "yaml", "pydantic"}),
        ("sandbox_create_providers", {"yaml", "pydantic", "openshell.policy"}),
        ("provider_create", {"grpc", "yaml", "pydantic"}),
        ("profile_stale", {"pydantic"}),
        ("profile_show", {"grpc", "yaml", "pydantic"}),
        ("profile_change", {"yaml", "pydantic"}),
        ("profile_apply", {"yaml", "pydantic"}),
        ("profile_diff", {"yaml", "pydantic"}),
    ],
)
def test_commands_load_only_what_they_need(module, unwanted):
    script = (
        f"import sys, openshell.cli.{module}; print(*(m for m in {unwanted!r} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


# Renewal


def test_refresh(scripted, monkeypatch, capsys):
    scripted.refreshed = openshell_pb2.ProviderCredentialRefreshStatus(
        provider_name="a",
        credential_key="K",
        strategy=REFRESH_TOKEN,
        status="error",
        last_error="refused\x1b[2J" + "x" * 200,
    )
    assert run(["provider", "refresh", "status", "a"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:4] == ["a", "K", "oauth2-refresh-token", "error"]
    assert "\x1b" not in line
    assert run(["provider", "refresh", "status", "a", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["last_error"].endswith("x" * 200)
    assert run(["provider", "refresh", "rotate", "a", "--credential-key", "K"]) == 1
    assert "was not renewed: refused" in " ".join(capsys.readouterr().err.split())

    monkeypatch.setenv("MY_SECRET", SECRET)
    configure = ["provider", "refresh", "configure", "a", "--credential-key", "K"]
    configure += ["--strategy", "oauth2-client-credentials", "--material", "client_id=c"]
    assert run([*configure, "--secret-material-env", "client_secret=MY_SECRET"]) == 0
    (sent,) = scripted.asked("ConfigureProviderRefresh")
    assert dict(sent.material) == {"client_id": "c", "client_secret": SECRET}
    assert list(sent.secret_material_keys) == ["client_secret"]
    assert not sent.HasField("expires_at_ms")
    assert run([*configure, "--credential-expires-at", "0"]) == 0
    assert scripted.asked("ConfigureProviderRefresh")[1].HasField("expires_at_ms")
    assert "Warning" not in "".join(capsys.readouterr())
    assert run([*configure, "--material", "client_secret=" + SECRET]) == 0
    out, err = capsys.readouterr()
    assert "Warning: --material client_secret: values in a command line" in err
    assert SECRET not in out + err


@pytest.mark.parametrize("strategy", ["oauth2_refresh_token", "OAuth2-Refresh-Token"])
def test_a_strategy_as_documents_write_it(scripted, strategy):
    configure = ["provider", "refresh", "configure", "a", "--credential-key", "K"]
    assert run([*configure, "--strategy", strategy]) == 0
    (sent,) = scripted.asked("ConfigureProviderRefresh")
    assert sent.strategy == REFRESH_TOKEN


@pytest.mark.parametrize(
    ("key", "names", "says"),
    [
        pytest.param("TOKEN", ["client_id", "scope"], "", id="known"),
        pytest.param("token", ["client_id"], "", id="by name"),
        pytest.param(
            "TOKN", ["x"], "profile 'cloud' has no credential 'TOKN'; it has: TOKEN", id="key"
        ),
        pytest.param(
            "TOKEN",
            ["client_id", "clientid"],
            "nothing reads the material clientid; the profile names: client_id, client_secret, "
            "refresh_token",
            id="material",
        ),
    ],
)
def test_names_that_a_profile_does_not_know(scripted, capsys, key, names, says):
    scripted.profiles["cloud"] = refreshing("cloud")
    scripted.providers["a"] = provider("a", "cloud")
    configure = ["provider", "refresh", "configure", "a", "--credential-key", key]
    configure += ["--strategy", "oauth2-refresh-token"]
    given = [part for name in names for part in ("--material", f"{name}=1")]
    assert run([*configure, *given]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "--material" not in line]
    assert [line.removeprefix("Warning: ") for line in told] == ([says] if says else [])
    assert len(scripted.asked("ConfigureProviderRefresh")) == 1


# Providers of a new sandbox


def sandbox(*arguments):
    """Ends at CreateSandbox, which the scripted gateway refuses."""
    return run(["sandbox", "create", "--detach", *arguments])


def provider(name, kind):
    return datamodel_pb2.Provider(metadata=datamodel_pb2.ObjectMeta(name=name), type=kind)


def test_a_command_implies_its_provider(scripted, monkeypatch, capsys):
    scripted.providers = {"other": provider("other", "generic"), "mine": provider("mine", "Github")}
    assert sandbox("--provider", "other", "--", "/usr/bin/gh", "pr") == 1
    (sent,) = scripted.asked("CreateSandbox")
    assert list(sent.spec.providers) == ["other", "mine"]
    assert "no room for a sandbox" in capsys.readouterr().err


def test_v2_implies_nothing_and_a_plain_command_asks_nothing(scripted):
    scripted.v2 = True
    sandbox("--", "gh")
    assert [name for name, _ in scripted.calls] == ["GetGatewayConfig", "CreateSandbox"]
    scripted.calls.clear()
    sandbox("--", "bash")
    sandbox("--no-auto-providers", "--", "gh")
    assert [name for name, _ in scripted.calls] == ["CreateSandbox"] * 2


def test_a_missing_provider_without_a_terminal(scripted, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115  # closed with the test
    assert sandbox("--", "gh") == 1
    err = capsys.readouterr().err
    assert "Missing provider: github" in err
    assert "missing required provider 'github'" in err
    assert "openshell provider create --name github --type github --from-existing" in err
    assert scripted.asked("CreateSandbox") == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("answer", "names"), [("\n", ["github"]), ("n\n", [])], ids=["the default is yes", "no"]
)
def test_a_person_is_asked(scripted, monkeypatch, capsys, answer, names):
    monkeypatch.setenv("GITHUB_TOKEN", SECRET)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    sandbox("--", "gh")
    assert "Create it from the credentials here? [Y/n]" in capsys.readouterr().err
    assert list(scripted.asked("CreateSandbox")[0].spec.providers) == names


def test_auto_providers(scripted, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_TOKEN", SECRET)
    scripted.providers["github"] = provider("github", "generic")
    sandbox("--auto-providers", "--", "gh")
    (created,) = [
        r for r in scripted.asked("CreateProvider") if r.provider.metadata.name[-2:] == "-1"
    ]
    assert dict(created.provider.credentials) == {"GITHUB_TOKEN": SECRET}
    assert list(scripted.asked("CreateSandbox")[0].spec.providers) == ["github-1"]
    sandbox("--auto-providers", "--provider", "glab", "--", "true")
    assert "No credentials for gitlab here" in capsys.readouterr().err
    assert list(scripted.asked("CreateSandbox")[1].spec.providers) == []


def test_everything_is_checked_before_a_provider_is_created(scripted, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_TOKEN", SECRET)
    assert sandbox("--auto-providers", "--provider", "gh", "--provider", "nope", "--", "true") == 1
    assert "provider 'nope' not found" in capsys.readouterr().err
    assert sandbox("--auto-providers", "--provider", "gh", "--policy", "/absent", "--", "true") == 1
    assert sandbox("--auto-providers", "--provider", "gh", "--memory", "x", "--", "true") == 1
    assert scripted.asked("CreateProvider") == []
