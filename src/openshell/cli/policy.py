"""`openshell policy`: reading and replacing the policy of a sandbox."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import Session, session
from openshell.cli.failures import CliError
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import note, output_option, print_structured, print_table, timestamp

if TYPE_CHECKING:
    from openshell._proto import openshell_pb2

__all__ = ["get", "list_", "policy", "set_"]

_HASH_SHOWN = 12
_POLL_SECONDS = 0.02
"""Between questions while waiting: loading takes milliseconds, so a second would be the wait."""

_POLL_SLOWEST_SECONDS = 1.0

policy = LazyGroup(
    "policy",
    help="Read, replace and try policies; running sandboxes follow at once.",
    entries={
        "get": Entry("openshell.cli.policy:get", "Show the policy in force, or a revision."),
        "set": Entry("openshell.cli.policy:set_", "Replace the policy."),
        "list": Entry("openshell.cli.policy:list_", "List revisions, newest first."),
        "check": Entry("openshell.cli.policy_check:check", "Check a file; explain a request."),
        "diff": Entry("openshell.cli.policy_diff:diff", "Show what a revision allows or forbids."),
        "replay": Entry("openshell.cli.policy_replay:replay", "Try a policy on recorded traffic."),
    },
)


@command("set")
@click.argument("name", required=False)
@click.option(
    "--policy", "path", required=True, metavar="FILE", help="The new policy, YAML or JSON."
)
@click.option("--wait", is_flag=True, help="Return when the sandbox enforces it.")
@click.option(
    "--timeout",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    metavar="S",
    help="Limit of --wait; exit code 124 when it runs out.",
)
def set_(name: str | None, path: str, wait: bool, timeout: int) -> None:
    """Replace the policy of a sandbox as a whole.

    Sections that the file leaves out (filesystem, landlock, process) are kept.
    """
    from openshell.cli.policy_text import read_policy
    from openshell.sdk.nouns import PolicyClient

    message = read_policy(path)
    with session(start=True) as opened:
        chosen = opened.sandbox_name(name)
        client = PolicyClient(opened.client)
        before = _newest(client, chosen, opened)
        answer = client.replace(chosen, message, workspace=opened.workspace)
        if before is not None and answer.version == before:
            note(f"Policy unchanged (version {answer.version})")
            return
        note(
            f"Policy version {answer.version} submitted (hash: {answer.policy_hash[:_HASH_SHOWN]})"
        )
        if wait:
            _wait(client, chosen, opened.workspace, answer.version, timeout)


def _newest(client: Any, name: str, opened: Session) -> int | None:
    import grpc

    try:
        version: int = client.revision(name, workspace=opened.workspace).revision.version
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        # Either there is no revision yet, or no such sandbox: replacing tells which.
        return None
    return version


def _wait(client: Any, name: str, workspace: str, version: int, timeout: int) -> None:
    """Waits until the supervisor has loaded a revision.

    Raises:
        CliError: loading failed (1), or the time ran out (124).
    """
    from openshell._proto import openshell_pb2

    deadline = time.monotonic() + timeout
    pause = _POLL_SECONDS
    while True:
        revision = client.revision(name, version, workspace=workspace).revision
        if revision.status == openshell_pb2.POLICY_STATUS_LOADED:
            note(f"Policy version {version} loaded")
            return
        if revision.status == openshell_pb2.POLICY_STATUS_SUPERSEDED:
            note(f"Warning: policy version {version} was superseded by a newer one")
            return
        if revision.status == openshell_pb2.POLICY_STATUS_FAILED:
            raise CliError(f"policy version {version} failed to load: {revision.load_error}")
        if time.monotonic() + pause > deadline:
            raise CliError(f"policy version {version} was not loaded within {timeout} s", code=124)
        time.sleep(pause)
        pause = min(pause * 1.5, _POLL_SLOWEST_SECONDS)


@command("get")
@click.argument("name", required=False)
@click.option("--rev", type=click.IntRange(0), default=0, metavar="N", help="A stored revision.")
@click.option("--full", is_flag=True, help="Add the policy itself as YAML.")
@output_option("table", "json")
def get(name: str | None, rev: int, full: bool, output: str) -> None:
    """Show the policy in force, or revision N."""
    from openshell.sdk.nouns import PolicyClient

    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        client = PolicyClient(opened.client)
        if rev:
            document = _stored(client.revision(chosen, rev, workspace=opened.workspace), chosen)
        else:
            record = opened.client.describe(chosen, workspace=opened.workspace)
            document = _effective(client.effective(record.metadata.id), record)
    if output == "json":
        print_structured({key: item for key, item in document.items() if key != "_yaml"}, output)
        return
    for label, key in (
        ("Version", "version"),
        ("Hash", "hash"),
        ("Status", "status"),
        ("Active", "active_version"),
        ("Source", "policy_source"),
        ("Config rev", "config_revision"),
        ("Error", "load_error"),
    ):
        if document.get(key):
            print(f"{label}: {document[key]}")
    if full:
        print("---")
        print(document["_yaml"], end="")


def _effective(config: Any, record: openshell_pb2.Sandbox) -> dict[str, Any]:
    from openshell.cli.policy_text import policy_document, policy_yaml, source_name

    document: dict[str, Any] = {
        "scope": "sandbox",
        "sandbox": record.metadata.name,
        "version": config.version,
        "active_version": record.status.current_policy_version,
        "hash": config.policy_hash,
        "status": "effective",
        "config_revision": config.config_revision,
        "policy_source": source_name(config.policy_source),
        "_yaml": policy_yaml(config.policy),
    }
    if config.HasField("policy"):
        document["policy"] = policy_document(config.policy)
    return document


def _stored(answer: openshell_pb2.GetSandboxPolicyStatusResponse, name: str) -> dict[str, Any]:
    from openshell.cli.policy_text import policy_document, policy_yaml

    revision = answer.revision
    document: dict[str, Any] = {
        "scope": "sandbox",
        "sandbox": name,
        "version": revision.version,
        "hash": revision.policy_hash,
        "status": _status_name(revision),
        "active_version": answer.active_version,
        "policy": policy_document(revision.policy) if revision.HasField("policy") else None,
        "_yaml": policy_yaml(revision.policy),
    }
    for key in ("created_at_ms", "loaded_at_ms", "load_error"):
        value = getattr(revision, key)
        if value:
            document[key] = value
    return document


def _status_name(revision: openshell_pb2.SandboxPolicyRevision) -> str:
    from openshell._proto import openshell_pb2

    name = openshell_pb2.PolicyStatus.Name(revision.status)
    return name.removeprefix("POLICY_STATUS_").lower()


@command("list")
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@output_option()
def list_(name: str | None, limit: int, output: str) -> None:
    """List the stored revisions, newest first."""
    from openshell.sdk.nouns import PolicyClient

    with session(start=False) as opened:
        found = PolicyClient(opened.client).revisions(
            opened.sandbox_name(name), workspace=opened.workspace, limit=limit
        )
    if output != "table":
        print_structured(
            [
                {
                    "version": item.version,
                    "hash": item.policy_hash,
                    "status": _status_name(item),
                    "created_at_ms": item.created_at_ms,
                    "loaded_at_ms": item.loaded_at_ms or None,
                    "load_error": item.load_error or None,
                }
                for item in found
            ],
            output,
        )
    elif not found:
        note("No policy revisions.")
    else:
        print_table(
            ["VERSION", "HASH", "STATUS", "CREATED", "ERROR"],
            (
                [
                    item.version,
                    item.policy_hash[:_HASH_SHOWN],
                    _status_name(item),
                    timestamp(item.created_at_ms),
                    item.load_error[:40],
                ]
                for item in found
            ),
        )
