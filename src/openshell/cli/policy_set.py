"""`openshell policy set` and `delete`: a whole policy, for one sandbox or for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from openshell.cli.confirm import confirm_global, yes_option
from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import note, output_option, print_structured
from openshell.cli.policy_wait import HASH_SHOWN, newest_version, report_submitted, wait_options

if TYPE_CHECKING:
    from openshell._proto import sandbox_pb2

__all__ = ["delete", "set_"]


@command("set")
@click.argument("name", required=False)
@click.option(
    "--policy", "path", required=True, metavar="FILE", help="The new policy, YAML or JSON."
)
@click.option(
    "--global", "is_global", is_flag=True, help="For all sandboxes, in place of their own."
)
@yes_option
@wait_options
@output_option("table", "json")
def set_(
    name: str | None,
    path: str,
    is_global: bool,
    yes: bool,
    wait: bool,
    timeout: int,
    output: str,
) -> None:
    """Replace the policy of a sandbox as a whole.

    Sections that the file leaves out (filesystem, landlock, process) are kept. With --global the
    policy holds for all sandboxes, and none can be changed by itself until it is deleted.
    """
    if is_global and wait:
        raise CliError("--wait is for one sandbox: no sandbox acknowledges a global policy")
    from openshell.cli.policy_text import read_policy
    from openshell.sdk.nouns import PolicyClient

    message = read_policy(path)
    if is_global:
        confirm_global("Put this policy in force for all sandboxes?", yes=yes)
        _set_global(message, output)
        return
    with session(start=True) as opened:
        chosen = opened.sandbox_name(name)
        client = PolicyClient(opened.client)
        before = newest_version(client, chosen, opened.workspace)
        answer = client.replace(chosen, message, workspace=opened.workspace)
        report_submitted(
            opened, client, chosen, answer, before, wait=wait, timeout=timeout, output=output
        )


def _set_global(message: sandbox_pb2.SandboxPolicy, output: str) -> None:
    from openshell.sdk.nouns import PolicyClient

    with session(start=True) as opened:
        answer = PolicyClient(opened.client).replace_global(message)
    note(
        f"Global policy version {answer.version} in force "
        f"(hash: {answer.policy_hash[:HASH_SHOWN]}, settings revision: {answer.settings_revision})"
    )
    if output == "json":
        document = {
            "scope": "global",
            "version": answer.version,
            "hash": answer.policy_hash,
            "settings_revision": answer.settings_revision,
        }
        print_structured(document, output)


@command("delete")
@click.option("--global", "is_global", is_flag=True, help="The policy for all sandboxes.")
@yes_option
def delete(is_global: bool, yes: bool) -> None:
    """Delete the policy for all sandboxes; each has its own again, at once.

    The policy of one sandbox cannot be deleted, only replaced.
    """
    if not is_global:
        raise CliError("a sandbox always has a policy: replace it, or delete the --global one")
    confirm_global("Delete the global policy? Every sandbox then runs under its own.", yes=yes)
    from openshell.sdk.nouns import PolicyClient

    with session(start=True) as opened:
        answer = PolicyClient(opened.client).delete_global()
    if answer.deleted:
        note(f"Global policy deleted (settings revision: {answer.settings_revision})")
    else:
        note("There is no global policy.")
