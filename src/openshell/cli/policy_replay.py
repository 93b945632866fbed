"""`openshell policy replay`: recorded traffic of a sandbox put to a policy that is not in force yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import session
from openshell.cli.groups import command
from openshell.cli.logs import span_start_ms
from openshell.cli.output import bold, note, output_option, print_structured, printable, timestamp

if TYPE_CHECKING:
    from openshell._proto import openshell_pb2
    from openshell.policy.model import SandboxPolicy
    from openshell.policy.replay import ReplayChange, ReplayReport

__all__ = ["replay"]

_EVENTS = ("sandbox",)
"""Where decisions are logged; lines of the gateway hold none."""


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
    from openshell.sdk.replay import DecisionReader

    since_ms = span_start_ms(since) if since else 0
    candidate = usable_policy(path)
    reader = DecisionReader()
    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        ref = opened.client.get(chosen, workspace=opened.workspace)
        candidate = _composed(candidate, PolicyClient(opened.client).effective(ref.id))
        log = _Log(
            LogClient(opened.client).pages(
                ref.id,
                workspace=opened.workspace,
                since_ms=since_ms,
                sources=_EVENTS,
                min_level="OCSF",
            )
        )
        report = run((found for page in log for found in reader.read(page.logs)), candidate)
    if output == "json":
        document: dict[str, Any] = {
            "sandbox": chosen,
            "oldest_ms": log.oldest_ms or None,
            "is_partial": not log.is_complete,
            "skipped": dict(reader.skipped),
            **report.to_json(),
        }
        print_structured(document, output)
        return
    if not log.is_complete:
        since = f" than those of {timestamp(log.oldest_ms)}" if log.oldest_ms else ""
        note(f"Older decisions may be missing: the log is full and keeps no older lines{since}")
    _print_report(report, reader.skipped)


class _Log:
    """Pages on their way through, and how far back they went: no more than one is held."""

    def __init__(self, pages: Iterator[openshell_pb2.GetSandboxLogsResponse]) -> None:
        self._pages = pages
        self.oldest_ms = 0
        self.is_complete = False

    def __iter__(self) -> Iterator[openshell_pb2.GetSandboxLogsResponse]:
        for page in self._pages:
            if page.logs:
                self.oldest_ms = page.logs[0].timestamp_ms
            self.is_complete = page.is_complete
            yield page


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
    from openshell.policy.advice import place

    after = change.after.value if change.after else "open"
    head = (
        f"{change.before.value} -> {after}  {change.count}x  {change.binary or 'any program'}  "
        f"{place(change.host, change.port)}"
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
