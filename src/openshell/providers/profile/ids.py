"""The id of a profile: lower-case kebab-case, and nothing else.

Ids of requests are normalised before look-up, ids inside documents must be normal already. Aliases
of provider types are another matter (`openshell.providers.types`) and never apply to ids.
"""

from __future__ import annotations

import re
import string
from typing import Final

from openshell.providers.texts import SHOWN_MAX, shown

__all__ = ["ProfileIdError", "is_canonical_id", "normalize_id"]

_ID: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
# Only ASCII: the full table maps other letters (the Kelvin sign) onto ASCII ones.
_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class ProfileIdError(ValueError):
    """The text cannot be made into an id; one sentence that says what would be accepted."""


def normalize_id(text: str) -> str:
    """Trimmed and in lower case; "" for blank text. Raises `ProfileIdError` for anything else."""
    normal = text.strip().translate(_LOWER)
    if normal and not _ID.fullmatch(normal):
        raise ProfileIdError(
            f"provider profile id '{shown(text[:SHOWN_MAX])}' must be lowercase kebab-case: "
            "letters a-z and digits, in words joined by single '-'"
        )
    return normal


def is_canonical_id(text: str) -> bool:
    """Whether the text is an id as it stands."""
    return _ID.fullmatch(text) is not None
