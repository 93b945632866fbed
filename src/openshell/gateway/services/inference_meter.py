"""What sandboxes ask of models: budgets are checked, answers counted. Arithmetic on rows, no I/O of its own.

One row per sandbox holds its windows (for budgets) and its hours (for people). Windows go by the clock, so
two gateways agree on them without a word.
"""

from __future__ import annotations

from typing import Final

from openshell._proto import datamodel_pb2
from openshell._proto import openshell_ext_inference_pb2 as ext
from openshell.gateway.records import Kind, load, load_all, to_row
from openshell.gateway.store.model import MatchResourceVersion, MustCreate, Row, Tx

__all__ = [
    "WINDOW_SECONDS",
    "Meter",
    "add_calls",
    "budgets_for",
    "budgets_of",
    "said_of",
]

WINDOW_SECONDS: Final = {"minute": 60, "hour": 3_600, "day": 86_400}
HOURS_KEPT: Final = 2_000
"""Entries of usage per sandbox, each an hour of one route and model: a month of three models."""
_HOUR_MS: Final = 3_600_000
_TOKENS_MAX: Final = 1 << 40
"""Of one batch: a supervisor's mistake must not overflow what is kept."""


def budgets_of(tx: Tx, workspace: str) -> list[ext.InferenceBudget]:
    return load_all(tx.all(Kind.INFERENCE_BUDGET, workspace=workspace), ext.InferenceBudget)


def budgets_for(tx: Tx, workspace: str, sandbox: str) -> list[ext.InferenceBudget]:
    """Those that a sandbox may fall under."""
    return [b for b in budgets_of(tx, workspace) if b.sandbox in ("", sandbox)]


def said_of(budget: ext.InferenceBudget) -> str:
    """A budget in words."""
    limits = []
    if budget.requests:
        limits.append(f"{budget.requests} requests")
    if budget.tokens:
        limits.append(f"{budget.tokens} tokens")
    route = f" on route '{budget.route}'" if budget.route else ""
    return f"{' and '.join(limits)} per {budget.window}{route}"


class Meter:
    """One sandbox's counts within one transaction."""

    def __init__(self, tx: Tx, row: Row) -> None:
        self._tx = tx
        self._sandbox = row
        self._id = f"meter-{row.id}"
        self._row = tx.get_by_id(Kind.INFERENCE_METER, self._id)
        if self._row is not None:
            self.state = load(self._row, ext.InferenceMeter)
        else:
            self.state = ext.InferenceMeter(
                metadata=datamodel_pb2.ObjectMeta(
                    id=self._id, workspace=row.workspace, created_at_ms=tx.now_ms
                )
            )

    def _window(self, budget: ext.InferenceBudget) -> ext.InferenceMeter.Window:
        began = _began(self._tx.now_ms, budget)
        for window in self.state.windows:
            if window.budget_id == budget.metadata.id:
                if window.began_at_ms != began:
                    window.began_at_ms, window.requests, window.tokens = began, 0, 0
                return window
        return self.state.windows.add(budget_id=budget.metadata.id, began_at_ms=began)

    def admit(self, budgets: list[ext.InferenceBudget]) -> ext.AdmitInferenceResponse:
        """Counts one request in every budget, or in none."""
        windows = [(budget, self._window(budget)) for budget in budgets]
        for budget, window in windows:
            spent_requests = budget.requests and window.requests >= budget.requests
            spent_tokens = budget.tokens and window.tokens >= budget.tokens
            if spent_requests or spent_tokens:
                ends = window.began_at_ms + WINDOW_SECONDS[budget.window] * 1000
                return ext.AdmitInferenceResponse(
                    retry_after_secs=max(1, -(-(ends - self._tx.now_ms) // 1000)),
                    message=f"the budget of this sandbox is used up: {said_of(budget)}",
                )
        for _, window in windows:
            window.requests += 1
        self._keep({budget.metadata.id for budget in budgets})
        return ext.AdmitInferenceResponse(admitted=True)

    def add(self, report: ext.ReportInferenceRequest, budgets: list[ext.InferenceBudget]) -> None:
        """Adds a batch, unless it was added before."""
        state = self.state
        if state.instance_id == report.instance_id and report.sequence <= state.sequence:
            return
        state.instance_id, state.sequence = report.instance_id, report.sequence
        for calls in report.calls:
            tokens = min(calls.prompt_tokens + calls.completion_tokens, _TOKENS_MAX)
            for budget in budgets:
                if budget.route in ("", calls.route):
                    self._window(budget).tokens += tokens
            self._add_hour(calls)
        del state.hours[:-HOURS_KEPT]
        self._keep({budget.metadata.id for budget in budgets})

    def _add_hour(self, calls: ext.InferenceCalls) -> None:
        began = self._tx.now_ms - self._tx.now_ms % _HOUR_MS
        for hour in reversed(self.state.hours):
            if hour.began_at_ms != began:
                break
            if (hour.calls.route, hour.calls.model) == (calls.route, calls.model):
                add_calls(hour.calls, calls)
                return
        self.state.hours.add(began_at_ms=began).calls.CopyFrom(calls)

    def _keep(self, budget_ids: set[str]) -> None:
        # What a budget that is gone counted is of no use to anybody.
        kept = [w for w in self.state.windows if w.budget_id in budget_ids]
        del self.state.windows[:]
        self.state.windows.extend(kept)
        condition = (
            MustCreate() if self._row is None else MatchResourceVersion(self._row.resource_version)
        )
        self._tx.put(to_row(Kind.INFERENCE_METER, self.state, scope=self._sandbox.id), condition)


def add_calls(total: ext.InferenceCalls, more: ext.InferenceCalls) -> None:
    """Sums; route and model stay."""
    for name in (
        "requests",
        "prompt_tokens",
        "completion_tokens",
        "estimated_tokens",
        "errors",
        "fallbacks",
    ):
        setattr(total, name, min(getattr(total, name) + getattr(more, name), _TOKENS_MAX))


def _began(now_ms: int, budget: ext.InferenceBudget) -> int:
    return now_ms - now_ms % (WINDOW_SECONDS[budget.window] * 1000)
