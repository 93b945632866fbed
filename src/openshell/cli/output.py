"""What people and programs read: tables, blocks, JSON and YAML.

Colour only for a terminal and without NO_COLOR. Structured output is sorted by key, two spaces deep.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import click

__all__ = [
    "bold",
    "check",
    "dim",
    "note",
    "output_option",
    "print_block",
    "print_structured",
    "print_table",
    "printable",
    "timestamp",
]

_LAST_MS: Final = 253_402_300_799_000
"""The last second that a date can say; ends of credentials may be set beyond it."""


def _styled(text: str, code: str, stream: TextIO) -> str:
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        return f"\x1b[{code}m{text}\x1b[0m"
    return text


def bold(text: str, stream: TextIO | None = None) -> str:
    return _styled(text, "1", stream or sys.stdout)


def dim(text: str, stream: TextIO | None = None) -> str:
    return _styled(text, "2", stream or sys.stdout)


def check(stream: TextIO | None = None) -> str:
    """A tick; green on a terminal."""
    return _styled("✓", "32", stream or sys.stdout)


def note(message: str) -> None:
    """A line for the person, not for a pipe."""
    print(message, file=sys.stderr)


def timestamp(epoch_ms: int) -> str:
    """`YYYY-MM-DD HH:MM:SS` in UTC, `-` for none."""
    if epoch_ms <= 0:
        return "-"
    return datetime.fromtimestamp(min(epoch_ms, _LAST_MS) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Left-aligned columns, two spaces between, the last one unpadded, header bold."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [
        max(len(header), *(len(row[column]) for row in cells), 0)
        for column, header in enumerate(headers)
    ]

    def line(row: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        padded[-1] = row[-1]
        return "  ".join(padded)

    print(bold(line(headers)))
    for row in cells:
        print(line(row))


def print_block(title: str, pairs: Iterable[tuple[str, object]]) -> None:
    """A heading and indented `label: value` lines."""
    print(bold(f"{title}:"))
    for label, value in pairs:
        print(f"  {dim(label + ':')} {printable(str(value))}")


def printable(text: str) -> str:
    """Control characters made visible: what a sandbox writes must not drive the terminal."""
    return "".join(
        char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in text
    )


def print_structured(document: Any, form: str) -> None:
    """Writes JSON or YAML."""
    if form == "json":
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
        # JSON itself escapes less than a terminal obeys.
        print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))
        return
    import yaml

    print(yaml.safe_dump(_plain(document), sort_keys=True, allow_unicode=True), end="")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def output_option(*forms: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The `-o` option; without arguments it takes table, yaml and json."""
    choices = forms or ("table", "yaml", "json")
    return click.option(
        "-o",
        "--output",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help="Form of the output.",
    )
