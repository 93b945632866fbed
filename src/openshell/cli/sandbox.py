"""`openshell sandbox`: the group, and the commands that inspect and end sandboxes."""

from __future__ import annotations

from typing import Any

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import (
    bold,
    dim,
    note,
    output_option,
    print_block,
    print_structured,
    print_table,
    printable,
    timestamp,
)

__all__ = ["delete", "get", "list_", "sandbox", "start", "stop"]

_USE = "Use"
_LIFE = "Life"

sandbox = LazyGroup(
    "sandbox",
    help="Create, use and delete sandboxes.",
    entries={
        "create": Entry(
            "openshell.cli.sandbox_create:create", "Create a sandbox and attach to it.", _LIFE
        ),
        "list": Entry("openshell.cli.sandbox:list_", "List sandboxes.", _LIFE),
        "get": Entry("openshell.cli.sandbox:get", "Show one sandbox and its policy.", _LIFE),
        "stop": Entry(
            "openshell.cli.sandbox:stop", "End its processes, keep its workspace.", _LIFE
        ),
        "start": Entry("openshell.cli.sandbox:start", "Start a stopped sandbox again.", _LIFE),
        "delete": Entry(
            "openshell.cli.sandbox:delete", "Delete sandboxes with their files.", _LIFE
        ),
        "pause": Entry(
            "openshell.cli.sandbox_snapshot:pause", "Hold its processes where they are.", _LIFE
        ),
        "resume": Entry("openshell.cli.sandbox_snapshot:resume", "Let them go on.", _LIFE),
        "snapshot": Entry(
            "openshell.cli.sandbox_snapshot:snapshot", "Keep copies of its workspace.", _LIFE
        ),
        "restore": Entry(
            "openshell.cli.sandbox_snapshot:restore", "Put a snapshot back into it.", _LIFE
        ),
        "fork": Entry(
            "openshell.cli.sandbox_snapshot:fork", "Create another with its workspace.", _LIFE
        ),
        "connect": Entry("openshell.cli.sandbox_exec:connect", "Attach to the main process.", _USE),
        "exec": Entry("openshell.cli.sandbox_exec:exec_", "Run a command inside.", _USE),
        "upload": Entry("openshell.cli.sandbox_files:upload", "Send files into it.", _USE),
        "download": Entry("openshell.cli.sandbox_files:download", "Fetch files from it.", _USE),
        "sync": Entry(
            "openshell.cli.sandbox_files:sync", "Make a directory inside like one here.", _USE
        ),
        "ssh-config": Entry(
            "openshell.cli.ssh:ssh_config", "Print a Host block for SSH clients.", _USE
        ),
        "provider": Entry(
            "openshell.cli.sandbox_provider:provider", "Attach and detach providers.", _USE
        ),
    },
    elsewhere={
        "status": "openshell sandbox get",
        "show": "openshell sandbox get",
        "describe": "openshell sandbox get",
        "run": "openshell sandbox create",
        "attach": "openshell sandbox connect",
        "shell": "openshell sandbox exec",
        "logs": "openshell logs",
        "policy": "openshell policy get",
        "ls": "openshell sandbox list",
        "cp": "openshell sandbox upload",
        "push": "openshell sandbox upload",
        "pull": "openshell sandbox download",
        "rm": "openshell sandbox delete",
    },
)


@command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True)
@click.option("--selector", metavar="K=V,...", help="Only sandboxes with these labels.")
@click.option("--ids", is_flag=True, help="Print ids only.")
@click.option("--names", is_flag=True, help="Print names only.")
@click.option("--all-workspaces", is_flag=True, help="List sandboxes of every workspace.")
@output_option()
def list_(
    limit: int,
    offset: int,
    selector: str | None,
    ids: bool,
    names: bool,
    all_workspaces: bool,
    output: str,
) -> None:
    """List sandboxes, oldest first."""
    if ids + names + (output != "table") > 1:
        raise click.UsageError("use one of --ids, --names and -o")
    with session(start=False) as opened:
        found = opened.client.describe_all(
            workspace=opened.workspace,
            limit=limit,
            offset=offset,
            label_selector=selector,
            all_workspaces=all_workspaces,
        )
    from openshell.cli.documents import phase_name, sandbox_document

    if ids:
        for item in found:
            print(item.metadata.id)
    elif names:
        for item in found:
            prefix = f"{item.metadata.workspace}/" if all_workspaces else ""
            print(f"{prefix}{item.metadata.name}")
    elif output != "table":
        print_structured([sandbox_document(item) for item in found], output)
    elif not found:
        print("No sandboxes found.")
    else:
        first = ["WORKSPACE"] if all_workspaces else []
        print_table(
            [*first, "NAME", "CREATED", "PHASE"],
            (
                [
                    *([item.metadata.workspace] if all_workspaces else []),
                    item.metadata.name,
                    timestamp(item.metadata.created_at_ms),
                    phase_name(item),
                ]
                for item in found
            ),
        )


