"""What follows a submitted policy: saying so, and waiting until the sandbox enforces it.

For every command that makes a revision. Progress goes to stderr; only `-o json` writes to stdout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from openshell.cli.failures import CliError
from openshell.cli.output import note, print_structured

if TYPE_CHECKING:
    from openshell._proto import openshell_pb2
    from openshell.cli.connection import Session
    from openshell.sdk.nouns import PolicyClient

__all__ = ["HASH_SHOWN", "newest_version", "report_submitted", "status_name", "wait_options"]

HASH_SHOWN = 12
_POLL_SECONDS = 0.02
"""Between questions while waiting: loading takes milliseconds, so a second would be the wait."""
_POLL_SLOWEST_SECONDS = 1.0


def wait_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--wait` and `--timeout`."""
    wait = click.option("--wait", is_flag=True, help="Return when the sandbox enforces it.")
    timeout = click.option(
        "--timeout",
        type=click.IntRange(1),
        default=60,
        show_default=True,
        metavar="S",
        help="Limit of --wait; exit code 124 when it runs out.",
    )
    return wait(timeout(command))


def newest_version(client: PolicyClient, name: str, workspace: str) -> int | None:
    """The newest stored version; None when there is none, or no such sandbox."""
    import grpc

    try:
        return client.revision(name, workspace=workspace).revision.version
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        # Either there is no revision yet, or no such sandbox: the update that follows tells which.
        return None


def report_submitted(
    opened: Session,
    client: PolicyClient,
    name: str,
    answer: openshell_pb2.UpdateConfigResponse,
    before: int | None,
    *,
    wait: bool,
    timeout: int,
    output: str,
) -> None:
    """Says what became of an update, waiting for the supervisor if asked to.

    Raises:
        CliError: loading failed (1), or the time ran out (124).
    """
    unchanged = before is not None and answer.version == before
    status = ""
    if unchanged:
        note(f"Policy unchanged (version {answer.version})")
    else:
        shown = answer.policy_hash[:HASH_SHOWN]
        note(f"Policy version {answer.version} submitted (hash: {shown})")
        if wait:
            status = _wait(client, name, opened.workspace, answer.version, timeout)
    if output == "json":
        document = {
            "sandbox": name,
            "version": answer.version,
            "hash": answer.policy_hash,
            "unchanged": unchanged,
            **({"status": status} if status else {}),
        }
        print_structured(document, output)


def _wait(client: PolicyClient, name: str, workspace: str, version: int, timeout: int) -> str:
    from openshell._proto import openshell_pb2

    deadline = time.monotonic() + timeout
    pause = _POLL_SECONDS
    while True:
        revision = client.revision(name, version, workspace=workspace).revision
        if revision.status == openshell_pb2.POLICY_STATUS_LOADED:
            note(f"Policy version {version} loaded")
            return status_name(revision)
        if revision.status == openshell_pb2.POLICY_STATUS_SUPERSEDED:
            note(f"Warning: policy version {version} was superseded by a newer one")
            return status_name(revision)
        if revision.status == openshell_pb2.POLICY_STATUS_FAILED:
            raise CliError(f"policy version {version} failed to load: {revision.load_error}")
        if time.monotonic() + pause > deadline:
            raise CliError(f"policy version {version} was not loaded within {timeout} s", code=124)
        time.sleep(pause)
        pause = min(pause * 1.5, _POLL_SLOWEST_SECONDS)


def status_name(revision: openshell_pb2.SandboxPolicyRevision) -> str:
    """`pending`, `loaded`, `failed`, `superseded` or `unspecified`."""
    from openshell._proto import openshell_pb2

    name = openshell_pb2.PolicyStatus.Name(revision.status)
    return name.removeprefix("POLICY_STATUS_").lower()
