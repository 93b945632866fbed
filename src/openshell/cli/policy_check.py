"""`openshell policy check`: a policy file judged and explained without any gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import bold, note, output_option, print_structured, print_table, printable

if TYPE_CHECKING:
    from openshell.policy.asked import AskedRequest
    from openshell.policy.explain import Explanation
    from openshell.policy.findings import Finding
    from openshell.policy.grants import Allowance
    from openshell.policy.model import SandboxPolicy

__all__ = ["check"]

_MARKS = {"pass": "✓", "fail": "✗", "note": "·"}
_NAME_WIDTH = 12


@command("check")
@click.argument("file")
@click.option(
    "--request",
    "requests",
    multiple=True,
    metavar="'METHOD URL'",
    help="Explain this request, or host:port; repeatable.",
)
@click.option("--binary", metavar="PATH", help="The program that sends it, as the kernel names it.")
@click.option(
    "--ancestor",
    "ancestors",
    multiple=True,
    metavar="PATH",
    help="A parent of that program, nearest first; repeatable.",
)
@output_option("table", "json")
@click.pass_context
def check(
    context: click.Context,
    file: str,
    requests: tuple[str, ...],
    binary: str | None,
    ancestors: tuple[str, ...],
    output: str,
) -> None:
    """Check a policy file and show what it allows, program by program.

    With --request: explain step by step what would become of that request.

    \b
        openshell policy check policy.yaml
        openshell policy check policy.yaml --binary /usr/bin/curl --request 'GET https://x.dev/a'

    Exit code 1 when the policy is not valid or one of the requests is refused. A request that only
    its body decides is open, and not refused.
    """
    if (binary or ancestors) and not requests:
        raise click.UsageError("--binary and --ancestor belong to a --request")
    if ancestors and not binary:
        raise click.UsageError("--ancestor needs --binary")
    for option, path in (("--binary", binary or "/"), *(("--ancestor", it) for it in ancestors)):
        if not path.startswith("/"):
            raise click.UsageError(
                f"{option} '{path}': give an absolute path, for example /usr/bin/curl"
            )
    from openshell.cli.policy_text import parse_policy_file
    from openshell.policy.defaults import check_startable
    from openshell.policy.explain import explain
    from openshell.policy.findings import errors_of
    from openshell.policy.validate import check_authored, validate_policy

    asked = [_asked(text) for text in requests]
    policy = parse_policy_file(file)
    findings = (*check_authored(policy), *validate_policy(policy), *check_startable(policy))
    valid = not errors_of(findings)
    # What a refused policy would allow is nobody's question.
    explained = (
        [
            (text, explain(policy, one, binary=binary, ancestors=ancestors))
            for text, one in zip(requests, asked, strict=True)
        ]
        if valid
        else []
    )
    if output == "json":
        print_structured(_document(policy, findings, explained, valid=valid), output)
    else:
        _print_findings(file, findings)
        if not valid:
            raise CliError("the policy is not valid")
        if not requests:
            _print_allowances(_allowances(policy))
        for text, explanation in explained:
            _print_explanation(text, binary, explanation)
    if not valid or any(one.outcome == "denied" for _, one in explained):
        context.exit(1)


def _asked(text: str) -> AskedRequest:
    from openshell.policy.asked import AskedRequest, RequestTextError

    try:
        return AskedRequest.parse(text)
    except RequestTextError as error:
        raise CliError(f"--request: {error}") from error


def _allowances(policy: SandboxPolicy) -> tuple[Allowance, ...]:
    from openshell.policy.grants import Grants

    return Grants(policy).table()


def _document(
    policy: SandboxPolicy,
    findings: tuple[Finding, ...],
    explained: list[tuple[str, Explanation]],
    *,
    valid: bool,
) -> dict[str, Any]:
    from openshell.policy.grants import terms_json

    return {
        "valid": valid,
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity.value,
                "location": finding.location,
                "message": finding.message,
            }
            for finding in findings
        ],
        "allows": [
            {
                "binary": item.reach.binary,
                "host": item.reach.host,
                "port": item.reach.port,
                **terms_json(item.terms),
            }
            for item in (_allowances(policy) if valid else ())
        ],
        "requests": [{"request": text, **one.to_json()} for text, one in explained],
    }


def _print_findings(file: str, findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        word = finding.severity.value.capitalize()
        note(printable(f"{word}: {file}: {finding.location}: {finding.message}"))


def _print_allowances(table: tuple[Allowance, ...]) -> None:
    from openshell.policy.diff_text import terms_line

    if not table:
        note("The policy is valid and allows no network.")
        return
    print_table(
        ["BINARY", "ENDPOINT", "TERMS"],
        ([item.reach.binary, item.reach.place, terms_line(item.terms)] for item in table),
    )


def _print_explanation(text: str, binary: str | None, explanation: Explanation) -> None:
    who = f" by {binary}" if binary else ""
    outcome = explanation.outcome.value if explanation.outcome else "open"
    print(bold(printable(f"{text}{who}: {outcome}")))
    for step in explanation.steps:
        name = step.name.ljust(_NAME_WIDTH)
        print(printable(f"  {_MARKS[step.verdict.value]} {name} {step.detail}"))
    for label, value in (
        ("nearest rule", explanation.nearest_rule),
        ("to allow it", explanation.suggestion),
    ):
        if value:
            print(printable(f"    {label.ljust(_NAME_WIDTH)} {value}"))
