"""Label selectors: `k=v,k2=v2`, equality and AND only. Pure; services parse, the store filters."""

from __future__ import annotations

__all__ = ["SELECTOR_MAX_PAIRS", "SelectorError", "parse_label_selector"]

SELECTOR_MAX_PAIRS = 64
"""Pairs in one selector: bounds the work of one list query."""


class SelectorError(ValueError):
    """The selector's text is wrong; the message names the item's position, not more."""


def parse_label_selector(text: str) -> dict[str, str]:
    """Pairs in the order written. Blank items are skipped; an empty value matches an empty label.

    Whether keys and values are well-formed labels is checked by `openshell.gateway.limits`.
    """
    pairs: dict[str, str] = {}
    for position, item in enumerate(text.split(","), start=1):
        stripped = item.strip()
        if not stripped:
            continue
        key, separator, value = stripped.partition("=")
        if not separator:
            raise SelectorError(f"label selector item {position} has no '='; write key=value")
        key = key.strip()
        if not key:
            raise SelectorError(f"label selector item {position} has an empty key")
        value = value.strip()
        if key in pairs and pairs[key] != value:
            raise SelectorError(f"label selector names key '{key}' twice with different values")
        pairs[key] = value
        if len(pairs) > SELECTOR_MAX_PAIRS:
            raise SelectorError(f"label selector has more than {SELECTOR_MAX_PAIRS} pairs")
    return pairs
