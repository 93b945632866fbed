"""`make bench`: the design's budget table beside what this machine measures, as text and as JSON.

Every number comes from this run; peers that are installed run in it too. Medians of repeated runs;
budgets are goals, never asserted. `python benchmarks/run.py create exec` runs only these rows;
`--json FILE` says where the JSON goes.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

import cli_rows
import decision_rows
import http2_rows
import load_rows
import provider_rows
import proxy_rows
import sandbox_rows
from table import Row, print_rows, write_json

_SUITES: dict[str, Callable[[], Iterator[Row]]] = {
    "cli": cli_rows.rows,
    "decision": decision_rows.rows,
    "sandbox": sandbox_rows.rows,
    "provider": provider_rows.rows,
    "proxy": proxy_rows.rows,
    "load": load_rows.rows,
    "http2": http2_rows.rows,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[*_SUITES, []], help="default: all")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE")
    options = parser.parse_args()
    print(
        f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"uid {os.getuid()}"
    )
    rows: list[Row] = []
    for name in options.suites or _SUITES:
        for row in _SUITES[name]():
            rows.append(row)
            print(f"  {row.what}: {row.median:.3g} {row.unit}", file=sys.stderr, flush=True)
    print_rows(rows)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(rows, options.json)
    print(f"as JSON: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
