"""Settings beside the policy: what is in force, and the two writes of one value.

Precedence is global, then sandbox, then unset. A key that is set globally cannot be changed for one
sandbox; a sandbox's value that was there before is hidden, not lost. `config.py` calls the writes
inside its transactions. `GetGatewayConfig` is the one method of the API here.
"""

from __future__ import annotations

from typing import Any

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.settings import scope_to_proto, value_to_proto
from openshell.gateway.errors import failed_precondition
from openshell.gateway.services.settings_rows import (
    GLOBAL,
    Place,
    delete_value,
    place_of,
    read_values,
    set_value,
)
from openshell.gateway.store.model import Store, Tx
from openshell.policy.settings import SETTINGS, Value, resolve

__all__ = ["Settings", "effective_settings", "write_setting"]


def effective_settings(
    tx: Tx, sandbox: openshell_pb2.Sandbox
) -> dict[str, sandbox_pb2.EffectiveSetting]:
    """Every registered key with its value and where it comes from."""
    everywhere = read_values(tx, GLOBAL).values
    own = read_values(tx, place_of(sandbox)).values
    effective = {}
    for key in SETTINGS:
        value, scope = resolve(key, everywhere, own)
        effective[key] = sandbox_pb2.EffectiveSetting(
            value=value_to_proto(value), scope=scope_to_proto(scope)
        )
    return effective


def write_setting(tx: Tx, place: Place, key: str, value: Value | None) -> tuple[int, bool]:
    """Sets a value, or deletes it with None; the scope's revision and whether anything changed."""
    if place is not GLOBAL and key in read_values(tx, GLOBAL).values:
        raise failed_precondition(
            f"setting '{key}' is managed globally; delete it there first "
            f"(settings delete --global --key {key})"
        )
    if value is None:
        return delete_value(tx, place, key)
    return set_value(tx, place, key, value)


class Settings:
    """The one reading method of this noun."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def GetGatewayConfig(  # noqa: N802  named as the RPC
        self, _request: sandbox_pb2.GetGatewayConfigRequest, _context: Any
    ) -> sandbox_pb2.GetGatewayConfigResponse:
        found = await self._store.read(lambda tx: read_values(tx, GLOBAL))
        return sandbox_pb2.GetGatewayConfigResponse(
            settings={key: value_to_proto(found.values.get(key)) for key in SETTINGS},
            settings_revision=found.revision,
        )
