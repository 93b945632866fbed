"""`openshell policy diff`: what a change of a sandbox's policy means for what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import Session, session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import output_option, print_structured, printable

if TYPE_CHECKING:
    from openshell.policy.model import SandboxPolicy

__all__ = ["diff"]


@command("diff")
@click.argument("name", required=False)
@click.argument("before", type=click.IntRange(1), required=False)
@click.argument("after", type=click.IntRange(1), required=False)
@click.option("--policy", "path", metavar="FILE", help="Compare with this file instead.")
@click.option("--global", "everywhere", is_flag=True, help="Of the policy for all sandboxes.")
@output_option("table", "json")
def diff(
    name: str | None,
    before: int | None,
    after: int | None,
    path: str | None,
    everywhere: bool,
    output: str,
) -> None:
    """Show what changed in terms of what is allowed between two revisions.

    Without numbers: the newest revision against the one before it. With one: that revision against
    the newest. With --policy: the newest (or the given) revision against a file.

    \b
        openshell policy diff work            what the last change did
        openshell policy diff work 3 7
        openshell policy diff work --policy next.yaml
        openshell policy diff --global 1 2
    """
    if everywhere:
        # Without a sandbox, what stands in its place is the first number.
        name, before, after = None, *_numbers(name, before, after)
    if path and after is not None:
        raise click.UsageError("--policy takes the place of AFTER")
    from openshell.cli.policy_text import usable_policy
    from openshell.policy.diff import diff_policies
    from openshell.policy.diff_text import render_diff, summary_of

    candidate = usable_policy(path) if path else None
    with session(start=False) as opened:
        chosen = None if everywhere else opened.sandbox_name(name)
        newest = 0
        if before is None or (after is None and candidate is None):
            newest = _revision(opened, chosen, 0)[0]
        first = before or (newest if candidate is not None else max(1, newest - 1))
        second = after or newest
        old = _revision(opened, chosen, first)[1]
        new = candidate if candidate is not None else _revision(opened, chosen, second)[1]
    found = diff_policies(old, new)
    label = path or f"revision {second}"
    if output == "json":
        document: dict[str, Any] = {
            "scope": "sandbox" if chosen else "global",
            "sandbox": chosen,
            "before": first,
            "after": second if candidate is None else None,
            **found.to_json(),
        }
        print_structured(document, output)
        return
    subject = chosen or "all sandboxes"
    print(printable(f"{subject}: revision {first} -> {label}: {summary_of(found)}"))
    if not found.is_empty:
        for line in render_diff(found).splitlines():
            print(printable(line))


def _numbers(
    name: str | None, before: int | None, after: int | None
) -> tuple[int | None, int | None]:
    """BEFORE and AFTER where no name stands before them."""
    if name is None:
        return None, None
    if not name.isdecimal() or int(name) < 1 or after is not None:
        raise click.UsageError("--global takes no sandbox, only BEFORE and AFTER")
    return int(name), before


def _revision(opened: Session, name: str | None, version: int) -> tuple[int, SandboxPolicy]:
    """One stored revision with its number; version 0 is the newest, no name the one for all.

    Raises:
        CliError: the gateway answered without the policy itself.
    """
    from openshell.codec.policy import policy_from_proto
    from openshell.sdk.nouns import PolicyClient

    client = PolicyClient(opened.client)
    if name is None:
        revision = client.global_revision(version).revision
    else:
        revision = client.revision(name, version, workspace=opened.workspace).revision
    if not revision.HasField("policy"):
        subject = f"of '{name}'" if name else "for all sandboxes"
        raise CliError(f"revision {revision.version} {subject} is stored without its policy")
    return revision.version, policy_from_proto(revision.policy)
