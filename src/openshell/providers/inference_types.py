"""Provider types that serve language models: where they are, how they authenticate, what they speak.

One table for both ends. The gateway resolves routes with it (`inference_routes`), the proxy decides
with it which fields of a request go on and in which field the key stands. No values of secrets.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from openshell.providers.types import canonical_type

__all__ = [
    "ANTHROPIC_MESSAGES",
    "BEDROCK_INVOKE",
    "CHAT_COMPLETIONS",
    "COMPLETIONS",
    "EMBEDDINGS",
    "INFERENCE_TYPES",
    "MODEL_DISCOVERY",
    "RESPONSES",
    "VERTEX",
    "Auth",
    "InferenceType",
    "inference_type",
]

CHAT_COMPLETIONS: Final = "openai_chat_completions"
COMPLETIONS: Final = "openai_completions"
RESPONSES: Final = "openai_responses"
EMBEDDINGS: Final = "openai_embeddings"
ANTHROPIC_MESSAGES: Final = "anthropic_messages"
MODEL_DISCOVERY: Final = "model_discovery"
BEDROCK_INVOKE: Final = "aws_bedrock_invoke"

VERTEX: Final = "google-vertex-ai"

_OPENAI: Final = (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, EMBEDDINGS, MODEL_DISCOVERY)


class Auth(enum.Enum):
    """Where a type's key stands in a request."""

    BEARER = "authorization: Bearer"
    API_KEY = "x-api-key"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class InferenceType:
    """What is the same for every provider of a type."""

    name: str
    base_url: str
    """Empty: the provider's configuration must name one."""
    auth: Auth
    key_names: tuple[str, ...]
    """Credentials that may be the key, the preferred one first."""
    base_names: tuple[str, ...]
    """Settings of the provider that replace `base_url`."""
    protocols: tuple[str, ...]
    passthrough: frozenset[str] = frozenset()
    """Fields of the client that go on, beside those that always do."""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Fields that are added where the client has none of that name."""


_ALL: Final = (
    InferenceType(
        "openai",
        "https://api.openai.com/v1",
        Auth.BEARER,
        ("OPENAI_API_KEY",),
        ("OPENAI_BASE_URL",),
        _OPENAI,
        frozenset({"openai-organization", "x-model-id"}),
    ),
    InferenceType(
        "anthropic",
        "https://api.anthropic.com/v1",
        Auth.API_KEY,
        ("ANTHROPIC_API_KEY",),
        ("ANTHROPIC_BASE_URL",),
        (ANTHROPIC_MESSAGES, MODEL_DISCOVERY),
        frozenset({"anthropic-version", "anthropic-beta"}),
        MappingProxyType({"anthropic-version": "2023-06-01"}),
    ),
    InferenceType(
        "nvidia",
        "https://integrate.api.nvidia.com/v1",
        Auth.BEARER,
        ("NVIDIA_API_KEY",),
        ("NVIDIA_BASE_URL",),
        _OPENAI,
        frozenset({"x-model-id"}),
    ),
    InferenceType(
        "deepinfra",
        "https://api.deepinfra.com/v1/openai",
        Auth.BEARER,
        ("DEEPINFRA_API_KEY",),
        ("DEEPINFRA_BASE_URL",),
        _OPENAI,
        frozenset({"x-model-id"}),
    ),
    InferenceType(
        VERTEX,
        "",
        Auth.BEARER,
        (
            "GOOGLE_VERTEX_AI_SERVICE_ACCOUNT_TOKEN",
            "VERTEX_AI_SERVICE_ACCOUNT_TOKEN",
            "GOOGLE_VERTEX_AI_TOKEN",
            "VERTEX_AI_TOKEN",
        ),
        ("GOOGLE_VERTEX_AI_BASE_URL", "VERTEX_AI_BASE_URL"),
        # Which of the two depends on the model's publisher.
        (CHAT_COMPLETIONS, ANTHROPIC_MESSAGES),
    ),
    InferenceType("aws-bedrock", "", Auth.NONE, (), ("BEDROCK_BASE_URL",), (BEDROCK_INVOKE,)),
)

INFERENCE_TYPES: Final[Mapping[str, InferenceType]] = MappingProxyType(
    {kind.name: kind for kind in _ALL}
)


def inference_type(provider_type: str) -> InferenceType | None:
    """The row of a provider's type, aliases resolved; None for a type that serves no models."""
    return INFERENCE_TYPES.get(canonical_type(provider_type))
