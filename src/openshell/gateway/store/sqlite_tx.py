"""One SQLite transaction: the SQL behind `Tx`. Used by `sqlite.py` on its database threads only."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

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

__all__ = ["LOG_LINES_MAX", "LOG_LINES_SLACK", "SqliteTx"]

LOG_LINES_MAX = 20_000
"""Lines kept per sandbox: a few days of a busy agent, about 6 MB; the oldest go first."""
LOG_LINES_SLACK = 1_000
"""Lines above the limit before old ones are removed, so that removal is rare and in bulk."""

_COLUMNS = (
    "id, object_type, workspace, name, scope, version, status, dedup_key, hit_count, payload, "
    "labels, resource_version, created_at_ms, updated_at_ms"
)
_SELECT = f"SELECT {_COLUMNS} FROM objects"  # noqa: S608 - only a constant of this module
_UNIQUE = {
    "objects.id": "id",
    "objects.object_type, objects.workspace, objects.name": "name",
    "objects.object_type, objects.scope, objects.version": "version",
    "objects.object_type, objects.scope, objects.dedup_key": "dedup_key",
}


def _row(values: tuple[Any, ...]) -> Row:
    # Columns in the order of the dataclass; the schema's STRICT keeps their types.
    cells = list(values)
    cells[10] = {} if cells[10] == "{}" else json.loads(cells[10])
    return Row(*cells)


def _line(values: tuple[Any, ...]) -> LogLine:
    cells = list(values)
    cells[6] = json.loads(cells[6])
    return LogLine(*cells)


def _encode(pairs: Mapping[str, str]) -> str:
    return json.dumps(dict(pairs), sort_keys=True, ensure_ascii=False) if pairs else "{}"


class SqliteTx:
    """Implements `Tx` on a connection that is inside a transaction."""

    def __init__(self, connection: sqlite3.Connection, now_ms: int) -> None:
        self._connection = connection
        self._now_ms = now_ms

    @property
    def now_ms(self) -> int:
        return self._now_ms

    def _one(self, where: str, parameters: Sequence[object]) -> Row | None:
        found = self._connection.execute(f"{_SELECT} {where}", parameters).fetchone()
        return None if found is None else _row(found)

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
        where, parameters = _filter(kind, workspace, scope, status, label_selector)
        order = _NEWEST if newest_first else _OLDEST
        parameters += [min(limit or LIST_DEFAULT, LIST_MAX), offset]
        found = self._connection.execute(
            f"{_SELECT} {where} {order} LIMIT ? OFFSET ?", parameters
        ).fetchall()
        return [_row(values) for values in found]

    def all(self, kind: str, *, workspace: str | None = None, scope: str | None = None) -> Rows:
        where, parameters = _filter(kind, workspace, scope, None, None)
        found = self._connection.execute(f"{_SELECT} {where} {_OLDEST}", parameters).fetchall()
        return [_row(values) for values in found]

    def put(self, row: NewRow, condition: Condition) -> Row:
        try:
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
        except sqlite3.IntegrityError as error:
            raise _violation(error) from error

    def _insert(self, row: NewRow) -> Row:
        created = self._now_ms if row.created_at_ms is None else row.created_at_ms
        self._connection.execute(
            f"INSERT INTO objects ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,1,?,?)",  # noqa: S608
            (*_values(row), created, self._now_ms),
        )
        return _stored(row, 1, created, self._now_ms)

    def _update(self, row: NewRow, version: int) -> Row:
        present = self.get_by_id(row.kind, row.id)
        if present is None:
            raise StoreConflict(None)
        if present.resource_version != version:
            raise StoreConflict(present.resource_version)
        if (present.workspace, present.name) != (row.workspace, row.name):
            raise ValueError(f"{row.kind} {row.id}: name and workspace never change")
        self._connection.execute(
            "UPDATE objects SET scope = ?, version = ?, status = ?, dedup_key = ?, hit_count = ?, "
            "payload = ?, labels = ?, resource_version = ?, updated_at_ms = ? WHERE id = ?",
            (*_values(row)[4:], version + 1, self._now_ms, row.id),
        )
        return _stored(row, version + 1, present.created_at_ms, self._now_ms)

    def delete(self, kind: str, row_id: str, if_version: int | None = None) -> bool:
        if if_version is not None:
            present = self.get_by_id(kind, row_id)
            if present is None:
                return False
            if present.resource_version != if_version:
                raise StoreConflict(present.resource_version)
        return (
            self._connection.execute(
                "DELETE FROM objects WHERE id = ? AND object_type = ?", (row_id, kind)
            ).rowcount
            > 0
        )

    def delete_scope(self, kind: str, scope: str) -> int:
        return self._connection.execute(
            "DELETE FROM objects WHERE object_type = ? AND scope = ?", (kind, scope)
        ).rowcount

    def append_logs(self, lines: Sequence[LogLine]) -> int:
        last = 0
        counts: dict[str, int] = {}
        for line in lines:
            last = (
                self._connection.execute(
                    "INSERT INTO logs (sandbox_id, ts_ms, source, level, target, message, fields) "
                    "VALUES (?,?,?,?,?,?,?)",
                    (
                        line.sandbox_id,
                        line.timestamp_ms,
                        line.source,
                        line.level,
                        line.target,
                        line.message,
                        _encode(line.fields),
                    ),
                ).lastrowid
                or last
            )
            counts[line.sandbox_id] = counts.get(line.sandbox_id, 0) + 1
        for sandbox_id, added in counts.items():
            self._retain(sandbox_id, added)
        return last

    def _retain(self, sandbox_id: str, added: int) -> None:
        (kept,) = self._connection.execute(
            "INSERT INTO log_counts (sandbox_id, lines) VALUES (?, ?) "
            "ON CONFLICT (sandbox_id) DO UPDATE SET lines = lines + excluded.lines RETURNING lines",
            (sandbox_id, added),
        ).fetchone()
        if kept <= LOG_LINES_MAX + LOG_LINES_SLACK:
            return
        self._connection.execute(
            "DELETE FROM logs WHERE id IN "
            "(SELECT id FROM logs WHERE sandbox_id = ? ORDER BY id LIMIT ?)",
            (sandbox_id, kept - LOG_LINES_MAX),
        )
        self._connection.execute(
            "UPDATE log_counts SET lines = ? WHERE sandbox_id = ?", (LOG_LINES_MAX, sandbox_id)
        )

    def read_logs(self, sandbox_id: str, *, last: int, after_id: int = 0) -> LogLines:
        found = self._connection.execute(
            "SELECT sandbox_id, ts_ms, source, level, target, message, fields, id FROM logs "
            "WHERE sandbox_id = ? AND id > ? ORDER BY id DESC LIMIT ?",
            (sandbox_id, after_id, last),
        ).fetchall()
        return [_line(values) for values in reversed(found)]

    def delete_logs(self, sandbox_id: str) -> None:
        self._connection.execute("DELETE FROM logs WHERE sandbox_id = ?", (sandbox_id,))
        self._connection.execute("DELETE FROM log_counts WHERE sandbox_id = ?", (sandbox_id,))


_OLDEST = "ORDER BY created_at_ms, name, workspace, id"
_NEWEST = "ORDER BY version DESC, created_at_ms DESC, name, id"


def _filter(
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
        # Not a JSON path: keys hold dots and slashes.
        clauses.append(
            "EXISTS (SELECT 1 FROM json_each(objects.labels) AS pair "
            "WHERE pair.key = ? AND pair.value = ?)"
        )
        parameters.extend((key, value))
    return "WHERE " + " AND ".join(clauses), parameters


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


def _violation(error: sqlite3.IntegrityError) -> UniqueViolation:
    _, _, columns = str(error).partition("UNIQUE constraint failed: ")
    return UniqueViolation(_UNIQUE.get(columns, columns or "constraint"))
