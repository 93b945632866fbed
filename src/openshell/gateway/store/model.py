"""What the store keeps and how a writer states what must hold: rows, conditions, transactions.

No SQL here. `Tx` is what services write against; `Store` is what runs their functions on database
threads. Invariants that span rows are read, decided and written inside one `Store.write`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

__all__ = [
    "LIST_DEFAULT",
    "LIST_MAX",
    "Condition",
    "LogLine",
    "LogLines",
    "MatchResourceVersion",
    "MustCreate",
    "NewRow",
    "Row",
    "Rows",
    "Store",
    "StoreConflict",
    "StoreError",
    "StoreUnavailable",
    "Tx",
    "Unconditional",
    "UniqueViolation",
]

T = TypeVar("T")

LIST_DEFAULT = 100
"""Rows of a list that names no limit; the API's contract."""
LIST_MAX = 1000
"""Rows of one list at most, whatever was asked: bounds the answer's size."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """What a writer hands over. The store adds the resource version and the times."""

    id: str
    kind: str
    payload: bytes = field(repr=False)
    workspace: str = ""
    name: str | None = None
    scope: str | None = None
    version: int | None = None
    status: str | None = None
    dedup_key: str | None = None
    hit_count: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at_ms: int | None = None
    """None: the time of the transaction."""


@dataclass(frozen=True, slots=True)
class Row:
    """One object as it is stored."""

    id: str
    kind: str
    workspace: str
    name: str | None
    scope: str | None
    version: int | None
    status: str | None
    dedup_key: str | None
    hit_count: int
    payload: bytes = field(repr=False)
    labels: Mapping[str, str]
    resource_version: int
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a sandbox's log; `id` is set when read."""

    sandbox_id: str
    timestamp_ms: int
    source: str
    level: str
    target: str
    message: str
    fields: Mapping[str, str] = field(default_factory=dict)
    id: int = 0


@dataclass(frozen=True, slots=True)
class MustCreate:
    """No row with this id or any of its unique keys may exist."""


@dataclass(frozen=True, slots=True)
class MatchResourceVersion:
    """The row must exist with exactly this version."""

    version: int


@dataclass(frozen=True, slots=True)
class Unconditional:
    """Insert or overwrite by id. For rows no client can race on."""


Condition: TypeAlias = MustCreate | MatchResourceVersion | Unconditional


Rows: TypeAlias = list[Row]
LogLines: TypeAlias = list[LogLine]


class StoreError(Exception):
    """The write did not happen."""


class StoreConflict(StoreError):
    """The row is not at the version the writer expected; `current` is None when it is gone."""

    def __init__(self, current: int | None) -> None:
        super().__init__(f"stale resource version (current: {current})")
        self.current = current


class UniqueViolation(StoreError):
    """A key is taken. `constraint` is "id", "name", "version" or "dedup_key"."""

    def __init__(self, constraint: str) -> None:
        super().__init__(f"{constraint} is already taken")
        self.constraint = constraint


class StoreUnavailable(StoreError):
    """The database cannot be used; the text says why and what to do."""


class Tx(Protocol):
    """One transaction. Used only inside the function given to `Store.read` or `Store.write`."""

    @property
    def now_ms(self) -> int:
        """The transaction's one time: milliseconds since the epoch."""
        ...

    def get(self, kind: str, workspace: str, name: str) -> Row | None: ...

    def get_by_id(self, kind: str, row_id: str) -> Row | None: ...

    def get_version(self, kind: str, scope: str, version: int | None) -> Row | None:
        """The row of a scope at a version; None asks for the highest."""
        ...

    def list(
        self,
        kind: str,
        *,
        workspace: str | None = None,
        scope: str | None = None,
        status: str | Sequence[str] | None = None,
        label_selector: Mapping[str, str] | None = None,
        limit: int = 0,
        offset: int = 0,
        newest_first: bool = False,
    ) -> Rows:
        """Rows by creation time and name (or by version, highest first, with `newest_first`).

        `workspace` None means all of them; limit 0 means `LIST_DEFAULT`, more than `LIST_MAX` is cut.
        """
        ...

    def all(self, kind: str, *, workspace: str | None = None, scope: str | None = None) -> Rows:
        """Every row, unpaged: for invariants and sweeps, not for answers to clients."""
        ...

    def put(self, row: NewRow, condition: Condition) -> Row: ...

    def delete(self, kind: str, row_id: str, if_version: int | None = None) -> bool:
        """False when absent. Another version than `if_version` raises `StoreConflict`."""
        ...

    def delete_scope(self, kind: str, scope: str) -> int:
        """Removes every row of a kind in a scope; how many there were."""
        ...

    def append_logs(self, lines: Sequence[LogLine]) -> int:
        """Appends and keeps retention; the id of the last line, 0 for none."""
        ...

    def read_logs(
        self, sandbox_id: str, *, last: int, after_id: int = 0, before_id: int = 0
    ) -> LogLines:
        """The last lines between two, in the order they came in; 0 is no border."""
        ...

    def is_log_full(self, sandbox_id: str) -> bool:
        """Whether a sandbox has as many lines as are kept, so that older ones may be gone."""
        ...

    def delete_logs(self, sandbox_id: str) -> None: ...


class Store(Protocol):
    """Runs transaction functions. They may run more than once and must touch nothing but `tx`."""

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """All or nothing, serialisable. A cancelled caller does not stop a running transaction."""
        ...

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """One snapshot."""
        ...

    async def look_up(self, fn: Callable[[Tx], T]) -> T:
        """As `read`, for what is a few rows by an index: may be done on the caller's own thread."""
        ...

    async def close(self) -> None: ...