@command("get")
@click.argument("name", required=False)
@click.option(
    "--policy-only", is_flag=True, help="Print the effective policy as YAML, nothing else."
)
@output_option()
def get(name: str | None, policy_only: bool, output: str) -> None:
    """Show one sandbox: how it is, what holds it, how it was created, its policy."""
    if policy_only and output != "table":
        raise click.UsageError("--policy-only prints YAML: leave out -o")
    from openshell.sdk.nouns import PolicyClient

    with session(start=False) as opened:
        record = opened.client.describe(opened.sandbox_name(name), workspace=opened.workspace)
        config = PolicyClient(opened.client).effective(record.metadata.id)

    from openshell.cli.policy_text import policy_document, policy_yaml, source_name

    if policy_only:
        if not config.HasField("policy"):
            raise CliError(f"sandbox '{record.metadata.name}' has no policy yet")
        print(policy_yaml(config.policy), end="")
        return
    revision = config.global_policy_version or config.version
    if output != "table":
        from openshell.cli.documents import enforcement_document, phases_document, sandbox_document

        document = sandbox_document(record)
        document["creation_phases"] = phases_document(record)
        document["enforcement"] = enforcement_document(record.status.enforcement)
        document["policy_source"] = source_name(config.policy_source)
        document["revision"] = revision or None
        document["policy"] = policy_document(config.policy) if config.HasField("policy") else None
        print_structured(document, output)
        return
    _print_sandbox(record, source_name(config.policy_source), revision)
    if config.HasField("policy"):
        print(bold("Policy:"))
        for line in policy_yaml(config.policy).splitlines():
            print(f"  {line}")


def _print_sandbox(record: Any, source: str, revision: int) -> None:
    from openshell.cli.documents import enforcement_document, phase_name, phases_document

    metadata = record.metadata
    pairs: list[tuple[str, object]] = [
        ("Id", metadata.id),
        ("Name", metadata.name),
        ("Phase", phase_name(record)),
        ("Resource version", metadata.resource_version),
    ]
    for title, values in (("Labels", metadata.labels), ("Annotations", metadata.annotations)):
        if values:
            pairs.append((title, ", ".join(f"{key}={values[key]}" for key in sorted(values))))
    pairs.append(("Policy source", source))
    if revision:
        pairs.append(("Revision", revision))
    pairs.extend(
        (f"Not {condition.type.lower()}", f"{condition.reason}: {condition.message}".rstrip(": "))
        for condition in record.status.conditions
        if condition.status == "False"
    )
    print_block("Sandbox", pairs)
    enforcement = enforcement_document(record.status.enforcement)
    if enforcement["layers"]:
        print(bold("Isolation:"))
        for layer in enforcement["layers"]:
            detail = dim(f"  {printable(layer['detail'])}") if layer["detail"] else ""
            print(f"  {layer['name']}: {layer['status']}{detail}")
    for title, key in (
        ("Exposed from the host", "exposed_paths"),
        ("Interpreters", "interpreters"),
    ):
        if enforcement[key]:
            print(bold(f"{title}:"))
            for path in enforcement[key]:
                print(f"  {printable(path)}")
    phases = phases_document(record)
    if phases:
        print(bold("Creation:"))
        for phase in phases:
            took = "running" if phase["milliseconds"] is None else f"{phase['milliseconds']} ms"
            failed = (
                f"  {phase['error_code']}: {phase['error_message']}" if phase["error_code"] else ""
            )
            print(f"  {phase['name']}: {took}{printable(failed)}")


@command("delete")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Delete every sandbox of the workspace.")
def delete(names: tuple[str, ...], everything: bool) -> None:
    """Delete sandboxes with all their files. There is no question first."""
    if bool(names) == everything:
        raise click.UsageError("give sandbox names, or --all")
    with session(start=False) as opened:
        if everything:
            names = tuple(
                ref.name for ref in opened.client.list(workspace=opened.workspace, limit=1000)
            )
        import grpc

        from openshell.cli.forward import stop_all

        for name in names:
            stop_all(name)
            try:
                found = opened.client.delete(name, workspace=opened.workspace)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                found = False
            opened.forget(name)
            print(f"Deleted sandbox {name}" if found else f"Sandbox {name} not found")


@command("stop")
@click.argument("name", required=False)
def stop(name: str | None) -> None:
    """End the processes of a sandbox; its workspace stays for 'start'."""
    with session(start=False) as opened:
        from openshell.cli.forward import stop_all

        chosen = opened.sandbox_name(name)
        stop_all(chosen)
        opened.client.stop(chosen, workspace=opened.workspace)
        opened.client.wait_stopped(chosen, workspace=opened.workspace)
    print(f"Stopped sandbox {chosen}")


@command("start")
@click.argument("name", required=False)
def start(name: str | None) -> None:
    """Start a stopped sandbox again with the workspace it had."""
    with session(start=True) as opened:
        chosen = opened.sandbox_name(name)
        opened.client.start(chosen, workspace=opened.workspace)
        opened.client.wait_ready(chosen, workspace=opened.workspace)
    print(f"Started sandbox {chosen}")
    note(f"Attach with: openshell sandbox connect {chosen}")
