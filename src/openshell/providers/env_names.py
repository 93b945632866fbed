"""What may be the name of a credential's environment variable."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_env_key", "is_reserved_env_key"]

_ENV_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Placeholders are written `v<revision>_KEY` and `s<handle>_KEY`; a key that looks like the start of
# one would make them ambiguous.
_PLACEHOLDER_NAMESPACE: Final = re.compile(r"(?:v[0-9]+|s[0-9a-f]{64})_.*", re.DOTALL)


def is_env_key(key: str) -> bool:
    return _ENV_KEY.fullmatch(key) is not None


def is_reserved_env_key(key: str) -> bool:
    """Looks like the inside of a placeholder."""
    return _PLACEHOLDER_NAMESPACE.fullmatch(key) is not None
