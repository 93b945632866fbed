"""The stages that a policy attaches to hosts, and which of them a request to one host passes. Immutable.

Selection looks at the host alone, whatever rule admitted the request; every attachment that matches runs
once, by `order` and then key. Built with every generation by the supervisor, asked by `judging`. What a
stage does is its `Implementation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from openshell.egress.middleware.values import Answer, Evaluation, StageFailed, StageFault
from openshell.policy.globs import GlobError, TextMatcher, compile_selector
from openshell.policy.hosts import normalize_host
from openshell.policy.model import JsonValue, MiddlewareConfig

__all__ = [
    "PLATFORM_BODY_LIMIT",
    "Chain",
    "Implementation",
    "Middlewares",
    "Stage",
    "Unavailable",
]

# Whatever services offer: a body is held whole, here and in every stage.
PLATFORM_BODY_LIMIT: Final = 4 * 1024 * 1024
_STAGE_SECONDS: Final = 0.5
# Hosts whose chain is remembered; beyond that it is found anew, which takes microseconds.
_MAX_KNOWN: Final = 512


class Implementation(Protocol):
    """What a stage runs. Compared by identity: the same object in two generations is the same stage."""

    @property
    def body_limit(self) -> int:
        """The largest body it takes."""

    @property
    def seconds(self) -> float:
        """How long one answer may take."""

    async def evaluate(self, evaluation: Evaluation) -> Answer:
        """Judge a request. Raises StageFailed; any other exception is a failure, too."""


class Unavailable:
    """Stands where an implementation should be: every request finds the stage failed."""

    body_limit: Final = PLATFORM_BODY_LIMIT
    seconds: Final = _STAGE_SECONDS

    def __init__(self, fault: StageFault = StageFault.SERVICE) -> None:
        self._fault = fault

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unavailable) and other._fault is self._fault

    def __hash__(self) -> int:
        return hash(self._fault)

    async def evaluate(self, evaluation: Evaluation) -> Answer:  # noqa: ARG002 - of the protocol
        raise StageFailed(self._fault)


@dataclass(frozen=True, slots=True)
class Stage:
    """One attachment."""

    key: str
    name: str
    implementation: Implementation
    fails_open: bool
    config: Mapping[str, JsonValue] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Chain:
    """The stages of one host, at least one. Two are equal if they treat a request the same."""

    stages: tuple[Stage, ...]

    @property
    def must_see(self) -> bool:
        """Whether traffic that cannot be shown to every stage is refused."""
        return not all(stage.fails_open for stage in self.stages)

    @property
    def body_limit(self) -> int:
        limits = (stage.implementation.body_limit for stage in self.stages)
        return min(PLATFORM_BODY_LIMIT, *limits)


@dataclass(frozen=True, slots=True)
class _Attached:
    stage: Stage
    include: tuple[TextMatcher, ...]
    exclude: tuple[TextMatcher, ...]

    def selects(self, host: str) -> bool:
        return any(m(host) for m in self.include) and not any(m(host) for m in self.exclude)


class Middlewares:
    """The attachments of one policy."""

    __slots__ = ("_attached", "_known")

    def __init__(
        self,
        configs: Mapping[str, MiddlewareConfig],
        implementations: Mapping[str, Implementation],
    ) -> None:
        """Raise ValueError on a host pattern that cannot be read."""
        found = (
            _attach(configs[key], implementations)
            for key in sorted(configs, key=lambda key: (configs[key].order, key))
        )
        self._attached = tuple(found)
        self._known: dict[str, Chain | None] = {}

    def chain_for(self, host: str) -> Chain | None:
        """The stages that requests to `host` pass; None where there are none."""
        try:
            return self._known[host]
        except KeyError:
            pass
        # A name with a final dot is the same host: it must not slip past.
        plain = normalize_host(host).rstrip(".")
        stages = tuple(a.stage for a in self._attached if a.selects(plain))
        chain = Chain(stages) if stages else None
        if len(self._known) < _MAX_KNOWN:
            self._known[host] = chain
        return chain


def _attach(config: MiddlewareConfig, known: Mapping[str, Implementation]) -> _Attached:
    stage = Stage(
        config.key,
        config.name or config.key,
        known.get(config.middleware) or Unavailable(),
        config.on_error == "fail_open",
        config.config,
    )
    try:
        include = tuple(compile_selector(pattern) for pattern in config.include)
        exclude = tuple(compile_selector(pattern) for pattern in config.exclude)
    except GlobError as error:
        raise ValueError(f"network_middlewares.{config.key}.endpoints: {error}") from error
    return _Attached(stage, include, exclude)
