"""GetInferenceBundle: every usable route of one supervisor's workspace, with real keys.

The target of a route and what it falls back on are sent one after the other under the route's name.

Routes, providers and sealed keys come from one snapshot, so that the revision names exactly what is
sent. The answer exists nowhere but in this call: it is not logged, cached or stored. A target that
cannot be resolved now is left out and named in the log.
"""

from __future__ import annotations

import logging
from typing import Any

from openshell._proto import inference_pb2
from openshell._proto.openshell_ext_inference_pb2 import InferenceTarget
from openshell.gateway.auth.principal import require_sandbox
from openshell.gateway.credentials.model import (
    CredentialError,
    CredentialRef,
    CredentialStore,
    Loaded,
)
from openshell.gateway.errors import internal
from openshell.gateway.records import load
from openshell.gateway.services.inference_meter import budgets_for
from openshell.gateway.services.inference_rows import (
    Resolved,
    resolve_provider,
    revision_of,
    routes_of,
)
from openshell.gateway.services.lookup import find_sandbox_by_id
from openshell.gateway.store.model import Store, Tx
from openshell.providers.inference_routes import RouteRefused

__all__ = ["InferenceBundle"]

_log = logging.getLogger(__name__)

_Routes = list[tuple[inference_pb2.InferenceRoute, Resolved]]
_Problems = dict[tuple[str, str], str]
"""By workspace and name of the route."""


class InferenceBundle:
    """The one method of supervisors."""

    def __init__(self, store: Store, credentials: CredentialStore) -> None:
        self._store = store
        self._credentials = credentials
        # What was said of a route last: every supervisor asks twice a minute.
        self._told: dict[tuple[str, str], str] = {}

    async def GetInferenceBundle(  # noqa: N802  named as the RPC
        self, _request: inference_pb2.GetInferenceBundleRequest, _context: Any
    ) -> inference_pb2.GetInferenceBundleResponse:
        sandbox_id = require_sandbox().sandbox_id

        def read(tx: Tx) -> tuple[int, _Routes, _Problems, Loaded, bool]:
            row, sandbox = find_sandbox_by_id(tx, sandbox_id)
            routes, problems = _read_routes(tx, sandbox.metadata.workspace)
            refs = [resolved.key for _route, resolved in routes if resolved.key is not None]
            budgeted = bool(budgets_for(tx, row.workspace, row.name or ""))
            return tx.now_ms, routes, problems, self._credentials.load(tx, refs), budgeted

        now_ms, routes, problems, loaded, budgeted = await self._store.read(read)
        for (workspace, name), problem in problems.items():
            if self._told.get((workspace, name)) != problem:
                _log.warning("a target of route %s of %s is withheld: %s", name, workspace, problem)
                self._told[workspace, name] = problem
        try:
            keys = await self._credentials.open(loaded)
        except CredentialError as error:
            raise internal(error.message) from None
        return inference_pb2.GetInferenceBundleResponse(
            routes=[_resolved_route(route, resolved, keys) for route, resolved in routes],
            revision=f"{revision_of(routes)}{'-budgeted' if budgeted else ''}",
            generated_at_ms=now_ms,
            is_budgeted=budgeted,
        )


def _read_routes(tx: Tx, workspace: str) -> tuple[_Routes, _Problems]:
    """What can be used, and why the rest cannot."""
    routes: _Routes = []
    problems: _Problems = {}
    for row in routes_of(tx, workspace):
        route = load(row, inference_pb2.InferenceRoute)
        config = route.config
        first = InferenceTarget(provider_name=config.provider_name, model_id=config.model_id)
        refusals: list[str] = []
        for target in (first, *config.fallbacks):
            try:
                resolved = resolve_provider(tx, workspace, target.provider_name, target.model_id)
            except RouteRefused as refused:
                refusals.append(str(refused))
            else:
                routes.append((route, resolved))
        if refusals:
            problems[workspace, route.metadata.name] = "; ".join(refusals)
    return routes, problems


def _resolved_route(
    route: inference_pb2.InferenceRoute, resolved: Resolved, keys: Any
) -> inference_pb2.ResolvedRoute:
    plan = resolved.plan
    message = inference_pb2.ResolvedRoute(
        name=route.metadata.name,
        base_url=plan.endpoint.url,
        protocols=plan.protocols,
        model_id=plan.model,
        provider_type=plan.kind.name,
        timeout_secs=route.config.timeout_secs,
        model_in_path=plan.model_in_path,
    )
    if plan.path_override is not None:
        message.request_path_override = plan.path_override
    key: CredentialRef | None = resolved.key
    if key is not None:
        message.api_key = keys[key]
    return message
