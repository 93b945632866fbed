"""`openshell policy get` and `list`: the policy in force, and what was in force before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import (
    note,
    output_option,
    print_structured,
    print_table,
    printable,
    timestamp,
)
from openshell.cli.policy_wait import HASH_SHOWN, status_name

if TYPE_CHECKING:
    from openshell._proto import openshell_pb2, sandbox_pb2

__all__ = ["get", "list_"]


_LABELS = (
    ("Scope", "scope"),
    ("Version", "version"),
    ("Hash", "hash"),
    ("Status", "status"),
    ("Active", "active_version"),
    ("Source", "policy_source"),
    ("Config rev", "config_revision"),
    ("Global", "global_policy_version"),
    ("Created", "created_at_ms"),
    ("Loaded", "loaded_at_ms"),
    ("Error", "load_error"),
)

_global_option = click.option(
    "--global", "is_global", is_flag=True, help="The policy for all sandboxes."
)


@command("get")
@click.argument("name", required=False)
@click.option("--rev", type=click.IntRange(0), default=0, metavar="N", help="A stored revision.")
@click.option("--full", is_flag=True, help="Add the policy itself as YAML.")
@click.option("--base", is_flag=True, help="The same, without rules that providers add.")
@_global_option
@output_option("table", "json")
def get(name: str | None, rev: int, full: bool, base: bool, is_global: bool, output: str) -> None:
    """Show the policy in force, or revision N.

    What --base prints can be given to 'policy set' as it is. --full also shows the rules that attached
    providers add; those are theirs and not to be set.
    """
    if full and base:
        raise click.UsageError("use one of --full and --base")
    if is_global and name:
        raise CliError("--global concerns all sandboxes: leave out the name")
    from openshell.sdk.nouns import PolicyClient

    with session(start=False) as opened:
        client = PolicyClient(opened.client)
        if is_global:
            document, message = _stored(client.global_revision(rev), "")
        else:
            chosen = opened.sandbox_name(name)
            if rev:
                answer = client.revision(chosen, rev, workspace=opened.workspace)
                document, message = _stored(answer, chosen)
            else:
                record = opened.client.describe(chosen, workspace=opened.workspace)
                document, message = _effective(client.effective(record.metadata.id), record)
    if base and message is not None:
        message = _without_provider_rules(message)
    _print(document, message if full or base else None, output)


def _print(
    document: dict[str, Any], message: sandbox_pb2.SandboxPolicy | None, output: str
) -> None:
    from openshell.cli.policy_text import policy_document, policy_yaml

    if output == "json":
        if message is not None:
            document["policy"] = policy_document(message)
        print_structured(document, output)
        return
    for label, key in _LABELS:
        if document.get(key) and (key, document[key]) != ("scope", "sandbox"):
            print(f"{label}: {printable(str(document[key]))}")
    if message is not None:
        print("---")
        print(policy_yaml(message), end="")


def _without_provider_rules(message: sandbox_pb2.SandboxPolicy) -> sandbox_pb2.SandboxPolicy:
    from openshell._proto import sandbox_pb2
    from openshell.policy.model import PROVIDER_KEY_PREFIX

    kept = sandbox_pb2.SandboxPolicy()
    kept.CopyFrom(message)
    for key in message.network_policies:
        if key.startswith(PROVIDER_KEY_PREFIX):
            del kept.network_policies[key]
    return kept


def _effective(
    config: sandbox_pb2.GetSandboxConfigResponse, record: openshell_pb2.Sandbox
) -> tuple[dict[str, Any], sandbox_pb2.SandboxPolicy | None]:
    from openshell.cli.policy_text import source_name

    document: dict[str, Any] = {
        "scope": "sandbox",
        "sandbox": record.metadata.name,
        "version": config.version,
        "active_version": record.status.current_policy_version,
        "hash": config.policy_hash,
        "status": "effective",
        "config_revision": config.config_revision,
        "policy_source": source_name(config.policy_source),
    }
    if config.global_policy_version:
        document["global_policy_version"] = config.global_policy_version
    return document, config.policy if config.HasField("policy") else None


def _stored(
    answer: openshell_pb2.GetSandboxPolicyStatusResponse, name: str
) -> tuple[dict[str, Any], sandbox_pb2.SandboxPolicy | None]:
    """One revision of a sandbox or, without a name, of the policy for all."""
    revision = answer.revision
    document: dict[str, Any] = {
        "scope": "sandbox" if name else "global",
        "version": revision.version,
        "hash": revision.policy_hash,
        "status": status_name(revision),
    }
    if name:
        document |= {"sandbox": name, "active_version": answer.active_version}
    for key in ("created_at_ms", "loaded_at_ms", "load_error"):
        value = getattr(revision, key)
        if value:
            document[key] = value
    if revision.provenance:
        document["provenance"] = dict(revision.provenance)
    return document, revision.policy if revision.HasField("policy") else None


@command("list")
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@_global_option
@output_option()
def list_(name: str | None, limit: int, is_global: bool, output: str) -> None:
    """List the stored revisions, newest first."""
    if is_global and name:
        raise CliError("--global concerns all sandboxes: leave out the name")
    from openshell.sdk.nouns import PolicyClient

    with session(start=False) as opened:
        client = PolicyClient(opened.client)
        if is_global:
            found = client.global_revisions(limit=limit)
        else:
            chosen = opened.sandbox_name(name)
            found = client.revisions(chosen, workspace=opened.workspace, limit=limit)
    if output != "table":
        print_structured(
            [
                {
                    "version": item.version,
                    "hash": item.policy_hash,
                    "status": status_name(item),
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
                    item.policy_hash[:HASH_SHOWN],
                    status_name(item),
                    timestamp(item.created_at_ms),
                    item.load_error[:40],
                ]
                for item in found
            ),
        )
