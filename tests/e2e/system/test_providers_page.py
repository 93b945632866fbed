"""The tutorial of docs/providers.md is what really happens, line by line, numbers aside."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from openshell.providers.situation import FaultCode
from support.pages import plain, play

PAGE = Path(__file__).parents[3] / "docs/providers.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial uses curl: make system")
def test_the_tutorial(tmp_path: Path) -> None:
    with closing(play(PAGE, tmp_path)) as steps:
        for step in steps:
            assert plain(step.said) == plain(step.shown), step.command


@pytest.mark.parametrize("fault", FaultCode)
def test_every_broken_rule_is_explained(fault: FaultCode) -> None:
    assert f"| `{fault.value}` |" in PAGE.read_text()
