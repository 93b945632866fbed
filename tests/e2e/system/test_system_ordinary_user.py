"""The system tests once more as an ordinary user, one test per module so that they may run apart."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from e2e.isolation.unprivileged import is_root, ordinary_directory, run_unprivileged

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# Tables that end in a parser, before anything depends on who runs it, are not gone through again.
MODULES = {
    "attach_and_exec": "",
    "bad_input": "not wrong and not unknown",
    **({"crashes": ""} if "OPENSHELL_LONG" in os.environ else {}),
    "network_escapes": "not ambiguous and not rules_name and not very_name and not a_path",
    "secrets": "",
}


@pytest.mark.root
@pytest.mark.skipif(not is_root(), reason="the other modules already run as an ordinary user")
@pytest.mark.parametrize(("module", "selected"), MODULES.items(), ids=MODULES)
def test_as_an_ordinary_user(module: str, selected: str) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    with ordinary_directory() as directory:
        ran = run_unprivileged(
            [
                "/usr/bin/env",
                f"TMPDIR={directory}",
                "PYTHONDONTWRITEBYTECODE=1",
                *argv,
                "-c",
                f"{ROOT}/pyproject.toml",
                "--rootdir",
                str(ROOT),
                str(HERE / f"test_{module}.py"),
                "-k",
                selected,
            ],
            also=[str(ROOT)],
            timeout=115,
        )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
