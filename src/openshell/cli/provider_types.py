"""Which words name a type of provider without asking the gateway, and which a command implies.

A pure table over the aliases of `openshell.providers.types`; every other word is a profile's id, which
only the gateway can know.
"""

from __future__ import annotations

from typing import Final

from openshell.providers.types import canonical_type

__all__ = ["KNOWN_TYPES", "known_type", "type_of_command"]

KNOWN_TYPES: Final = (
    "anthropic",
    "aws-bedrock",
    "claude-code",
    "codex",
    "copilot",
    "deepinfra",
    "generic",
    "github",
    "gitlab",
    "google-cloud",
    "google-vertex-ai",
    "nvidia",
    "openai",
    "opencode",
    "outlook",
)
"""Types of the contract's table; some have no profile at all."""


def known_type(text: str) -> str | None:
    """The canonical type that a word or alias names; None when the table does not have it."""
    found = canonical_type(text)
    return found if found in KNOWN_TYPES else None


def type_of_command(program: str) -> str | None:
    """The type that a program's name implies: `/usr/bin/glab` means gitlab, `bash` nothing."""
    return known_type(program.rpartition("/")[2])
