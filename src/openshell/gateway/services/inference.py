"""Inference routes as users see them: set, get, list, delete.

A route is resolved and, unless told otherwise, tried before it is stored: a wrong key or model is
found by whoever sets it, not by an agent. The trial happens between two transactions; the second one
resolves again and refuses when the provider has changed meanwhile. What supervisors fetch is
`inference_bundle.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final

from openshell._proto import inference_pb2
from openshell._proto import openshell_ext_inference_pb2 as ext
from openshell.gateway.credentials.model import CredentialError, CredentialStore, Loaded
from openshell.gateway.errors import (
    aborted,
    failed_precondition,
    invalid_argument,
    not_found,
)
from openshell.gateway.events import Bus
from openshell.gateway.inference_probe import Probe, ProbeFailed
from openshell.gateway.records import load
from openshell.gateway.services.inference_rows import (
    Resolved,
    find_route,
    resolve_fallbacks,
    resolve_provider,
    routes_of,
    sandboxes_of_routes,
    write_route,
)
from openshell.gateway.services.lookup import require_field
from openshell.gateway.store.model import Store, Tx
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import open_workspace
from openshell.providers.inference_routes import (
    DEFAULT_ROUTE,
    SYSTEM_ROUTE,
    RouteRefused,
    is_route_name,
)

__all__ = ["InferenceRoutes"]

MAX_FALLBACKS: Final = 4
"""Each may cost a caller its whole time."""
MAX_ROUTES: Final = 32
"""In a workspace: all of them and their keys are sent to each of its sandboxes."""
MAX_TIMEOUT_SECONDS: Final = 3600
"""Above the slowest answers of models; what is held for a request is held no longer than this."""


class InferenceRoutes:
    """The methods of users."""

    def __init__(
        self,
        store: Store,
        credentials: CredentialStore,
        bus: Bus,
        probe: Probe,
        *,
        new_id: Callable[[], str],
        tasks: Tasks | None = None,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._bus = bus
        self._probe = probe
        self._new_id = new_id
        self._tasks = tasks or Tasks()

    async def SetInferenceRoute(  # noqa: N802  named as the RPC
        self, request: inference_pb2.SetInferenceRouteRequest, _context: Any
    ) -> inference_pb2.SetInferenceRouteResponse:
        name = _route_name(request.route_name)
        provider = require_field(request.provider_name, "provider_name").strip()
        model = require_field(request.model_id, "model_id").strip()
        if request.timeout_secs > MAX_TIMEOUT_SECONDS:
            raise invalid_argument(f"timeout_secs must be at most {MAX_TIMEOUT_SECONDS}")

        fallbacks = _fallbacks(request, name)

        def read(tx: Tx) -> tuple[str, list[Resolved], Loaded]:
            workspace = open_workspace(tx, request.workspace, must_be_active=True)
            resolved = _resolve(tx, workspace, provider, model, fallbacks)
            refs = list({target.key for target in resolved if target.key is not None})
            return workspace, resolved, self._credentials.load(tx, refs)

        workspace, seen, loaded = await self._store.read(read)
        tried = () if request.no_verify else await self._try(seen, loaded)

        def write(tx: Tx) -> tuple[inference_pb2.InferenceRoute, list[str]]:
            open_workspace(tx, workspace, must_be_active=True)
            now = _resolve(tx, workspace, provider, model, fallbacks)
            for target, before in zip(now, seen, strict=True):
                if tried and (target.plan, target.key) != (before.plan, before.key):
                    raise aborted(
                        f"provider '{target.provider.name}' changed while it was tried; set it again"
                    )
            if find_route(tx, workspace, name) is None:
                _check_number(tx, workspace)
            config = inference_pb2.InferenceRouteConfig(
                provider_name=provider,
                model_id=model,
                timeout_secs=request.timeout_secs,
                fallbacks=fallbacks,
            )
            route = write_route(tx, workspace, name, config, self._new_id())
            return route, sandboxes_of_routes(tx, workspace)

        async def run() -> inference_pb2.InferenceRoute:
            route, sandboxes = await self._store.write(write)
            self._bus.config_changed(sandboxes, "inference")
            return route

        # A caller that hangs up must not separate the write from what follows it.
        route = await self._tasks.complete("set inference route", run())
        return inference_pb2.SetInferenceRouteResponse(
            provider_name=provider,
            model_id=model,
            version=route.version,
            route_name=name,
            validation_performed=not request.no_verify,
            validated_endpoints=[
                inference_pb2.ValidatedEndpoint(url=url, protocol=protocol)
                for url, protocol in tried
            ],
            timeout_secs=request.timeout_secs,
            workspace=workspace,
            fallbacks=fallbacks,
        )

    async def GetInferenceRoute(  # noqa: N802  named as the RPC
        self, request: inference_pb2.GetInferenceRouteRequest, _context: Any
    ) -> inference_pb2.GetInferenceRouteResponse:
        name = _route_name(request.route_name)

        def read(tx: Tx) -> tuple[str, inference_pb2.InferenceRoute]:
            workspace = open_workspace(tx, request.workspace)
            row = find_route(tx, workspace, name)
            if row is None:
                raise not_found(
                    f"inference route '{name}' is not configured in workspace '{workspace}'"
                )
            return workspace, load(row, inference_pb2.InferenceRoute)

        workspace, route = await self._store.read(read)
        return inference_pb2.GetInferenceRouteResponse(
            provider_name=route.config.provider_name,
            model_id=route.config.model_id,
            version=route.version,
            route_name=name,
            timeout_secs=route.config.timeout_secs,
            workspace=workspace,
            fallbacks=route.config.fallbacks,
        )

    async def List(  # noqa: N802  named as the RPC
        self, request: ext.ListInferenceRoutesRequest, _context: Any
    ) -> ext.ListInferenceRoutesResponse:
        def read(tx: Tx) -> tuple[str, list[inference_pb2.InferenceRoute]]:
            workspace = open_workspace(tx, request.workspace)
            rows = routes_of(tx, workspace)
            return workspace, [load(row, inference_pb2.InferenceRoute) for row in rows]

        workspace, routes = await self._store.read(read)
        return ext.ListInferenceRoutesResponse(
            workspace=workspace, routes=[_listed(route) for route in routes]
        )

    async def DeleteInferenceRoute(  # noqa: N802  named as the RPC
        self, request: inference_pb2.DeleteInferenceRouteRequest, _context: Any
    ) -> inference_pb2.DeleteInferenceRouteResponse:
        name = _route_name(request.route_name)

        def write(tx: Tx) -> list[str] | None:
            workspace = open_workspace(tx, request.workspace)
            row = find_route(tx, workspace, name)
            if row is None:
                return None
            tx.delete(row.kind, row.id, row.resource_version)
            return sandboxes_of_routes(tx, workspace)

        async def run() -> bool:
            sandboxes = await self._store.write(write)
            self._bus.config_changed(sandboxes or (), "inference")
            return sandboxes is not None

        deleted = await self._tasks.complete("delete inference route", run())
        return inference_pb2.DeleteInferenceRouteResponse(deleted=deleted)

    async def _try(self, targets: list[Resolved], loaded: Loaded) -> tuple[tuple[str, str], ...]:
        """Where each target was tried, in which protocol; all at a time, within one's time."""
        try:
            keys = await self._credentials.open(loaded)
        except CredentialError as error:
            raise failed_precondition(error.message) from None
        tasks: list[asyncio.Task[tuple[tuple[str, str], ...]]] = []
        problems: list[ProbeFailed] = []
        try:
            async with asyncio.TaskGroup() as group:
                for target in targets:
                    key = "" if target.key is None else keys[target.key]
                    tasks.append(group.create_task(self._probe.run(target.plan, key)))
        except* ProbeFailed as failed:
            problems += [error for error in failed.exceptions if isinstance(error, ProbeFailed)]
        if problems:
            raise failed_precondition(
                f"the route does not work: {problems[0]}; --no-verify would set it all the same"
            )
        return tuple(itertools.chain.from_iterable(task.result() for task in tasks))


