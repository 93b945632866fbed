"""The tours of the pages are what really happens, line by line, numbers aside."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from openshell.providers.situation import FaultCode
from support.pages import plain, play

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tours use curl: make system")
@pytest.mark.parametrize("page", ["README.md", "docs/policy.md", "docs/providers.md"])
def test_what_a_page_shows(page: str, tmp_path: Path) -> None:
    with closing(play(ROOT / page, tmp_path)) as steps:
        for step in steps:
            assert plain(step.said) == plain(step.shown), step.command


@pytest.mark.parametrize("fault", FaultCode)
def test_every_broken_rule_is_explained(fault: FaultCode) -> None:
    assert f"| `{fault.value}` |" in (ROOT / "docs/providers.md").read_text()
