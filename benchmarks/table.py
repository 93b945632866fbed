"""Rows of the budget table and how they are printed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """The same job done by someone else in the same run."""

    name: str
    value: float


@dataclass
class Row:
    """One measurement: median of `samples`, in `unit`, beside its budget and its peers."""

    what: str
    budget: float
    unit: str
    samples: list[float]
    peers: list[Peer] = field(default_factory=list)
    more_is_better: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def met(self) -> bool:
        return self.median >= self.budget if self.more_is_better else self.median <= self.budget


def timed(action: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def repeat(times: int, action: Callable[[], object]) -> list[float]:
    return [timed(action) for _ in range(times)]


def median_ms(times: int, action: Callable[[], object]) -> float:
    return statistics.median(repeat(times, action))


def print_rows(rows: Iterable[Row]) -> None:
    header = ("what", "budget", "median", "min - max", "peer (ratio ours/peer)")
    lines = [
        (
            row.what,
            f"{row.budget:g} {row.unit}",
            f"{row.median:.3g} {row.unit} {'ok' if row.met else 'over'}",
            f"{min(row.samples):.3g} - {max(row.samples):.3g}",
            ", ".join(f"{p.name} {p.value:.3g} ({row.median / p.value:.2f})" for p in row.peers)
            or row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    for line in [header, *lines]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def write_json(rows: Iterable[Row], path: Path) -> None:
    document = [
        {**asdict(row), "median": row.median, "met": row.met, "runs": len(row.samples)}
        for row in rows
    ]
    path.write_text(json.dumps(document, indent=2) + "\n")
