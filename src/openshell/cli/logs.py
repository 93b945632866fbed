"""`openshell logs`: what a sandbox did and what was refused."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import output_option, print_structured, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openshell._proto import openshell_pb2

__all__ = ["format_line", "logs", "span_start_ms"]

_SINCE = re.compile(r"([0-9]{1,9})([smhd])")
_WHOLE_EVENT = "ocsf"
_INTERRUPTED = 130
"""As a shell reports a program that ended by Ctrl-C."""
_LEVELS = ("ERROR", "WARN", "INFO", "OCSF", "DEBUG", "TRACE")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@command("logs")
@click.argument("name", required=False)
@click.option(
    "-n",
    "lines",
    type=click.IntRange(1, 100_000),
    default=200,
    show_default=True,
    help="How many of the newest lines.",
)
@click.option("-f", "--tail", "follow", is_flag=True, help="Go on with new lines as they come.")
@click.option("--since", metavar="T", help="Only lines newer than 30s, 5m, 2h or 1d.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Choice(["gateway", "sandbox", "all"]),
    help="Only lines of this source; repeatable.",
)
@click.option(
    "--level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    help="Only lines of this level or more severe; OCSF are decisions, as severe as INFO.",
)
@output_option()
def logs(
    name: str | None,
    lines: int,
    follow: bool,
    since: str | None,
    sources: tuple[str, ...],
    level: str | None,
    output: str,
) -> None:
    """Show the log of a sandbox: decisions of its proxy, its processes, its configuration."""
    if follow and output != "table":
        raise click.UsageError("--tail prints lines: leave out -o")
    since_ms = span_start_ms(since) if since else 0
    wanted = [source for source in sources if source != "all"]
    from openshell.sdk.nouns import LogClient

    with session(start=False) as opened:
        ref = opened.client.get(opened.sandbox_name(name), workspace=opened.workspace)
        client = LogClient(opened.client)
        if follow:
            _follow(
                client.follow(
                    ref.id, lines=lines, since_ms=since_ms, sources=wanted, min_level=level or ""
                )
            )
            return
        found = client.read(
            ref.id,
            workspace=opened.workspace,
            lines=lines,
            since_ms=since_ms,
            sources=wanted,
            min_level=level or "",
        )
    if output != "table":
        print_structured([_document(line) for line in found], output)
        return
    for line in found:
        print(format_line(line))


def _follow(lines: Iterator[openshell_pb2.SandboxLogLine]) -> None:
    """Print lines until the sandbox ends, or the person stops it: that is no failure to tell of."""
    try:
        for line in lines:
            print(format_line(line), flush=True)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(_INTERRUPTED) from None


def span_start_ms(text: str) -> int:
    found = _SINCE.fullmatch(text)
    if found is None:
        raise CliError(f"--since '{text}' is not a time span: write 30s, 5m, 2h or 1d")
    return int(time.time() * 1000) - int(found[1]) * _UNIT_MS[found[2]]


def format_line(line: openshell_pb2.SandboxLogLine) -> str:
    """`[sec.ms] [source ] [LEVEL] [target] message k=v ...`, safe to print.

    The whole event in its JSON form is left to `-o json`: the message says it in one line, but for
    the change that would allow what was refused.
    """
    shown = sorted(key for key in line.fields if key != _WHOLE_EVENT)
    fields = "".join(f" {key}={line.fields[key]}" for key in shown)
    advice = _advice(line.fields.get(_WHOLE_EVENT, ""))
    fields += f" [fix:{advice}]" if advice else ""
    return printable(
        f"[{line.timestamp_ms // 1000}.{line.timestamp_ms % 1000:03d}] "
        f"[{line.source or 'gateway':<7}] [{line.level:<5}] [{line.target}] {line.message}{fields}"
    )


def _advice(event: str) -> str:
    """What the event suggests; empty where it suggests nothing or is none of ours."""
    if '"suggestion"' not in event:
        return ""
    try:
        suggestion = json.loads(event)["unmapped"]["suggestion"]
    except (ValueError, KeyError, TypeError):
        return ""
    return suggestion if isinstance(suggestion, str) else ""


def _document(line: openshell_pb2.SandboxLogLine) -> dict[str, object]:
    return {
        "timestamp_ms": line.timestamp_ms,
        "source": line.source or "gateway",
        "level": line.level,
        "target": line.target,
        "message": line.message,
        "fields": dict(line.fields),
    }
