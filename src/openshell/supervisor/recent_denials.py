"""The last refusals of a sandbox, for its own agent: kept as events, written when somebody asks.

Sits between the proxy and the log. Only refusals are kept, so few that an agent cannot make us hold much;
what is shown carries no query and no more than a line. Read by `advisor`.
"""

import datetime as dt
import re
from collections import deque
from collections.abc import Callable

from openshell import ocsf

__all__ = ["RecentDenials"]

# The most that one request may ask for (proxy.md 14).
_KEPT = 100
_MAX_LINE = 4096
_CUT = "...[truncated]"
# Paths in events have no query. Should one get there, it does not get further.
_QUERY = re.compile(r"\?[^\s\]\"]+")


class RecentDenials:
    """A ring of refusals."""

    def __init__(self) -> None:
        self._events: deque[ocsf.Event] = deque(maxlen=_KEPT)

    def before(self, sink: Callable[[ocsf.Event], None]) -> Callable[[ocsf.Event], None]:
        """A sink that keeps refusals and hands everything on."""
        keep = self._events.append

        def emit(event: ocsf.Event) -> None:
            if getattr(event, "action", None) is ocsf.Action.DENIED:
                keep(event)
            sink(event)

        return emit

    def lines(self, last: int) -> list[str]:
        """The newest first."""
        newest = [event for _, event in zip(range(last), reversed(self._events), strict=False)]
        return [_line(event) for event in newest]


def _line(event: ocsf.Event) -> str:
    moment = dt.datetime.fromtimestamp(event.time_ms / 1000, dt.UTC)
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = _QUERY.sub("?[redacted]", f"{stamp} OCSF {ocsf.to_line(event)}")
    data = line.encode()
    if len(data) <= _MAX_LINE:
        return line
    return data[:_MAX_LINE].decode("utf-8", "ignore") + _CUT
