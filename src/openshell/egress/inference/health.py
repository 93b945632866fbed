"""Which targets of a route are asked first: those that did not just fail. Pure; one sandbox's own view.

A target that failed cools down: meanwhile it is asked after the others, so that requests do not wait
for a dead provider each. It is never left out, a route without another target is always asked. When
it has cooled, one request tries it and the next ones still go around until that one has ended well.
Forgotten with the sandbox's supervisor; asked by `call`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from openshell.egress.inference.limits import COOL_SECONDS, MAX_COOL_SECONDS
from openshell.egress.inference.routes import Route

__all__ = ["FAILED_STATUSES", "Health"]

FAILED_STATUSES: Final = frozenset({429, 500, 502, 503, 504, 529})
"""Answers that say that another provider should be asked; 529 is Anthropic's for overloaded.

Refusals of the request or of the key are none of them: another would hide what the operator must mend.
"""
# Beyond the targets of any workspace; keys that were replaced leave theirs behind.
_MAX_KNOWN: Final = 256

_Target = tuple[str, str, str]


@dataclass(slots=True)
class _Cooling:
    failures: int
    until: float


class Health:
    """Remembers the targets that failed."""

    __slots__ = ("_clock", "_cooling")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cooling: dict[_Target, _Cooling] = {}

    def order(self, targets: tuple[Route, ...]) -> tuple[Route, ...]:
        """All of them, those that cool down last. Claims the trial of the first one that has cooled."""
        if len(targets) < 2 or not self._cooling:
            return targets
        now = self._clock()
        first: list[Route] = []
        last: list[Route] = []
        for target in targets:
            state = self._cooling.get(_key(target))
            (last if state is not None and state.until > now else first).append(target)
        if first and (tried := self._cooling.get(_key(first[0]))) is not None:
            tried.until = now + _seconds(tried.failures)
        return (*first, *last)

    def failed(self, target: Route) -> None:
        key, now = _key(target), self._clock()
        state = self._cooling.pop(key, None)
        failures = 1 if state is None else state.failures + 1
        while len(self._cooling) >= _MAX_KNOWN:
            del self._cooling[next(iter(self._cooling))]
        self._cooling[key] = _Cooling(failures, now + _seconds(failures))

    def worked(self, target: Route) -> None:
        self._cooling.pop(_key(target), None)


def _key(target: Route) -> _Target:
    # With the key: one that was replaced is tried at once.
    return target.endpoint.url, target.model, target.key


def _seconds(failures: int) -> float:
    return min(COOL_SECONDS * 2.0 ** min(failures - 1, 16), MAX_COOL_SECONDS)
