"""How long to wait before the next try: doubling up to a ceiling, from the start after a success."""

__all__ = ["Backoff"]


class Backoff:
    """One sequence of waits."""

    def __init__(self, first: float, ceiling: float) -> None:
        self._first = first
        self._ceiling = ceiling
        self._next = first

    def next(self) -> float:
        """Seconds to wait now; the following wait is twice as long."""
        delay = self._next
        self._next = min(self._next * 2, self._ceiling)
        return delay

    def reset(self) -> None:
        """Start again from the first wait."""
        self._next = self._first
