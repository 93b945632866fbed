"""Chooses inputs for the corpus: the smallest ones that together reach all that any of them reaches.

What is reached are the steps from line to line in our own code. libFuzzer can merge corpora as well, but
starts itself anew for it, which a program in Python is not made for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

from fuzz.targets import Run

__all__ = ["smallest_that_reach"]

_OURS = "/openshell/"
_Step = tuple[str, int, int]


def smallest_that_reach(run: Run, known: Iterable[bytes], new: Iterable[bytes]) -> list[bytes]:
    """Of the new inputs those that reach more than the known ones, and each other, smallest first."""
    seen: set[_Step] = set()
    for data in known:
        seen |= _steps(run, data)
    kept = []
    for data in sorted(new, key=lambda one: (len(one), one)):
        steps = _steps(run, data)
        if not steps <= seen:
            seen |= steps
            kept.append(data)
    return kept


def _steps(run: Run, data: bytes) -> set[_Step]:
    found: set[_Step] = set()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if _OURS not in name:
            return None
        last = 0

        def step(frame: FrameType, _event: str, _argument: Any) -> Any:
            nonlocal last
            found.add((name, last, frame.f_lineno))
            last = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        run(data)
    finally:
        sys.settrace(before)
    return found
