"""Where requests for models go: immutable routes of one generation. Pure.

A route holds a key of the operator, so it is shown nowhere: neither in a repr nor in what a client
is told. Made by the supervisor from what the gateway sent.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from openshell.egress.inference.limits import DEFAULT_SECONDS
from openshell.providers.inference_endpoint import Endpoint, EndpointRefused
from openshell.providers.inference_types import INFERENCE_TYPES, MODEL_DISCOVERY, InferenceType

__all__ = ["DEFAULT_ROUTE", "SYSTEM_ROUTE", "Route", "RouteUnusable", "Routes"]

DEFAULT_ROUTE: Final = "inference.local"
"""For every model that is no route's name."""
SYSTEM_ROUTE: Final = "sandbox-system"
"""For the supervisor's own use: no request of an agent is sent on it."""

# Visible ASCII and single blanks: what can stand in a field and be read in one way only.
_FIELD: Final = re.compile(r"[!-~]+(?: [!-~]+)*").fullmatch
_OVERRIDE: Final = re.compile(r"[:/][!-~]*").fullmatch


class RouteUnusable(ValueError):
    """What is wrong with a route that was sent; never holds a key."""


@dataclass(frozen=True, slots=True)
class Route:
    """One way to one model: the target of a named route or one of its fallbacks."""

    name: str
    kind: InferenceType
    endpoint: Endpoint
    model: str
    protocols: frozenset[str]
    seconds: int
    model_in_path: bool = False
    path_override: str | None = None
    key: str = field(default="", repr=False)

    @classmethod
    def read(
        cls,
        *,
        name: str,
        base_url: str,
        protocols: tuple[str, ...],
        key: str,
        model: str,
        provider_type: str,
        timeout_secs: int,
        model_in_path: bool,
        path_override: str | None,
    ) -> "Route":
        """Check what was sent. Raises RouteUnusable."""
        kind = INFERENCE_TYPES.get(provider_type)
        if kind is None:
            raise RouteUnusable(f"route '{name}' has a provider type that is not known here")
        if key and not _FIELD(key):
            raise RouteUnusable(f"route '{name}' has a key that cannot stand in a header")
        if not _FIELD(model):
            raise RouteUnusable(f"route '{name}' has a model name that cannot be sent")
        if path_override is not None and not _OVERRIDE(path_override):
            raise RouteUnusable(f"route '{name}' has a path that cannot be sent")
        try:
            endpoint = Endpoint.parse(base_url)
        except EndpointRefused as refused:
            raise RouteUnusable(f"route '{name}': {refused}") from None
        return cls(
            name,
            kind,
            endpoint,
            model,
            frozenset(protocols),
            timeout_secs or DEFAULT_SECONDS,
            model_in_path,
            path_override,
            key,
        )


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes of one moment. Those of one name are one route: its target, then its fallbacks."""

    revision: str = ""
    routes: tuple[Route, ...] = ()
    is_budgeted: bool = False
    """Whether the gateway is to be asked before each call."""

    @property
    def for_agents(self) -> tuple[Route, ...]:
        return tuple(route for route in self.routes if route.name != SYSTEM_ROUTE)

    @property
    def has_names(self) -> bool:
        """Whether the model that an agent names may choose a route."""
        return any(route.name != DEFAULT_ROUTE for route in self.for_agents)

    def find(self, protocol: str, model: str | None = None) -> tuple[Route, ...]:
        """What is asked, in this order: the route of the model's name, else the default one.

        Lists of models describe one provider, so they have no fallback.
        """
        name = DEFAULT_ROUTE
        if model is not None and any(route.name == model for route in self.for_agents):
            name = model
        found = tuple(
            route for route in self.for_agents if route.name == name and protocol in route.protocols
        )
        return found[:1] if protocol == MODEL_DISCOVERY else found
