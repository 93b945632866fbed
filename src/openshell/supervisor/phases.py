"""The named steps of a start, with their times and the error of the one that failed.

The kernel-side steps come from isolation with many small names; here they become the five that
people see: rootfs, namespaces, isolation, supervisor, ready.
"""

import time
from collections.abc import Sequence
from typing import Protocol

from openshell.drivers.base import Phase

__all__ = ["NAMES", "Phases", "Step"]

NAMES = ("namespaces", "rootfs", "isolation", "supervisor", "ready")

# Steps of isolation -> the phase that people see; anything else belongs to isolation.
_ROOTFS = frozenset({"init.sources", "init.rootfs", "init.kernel_files", "init.pivot", "trees"})
_NAMESPACES = frozenset(
    {"cgroups", "clone", "identity_maps", "init.detach", "init.maps", "init.identity", "identity"}
)


class Step(Protocol):
    """One small step on the monotonic clock."""

    @property
    def name(self) -> str: ...

    @property
    def started_ns(self) -> int: ...

    @property
    def ended_ns(self) -> int: ...


class Phases:
    """What happened so far; times are on the wall clock, in milliseconds."""

    def __init__(self) -> None:
        # Difference of the clocks, so that monotonic times can be shown as dates.
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._done: list[Phase] = []
        self._open: Phase | None = None

    def add_steps(self, steps: Sequence[Step]) -> None:
        """Take over what isolation measured, folded into our names."""
        spans: dict[str, tuple[int, int]] = {}
        for step in steps:
            name = phase_of(step.name)
            if step.name == "init":
                # The wait for all of it; its parts are counted by themselves.
                continue
            first, last = spans.get(name, (step.started_ns, step.ended_ns))
            spans[name] = (min(first, step.started_ns), max(last, step.ended_ns))
        for name in NAMES:
            if name in spans:
                first, last = spans[name]
                self._done.append(Phase(name, self._ms(first), self._ms(last)))

    def begin(self, name: str) -> None:
        """A phase starts; the one before it has ended."""
        self.end()
        self._open = Phase(name, self._ms(time.monotonic_ns()))

    def end(self) -> None:
        """The phase that runs has ended well."""
        if self._open is not None:
            now = self._ms(time.monotonic_ns())
            self._done.append(Phase(self._open.name, self._open.started_at_ms, now))
            self._open = None

    def fail(self, name: str, code: str, message: str) -> None:
        """The phase that runs, or this one, failed."""
        now = self._ms(time.monotonic_ns())
        started = self._open.started_at_ms if self._open is not None else now
        name = self._open.name if self._open is not None else name
        self._open = None
        self._done.append(Phase(name, started, now, code, message))

    def current(self) -> tuple[Phase, ...]:
        """Everything so far, the running phase last."""
        return (*self._done, self._open) if self._open is not None else tuple(self._done)

    def _ms(self, monotonic_ns: int) -> int:
        return (monotonic_ns + self._offset_ns) // 1_000_000


def phase_of(step: str) -> str:
    """The phase that a step of isolation belongs to."""
    if step in _ROOTFS:
        return "rootfs"
    return "namespaces" if step in _NAMESPACES else "isolation"
