"""Inference routes of the gateway's messages, as the proxy's own values. No I/O.

A route that cannot be used is left out and named; the others serve. Called by `candidate`.
"""

from openshell._proto import inference_pb2
from openshell.egress.inference.routes import Route, Routes, RouteUnusable

__all__ = ["read_routes"]


def read_routes(bundle: inference_pb2.GetInferenceBundleResponse) -> tuple[Routes, str]:
    """The routes, and what is wrong with those that are left out."""
    routes: list[Route] = []
    problems: list[str] = []
    for sent in bundle.routes:
        override = sent.request_path_override if sent.HasField("request_path_override") else None
        try:
            route = Route.read(
                name=sent.name,
                base_url=sent.base_url,
                protocols=tuple(sent.protocols),
                key=sent.api_key,
                model=sent.model_id,
                provider_type=sent.provider_type,
                timeout_secs=sent.timeout_secs,
                model_in_path=sent.model_in_path,
                path_override=override,
            )
        except RouteUnusable as unusable:
            problems.append(str(unusable))
        else:
            routes.append(route)
    read = Routes(bundle.revision, tuple(routes), bundle.is_budgeted)
    return read, "; ".join(problems)
