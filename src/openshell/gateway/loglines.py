"""Lines of a sandbox's log: which pass a reader's filter, and how they look on the wire. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openshell._proto import openshell_pb2
from openshell.gateway.store import LogLine

__all__ = ["level_rank", "line_filter", "line_message"]

_RANKS = {"ERROR": 0, "WARN": 1, "INFO": 2, "OCSF": 2, "DEBUG": 3, "TRACE": 4}
_UNKNOWN_RANK = 5


def level_rank(level: str) -> int:
    """The lower the more severe; a level nobody knows comes last."""
    return _RANKS.get(level.upper(), _UNKNOWN_RANK)


def line_filter(sources: Sequence[str], min_level: str) -> Callable[[LogLine], bool]:
    """Passes lines of these sources (none: all) that are at least this severe (empty: all)."""
    wanted = frozenset(sources)
    rank = level_rank(min_level) if min_level else _UNKNOWN_RANK

    def passes(line: LogLine) -> bool:
        if wanted and (line.source or "gateway") not in wanted:
            return False
        return level_rank(line.level) <= rank

    return passes


def line_message(line: LogLine) -> openshell_pb2.SandboxLogLine:
    return openshell_pb2.SandboxLogLine(
        sandbox_id=line.sandbox_id,
        timestamp_ms=line.timestamp_ms,
        level=line.level,
        target=line.target,
        message=line.message,
        source=line.source,
        fields=dict(line.fields),
    )
