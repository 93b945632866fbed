"""Values of settings to protobuf and back. What a value may be is `openshell.policy.settings`' part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from openshell._proto import sandbox_pb2
from openshell.policy.settings import Scope, Value

__all__ = ["scope_from_proto", "scope_to_proto", "value_from_proto", "value_text", "value_to_proto"]

_SCOPES: Final[Mapping[Scope, sandbox_pb2.SettingScope.ValueType]] = {
    Scope.GLOBAL: sandbox_pb2.SETTING_SCOPE_GLOBAL,
    Scope.SANDBOX: sandbox_pb2.SETTING_SCOPE_SANDBOX,
    Scope.UNSET: sandbox_pb2.SETTING_SCOPE_UNSPECIFIED,
}
_NAMES: Final[Mapping[int, Scope]] = {int(number): scope for scope, number in _SCOPES.items()}


def value_to_proto(value: Value | None) -> sandbox_pb2.SettingValue:
    """None: set nowhere."""
    if value is None:
        return sandbox_pb2.SettingValue()
    if isinstance(value, bool):
        return sandbox_pb2.SettingValue(bool_value=value)
    return sandbox_pb2.SettingValue(string_value=value)


def value_from_proto(message: sandbox_pb2.SettingValue) -> bool | str | int | bytes | None:
    """What was sent, of whatever type; None when nothing was."""
    match message.WhichOneof("value"):
        case "bool_value":
            return message.bool_value
        case "string_value":
            return message.string_value
        case "int_value":
            return message.int_value
        case "bytes_value":
            return message.bytes_value
    return None


def value_text(message: sandbox_pb2.SettingValue) -> str:
    """The value as people read it."""
    match value_from_proto(message):
        case None:
            return "<unset>"
        case bool() as flag:
            return "true" if flag else "false"
        case bytes() as data:
            return f"<bytes:{len(data)}>"
        case other:
            return str(other)


def scope_to_proto(scope: Scope) -> sandbox_pb2.SettingScope.ValueType:
    return _SCOPES[scope]


def scope_from_proto(number: int) -> Scope:
    return _NAMES.get(number, Scope.UNSET)
