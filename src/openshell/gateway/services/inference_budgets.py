"""openshell.ext.v1.InferenceMetering and InferenceBudgets.

Supervisors ask before each request where a budget holds, and report what answers cost; operators set
budgets and read usage. A request is counted in the transaction that admits it, so that no number of
gateways or of concurrent requests passes a limit of requests. Tokens are known when an answer has ended: a
limit of tokens is passed by what was under way when it was reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from openshell._proto import datamodel_pb2
from openshell._proto import openshell_ext_inference_pb2 as ext
from openshell.gateway.auth.principal import require_sandbox
from openshell.gateway.errors import invalid_argument, resource_exhausted
from openshell.gateway.events import Bus
from openshell.gateway.limits import check_name
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.services.inference_meter import (
    WINDOW_SECONDS,
    Meter,
    add_calls,
    budgets_for,
    budgets_of,
)
from openshell.gateway.services.lookup import find_sandbox, find_sandbox_by_id
from openshell.gateway.store.model import MatchResourceVersion, MustCreate, Store, Tx
from openshell.gateway.workspaces import open_workspace
from openshell.providers.inference_routes import DEFAULT_ROUTE, is_route_name

__all__ = ["BUDGETS_MAX", "InferenceBudgets"]

BUDGETS_MAX: Final = 256
"""Per workspace: each request is held against those that it falls under."""
LIMIT_MAX: Final = 10**12
"""Of requests or tokens: more is no limit."""
CALLS_MAX: Final = 1_000
"""Entries of one report."""
TEXT_MAX: Final = 256
"""Of names in a report."""


class InferenceBudgets:
    """The methods of both services."""

    def __init__(self, store: Store, bus: Bus, *, new_id: Callable[[], str]) -> None:
        self._store = store
        self._bus = bus
        self._new_id = new_id

    # -- supervisors

    async def AdmitInference(  # noqa: N802  named as the RPC
        self, request: ext.AdmitInferenceRequest, _context: Any
    ) -> ext.AdmitInferenceResponse:
        sandbox_id = require_sandbox().sandbox_id

        def write(tx: Tx) -> ext.AdmitInferenceResponse:
            row, _ = find_sandbox_by_id(tx, sandbox_id)
            budgets = [
                budget
                for budget in budgets_for(tx, row.workspace, row.name or "")
                if budget.route in ("", request.route)
            ]
            if not budgets:
                return ext.AdmitInferenceResponse(admitted=True)
            return Meter(tx, row).admit(budgets)

        return await self._store.write(write)

    async def ReportInference(  # noqa: N802  named as the RPC
        self, request: ext.ReportInferenceRequest, _context: Any
    ) -> ext.ReportInferenceResponse:
        sandbox_id = require_sandbox().sandbox_id
        if len(request.calls) > CALLS_MAX or not 0 < len(request.instance_id) <= TEXT_MAX:
            raise invalid_argument("the report is larger than any supervisor's")
        if any(
            len(calls.route) > TEXT_MAX or len(calls.model) > TEXT_MAX for calls in request.calls
        ):
            raise invalid_argument("the report has names that are none")

        def write(tx: Tx) -> None:
            row, _ = find_sandbox_by_id(tx, sandbox_id)
            Meter(tx, row).add(request, budgets_for(tx, row.workspace, row.name or ""))

        await self._store.write(write)
        return ext.ReportInferenceResponse()

    # -- operators

    async def SetBudget(  # noqa: N802  named as the RPC
        self, request: ext.InferenceBudget, _context: Any
    ) -> ext.InferenceBudget:
        _check(request)

        def write(tx: Tx) -> ext.InferenceBudget:
            workspace = open_workspace(tx, request.workspace, must_be_active=True)
            if request.sandbox:
                find_sandbox(tx, workspace, request.sandbox)
            name = _key(request)
            present = tx.get(Kind.INFERENCE_BUDGET, workspace, name)
            if present is None and len(budgets_of(tx, workspace)) >= BUDGETS_MAX:
                raise resource_exhausted(
                    f"the workspace has {BUDGETS_MAX} budgets: delete one first"
                )
            budget = ext.InferenceBudget()
            budget.CopyFrom(request)
            budget.workspace = workspace
            budget.metadata.CopyFrom(
                datamodel_pb2.ObjectMeta(
                    id=present.id if present else self._new_id(),
                    name=name,
                    workspace=workspace,
                    created_at_ms=present.created_at_ms if present else tx.now_ms,
                )
            )
            condition = MatchResourceVersion(present.resource_version) if present else MustCreate()
            stored = tx.put(to_row(Kind.INFERENCE_BUDGET, budget), condition)
            return load(stored, ext.InferenceBudget)

        budget = await self._store.write(write)
        await self._tell(budget.workspace)
        return budget

    async def ListBudgets(  # noqa: N802  named as the RPC
        self, request: ext.ListInferenceBudgetsRequest, _context: Any
    ) -> ext.ListInferenceBudgetsResponse:
        found = await self._store.read(
            lambda tx: budgets_of(tx, open_workspace(tx, request.workspace))
        )
        found.sort(key=lambda budget: budget.metadata.name)
        return ext.ListInferenceBudgetsResponse(budgets=found)

    async def DeleteBudget(  # noqa: N802  named as the RPC
        self, request: ext.DeleteInferenceBudgetRequest, _context: Any
    ) -> ext.DeleteInferenceBudgetResponse:
        def write(tx: Tx) -> tuple[str, bool]:
            workspace = open_workspace(tx, request.workspace)
            row = tx.get(Kind.INFERENCE_BUDGET, workspace, _key(request))
            return workspace, row is not None and tx.delete(Kind.INFERENCE_BUDGET, row.id)

        workspace, deleted = await self._store.write(write)
        if deleted:
            await self._tell(workspace)
        return ext.DeleteInferenceBudgetResponse(deleted=deleted)

    async def GetUsage(  # noqa: N802  named as the RPC
        self, request: ext.GetInferenceUsageRequest, _context: Any
    ) -> ext.GetInferenceUsageResponse:
        def read(tx: Tx) -> list[ext.InferenceUsage]:
            workspace = open_workspace(tx, request.workspace)
            if request.sandbox:
                rows = [find_sandbox(tx, workspace, request.sandbox)[0]]
            else:
                rows = tx.all(Kind.SANDBOX, workspace=workspace)
            usage = []
            for row in rows:
                totals: dict[tuple[str, str], ext.InferenceCalls] = {}
                for hour in Meter(tx, row).state.hours:
                    if hour.began_at_ms < request.since_ms:
                        continue
                    key = hour.calls.route, hour.calls.model
                    total = totals.setdefault(key, ext.InferenceCalls(route=key[0], model=key[1]))
                    add_calls(total, hour.calls)
                usage += [
                    ext.InferenceUsage(sandbox=row.name or "", calls=totals[key])
                    for key in sorted(totals)
                ]
            return usage

        return ext.GetInferenceUsageResponse(usage=await self._store.read(read))

    async def _tell(self, workspace: str) -> None:
        """Supervisors learn at once whether they have to ask."""
        rows = await self._store.read(lambda tx: tx.all(Kind.SANDBOX, workspace=workspace))
        self._bus.config_changed(tuple(row.id for row in rows), "inference")


def _key(budget: ext.InferenceBudget | ext.DeleteInferenceBudgetRequest) -> str:
    return f"{budget.sandbox or '*'} {budget.route or '*'} {budget.window}"


def _check(budget: ext.InferenceBudget) -> None:
    if budget.sandbox:
        check_name("sandbox", budget.sandbox)
    if budget.route and budget.route != DEFAULT_ROUTE and not is_route_name(budget.route):
        raise invalid_argument("route must be the name of a route; empty means all of them")
    if budget.window not in WINDOW_SECONDS:
        raise invalid_argument(f"window must be one of: {', '.join(WINDOW_SECONDS)}")
    if not budget.requests and not budget.tokens:
        raise invalid_argument("a budget limits requests, tokens or both")
    if max(budget.requests, budget.tokens) > LIMIT_MAX:
        raise invalid_argument(f"a budget is at most {LIMIT_MAX}")
