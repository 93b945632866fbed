"""The tour of the README is what really happens, line by line, numbers aside."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from support.pages import plain, play

README = Path(__file__).parents[3] / "README.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour uses curl: make system")
def test_the_tour(tmp_path: Path) -> None:
    with closing(play(README, tmp_path)) as steps:
        for step in steps:
            assert plain(step.said) == plain(step.shown), step.command
