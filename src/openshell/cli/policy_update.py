"""`openshell policy update` and `rollback`: small changes of a policy, and going back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import note, output_option, print_structured, printable
from openshell.cli.policy_operations import Flags, operations_of
from openshell.cli.policy_wait import newest_version, report_submitted, wait_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openshell._proto import sandbox_pb2
    from openshell.policy.merge import MergeOperation, MergePlan

__all__ = ["rollback", "update"]

_RULE = "HOST:PORT:METHOD:PATH"


@command("update")
@click.argument("name", required=False)
@click.option(
    "--add-endpoint",
    "add_endpoints",
    multiple=True,
    metavar="HOST:PORT[:ACCESS[:PROTOCOL[:ENFORCEMENT[:OPTIONS]]]]",
    help="Allow an endpoint; repeatable, like all of these.",
)
@click.option("--binary", "binaries", multiple=True, metavar="PATH", help="Who may use it.")
@click.option("--rule-name", metavar="KEY", help="Key of the one added rule.")
@click.option("--remove-endpoint", "remove_endpoints", multiple=True, metavar="HOST:PORT")
@click.option("--remove-rule", "remove_rules", multiple=True, metavar="KEY")
@click.option("--add-allow", "add_allows", multiple=True, metavar=_RULE, help="Allow requests.")
@click.option("--add-deny", "add_denies", multiple=True, metavar=_RULE, help="Refuse requests.")
@click.option("--dry-run", is_flag=True, help="Print the policy as it would be; change nothing.")
@wait_options
@output_option("table", "json")
def update(
    name: str | None,
    add_endpoints: tuple[str, ...],
    binaries: tuple[str, ...],
    rule_name: str | None,
    remove_endpoints: tuple[str, ...],
    remove_rules: tuple[str, ...],
    add_allows: tuple[str, ...],
    add_denies: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    timeout: int,
    output: str,
) -> None:
    """Change parts of the policy of a sandbox, all of them or none.

    \b
        openshell policy update work --binary /usr/bin/curl \\
          --add-endpoint api.github.com:443:read-only:rest:enforce
        openshell policy update work --add-allow api.github.com:443:POST:/repos/*/issues
        openshell policy update work --remove-rule allow_api_github_com_443 --dry-run
    """
    if dry_run and wait:
        raise click.UsageError("--dry-run changes nothing, so there is nothing to --wait for")
    operations = operations_of(
        Flags(
            add_endpoints,
            remove_endpoints,
            remove_rules,
            add_allows,
            add_denies,
            binaries,
            rule_name,
        )
    )
    from openshell._proto import sandbox_pb2
    from openshell.sdk.nouns import PolicyClient

    with session(start=not dry_run) as opened:
        chosen = opened.sandbox_name(name)
        client = PolicyClient(opened.client)
        record = opened.client.describe(chosen, workspace=opened.workspace)
        config = client.effective(record.metadata.id)
        if config.policy_source == sandbox_pb2.POLICY_SOURCE_GLOBAL:
            raise CliError(
                "the policy is managed globally: change it with 'policy set --global', or delete "
                "it with 'policy delete --global' first"
            )
        plan = _merged(config, operations)
        if dry_run:
            _show(plan, output)
            return
        answer = client.merge(chosen, operations, workspace=opened.workspace)
        _warn(plan)
        report_submitted(
            opened,
            client,
            chosen,
            answer,
            config.version,
            wait=wait,
            timeout=timeout,
            output=output,
        )


def _merged(
    config: sandbox_pb2.GetSandboxConfigResponse, operations: Sequence[MergeOperation]
) -> MergePlan:
    """The same merge that the gateway does, on what is effective now.

    Raises:
        CliError: it cannot be done.
    """
    from openshell.codec.policy import policy_from_proto
    from openshell.policy.merge import MergeRefused, merge_policy

    plan = merge_policy(policy_from_proto(config.policy), operations)
    if isinstance(plan, MergeRefused):
        raise CliError(plan.message)
    return plan


def _warn(plan: MergePlan) -> None:
    for warning in plan.warnings:
        note(printable(f"Warning: {warning.message}"))


def _show(plan: MergePlan, output: str) -> None:
    """The policy that would result, after what the gateway would say to it."""
    from openshell.policy.parse import dump_policy, policy_to_json
    from openshell.policy.validate import errors_of, validate_policy

    _warn(plan)
    errors = errors_of(validate_policy(plan.policy))
    if errors:
        lines = [f"  {finding.location}: {finding.message}" for finding in errors]
        raise CliError("\n".join(["the resulting policy is not valid", *lines]))
    if not plan.changed:
        note("Nothing would change.")
    if output == "json":
        print_structured(policy_to_json(plan.policy), output)
    else:
        print(dump_policy(plan.policy), end="")


@command("rollback")
@click.argument("name", required=False)
@click.option(
    "--to", "version", type=click.IntRange(1), required=True, metavar="N", help="The old revision."
)
@wait_options
@output_option("table", "json")
def rollback(name: str | None, version: int, wait: bool, timeout: int, output: str) -> None:
    """Make the content of revision N the newest revision.

    It is checked like any update: a revision that binds a provider which is attached no more, for
    example, is refused. See 'policy list' for revisions and 'policy diff NAME N' for the difference.
    """
    from openshell._proto import openshell_pb2
    from openshell.sdk.nouns import PolicyClient

    with session(start=True) as opened:
        chosen = opened.sandbox_name(name)
        client = PolicyClient(opened.client)
        old = client.revision(chosen, version, workspace=opened.workspace).revision
        if old.status == openshell_pb2.POLICY_STATUS_FAILED:
            note(f"Warning: revision {version} once failed to load: {old.load_error}")
        before = newest_version(client, chosen, opened.workspace)
        answer = client.rollback(chosen, version, workspace=opened.workspace)
        report_submitted(
            opened, client, chosen, answer, before, wait=wait, timeout=timeout, output=output
        )