def _route_name(requested: str) -> str:
    """The name under which a route is stored."""
    if requested in {"", DEFAULT_ROUTE}:
        return DEFAULT_ROUTE
    if requested == SYSTEM_ROUTE or is_route_name(requested):
        return requested
    raise invalid_argument(
        f"route_name must be empty, '{DEFAULT_ROUTE}', '{SYSTEM_ROUTE}' or a name of 1 to 63 of "
        "a-z, 0-9 and -, without - at either end"
    )


def _fallbacks(
    request: inference_pb2.SetInferenceRouteRequest, name: str
) -> list[ext.InferenceTarget]:
    found = [
        ext.InferenceTarget(
            provider_name=require_field(target.provider_name, "fallbacks.provider_name").strip(),
            model_id=require_field(target.model_id, "fallbacks.model_id").strip(),
        )
        for target in request.fallbacks
    ]
    if found and name == SYSTEM_ROUTE:
        raise invalid_argument(f"route '{SYSTEM_ROUTE}' takes no fallbacks")
    if len(found) > MAX_FALLBACKS:
        raise invalid_argument(f"a route has at most {MAX_FALLBACKS} fallbacks")
    places = [(request.provider_name.strip(), request.model_id.strip())]
    places += [(target.provider_name, target.model_id) for target in found]
    if len(set(places)) < len(places):
        raise invalid_argument("a route names the same provider and model twice")
    return found


def _check_number(tx: Tx, workspace: str) -> None:
    if len(routes_of(tx, workspace)) >= MAX_ROUTES:
        raise failed_precondition(
            f"workspace '{workspace}' has {MAX_ROUTES} inference routes, which is the most; "
            "delete one that is not used"
        )


def _resolve(
    tx: Tx, workspace: str, provider: str, model: str, fallbacks: list[ext.InferenceTarget]
) -> list[Resolved]:
    """The target and its fallbacks."""
    try:
        first = resolve_provider(tx, workspace, provider, model)
        return [first, *resolve_fallbacks(tx, workspace, first, fallbacks)]
    except RouteRefused as refused:
        raise failed_precondition(str(refused)) from None


def _listed(route: inference_pb2.InferenceRoute) -> ext.ListedInferenceRoute:
    config = route.config
    return ext.ListedInferenceRoute(
        route_name=route.metadata.name,
        target=ext.InferenceTarget(provider_name=config.provider_name, model_id=config.model_id),
        fallbacks=config.fallbacks,
        timeout_secs=config.timeout_secs,
        version=route.version,
    )
