"""Stored inference routes: finding, resolving and writing them inside a transaction.

A route names a provider of its workspace and a model, and others to fall back on; what that means is resolved at every read
(`openshell.providers.inference_routes`), so a changed key or base URL needs no write here. A route
whose provider is gone or unfit stays stored and is delivered to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openshell._proto import inference_pb2
from openshell._proto.openshell_ext_inference_pb2 import InferenceTarget
from openshell.gateway.credentials.model import CredentialRef
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.services.provider_records import record_from_row
from openshell.gateway.store.model import MatchResourceVersion, MustCreate, Row, Tx
from openshell.providers.digest import digest_of
from openshell.providers.inference_routes import (
    DEFAULT_ROUTE,
    RoutePlan,
    RouteRefused,
    check_fallback,
    plan_route,
)

__all__ = [
    "Resolved",
    "find_route",
    "resolve_fallbacks",
    "resolve_provider",
    "revision_of",
    "routes_of",
    "sandboxes_of_routes",
    "write_route",
]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A route as it can be used now."""

    plan: RoutePlan
    provider: Row
    key: CredentialRef | None
    """None: this type has no key."""


def find_route(tx: Tx, workspace: str, name: str) -> Row | None:
    return tx.get(Kind.INFERENCE_ROUTE, workspace, name)


def routes_of(tx: Tx, workspace: str) -> list[Row]:
    """Every route of a workspace, by name, the default one first."""
    rows = tx.all(Kind.INFERENCE_ROUTE, workspace=workspace)
    return sorted(rows, key=lambda row: (row.name != DEFAULT_ROUTE, row.name or ""))


def resolve_provider(tx: Tx, workspace: str, provider: str, model: str) -> Resolved:
    """What a route to this model would be. Raises `RouteRefused`."""
    row = tx.get(Kind.PROVIDER, workspace, provider)
    if row is None:
        raise RouteRefused(f"provider '{provider}' not found in workspace '{workspace}'")
    record = record_from_row(row)
    plan = plan_route(record, model, tx.now_ms)
    key = None
    if plan.key_name:
        handle = record.handles[plan.key_name]
        key = CredentialRef(handle.handle, record.id, plan.key_name)
    return Resolved(plan, row, key)


def resolve_fallbacks(
    tx: Tx, workspace: str, first: Resolved, fallbacks: Iterable[InferenceTarget]
) -> list[Resolved]:
    """What may stand in for a target. Raises `RouteRefused`."""
    found: list[Resolved] = []
    for target in fallbacks:
        resolved = resolve_provider(tx, workspace, target.provider_name, target.model_id)
        check_fallback(first.plan, resolved.plan, target.provider_name)
        found.append(resolved)
    return found


def write_route(
    tx: Tx, workspace: str, name: str, config: inference_pb2.InferenceRouteConfig, new_id: str
) -> inference_pb2.InferenceRoute:
    """Creates or replaces a route; each write counts its version up."""
    row = find_route(tx, workspace, name)
    if row is None:
        route = inference_pb2.InferenceRoute()
        route.metadata.id = new_id
        route.metadata.name = name
        route.metadata.workspace = workspace
        route.metadata.created_at_ms = tx.now_ms
    else:
        route = load(row, inference_pb2.InferenceRoute)
    route.config.CopyFrom(config)
    route.version += 1
    tx.put(
        to_row(Kind.INFERENCE_ROUTE, route),
        MustCreate() if row is None else MatchResourceVersion(row.resource_version),
    )
    return route


def revision_of(routes: Iterable[tuple[inference_pb2.InferenceRoute, Resolved]]) -> str:
    """Differs whenever anything differs that a supervisor would be handed."""
    parts: list[str] = []
    for route, resolved in routes:
        plan, provider = resolved.plan, resolved.provider
        parts += [
            route.metadata.name,
            str(route.config.timeout_secs),
            plan.kind.name,
            plan.endpoint.url,
            plan.model,
            plan.path_override or "",
            # A key that was replaced has another handle, a record that changed another version.
            provider.id,
            str(provider.resource_version),
            resolved.key.handle if resolved.key is not None else "",
        ]
    return digest_of(parts).hex()


def sandboxes_of_routes(tx: Tx, workspace: str, provider: str | None = None) -> list[str]:
    """Ids of the sandboxes that are handed the routes (of this provider, if one is named)."""
    if provider is not None and not any(
        provider in _providers_of(load(row, inference_pb2.InferenceRoute).config)
        for row in routes_of(tx, workspace)
    ):
        return []
    return [row.id for row in tx.all(Kind.SANDBOX, workspace=workspace)]


def _providers_of(config: inference_pb2.InferenceRouteConfig) -> set[str]:
    return {config.provider_name, *(target.provider_name for target in config.fallbacks)}
