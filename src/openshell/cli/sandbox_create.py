"""`openshell sandbox create`."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from openshell.cli.completions import gateway_names
from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import check, note, output_option, print_structured

if TYPE_CHECKING:
    from openshell._proto import openshell_pb2
    from openshell.cli.connection import Session

__all__ = ["create"]

_DEFAULT_TIMEOUT_SECONDS = 300
"""How long create waits without progress; `OPENSHELL_PROVISION_TIMEOUT` overrides it."""

_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CPU = re.compile(r"[0-9]+m|[0-9]+(\.[0-9]+)?")
_MEMORY = re.compile(r"[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|Ei|K|M|G|T|P|E)?")
_CREDENTIAL_WORDS = (
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "CREDENTIAL",
    "ACCESS_KEY",
    "SECRET_KEY",
    "API_KEY",
)


@command("create", context_settings={"ignore_unknown_options": False})
@click.argument("argv", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
@click.option("--name", metavar="NAME", help="Name of the sandbox; default: two words.")
@click.option(
    "--policy", metavar="FILE", envvar="OPENSHELL_SANDBOX_POLICY", help="Policy to start under."
)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="Attach this provider; a type's name makes one of what is found here.",
    shell_complete=gateway_names("providers"),
)
@click.option(
    "--auto-providers/--no-auto-providers",
    "auto",
    default=None,
    help="Create missing providers of known types from the credentials here.  [default: ask]",
)
@click.option(
    "--env", "environment", multiple=True, metavar="K=V", help="Variable for the command."
)
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label to select it by.")
@click.option("--cpu", metavar="Q", help="CPU limit, for example 500m or 2.")
@click.option("--memory", metavar="Q", help="Memory limit, for example 512Mi.")
@click.option("--from", "image", metavar="SRC", help="Image; default: the host's own view.")
@click.option(
    "--host-path",
    "host_paths",
    multiple=True,
    metavar="DIR",
    help="Show this directory of the host inside, read-only.",
)
@click.option("--driver-config-json", metavar="J", help="Options of the driver as a JSON object.")
@click.option(
    "--tty/--no-tty", default=None, help="Give the command a terminal.  [default: as here]"
)
@click.option("--detach", is_flag=True, help="Return when it is ready, without attaching.")
@click.option("--no-keep", is_flag=True, help="Delete the sandbox when the command ends.")
@click.option(
    "--no-credential-warnings", is_flag=True, help="Accept credential-like names in --env silently."
)
@output_option()
def create(argv: tuple[str, ...], output: str, **given: Any) -> int:
    """Create a sandbox that runs COMMAND (default: a shell) and attach to it.

    The exit code is the command's own. The sandbox stays until it is deleted; --no-keep deletes it
    when the command ends.

    \b
    Examples:
      openshell sandbox create -- bash
      openshell sandbox create --name work --policy policy.yaml --provider github -- claude
      openshell sandbox create --no-keep -- python3 -c 'print(42)'
    """
    structured = output != "table"
    if structured and (argv or given["no_keep"]):
        raise click.UsageError("-o prints the new sandbox: leave out COMMAND and --no-keep")
    if given["no_keep"] and given["detach"]:
        raise click.UsageError("--no-keep deletes at the end of the session: leave out --detach")
    labels = dict(_pair(item, "--label") for item in given["labels"])
    spec = _spec(argv, given)
    with session(start=True) as opened:
        spec.providers[:] = _providers(opened, argv, given)
        ref = opened.client.create(
            workspace=opened.workspace, spec=spec, name=given["name"], labels=labels
        )
        if not given["no_keep"]:
            opened.remember(ref.name)
        say = note if structured else print
        say(f"Created sandbox: {ref.name}")
        sys.stdout.flush()
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        if given["no_keep"]:
            _delete_also_when_ended()
        try:
            if spec.providers:
                from openshell.cli.provider_notes import say_idle

                say_idle(opened, ref.id, spec.providers)
            if given["detach"] or structured or not (argv or interactive):
                _wait_ready(opened, ref.id)
                if structured:
                    from openshell.cli.documents import sandbox_document

                    record = opened.client.describe(ref.name, workspace=opened.workspace)
                    print_structured(sandbox_document(record), output)
                return 0
            from openshell.cli.attach import attach

            return attach(opened, ref.name, tty=spec.tty)
        finally:
            if given["no_keep"]:
                opened.client.delete(ref.name, workspace=opened.workspace)


def _providers(opened: Session, argv: tuple[str, ...], given: dict[str, Any]) -> list[str]:
    """What to attach; asks the gateway only if a provider is named or the command implies one."""
    from openshell.cli.provider_types import type_of_command

    implied = argv and given["auto"] is not False and type_of_command(argv[0])
    if not given["providers"] and not implied:
        return []
    from openshell.cli.sandbox_create_providers import resolve_providers

    return resolve_providers(opened, given["providers"], argv, auto=given["auto"])


def _delete_also_when_ended() -> None:
    """Lets a closed terminal or a SIGTERM end the command like Ctrl-C does: with its clean-up."""

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def _spec(argv: tuple[str, ...], given: dict[str, Any]) -> openshell_pb2.SandboxSpec:
    """Checks everything that can be checked here, before anything is created."""
    environment = dict(_env_pair(item) for item in given["environment"])
    if not given["no_credential_warnings"]:
        _warn_credentials(environment)
    for option, pattern in (("cpu", _CPU), ("memory", _MEMORY)):
        if given[option] and not pattern.fullmatch(given[option]):
            raise CliError(
                f"--{option} '{given[option]}' is not a quantity; "
                f"write {'500m or 2' if option == 'cpu' else '512Mi or 2G'}"
            )
    driver_config = _driver_config(given["driver_config_json"], given["host_paths"])

    from openshell._proto import openshell_pb2
    from openshell.cli.policy_text import read_policy

    tty = given["tty"]
    if tty is None:
        tty = sys.stdin.isatty() and sys.stdout.isatty()
    spec = openshell_pb2.SandboxSpec(
        command=list(argv) or ["/bin/bash", "-l"],
        tty=tty,
        environment=environment,
    )
    if given["policy"]:
        spec.policy.CopyFrom(read_policy(given["policy"], is_first=True))
    if given["image"]:
        spec.template.image = given["image"]
    limits = {key: given[key] for key in ("cpu", "memory") if given[key]}
    if limits:
        spec.template.resources.update({"limits": limits})
    spec.template.driver_config.update(driver_config)
    return spec


def _driver_config(text: str | None, host_paths: tuple[str, ...]) -> dict[str, Any]:
    """The user's driver options with what the local driver is told about this caller's tools."""
    try:
        document = json.loads(text) if text else {}
    except ValueError as error:
        raise CliError(f"--driver-config-json is not JSON: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(v, dict) for v in document.values()):
        raise CliError("--driver-config-json must be an object with one object per driver")
    for path in host_paths:
        if not os.path.isdir(path):
            raise CliError(f"--host-path {path}: no such directory")
    local = document.setdefault("local", {})
    local.setdefault("tool_dirs", _tool_directories(os.environ.get("PATH", "")))
    if host_paths:
        local["host_paths"] = [os.path.realpath(path) for path in host_paths]
    return document


def _tool_directories(path: str) -> list[str]:
    """Directories of the caller's PATH; which of them are shown inside is the driver's decision."""
    return [entry for entry in dict.fromkeys(path.split(":")) if entry.startswith("/")]


def _pair(item: str, option: str) -> tuple[str, str]:
    key, separator, value = item.partition("=")
    if not separator or not key:
        raise CliError(f"{option} '{item}' is not of the form KEY=VALUE")
    return key, value


def _env_pair(item: str) -> tuple[str, str]:
    key, value = _pair(item, "--env")
    if not _ENV_KEY.fullmatch(key):
        raise CliError(f"--env '{key}' is not a variable name")
    if key.startswith("OPENSHELL_"):
        raise CliError(f"--env '{key}': names beginning OPENSHELL_ belong to the sandbox")
    return key, value


def _warn_credentials(environment: dict[str, str]) -> None:
    from openshell.cli.provider_discovery import types_using

    for key in environment:
        padded = f"_{key.upper()}_"
        types = types_using(key)
        if types or any(f"_{word}_" in padded for word in _CREDENTIAL_WORDS):
            note(
                f"Warning: {key} looks like a credential; --env puts its value inside the sandbox.\n"
                "  A provider keeps it outside:"
            )
            for kind in types or ("generic",):
                name = kind if types else "NAME"
                note(
                    f"    openshell provider create --name {name} --type {kind} --credential {key}"
                )


def _wait_ready(opened: Session, sandbox_id: str) -> None:
    """Shows the steps of creation until the sandbox takes commands.

    Raises:
        CliError: it failed, or made no progress in time.
    """
    import grpc

    from openshell._proto import openshell_pb2
    from openshell.sdk.client import why_not_ready

    limit = _provision_timeout()
    shown: set[str] = set()
    request = openshell_pb2.WatchSandboxRequest(id=sandbox_id, follow_status=True)
    started = time.monotonic()
    try:
        for event in opened.client.watch(request, timeout=limit):
            if event.WhichOneof("payload") != "sandbox":
                continue
            _show_progress(event.sandbox, shown, started)
            status = event.sandbox.status
            if status.phase == openshell_pb2.SANDBOX_PHASE_READY:
                return
            if status.phase == openshell_pb2.SANDBOX_PHASE_ERROR:
                if status.HasField("exit_code"):
                    raise CliError(f"the command ended with exit code {status.exit_code}")
                raise CliError(
                    f"entered error phase while provisioning: {why_not_ready(event.sandbox)}"
                )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise CliError(
                f"the sandbox was not ready within {limit} s; see 'openshell sandbox get'"
            ) from error
        raise
    raise CliError("the sandbox was deleted while it was being created")


def _show_progress(record: openshell_pb2.Sandbox, shown: set[str], started: float) -> None:
    for phase in record.status.creation_phases:
        if phase.ended_at_ms and phase.name not in shown:
            shown.add(phase.name)
            took = phase.ended_at_ms - phase.started_at_ms
            elapsed = time.monotonic() - started
            mark = check(sys.stderr) if sys.stderr.isatty() else f"[{elapsed:.1f}s]"
            note(f"{mark} {phase.name} ({took} ms)")


def _provision_timeout() -> int:
    text = os.environ.get("OPENSHELL_PROVISION_TIMEOUT", "")
    if not text:
        return _DEFAULT_TIMEOUT_SECONDS
    if not text.isdigit() or int(text) == 0:
        raise CliError(f"OPENSHELL_PROVISION_TIMEOUT '{text}' is not a number of seconds")
    return int(text)
