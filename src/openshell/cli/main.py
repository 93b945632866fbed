"""Entry of the `openshell` command: the tree of commands, and how every failure ends.

Exit codes: 0 done, 1 failed, 2 wrong usage, 124 a wait ran out of time, 130 interrupted; attached
commands return the remote command's own code.
"""

from __future__ import annotations

import os
import sys

import click

from openshell.cli.groups import Entry, LazyGroup

__all__ = ["cli", "main"]

_SANDBOX = "Sandboxes"
_POLICY = "Policy and credentials"
_GATEWAY = "Gateway"

_ENTRIES = {
    "sandbox": Entry(
        "openshell.cli.sandbox:sandbox", "Create, use and delete sandboxes.", _SANDBOX
    ),
    "logs": Entry(
        "openshell.cli.logs:logs", "Show what a sandbox did and what was refused.", _SANDBOX
    ),
    "forward": Entry(
        "openshell.cli.forward:forward", "Reach ports inside a sandbox from here.", _SANDBOX
    ),
    "policy": Entry("openshell.cli.policy:policy", "Read, change and try policies.", _POLICY),
    "settings": Entry(
        "openshell.cli.settings:settings", "Read and change settings beside the policy.", _POLICY
    ),
    "rule": Entry("openshell.cli.rule:rule", "Read what agents propose.", _POLICY),
    "provider": Entry(
        "openshell.cli.provider:provider", "Keep credentials for sandboxes.", _POLICY
    ),
    "inference": Entry(
        "openshell.cli.inference:inference", "Choose the model behind inference.local.", _POLICY
    ),
    "gateway": Entry("openshell.cli.gateway:gateway", "Start, stop and choose gateways.", _GATEWAY),
    "status": Entry("openshell.cli.status:status", "Show the gateway; starts nothing.", _GATEWAY),
    "whoami": Entry(
        "openshell.cli.status:whoami", "Show whom the gateway takes you for.", _GATEWAY
    ),
    "ssh-proxy": Entry(
        "openshell.cli.ssh:ssh_proxy", "Carry an SSH connection.", _SANDBOX, hidden=True
    ),
    "completions": Entry(
        "openshell.cli.completions:completions", "Print shell completion code.", _GATEWAY
    ),
}
_ELSEWHERE = {
    "create": "openshell sandbox create",
    "run": "openshell sandbox create",
    "exec": "openshell sandbox exec",
    "connect": "openshell sandbox connect",
    "list": "openshell sandbox list",
    "profile": "openshell provider profile",
    "start": "openshell gateway start",
    "stop": "openshell gateway stop",
}
_ALIASES = {"sb": "sandbox", "fwd": "forward", "lg": "logs", "pol": "policy", "gw": "gateway"}


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        import openshell

        click.echo(f"openshell {openshell.__version__}")
        context.exit()


cli = LazyGroup(
    "openshell",
    entries=_ENTRIES,
    aliases=_ALIASES,
    elsewhere=_ELSEWHERE,
    with_globals=True,
    help=(
        "Run AI agents in sandboxes whose files, network and credentials follow a policy.\n\n"
        "\b\n"
        "  openshell sandbox create -- bash          a shell in a new sandbox\n"
        "  openshell sandbox create --policy p.yaml -- claude\n"
        "  openshell logs                            what it did, what was refused\n"
    ),
)
cli.params.append(
    click.Option(
        ["-V", "--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_version,
        help="Print the version.",
    )
)


def main() -> None:
    """Runs the program and ends the process with the exit code."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    # grpc's threads are not waited for: everything that matters has been answered by now.
    sys.stderr.flush()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Runs one command line and answers its exit code."""
    from openshell.cli.failures import report

    try:
        if "_OPENSHELL_COMPLETE" in os.environ:
            cli.main(arguments, prog_name="openshell", complete_var="_OPENSHELL_COMPLETE")
        result = cli.main(arguments, prog_name="openshell", standalone_mode=False)
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except BaseException as error:  # everything ends in one sentence and a code
        return report(error)
    return result if isinstance(result, int) else 0


def _silence_stdout() -> None:
    """The reader is gone; nothing that follows may complain about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
