"""The same tests once more, as an ordinary user: nothing here may need root."""

import os
import sys

import pytest

from e2e.isolation.unprivileged import is_root, ordinary_directory, run_unprivileged

HERE = os.path.dirname(__file__)
MODULES = ("test_exec", "test_lifecycle", "test_session", "test_supervisor_process")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))


@pytest.mark.root
@pytest.mark.skipif(not is_root(), reason="the other modules already run as an ordinary user")
def test_all_of_it_as_an_ordinary_user():
    modules = [f"{HERE}/{name}.py" for name in MODULES]
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
                ROOT,
                *modules,
            ],
            also=[ROOT],
            timeout=110,
        )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
