"""One digest of a sequence of texts. Parts are length-prefixed, so where they are cut counts too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["digest_of"]


def digest_of(parts: Iterable[str]) -> bytes:
    """SHA-256; differs when any part differs."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.digest()
