"""Where Google's Vertex AI serves a model: its host, path and protocol. Pure.

Claude models are asked in Anthropic's dialect at an address that names the model; all others through
the endpoint that speaks OpenAI's chat completions. An override may name another of Google's own
hosts and nothing else, because the token that goes there opens more than models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openshell.providers.inference_endpoint import Endpoint, EndpointRefused
from openshell.providers.inference_types import ANTHROPIC_MESSAGES, CHAT_COMPLETIONS

__all__ = ["RAW_PREDICT", "VertexPlace", "VertexRefused", "vertex_place"]

RAW_PREDICT: Final = ":rawPredict"
_DEFAULT_REGION: Final = "us-central1"
_DEFAULT_PUBLISHER: Final = "google"

_PROJECT: Final = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]").fullmatch
_REGION: Final = re.compile(r"[a-z]+(?:-[a-z]+[0-9]{1,2})?").fullmatch
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*").fullmatch
_OFFICIAL: Final = re.compile(
    r"(?:[a-z0-9-]+-)?aiplatform(?:\.[a-z]+\.rep)?\.googleapis\.com"
).fullmatch


class VertexRefused(ValueError):
    """What is missing or wrong in a provider's configuration."""


@dataclass(frozen=True, slots=True)
class VertexPlace:
    """Where and how a model is asked."""

    endpoint: Endpoint
    protocols: tuple[str, ...]
    model: str
    model_in_path: bool
    path_override: str


def vertex_place(config: Mapping[str, str], model: str) -> VertexPlace:
    """Raises `VertexRefused`."""
    project = config.get("VERTEX_AI_PROJECT_ID", "").strip()
    if not _PROJECT(project):
        raise VertexRefused(
            "VERTEX_AI_PROJECT_ID must be a project id of Google Cloud (6 to 30 of a-z, 0-9 and -)"
        )
    region = config.get("VERTEX_AI_REGION", "").strip() or _DEFAULT_REGION
    if not _REGION(region):
        raise VertexRefused("VERTEX_AI_REGION is no region of Google Cloud, such as us-central1")
    publisher, _, name = model.rpartition("/")
    publisher = publisher or config.get("VERTEX_AI_PUBLISHER", "").strip()
    if not _NAME(name) or (publisher and not _NAME(publisher)):
        raise VertexRefused("the model must be NAME or PUBLISHER/NAME")
    where = f"projects/{project}/locations/{region}"
    if name.startswith("claude-") or publisher == "anthropic":
        if _override(config) is not None:
            raise VertexRefused("Claude models take no base URL of their own; remove the setting")
        path = f"/v1/{where}/publishers/anthropic/models/{name}"
        endpoint = Endpoint.parse(f"https://{_host(region)}{path}")
        return VertexPlace(endpoint, (ANTHROPIC_MESSAGES,), name, True, RAW_PREDICT)
    base = _override(config) or f"https://{_host(region)}"
    endpoint = Endpoint.parse(f"{base}/v1beta1/{where}/endpoints/openapi")
    full = f"{publisher or _DEFAULT_PUBLISHER}/{name}"
    return VertexPlace(endpoint, (CHAT_COMPLETIONS,), full, False, "/chat/completions")


def _host(region: str) -> str:
    if region == "global":
        return "aiplatform.googleapis.com"
    if region in {"us", "eu"}:
        return f"aiplatform.{region}.rep.googleapis.com"
    return f"{region}-aiplatform.googleapis.com"


def _override(config: Mapping[str, str]) -> str | None:
    """The origin that replaces the region's host."""
    for name in ("GOOGLE_VERTEX_AI_BASE_URL", "VERTEX_AI_BASE_URL"):
        url = config.get(name, "").strip()
        if not url:
            continue
        try:
            endpoint = Endpoint.parse(url)
        except EndpointRefused as refused:
            raise VertexRefused(f"{name}: {refused}") from None
        is_official = endpoint.is_tls and endpoint.port == 443 and _OFFICIAL(endpoint.host)
        if not is_official or endpoint.path:
            raise VertexRefused(f"{name} must be https:// and a host of Google's Vertex AI alone")
        return endpoint.url
    return None
