"""The SQL behind `Tx`, said once for every database; `sqlite_tx.py` and `postgres_tx.py` execute it.

Statements keep to what both databases understand, with `?` for a value. A key that is taken is found
by asking for it, never by an error of the database: in PostgreSQL such an error would end the whole
transaction, and its text differs. Orders are spelled out to the last column and the last NULL.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from openshell.gateway.store.model import (
    LIST_DEFAULT,
    LIST_MAX,
    Condition,
    LogLine,
    LogLines,
    MatchResourceVersion,
    MustCreate,
    NewRow,
    Row,
    Rows,
    StoreConflict,
    UniqueViolation,
)

__all__ = ["LOG_LINES_MAX", "LOG_LINES_SLACK", "Parameters", "SqlTx"]

LOG_LINES_MAX = 20_000
"""Lines kept per sandbox: a few days of a busy agent, about 6 MB; the oldest go first."""
LOG_LINES_SLACK = 1_000
"""Lines above the limit before old ones are removed, so that removal is rare and in bulk."""

Parameters = Sequence[object]

_COLUMNS = (
    "id, object_type, workspace, name, scope, version, status, dedup_key, hit_count, payload, "
    "labels, resource_version, created_at_ms, updated_at_ms"
)
_SELECT = f"SELECT {_COLUMNS} FROM objects"  # noqa: S608 - only a constant of this module
_INSERT = (
    f"INSERT INTO objects ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,1,?,?) ON CONFLICT DO NOTHING"  # noqa: S608
)
_INSERT_LOG = (
    "INSERT INTO logs (sandbox_id, ts_ms, source, level, target, message, fields) "
    "VALUES (?,?,?,?,?,?,?)"
)
_OLDEST = "ORDER BY created_at_ms, name NULLS FIRST, workspace, id"
_NEWEST = "ORDER BY version DESC NULLS LAST, created_at_ms DESC, name NULLS FIRST, id"


class SqlTx(ABC):
    """Implements `Tx` on a connection that is inside a transaction."""

    LABEL_IS: ClassVar[str]
    """A condition on `objects.labels` with two values, key and value."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    @property
    def now_ms(self) -> int:
        return self._now_ms

    @abstractmethod
    def _find(self, sql: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """The rows of a query or of RETURNING."""

    @abstractmethod
    def _change(self, sql: str, parameters: Parameters) -> int:
        """How many rows a statement touched."""

    @abstractmethod
    def _change_each(self, sql: str, parameters: Iterable[Parameters]) -> None:
        """One statement for many sets of values."""

    # -- objects

    def _one(self, where: str, parameters: Parameters) -> Row | None:
        found = self._find(f"{_SELECT} {where}", parameters)
        return _row(found[0]) if found else None

    def get(self, kind: str, workspace: str, name: str) -> Row | None:
        return self._one(
            "WHERE object_type = ? AND workspace = ? AND name = ?", (kind, workspace, name)
        )

    def get_by_id(self, kind: str, row_id: str) -> Row | None:
        return self._one("WHERE id = ? AND object_type = ?", (row_id, kind))

    def get_version(self, kind: str, scope: str, version: int | None) -> Row | None:
        where = "WHERE object_type = ? AND scope = ? AND version IS NOT NULL"
        if version is None:
            return self._one(f"{where} ORDER BY version DESC LIMIT 1", (kind, scope))
        return self._one(f"{where} AND version = ?", (kind, scope, version))

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
        where, parameters = _filter(self.LABEL_IS, kind, workspace, scope, status, label_selector)
        order = _NEWEST if newest_first else _OLDEST
        parameters += [min(limit or LIST_DEFAULT, LIST_MAX), offset]
        return [
            _row(v) for v in self._find(f"{_SELECT} {where} {order} LIMIT ? OFFSET ?", parameters)
        ]

    def all(self, kind: str, *, workspace: str | None = None, scope: str | None = None) -> Rows:
        where, parameters = _filter(self.LABEL_IS, kind, workspace, scope, None, None)
        return [_row(values) for values in self._find(f"{_SELECT} {where} {_OLDEST}", parameters)]

    def put(self, row: NewRow, condition: Condition) -> Row:
        match condition:
            case MustCreate():
                return self._insert(row)
            case MatchResourceVersion(version):
                return self._update(row, version)
            case _:
                present = self.get_by_id(row.kind, row.id)
                if present is None:
                    return self._insert(row)
                return self._update(row, present.resource_version)

    def _insert(self, row: NewRow) -> Row:
        created = self._now_ms if row.created_at_ms is None else row.created_at_ms
        if not self._change(_INSERT, (*_values(row), created, self._now_ms)):
            if self._find("SELECT 1 FROM objects WHERE id = ?", (row.id,)):
                raise UniqueViolation("id")
            self._refuse_taken(row)
            raise AssertionError("the database refused a row whose keys are free")
        return _stored(row, 1, created, self._now_ms)

    def _update(self, row: NewRow, version: int) -> Row:
        present = self.get_by_id(row.kind, row.id)
        if present is None:
            raise StoreConflict(None)
        if present.resource_version != version:
            raise StoreConflict(present.resource_version)
        if (present.workspace, present.name) != (row.workspace, row.name):
            raise ValueError(f"{row.kind} {row.id}: name and workspace never change")
        if _keys(present) != _keys(row):
            self._refuse_taken(row)
        self._change(
            "UPDATE objects SET scope = ?, version = ?, status = ?, dedup_key = ?, hit_count = ?, "
            "payload = ?, labels = ?, resource_version = ?, updated_at_ms = ? WHERE id = ?",
            (*_values(row)[4:], version + 1, self._now_ms, row.id),
        )
        return _stored(row, version + 1, present.created_at_ms, self._now_ms)

    def _refuse_taken(self, row: NewRow) -> None:
        """Raises for the first key of a row that another row has."""
        keys = (
            ("name", "workspace", row.workspace, row.name),
            ("version", "scope", row.scope, row.version),
            ("dedup_key", "scope", row.scope, row.dedup_key),
        )
        for key, within, place, value in keys:
            if (
                place is not None
                and value is not None
                and self._find(
                    f"SELECT 1 FROM objects WHERE object_type = ? AND {within} = ? AND {key} = ? "  # noqa: S608 - names from above
                    "AND id <> ?",
                    (row.kind, place, value, row.id),
                )
            ):
                raise UniqueViolation(key)

    def delete(self, kind: str, row_id: str, if_version: int | None = None) -> bool:
        if if_version is not None:
            present = self.get_by_id(kind, row_id)
            if present is None:
                return False
            if present.resource_version != if_version:
                raise StoreConflict(present.resource_version)
        statement = "DELETE FROM objects WHERE id = ? AND object_type = ?"
        return self._change(statement, (row_id, kind)) > 0

    def delete_scope(self, kind: str, scope: str) -> int:
        return self._change(
            "DELETE FROM objects WHERE object_type = ? AND scope = ?", (kind, scope)
        )

    # -- logs

    def append_logs(self, lines: Sequence[LogLine]) -> int:
        if not lines:
            return 0
        counts: dict[str, int] = {}
        for line in lines:
            counts[line.sandbox_id] = counts.get(line.sandbox_id, 0) + 1
        # Counted first: whoever holds a sandbox's count is alone, so that its lines get their ids in
        # the order in which they become visible, and a follower that has seen one misses none.
        kept = {sandbox_id: self._count(sandbox_id, added) for sandbox_id, added in counts.items()}
        self._change_each(_INSERT_LOG, [_line_values(line) for line in lines[:-1]])
        ((last,),) = self._find(f"{_INSERT_LOG} RETURNING id", _line_values(lines[-1]))
        for sandbox_id, there in kept.items():
            if there > LOG_LINES_MAX + LOG_LINES_SLACK:
                self._retain(sandbox_id, there)
        return int(last)

    def _count(self, sandbox_id: str, added: int) -> int:
        ((kept,),) = self._find(
            "INSERT INTO log_counts (sandbox_id, lines) VALUES (?, ?) ON CONFLICT (sandbox_id) "
            "DO UPDATE SET lines = log_counts.lines + excluded.lines RETURNING lines",
            (sandbox_id, added),
        )
        return int(kept)

    def _retain(self, sandbox_id: str, there: int) -> None:
        self._change(
            "DELETE FROM logs WHERE id IN "
            "(SELECT id FROM logs WHERE sandbox_id = ? ORDER BY id LIMIT ?)",
            (sandbox_id, there - LOG_LINES_MAX),
        )
        self._change(
            "UPDATE log_counts SET lines = ? WHERE sandbox_id = ?", (LOG_LINES_MAX, sandbox_id)
        )

    def read_logs(
        self, sandbox_id: str, *, last: int, after_id: int = 0, before_id: int = 0
    ) -> LogLines:
        before, border = ("AND id < ? ", (before_id,)) if before_id else ("", ())
        found = self._find(
            "SELECT sandbox_id, ts_ms, source, level, target, message, fields, id FROM logs "  # noqa: S608 - a constant
            f"WHERE sandbox_id = ? AND id > ? {before}ORDER BY id DESC LIMIT ?",
            (sandbox_id, after_id, *border, last),
        )
        return [_line(values) for values in reversed(found)]

    def is_log_full(self, sandbox_id: str) -> bool:
        # Retention never leaves fewer: a log below the limit has lost nothing.
        found = self._find("SELECT lines FROM log_counts WHERE sandbox_id = ?", (sandbox_id,))
        return bool(found) and int(found[0][0]) >= LOG_LINES_MAX

    def delete_logs(self, sandbox_id: str) -> None:
        self._change("DELETE FROM logs WHERE sandbox_id = ?", (sandbox_id,))
        self._change("DELETE FROM log_counts WHERE sandbox_id = ?", (sandbox_id,))


def _filter(
    label_is: str,
    kind: str,
    workspace: str | None,
    scope: str | None,
    status: str | Sequence[str] | None,
    selector: Mapping[str, str] | None,
) -> tuple[str, list[object]]:
    clauses = ["object_type = ?"]
    parameters: list[object] = [kind]
    if workspace is not None:
        clauses.append("workspace = ?")
        parameters.append(workspace)
    if scope is not None:
        clauses.append("scope = ?")
        parameters.append(scope)
    if status is not None:
        wanted = (status,) if isinstance(status, str) else tuple(status)
        clauses.append(f"status IN ({','.join('?' * len(wanted))})")
        parameters.extend(wanted)
    for key, value in (selector or {}).items():
        clauses.append(label_is)
        parameters.extend((key, value))
    return "WHERE " + " AND ".join(clauses), parameters


def _row(values: tuple[Any, ...]) -> Row:
    # Columns in the order of the dataclass; the schema keeps their types.
    cells = list(values)
    cells[10] = _decode(cells[10])
    return Row(*cells)


def _line(values: tuple[Any, ...]) -> LogLine:
    cells = list(values)
    cells[6] = _decode(cells[6])
    return LogLine(*cells)


def _decode(pairs: Any) -> Any:
    """A JSON column: text, unless the database's driver has read it already."""
    if isinstance(pairs, str):
        return {} if pairs == "{}" else json.loads(pairs)
    return pairs


def _encode(pairs: Mapping[str, str]) -> str:
    return json.dumps(dict(pairs), sort_keys=True, ensure_ascii=False) if pairs else "{}"


def _keys(row: NewRow | Row) -> tuple[object, ...]:
    return row.scope, row.version, row.dedup_key


def _line_values(line: LogLine) -> tuple[object, ...]:
    # PostgreSQL has no NUL in text, and an agent decides what is logged: its symbol is kept.
    source, level, target, message = (
        text.replace("\0", "\u2400")
        for text in (line.source, line.level, line.target, line.message)
    )
    fields = _encode(line.fields)
    return line.sandbox_id, line.timestamp_ms, source, level, target, message, fields


def _values(row: NewRow) -> tuple[object, ...]:
    return (
        row.id,
        row.kind,
        row.workspace,
        row.name,
        row.scope,
        row.version,
        row.status,
        row.dedup_key,
        row.hit_count,
        row.payload,
        _encode(row.labels),
    )


def _stored(row: NewRow, resource_version: int, created: int, updated: int) -> Row:
    return Row(
        id=row.id,
        kind=row.kind,
        workspace=row.workspace,
        name=row.name,
        scope=row.scope,
        version=row.version,
        status=row.status,
        dedup_key=row.dedup_key,
        hit_count=row.hit_count,
        payload=row.payload,
        labels=dict(row.labels),
        resource_version=resource_version,
        created_at_ms=created,
        updated_at_ms=updated,
    )
