"""Inference routes as users see them: set, get, delete.

A route is resolved and, unless told otherwise, tried before it is stored: a wrong key or model is
found by whoever sets it, not by an agent. The trial happens between two transactions; the second one
resolves again and refuses when the provider has changed meanwhile. What supervisors fetch is
`inference_bundle.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from openshell._proto import inference_pb2
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
    resolve_provider,
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
)

__all__ = ["InferenceRoutes"]

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

        def read(tx: Tx) -> tuple[str, Resolved, Loaded]:
            workspace = open_workspace(tx, request.workspace, must_be_active=True)
            resolved = _resolve(tx, workspace, provider, model)
            refs = [] if resolved.key is None else [resolved.key]
            return workspace, resolved, self._credentials.load(tx, refs)

        workspace, seen, loaded = await self._store.read(read)
        tried = () if request.no_verify else await self._try(seen, loaded)

        def write(tx: Tx) -> tuple[inference_pb2.InferenceRoute, list[str]]:
            open_workspace(tx, workspace, must_be_active=True)
            now = _resolve(tx, workspace, provider, model)
            if tried and (now.plan, now.key) != (seen.plan, seen.key):
                raise aborted(f"provider '{provider}' changed while it was tried; set it again")
            config = inference_pb2.InferenceRouteConfig(
                provider_name=provider, model_id=model, timeout_secs=request.timeout_secs
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

    async def _try(self, resolved: Resolved, loaded: Loaded) -> tuple[tuple[str, str], ...]:
        """Where the route was tried, in which protocol."""
        key = ""
        if resolved.key is not None:
            try:
                key = (await self._credentials.open(loaded))[resolved.key]
            except CredentialError as error:
                raise failed_precondition(error.message) from None
        try:
            return await self._probe.run(resolved.plan, key)
        except ProbeFailed as failed:
            raise failed_precondition(
                f"the route does not work: {failed}; --no-verify would set it all the same"
            ) from None


def _route_name(requested: str) -> str:
    """The name under which a route is stored."""
    if requested in {"", DEFAULT_ROUTE}:
        return DEFAULT_ROUTE
    if requested == SYSTEM_ROUTE:
        return SYSTEM_ROUTE
    raise invalid_argument(
        f"route_name must be empty, '{DEFAULT_ROUTE}' or '{SYSTEM_ROUTE}': "
        "other named routes are not supported yet"
    )


def _resolve(tx: Tx, workspace: str, provider: str, model: str) -> Resolved:
    try:
        return resolve_provider(tx, workspace, provider, model)
    except RouteRefused as refused:
        raise failed_precondition(str(refused)) from None
