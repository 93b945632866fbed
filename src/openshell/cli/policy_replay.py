"""`openshell policy replay`: recorded traffic of a sandbox put to a policy that is not in force yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import session
from openshell.cli.groups import command
from openshell.cli.logs import _since
from openshell.cli.output import bold, note, output_option, print_structured, printable, timestamp

if TYPE_CHECKING:
    from openshell.policy.model import SandboxPolicy
    from openshell.policy.replay import ReplayChange, ReplayReport

__all__ = ["replay"]

_LINES = 10_000
"""Log lines asked for: as many as a gateway gives in one answer."""


@command("replay")
@click.argument("name", required=False)
@click.option("--policy", "path", required=True, metavar="FILE", help="The candidate policy.")
@click.option("--since", metavar="T", help="Only decisions newer than 30s, 5m, 2h or 1d.")
@output_option("table", "json")
def replay(name: str | None, path: str, since: str | None, output: str) -> None:
    """Show which recorded decisions of a sandbox a policy would make differently.

    Rules of attached providers count as they are now; nothing is changed.
    """
    from openshell.cli.policy_text import usable_policy
    from openshell.policy.replay import replay as run
    from openshell.sdk.nouns import LogClient, PolicyClient
    from openshell.sdk.replay import recorded_decisions

    since_ms = _since(since) if since else 0
    candidate = usable_policy(path)
    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        ref = opened.client.get(chosen, workspace=opened.workspace)
        logs = LogClient(opened.client)
        answer = logs.read(ref.id, workspace=opened.workspace, lines=_LINES, since_ms=since_ms)
        effective = PolicyClient(opened.client).effective(ref.id)
        candidate = _composed(candidate, effective)
    recorded = recorded_decisions(answer.logs)
    report = run(recorded.decisions, candidate)
    oldest = min((line.timestamp_ms for line in answer.logs), default=0)
    # The gateway gives its newest lines; whether older ones exist only a full answer tells.
    partial = answer.buffer_total >= _LINES and oldest > since_ms
    if output == "json":
        document: dict[str, Any] = {
            "sandbox": chosen,
            "oldest_ms": oldest or None,
            "is_partial": partial,
            "skipped": dict(recorded.skipped),
            **report.to_json(),
        }
        print_structured(document, output)
        return
    if partial:
        note(f"Only the newest {_LINES} log lines were read, back to {timestamp(oldest)}")
    _print_report(report, recorded.skipped)


def _composed(candidate: SandboxPolicy, effective: Any) -> SandboxPolicy:
    """The candidate beside the rules that attached providers add to it."""
    from openshell.codec.policy import policy_from_proto
    from openshell.policy.model import PROVIDER_KEY_PREFIX

    layers = {
        key: rule
        for key, rule in policy_from_proto(effective.policy).network_policies.items()
        if key.startswith(PROVIDER_KEY_PREFIX)
    }
    rules = MappingProxyType({**candidate.network_policies, **layers})
    return replace(candidate, network_policies=rules)


def _print_report(report: ReplayReport, skipped: Mapping[str, int]) -> None:
    changed = sum(change.count for change in report.changes)
    open_ = sum(change.count for change in report.undecided)
    print(
        f"{report.total} decisions: {report.unchanged} unchanged, {changed} changed, {open_} open"
    )
    for change in (*report.changes, *report.undecided):
        _print_change(change)
    for reason, count in skipped.items():
        note(printable(f"Not replayed: {count} ({reason})"))


def _print_change(change: ReplayChange) -> None:
    after = change.after.value if change.after else "open"
    host = f"[{change.host}]" if ":" in change.host else change.host
    head = (
        f"{change.before.value} -> {after}  {change.count}x  {change.binary or 'any program'}  "
        f"{host}:{change.port}"
    )
    print(bold(printable(head)))
    lines = [("example", f"{change.example.request_line} at {timestamp(change.example.time_ms)}")]
    if change.reason:
        lines.append(("reason", change.reason))
    if change.suggestion:
        lines.append(("to allow it", change.suggestion))
    lines += [("but", doubt) for doubt in change.doubts]
    for label, value in lines:
        print(printable(f"  {label + ':':<13}{value}"))
