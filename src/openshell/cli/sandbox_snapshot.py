"""`openshell sandbox pause`, `resume`, `snapshot`, `restore` and `fork`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import Session, session
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import note, output_option, print_structured, print_table, timestamp

if TYPE_CHECKING:
    from openshell.sdk.snapshots import SnapshotClient

__all__ = ["create", "delete", "fork", "list_", "pause", "restore", "resume", "snapshot"]

_HERE = "openshell.cli.sandbox_snapshot"

snapshot = LazyGroup(
    "snapshot",
    help="Keep copies of a sandbox's workspace.",
    entries={
        "create": Entry(f"{_HERE}:create", "Copy the workspace as it is now."),
        "list": Entry(f"{_HERE}:list_", "List the snapshots of a sandbox."),
        "delete": Entry(f"{_HERE}:delete", "Delete snapshots."),
    },
    elsewhere={
        "restore": "openshell sandbox restore",
        "fork": "openshell sandbox fork",
        "ls": "openshell sandbox snapshot list",
        "rm": "openshell sandbox snapshot delete",
    },
)


def _client(opened: Session) -> SnapshotClient:
    from openshell.sdk.snapshots import SnapshotClient

    return SnapshotClient(opened.client)


@command("pause")
@click.argument("name", required=False)
def pause(name: str | None) -> None:
    """Hold every process of a sandbox where it is; nothing is lost and nothing runs."""
    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        _client(opened).pause(chosen, workspace=opened.workspace)
    print(f"Paused sandbox {chosen}")
    note(f"Go on with: openshell sandbox resume {chosen}")


@command("resume")
@click.argument("name", required=False)
def resume(name: str | None) -> None:
    """Let a paused sandbox go on."""
    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        _client(opened).resume(chosen, workspace=opened.workspace)
    print(f"Resumed sandbox {chosen}")


@command("create")
@click.argument("sandbox", required=False)
@click.option("--name", metavar="NAME", default="", help="Of the snapshot; default: snapshot-N.")
@output_option()
def create(sandbox: str | None, name: str, output: str) -> None:
    """Copy the workspace of a sandbox, running or stopped.

    Its processes are held while the copy is made, where this host can hold them.
    """
    with session(start=False) as opened:
        chosen = opened.sandbox_name(sandbox)
        made = _client(opened).create(chosen, workspace=opened.workspace, name=name)
    if output != "table":
        print_structured(_document(made), output)
        return
    print(f"Created snapshot {made.metadata.name} of {chosen}")
    if not made.consistent:
        note("Processes ran while it was made: files may not agree with each other")
    if made.skipped:
        note(f"{made.skipped} sockets and devices were left out")


@command("list")
@click.argument("sandbox", required=False)
@output_option()
def list_(sandbox: str | None, output: str) -> None:
    """List the snapshots of a sandbox, oldest first."""
    with session(start=False) as opened:
        chosen = opened.sandbox_name(sandbox)
        found = _client(opened).list(chosen, workspace=opened.workspace)
    if output != "table":
        print_structured([_document(item) for item in found], output)
    elif not found:
        print("No snapshots found.")
    else:
        print_table(
            ["NAME", "CREATED", "FILES", "BYTES", "CONSISTENT"],
            (
                [
                    item.metadata.name,
                    timestamp(item.metadata.created_at_ms),
                    str(item.entries),
                    str(item.bytes),
                    "yes" if item.consistent else "no",
                ]
                for item in found
            ),
        )


@command("delete")
@click.argument("sandbox")
@click.argument("names", nargs=-1, required=True, metavar="SNAPSHOT...")
def delete(sandbox: str, names: tuple[str, ...]) -> None:
    """Delete snapshots of a sandbox."""
    with session(start=False) as opened:
        client = _client(opened)
        for name in names:
            found = client.delete(sandbox, name, workspace=opened.workspace)
            print(f"Deleted snapshot {name}" if found else f"Snapshot {name} not found")


@command("restore")
@click.argument("name")
@click.option("--snapshot", "chosen", required=True, metavar="SNAPSHOT", help="What to put back.")
def restore(name: str, chosen: str) -> None:
    """Replace the workspace of a stopped sandbox by a snapshot. What it held is gone."""
    with session(start=False) as opened:
        _client(opened).restore(name, chosen, workspace=opened.workspace)
    print(f"Restored {name} from {chosen}")
    note(f"Start it with: openshell sandbox start {name}")


@command("fork")
@click.argument("source", metavar="NAME")
@click.option("--name", metavar="NAME", default="", help="Of the new one; default: two words.")
@click.option("--snapshot", "chosen", metavar="SNAPSHOT", default="", help="Instead of now.")
@click.option("--no-providers", is_flag=True, help="Attach none of the providers.")
def fork(source: str, name: str, chosen: str, no_providers: bool) -> None:
    """Create a sandbox like this one with a copy of its workspace; its command starts anew."""
    with session(start=False) as opened:
        made = _client(opened).fork(
            source,
            workspace=opened.workspace,
            snapshot=chosen,
            name=name,
            without_providers=no_providers,
        )
        opened.client.wait_ready(made.metadata.name, workspace=opened.workspace)
        opened.remember(made.metadata.name)
    print(f"Created sandbox: {made.metadata.name}")
    note(f"Attach with: openshell sandbox connect {made.metadata.name}")


def _document(item: Any) -> dict[str, Any]:
    return {
        "bytes": item.bytes,
        "consistent": item.consistent,
        "created_at": timestamp(item.metadata.created_at_ms),
        "entries": item.entries,
        "method": item.method,
        "name": item.metadata.name,
        "sandbox": item.sandbox_name,
        "skipped": item.skipped,
    }
