"""Aliases of provider types. The type is stored as sent; the alias counts only when it is looked up.

Profile ids have a normal form of their own and no aliases; that belongs to the profile catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["canonical_type"]

_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "claude": "claude-code",
        "claude_code": "claude-code",
        "vertex": "google-vertex-ai",
        "vertex-ai": "google-vertex-ai",
        "google-vertex": "google-vertex-ai",
        "gcp-vertex": "google-vertex-ai",
        "gcp": "google-cloud",
        "gh": "github",
        "glab": "gitlab",
    }
)


def canonical_type(provider_type: str) -> str:
    """The name under which a type is looked up: trimmed, lower case, alias resolved."""
    name = provider_type.strip().lower()
    return _ALIASES.get(name, name)
