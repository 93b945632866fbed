"""Which requests to `inference.local` are served, and in which dialect their client speaks. Pure.

Paths arrive canonical and without query. What no pattern names is refused: a route's key opens more
at its provider than asking models.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final

from openshell.egress.http1 import RequestHead
from openshell.providers.inference_types import (
    ANTHROPIC_MESSAGES,
    BEDROCK_INVOKE,
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    MODEL_DISCOVERY,
    RESPONSES,
)

__all__ = ["Dialect", "Pattern", "dialect_of", "find_pattern"]


class Dialect(enum.Enum):
    """How errors are worded for a client's library."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A way of asking that is served."""

    protocol: str
    dialect: Dialect
    can_stream: bool = False
    has_body: bool = True


_POSTS: Final = {
    "/v1/chat/completions": Pattern(CHAT_COMPLETIONS, Dialect.OPENAI, can_stream=True),
    "/v1/completions": Pattern(COMPLETIONS, Dialect.OPENAI, can_stream=True),
    "/v1/responses": Pattern(RESPONSES, Dialect.OPENAI, can_stream=True),
    "/v1/messages": Pattern(ANTHROPIC_MESSAGES, Dialect.ANTHROPIC, can_stream=True),
    "/v1/embeddings": Pattern(EMBEDDINGS, Dialect.OPENAI),
}
_INVOKE: Final = Pattern(BEDROCK_INVOKE, Dialect.BEDROCK)
_MODELS: Final = Pattern(MODEL_DISCOVERY, Dialect.OPENAI, has_body=False)
_INVOKE_PATH: Final = re.compile(r"/model/[^/]+/invoke").fullmatch
_MODELS_PATH: Final = re.compile(r"/v1/models(?:/.+)?").fullmatch


def find_pattern(method: bytes, path: str) -> Pattern | None:
    """The pattern of a request, or None for what is not served."""
    if method == b"POST":
        return _POSTS.get(path) or (_INVOKE if _INVOKE_PATH(path) else None)
    if method == b"GET" and _MODELS_PATH(path):
        return _MODELS
    return None


def dialect_of(pattern: Pattern, head: RequestHead) -> Dialect:
    """Lists of models are asked by either library, at the same path; only one of them says who it is."""
    if pattern.protocol == MODEL_DISCOVERY and (
        head.values(b"anthropic-version") or head.values(b"x-api-key")
    ):
        return Dialect.ANTHROPIC
    return pattern.dialect
