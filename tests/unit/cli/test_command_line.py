"""Usage, help and failures of the command line, without any gateway."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from openshell.cli.failures import CliError, report
from openshell.cli.main import cli

OPENSHELL = str(Path(sys.executable).parent / "openshell")


def run(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OPENSHELL, *arguments],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found = [path]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += every_command(command, (*path, name))
        else:
            found.append((*path, name))
    return found


@pytest.mark.parametrize("path", every_command(cli), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    command: click.Command = cli
    context = click.Context(cli, info_name="openshell")
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None
        command = found
        context = click.Context(command, info_name=name, parent=context)
    text = command.get_help(context)
    assert text.startswith("Usage: openshell")
    assert len(command.help or "") > 10, "a person learns from it"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--version"], 0, "openshell "),
        (["-h"], 0, "Usage: openshell"),
        (["sandbox"], 0, "Usage: openshell sandbox"),
        (["sanbox"], 2, "Did you mean 'sandbox'"),
        (["sandbox", "lst"], 2, "Did you mean 'list'"),
        (["provider", "profile", "list"], 2, "Did you mean 'openshell provider list-profiles'"),
        (["gateway", "status"], 2, "Did you mean 'openshell status'"),
        (["sandbox", "status", "box"], 2, "Did you mean 'openshell sandbox get'"),
        (["run"], 2, "Did you mean 'openshell sandbox create'"),
        (["sandbox", "list", "--nmes"], 2, "--names"),
        (["sandbox", "list", "-o", "xml"], 2, "'xml' is not one of"),
        (["sandbox", "list", "--ids", "--names"], 2, "use one of"),
        (["sandbox", "list", "--limit", "0"], 2, "range"),
        (["sandbox", "delete"], 2, "give sandbox names, or --all"),
        (["sandbox", "delete", "a", "--all"], 2, "give sandbox names, or --all"),
        (["sandbox", "exec"], 2, "Missing argument"),
        (["sandbox", "create", "-o", "json", "--", "true"], 2, "leave out COMMAND"),
        (["sandbox", "create", "--no-keep", "--detach"], 2, "leave out --detach"),
        (["sandbox", "create", "--env", "1A=b", "--", "true"], 1, "not a variable name"),
        (["sandbox", "create", "--env", "OPENSHELL_X=b", "--", "true"], 1, "belong to the sandbox"),
        (["sandbox", "create", "--label", "nope", "--", "true"], 1, "KEY=VALUE"),
        (["sandbox", "create", "--cpu", "many", "--", "true"], 1, "is not a quantity"),
        (["sandbox", "create", "--memory", "1.5Gi", "--", "true"], 1, "is not a quantity"),
        (["sandbox", "create", "--driver-config-json", "[]", "--", "true"], 1, "must be an object"),
        (["sandbox", "create", "--driver-config-json", "{", "--", "true"], 1, "is not JSON"),
        (["sandbox", "create", "--host-path", "/no/such", "--", "true"], 1, "no such directory"),
        (["sandbox", "create", "--policy", "/no/such", "--", "true"], 1, "failed to read"),
        (["sandbox", "list"], 1, "No active gateway."),
        (["--gateway", "x", "sandbox", "list"], 1, "Unknown gateway 'x'."),
        (["sandbox", "list", "--gateway", "x"], 1, "Unknown gateway 'x'."),
        (["--gateway-endpoint", "nope", "sandbox", "list"], 1, "is not a gateway endpoint"),
        (
            ["provider", "create", "--name", "a", "--type", "b", "--credential", "NOT_SET"],
            1,
            "is not set here",
        ),
        (["provider", "update", "a"], 2, "nothing to change"),
        (["policy", "set", "box"], 2, "Missing option '--policy'"),
        (["policy", "set", "--global", "--policy", "x", "--wait"], 1, "--wait is for one sandbox"),
        (["policy", "update", "box"], 1, "nothing to change"),
        (["policy", "update", "--remove-rule", "x", "--dry-run", "--wait"], 2, "--dry-run changes"),
        (["policy", "update", "--add-endpoint", "a"], 1, "host:port[:access"),
        (["policy", "get", "--full", "--base"], 2, "one of --full and --base"),
        (["policy", "get", "box", "--global"], 1, "leave out the name"),
        (["policy", "list", "box", "--global"], 1, "leave out the name"),
        (["policy", "rollback", "box"], 2, "Missing option '--to'"),
        (["policy", "rollback", "box", "--to", "0"], 2, "range"),
        (["policy", "delete"], 1, "a sandbox always has a policy"),
        (["policy", "delete", "--global"], 1, "give --yes to confirm"),
        (["settings", "list"], 0, "manual or auto"),
        (["settings", "list", "-o", "json"], 0, '"default": false'),
        (["settings", "get", "box", "--global"], 1, "leave out the name"),
        (["settings", "set", "--key", "ocsf_json_enabled", "--value", "on"], 1, "or --global"),
        (["settings", "delete", "--key", "ocsf_json_enabled"], 1, "or --global"),
        (["settings", "set", "--global", "k", "on"], 2, "set --global --key k --value on"),
        (["settings", "set", "box", "k", "on"], 2, "set box --key k --value on"),
        (["settings", "set", "k", "on"], 2, "set [NAME] --key k --value on"),
        (["settings", "set", "box", "--key", "k"], 2, "set box --key k --value VALUE"),
        (["settings", "set"], 2, "set [NAME] --key KEY --value VALUE"),
        (["settings", "set", "--key", "nope", "--value", "1"], 1, "Allowed keys: agent_policy"),
        (
            ["settings", "set", "--key", "ocsf_json_enabled", "--value", "maybe"],
            1,
            "expects bool value",
        ),
        (
            ["settings", "set", "--global", "--key", "ocsf_json_enabled", "--value", "on"],
            1,
            "give --yes to confirm",
        ),
        (["settings", "delete", "--global", "--key", "x"], 1, "give --yes to confirm"),
        (["logs", "--since", "yesterday"], 1, "not a time span"),
        (["status"], 0, "No gateway configured"),
        (["status", "-o", "json"], 0, "not_configured"),
        (["gateway", "list"], 0, "No gateways found."),
        (["gateway", "stop"], 0, "is not running"),
        (["gateway", "select", "x"], 1, "Unknown gateway"),
        (["completions", "zsh"], 0, "compdef"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_outcomes_without_a_gateway(
    tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    done = run(tmp_path, *arguments)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert says in output
    assert "Traceback" not in output
    assert not (tmp_path / ".local/state/openshell").exists(), "looking starts nothing"


def test_errors_go_to_stderr_and_nothing_to_stdout(tmp_path: Path) -> None:
    done = run(tmp_path, "sandbox", "list", "-o", "json")
    assert (done.returncode, done.stdout) == (1, "")


def test_a_value_is_never_in_the_refusal_of_a_credential(tmp_path: Path) -> None:
    done = run(
        tmp_path, "provider", "create", "--name", "a", "--type", "b", "--credential", "=s3cret"
    )
    assert done.returncode == 1
    assert "s3cret" not in done.stdout + done.stderr


def test_a_gateway_that_is_down_says_how_to_start_it(tmp_path: Path) -> None:
    done = run(tmp_path, "sandbox", "list", OPENSHELL_GATEWAY_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "cannot reach the gateway (connection refused)" in done.stderr
    assert "openshell gateway start" in done.stderr


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{OPENSHELL} --help | head -n 1",
        shell=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_an_unexpected_exception_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(ValueError("boom")) == 1
    assert "internal error: ValueError: boom" in capsys.readouterr().err
    assert report(CliError("late", code=124)) == 124
    assert report(KeyboardInterrupt()) == 130


def test_a_refusal_that_quotes_a_name_cannot_drive_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report(CliError("provider '\x1b]0;evil\x07\u202e' is attached\nmore\x9b1m")) == 1
    shown = capsys.readouterr().err
    assert shown.replace("\n", "").isprintable()
    assert "\\x1b]0;evil\\x07" in shown
    assert shown.count("\n") == 2


def test_help_loads_neither_grpc_nor_protobuf() -> None:
    script = (
        "import sys; from openshell.cli.main import run; run(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('grpc', 'google.protobuf', 'yaml')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0
