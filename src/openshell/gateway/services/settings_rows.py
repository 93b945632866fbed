"""Settings as rows: one row of values for all sandboxes, one for each sandbox that has any.

Each row counts its changes; a write that changes nothing counts nothing. Every function runs inside
a transaction of the caller, so that what it read still holds when it writes. A sandbox's row goes
with the sandbox (`compute.remove_sandbox`). What a key or a value may be was decided before.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from openshell._proto import openshell_pb2
from openshell.gateway.errors import internal
from openshell.gateway.records import Kind
from openshell.gateway.store.model import MatchResourceVersion, MustCreate, NewRow, Row, Tx
from openshell.policy.settings import SETTINGS, SettingRejected, Value, check_value

__all__ = [
    "GLOBAL",
    "Place",
    "Values",
    "count_change",
    "delete_value",
    "place_of",
    "read_values",
    "set_value",
]

_NO_VALUES: Final[Mapping[str, Value]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row of settings is."""

    kind: str
    row_id: str
    workspace: str
    name: str


@dataclass(frozen=True, slots=True)
class Values:
    """What a row says. `row` is None when nothing was ever set there."""

    revision: int = 0
    values: Mapping[str, Value] = field(default_factory=lambda: _NO_VALUES)
    row: Row | None = None


GLOBAL: Final = Place(
    Kind.GATEWAY_SETTINGS, str(uuid.uuid5(uuid.NAMESPACE_OID, "settings:global")), "", "global"
)


def place_of(sandbox: openshell_pb2.Sandbox) -> Place:
    metadata = sandbox.metadata
    # Derived, so that a repeated transaction writes the same row.
    row_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"settings:{metadata.id}"))
    return Place(Kind.SANDBOX_SETTINGS, row_id, metadata.workspace, metadata.name)


def read_values(tx: Tx, place: Place) -> Values:
    row = tx.get(place.kind, place.workspace, place.name)
    if row is None:
        return Values()
    try:
        document = json.loads(row.payload)
        revision, stored = document["revision"], document["settings"]
        values = {key: _known(key, value) for key, value in stored.items() if key in SETTINGS}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, SettingRejected) else "it cannot be read"
        raise internal(f"the stored settings '{place.name}' are damaged: {reason}") from error
    return Values(revision, values, row)


def _known(key: str, value: Any) -> Value:
    return check_value(SETTINGS[key], value)


def set_value(tx: Tx, place: Place, key: str, value: Value) -> tuple[int, bool]:
    """The row's revision, and whether anything changed."""
    before = read_values(tx, place)
    if before.values.get(key) == value:
        return before.revision, False
    return _write(tx, place, replace(before, values={**before.values, key: value})), True


def delete_value(tx: Tx, place: Place, key: str) -> tuple[int, bool]:
    """The row's revision, and whether there was a value."""
    before = read_values(tx, place)
    if key not in before.values:
        return before.revision, False
    left = {name: value for name, value in before.values.items() if name != key}
    return _write(tx, place, replace(before, values=left)), True


def count_change(tx: Tx, place: Place) -> int:
    """A change that is kept elsewhere but counts here (the gateway-wide policy); the new revision."""
    return _write(tx, place, read_values(tx, place))


def _write(tx: Tx, place: Place, values: Values) -> int:
    revision = values.revision + 1
    document = {"revision": revision, "settings": dict(values.values)}
    row = NewRow(
        id=place.row_id,
        kind=place.kind,
        workspace=place.workspace,
        name=place.name,
        payload=json.dumps(document, sort_keys=True).encode(),
    )
    condition = (
        MustCreate() if values.row is None else MatchResourceVersion(values.row.resource_version)
    )
    tx.put(row, condition)
    return revision
