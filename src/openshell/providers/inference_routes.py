"""From a provider and a model to a route: where to ask, in which protocols, with which credential. Pure.

The gateway asks twice: when a route is set, to refuse one that could never work, and whenever a
supervisor fetches its routes. What Google's addresses look like is `inference_vertex`' part. The
plan names the credential; its value is nobody's business here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openshell.providers.inference_endpoint import Endpoint, EndpointRefused
from openshell.providers.inference_types import (
    BEDROCK_INVOKE,
    INFERENCE_TYPES,
    MODEL_DISCOVERY,
    VERTEX,
    Auth,
    InferenceType,
    inference_type,
)
from openshell.providers.inference_vertex import VertexRefused, vertex_place
from openshell.providers.records import ProviderRecord

__all__ = [
    "DEFAULT_ROUTE",
    "SYSTEM_ROUTE",
    "RoutePlan",
    "RouteRefused",
    "check_fallback",
    "is_route_name",
    "plan_route",
]

DEFAULT_ROUTE: Final = "inference.local"
"""The route that sandboxes reach under this host name."""
SYSTEM_ROUTE: Final = "sandbox-system"
"""For the supervisor's own use; no request of an agent is sent on it."""
MAX_MODEL_BYTES: Final = 256
"""Names of models have a few dozen; a Bedrock ARN may have more."""

_MODEL: Final = re.compile(r"[!-~]+").fullmatch


# As names of sandboxes, so that they can stand where a model's name does.
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch


class RouteRefused(ValueError):
    """Why a provider cannot serve a route; a sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Everything about a route but the value of its key."""

    kind: InferenceType
    endpoint: Endpoint
    protocols: tuple[str, ...]
    model: str
    key_name: str
    """Empty: this type has no key."""
    model_in_path: bool = False
    path_override: str | None = None


def plan_route(record: ProviderRecord, model: str, now_ms: int) -> RoutePlan:
    """Raises `RouteRefused`."""
    kind = inference_type(record.type)
    if kind is None:
        names = ", ".join(INFERENCE_TYPES)
        raise RouteRefused(
            f"provider '{record.name}' has type '{record.type}', which serves no models here; "
            f"use a provider of one of these types: {names}"
        )
    check_model(model)
    key_name = _key_name(record, kind, now_ms)
    if kind.name == VERTEX:
        try:
            place = vertex_place(record.config, model)
        except VertexRefused as refused:
            raise RouteRefused(f"provider '{record.name}': {refused}") from None
        return RoutePlan(
            kind,
            place.endpoint,
            place.protocols,
            place.model,
            key_name,
            place.model_in_path,
            place.path_override,
        )
    endpoint = _endpoint(record, kind)
    return RoutePlan(
        kind, endpoint, kind.protocols, model, key_name, BEDROCK_INVOKE in kind.protocols
    )


def check_model(model: str) -> None:
    if not _MODEL(model) or len(model) > MAX_MODEL_BYTES:
        raise RouteRefused(
            f"the model's name must have 1 to {MAX_MODEL_BYTES} visible ASCII characters"
        )


def is_route_name(name: str) -> bool:
    """Whether an operator may give a route of their own this name."""
    return _NAME(name) is not None and name != SYSTEM_ROUTE


def check_fallback(first: RoutePlan, other: RoutePlan, provider: str) -> None:
    """Raises `RouteRefused`: nothing is translated, so it must speak all that is asked of the first.

    Lists of models aside, which have no fallback.
    """
    missing = set(first.protocols) - set(other.protocols) - {MODEL_DISCOVERY}
    if missing:
        raise RouteRefused(
            f"provider '{provider}' of type '{other.kind.name}' cannot stand in for type "
            f"'{first.kind.name}': it does not speak {', '.join(sorted(missing))}, and nothing is "
            "translated; give it a route of its own name"
        )


def base_setting(config: Mapping[str, str], kind: InferenceType) -> tuple[str, str] | None:
    """The setting of a provider that replaces the type's base URL, and its value."""
    for name in kind.base_names:
        value = config.get(name, "").strip()
        if value:
            return name, value
    return None


def _endpoint(record: ProviderRecord, kind: InferenceType) -> Endpoint:
    chosen = base_setting(record.config, kind)
    if chosen is None:
        if not kind.base_url:
            raise RouteRefused(
                f"provider '{record.name}' of type '{kind.name}' needs {kind.base_names[0]} in its "
                "configuration"
            )
        return Endpoint.parse(kind.base_url)
    name, url = chosen
    try:
        return Endpoint.parse(url)
    except EndpointRefused as refused:
        raise RouteRefused(f"provider '{record.name}', {name}: {refused}") from None


def _key_name(record: ProviderRecord, kind: InferenceType, now_ms: int) -> str:
    """The credential that is the key."""
    if kind.auth is Auth.NONE:
        return ""
    usable = [key for key in record.handles if not record.is_expired(key, now_ms)]
    for key in kind.key_names:
        if key in usable:
            return key
    # A credential under another name, where there is no doubt which one is meant.
    if kind.name != VERTEX and len(record.handles) == 1 and usable:
        return usable[0]
    raise RouteRefused(
        f"provider '{record.name}' has no usable key: it needs the credential "
        + " or ".join(kind.key_names)
    )
