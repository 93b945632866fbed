"""Durable state of the gateway: one table of objects and a few append-only ones.

`model.py` is the interface (rows, conditions, `Tx`, `Store`), `sqlite.py` the implementation.
Nothing in here knows a message type: payloads are bytes.
"""

from openshell.gateway.store.model import (
    LIST_DEFAULT,
    LIST_MAX,
    Condition,
    LogLine,
    MatchResourceVersion,
    MustCreate,
    NewRow,
    Row,
    Store,
    StoreConflict,
    StoreError,
    StoreUnavailable,
    Tx,
    Unconditional,
    UniqueViolation,
)

__all__ = [
    "LIST_DEFAULT",
    "LIST_MAX",
    "Condition",
    "LogLine",
    "MatchResourceVersion",
    "MustCreate",
    "NewRow",
    "Row",
    "Store",
    "StoreConflict",
    "StoreError",
    "StoreUnavailable",
    "Tx",
    "Unconditional",
    "UniqueViolation",
]
