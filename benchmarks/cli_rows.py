"""What the command line itself costs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from table import Row, repeat

from support.private_gateway import OPENSHELL


def rows() -> Iterator[Row]:
    yield Row(
        "openshell --help",
        80,
        "ms",
        repeat(20, lambda: subprocess.run([OPENSHELL, "--help"], capture_output=True, check=True)),
    )
