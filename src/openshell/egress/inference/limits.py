"""What one request for a model may hold and for how long; the contract's numbers."""

from typing import Final

__all__ = [
    "ANSWER_BYTES",
    "CHUNKS",
    "CONNECT_SECONDS",
    "COOL_SECONDS",
    "DEFAULT_SECONDS",
    "HELD_BYTES",
    "IDLE_SECONDS",
    "MAX_COOL_SECONDS",
    "REQUEST_BYTES",
]

REQUEST_BYTES: Final = 10 * 1024 * 1024
"""Head and body of a request, which is held whole to name its model; 413 beyond."""
CHUNKS: Final = 4096
"""Chunks of a request, so that framing is no way to make us work for ever; 413 beyond."""
ANSWER_BYTES: Final = 32 * 1024 * 1024
"""Of one answer; a held one is a 502 beyond, a streamed one ends with an error of its own."""
HELD_BYTES: Final = 64 * 1024 * 1024
"""Answers held at a time in one sandbox; those beyond are a 502."""
DEFAULT_SECONDS: Final = 60
"""For a request whose answer is held, where the route names no time."""
CONNECT_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 120.0
"""Silence in a streamed answer, its beginning included: models think before they speak."""
COOL_SECONDS: Final = 5.0
"""For which a target that failed is asked after the others; doubled by each failure that follows."""
MAX_COOL_SECONDS: Final = 60.0
"""So that a provider which works again is used again within a minute."""
