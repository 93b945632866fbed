"""Client for inference routes: which provider and model answer `inference.local` in a workspace.

Keys never pass through here: a route names a provider of the workspace. The command line uses the
gateway's whole answers (`configure`, `describe`), programs the short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from openshell._proto import (
    inference_pb2,
    inference_pb2_grpc,
    openshell_ext_inference_pb2_grpc,
)
from openshell._proto import openshell_ext_inference_pb2 as ext

if TYPE_CHECKING:
    import grpc

    from openshell.sdk.client import SandboxClient

__all__ = ["InferenceRouteClient", "InferenceRouteConfig"]


@dataclass(frozen=True)
class InferenceRouteConfig:
    """A stored route; each write counts its version up."""

    provider_name: str
    model_id: str
    version: int


class InferenceRouteClient:
    """Sets, reads and deletes routes.

    Args:
        channel: An open channel to a gateway; it stays the caller's.
        timeout: Deadline of each call in seconds. A route is tried within 20 seconds.
    """

    def __init__(self, channel: grpc.Channel, *, timeout: float = 30.0) -> None:
        self._stub = inference_pb2_grpc.InferenceStub(channel)
        self._ext = openshell_ext_inference_pb2_grpc.InferenceRoutesStub(channel)
        self._budgets = openshell_ext_inference_pb2_grpc.InferenceBudgetsStub(channel)
        self._timeout = timeout

    @classmethod
    def from_sandbox_client(cls, client: SandboxClient) -> Self:
        """Shares the channel and the deadline of another client."""
        return cls(client._channel, timeout=client._timeout)

    def set_route(
        self, *, workspace: str, provider_name: str, model_id: str, no_verify: bool = False
    ) -> InferenceRouteConfig:
        """Sets the route of `inference.local`; it is tried first unless `no_verify` says otherwise."""
        answer = self.configure(
            workspace=workspace,
            provider_name=provider_name,
            model_id=model_id,
            no_verify=no_verify,
        )
        return InferenceRouteConfig(answer.provider_name, answer.model_id, answer.version)

    def get_route(self, *, workspace: str) -> InferenceRouteConfig:
        """The route of `inference.local`; NOT_FOUND where there is none."""
        answer = self.describe(workspace=workspace)
        return InferenceRouteConfig(answer.provider_name, answer.model_id, answer.version)

    def delete_route(self, *, workspace: str, route_name: str = "") -> bool:
        """Deletes a route; false when there was none."""
        request = inference_pb2.DeleteInferenceRouteRequest(
            workspace=workspace, route_name=route_name
        )
        return self._stub.DeleteInferenceRoute(request, timeout=self._timeout).deleted

    def list_routes(self, *, workspace: str) -> list[ext.ListedInferenceRoute]:
        """Every route of a workspace, by name, the default one first."""
        request = ext.ListInferenceRoutesRequest(workspace=workspace)
        return list(self._ext.List(request, timeout=self._timeout).routes)

    def configure(
        self,
        *,
        workspace: str,
        provider_name: str,
        model_id: str,
        route_name: str = "",
        no_verify: bool = False,
        timeout_secs: int = 0,
        fallbacks: Sequence[tuple[str, str]] = (),
    ) -> inference_pb2.SetInferenceRouteResponse:
        """As `set_route`, for any route, with its timeout (0: the default) and what it falls back on.

        `fallbacks` are pairs of provider and model, asked in this order when the first does not
        answer. The whole answer; a gateway that knows no fallbacks answers without them.
        """
        request = inference_pb2.SetInferenceRouteRequest(
            workspace=workspace,
            provider_name=provider_name,
            model_id=model_id,
            route_name=route_name,
            no_verify=no_verify,
            timeout_secs=timeout_secs,
            fallbacks=[
                ext.InferenceTarget(provider_name=provider, model_id=model)
                for provider, model in fallbacks
            ],
        )
        return self._stub.SetInferenceRoute(request, timeout=self._timeout)

    def describe(
        self, *, workspace: str, route_name: str = ""
    ) -> inference_pb2.GetInferenceRouteResponse:
        """As `get_route`, for any route; the whole answer."""
        request = inference_pb2.GetInferenceRouteRequest(workspace=workspace, route_name=route_name)
        return self._stub.GetInferenceRoute(request, timeout=self._timeout)

    def set_budget(
        self,
        *,
        workspace: str,
        window: str,
        sandbox: str = "",
        route: str = "",
        requests: int = 0,
        tokens: int = 0,
    ) -> ext.InferenceBudget:
        """Limits what a sandbox may ask of models; replaces the budget of the same three names.

        Args:
            workspace: Of the sandboxes.
            window: `minute`, `hour` or `day`, by the clock in UTC.
            sandbox: Its name; empty: every sandbox, each for itself.
            route: Its name; empty: all routes together.
            requests: How many; 0: not limited.
            tokens: How many, in and out together; 0: not limited.

        Raises:
            grpc.RpcError: refused.
        """
        budget = ext.InferenceBudget(
            workspace=workspace,
            sandbox=sandbox,
            route=route,
            window=window,
            requests=requests,
            tokens=tokens,
        )
        return self._budgets.SetBudget(budget, timeout=self._timeout)

    def list_budgets(self, *, workspace: str) -> tuple[ext.InferenceBudget, ...]:
        """Every budget of a workspace."""
        request = ext.ListInferenceBudgetsRequest(workspace=workspace)
        return tuple(self._budgets.ListBudgets(request, timeout=self._timeout).budgets)

    def delete_budget(
        self, *, workspace: str, window: str, sandbox: str = "", route: str = ""
    ) -> bool:
        """Removes a budget; False when there was none."""
        request = ext.DeleteInferenceBudgetRequest(
            workspace=workspace, sandbox=sandbox, route=route, window=window
        )
        return self._budgets.DeleteBudget(request, timeout=self._timeout).deleted

    def usage(
        self, *, workspace: str, sandbox: str = "", since_ms: int = 0
    ) -> tuple[ext.InferenceUsage, ...]:
        """What sandboxes asked of models, by route and model.

        Args:
            workspace: Of the sandboxes.
            sandbox: Its name; empty: all.
            since_ms: Milliseconds since the epoch; hours that began before are left out.
        """
        request = ext.GetInferenceUsageRequest(
            workspace=workspace, sandbox=sandbox, since_ms=since_ms
        )
        return tuple(self._budgets.GetUsage(request, timeout=self._timeout).usage)
