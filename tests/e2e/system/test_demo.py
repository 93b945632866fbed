"""The demo is a test: it exits 0 only if every step came out as told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.isolation.unprivileged import is_root, ordinary_directory, run_unprivileged
from support.traces import processes_naming

ROOT = Path(__file__).parents[3]
DEMO = str(ROOT / "examples/demo/demo.py")
STEPS = 19


def check(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert ran.stdout.count("✓") == STEPS
    assert "Updated provider profile." in ran.stdout
    assert "NOT AS EXPECTED" not in ran.stdout
    assert "Traceback" not in ran.stderr


def test_the_demo() -> None:
    ran = subprocess.run(
        [sys.executable, DEMO],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    check(ran)


@pytest.mark.root
@pytest.mark.skipif(not is_root(), reason="the test above already runs as an ordinary user")
def test_the_demo_as_an_ordinary_user() -> None:
    with ordinary_directory() as directory:
        argv = ["/usr/bin/env", f"TMPDIR={directory}", "PYTHONDONTWRITEBYTECODE=1"]
        ran = run_unprivileged([*argv, sys.executable, DEMO], also=[str(ROOT)], timeout=110)
        check(ran)
        assert not processes_naming(directory)
