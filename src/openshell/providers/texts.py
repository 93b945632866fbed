"""Texts of clients, as rules measure them and as messages may repeat them."""

from __future__ import annotations

from typing import Final

__all__ = ["SHOWN_MAX", "byte_size", "shown"]

SHOWN_MAX: Final = 80
"""Characters of a client's text that a message repeats."""


def byte_size(text: str) -> int:
    """Bytes in UTF-8, whatever the text holds."""
    return len(text.encode("utf-8", "surrogatepass"))


def shown(text: str) -> str:
    """The text as it may stand in a message: short, printable."""
    head = "".join(char if char.isprintable() else "?" for char in text[:SHOWN_MAX])
    return head if len(text) <= SHOWN_MAX else f"{head}…"
